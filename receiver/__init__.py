"""The HTTP side that the source talks to: verify, split, publish confirmed, or spool."""
