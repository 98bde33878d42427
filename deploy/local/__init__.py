"""The local stack: everything on one machine, started by one command and ended with it."""
