"""What the events mean: pure functions and values, no I/O."""
