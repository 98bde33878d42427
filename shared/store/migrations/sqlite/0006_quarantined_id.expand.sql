-- What the source calls an event that could not be understood, so that a search for it finds it.

ALTER TABLE quarantine ADD COLUMN event_id TEXT NOT NULL DEFAULT '';
CREATE INDEX quarantine_by_event ON quarantine (event_id) WHERE event_id <> '';
