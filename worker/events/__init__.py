"""Events into state, history and outbox."""
