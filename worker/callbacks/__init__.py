"""Deliveries into signed callbacks."""
