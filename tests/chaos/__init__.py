"""The whole system under faults: real processes, a real broker, a real store, one oracle."""
