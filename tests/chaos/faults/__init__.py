"""Faults done to real processes, one module for each kind."""
