"""The only package that speaks to databases."""
