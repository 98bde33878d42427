"""Names of the AMQP headers that go with an event, from the receiver to the events worker."""

SOURCE = "source"
"""Name of the configured source; a string."""

RECEIVED_AT = "received-at"
"""When the receiver had the whole batch, in Unix milliseconds; an integer."""

DELAYED_AT = "delayed-at"
"""When a delivery was put into a delay queue, in Unix milliseconds; an integer."""

BATCH_ID = "batch-id"
"""The receiver's own id (UUIDv7) of the batch that carried the event; a string."""

EVENT_ID = "event-id"
"""The event's own id as far as it could be seen without decoding; a string, perhaps empty."""

TRACEPARENT = "traceparent"
"""W3C trace context of the request; a string."""

QUARANTINE_ID = "quarantine-id"
"""The quarantine entry that this message replays; absent on a first arrival."""
