"""The two workers: events into state, deliveries into callbacks."""
