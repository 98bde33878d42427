-- What is personal rests sealed, apart from what is folded: in `private`, NULL where nothing is.
-- Data keys have tables of their own, so that backups can leave them out.

ALTER TABLE aggregates ADD COLUMN private BLOB;
ALTER TABLE history ADD COLUMN private BLOB;
ALTER TABLE transitions ADD COLUMN private BLOB;
ALTER TABLE attempts ADD COLUMN private BLOB;

CREATE TABLE data_keys (
    aggregate_id INTEGER PRIMARY KEY,
    wrapped_by   TEXT NOT NULL,
    key          BLOB NOT NULL
) STRICT;

CREATE TABLE quarantine_keys (
    entry_id   TEXT PRIMARY KEY,
    wrapped_by TEXT NOT NULL,
    key        BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Keys that the store makes for itself where none is configured.
CREATE TABLE store_keys (
    name TEXT PRIMARY KEY,
    key  BLOB NOT NULL
) STRICT;

INSERT INTO store_keys (name, key) VALUES ('index', randomblob(32));

-- Keyed hashes of tax ids, and the aggregates that name them.
CREATE TABLE subjects (
    aggregate_id INTEGER NOT NULL,
    token        TEXT    NOT NULL,
    PRIMARY KEY (aggregate_id, token)
) STRICT, WITHOUT ROWID;
CREATE INDEX subjects_by_token ON subjects (token);

-- Which product requests were ordered for which consents.
CREATE TABLE ordered_for (
    aggregate_id INTEGER NOT NULL,
    consent_id   TEXT    NOT NULL,
    PRIMARY KEY (aggregate_id, consent_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ordered_for_by_consent ON ordered_for (consent_id);

-- Erasures asked for, and the receipt of each.
CREATE TABLE erasures (
    id             TEXT    PRIMARY KEY,
    aggregate_id   INTEGER NOT NULL,
    kind           TEXT    NOT NULL,
    partner_app_id TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    asked_at       INTEGER NOT NULL,
    state          TEXT    NOT NULL,
    due_at         INTEGER NOT NULL,
    tokens         TEXT    NOT NULL,
    receipt        BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX erasures_to_do ON erasures (due_at) WHERE state <> 'done';
CREATE INDEX erasures_by_key ON erasures (key);

-- What was erased while it was open keeps its place, so that a repetition only counts.
DROP INDEX quarantine_open;
CREATE UNIQUE INDEX quarantine_open ON quarantine (source, content)
    WHERE status IN ('open', 'erased');
