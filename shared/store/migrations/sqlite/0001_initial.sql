-- Times are Unix milliseconds. Documents (state, fact, data, body) are bytes.

CREATE TABLE aggregates (
    id             INTEGER PRIMARY KEY,
    kind           TEXT    NOT NULL,
    partner_app_id TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    status         TEXT    NOT NULL,
    conflict       INTEGER NOT NULL,
    link_id        TEXT    NOT NULL,
    settles        INTEGER NOT NULL,
    touched_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    state          BLOB    NOT NULL,
    UNIQUE (key, partner_app_id, kind)
) STRICT;
CREATE INDEX aggregates_by_link ON aggregates (link_id) WHERE link_id <> '';
CREATE INDEX aggregates_to_settle ON aggregates (touched_at) WHERE settles = 1;

CREATE TABLE events (
    seq            INTEGER PRIMARY KEY,
    partner_app_id TEXT    NOT NULL,
    event_id       TEXT    NOT NULL,
    variant        INTEGER NOT NULL,
    content        TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    time           INTEGER NOT NULL,
    label          TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    batch_id       TEXT    NOT NULL,
    received_at    INTEGER NOT NULL,
    duplicates     INTEGER NOT NULL DEFAULT 0,
    traceparent    TEXT    NOT NULL DEFAULT '',
    UNIQUE (event_id, partner_app_id, variant)
) STRICT;

CREATE TABLE payloads (
    seq         INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    body        BLOB    NOT NULL
) STRICT;

CREATE TABLE history (
    aggregate_id INTEGER NOT NULL,
    event_seq    INTEGER NOT NULL,
    fact         BLOB    NOT NULL,
    PRIMARY KEY (aggregate_id, event_seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX history_by_event ON history (event_seq);

CREATE TABLE transitions (
    aggregate_id INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    type         TEXT    NOT NULL,
    from_status  TEXT    NOT NULL,
    to_status    TEXT    NOT NULL,
    event_seq    INTEGER,
    at           INTEGER NOT NULL,
    notified     INTEGER NOT NULL,
    data         BLOB    NOT NULL,
    PRIMARY KEY (aggregate_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    id           TEXT    PRIMARY KEY,
    aggregate_id INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    endpoint     TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    round_start  INTEGER NOT NULL DEFAULT 0,
    due_at       INTEGER NOT NULL,
    wake_at      INTEGER NOT NULL,
    lease        TEXT,
    lease_until  INTEGER,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    last_outcome TEXT    NOT NULL DEFAULT '',
    last_error   TEXT    NOT NULL DEFAULT '',
    replay       TEXT    NOT NULL DEFAULT '',
    traceparent  TEXT    NOT NULL DEFAULT '',
    UNIQUE (aggregate_id, version, endpoint)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_to_wake ON deliveries (wake_at) WHERE state IN ('pending', 'retrying');
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint, state);
CREATE INDEX deliveries_by_replay ON deliveries (replay) WHERE replay <> '';

CREATE TABLE attempts (
    delivery_id TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    outcome     TEXT    NOT NULL,
    status      INTEGER,
    error       TEXT    NOT NULL,
    answer      BLOB    NOT NULL,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE quarantine (
    id          TEXT    PRIMARY KEY,
    reason      TEXT    NOT NULL,
    detail      TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    batch_id    TEXT    NOT NULL,
    received_at INTEGER NOT NULL,
    content     TEXT    NOT NULL,
    body        BLOB    NOT NULL,
    traceparent TEXT    NOT NULL DEFAULT '',
    seen        INTEGER NOT NULL DEFAULT 1,
    status      TEXT    NOT NULL DEFAULT 'open',
    resolved_at INTEGER,
    resolved_by TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX quarantine_open ON quarantine (source, content) WHERE status = 'open';
CREATE INDEX quarantine_by_reason ON quarantine (status, reason);

CREATE TABLE endpoints (
    id         TEXT    PRIMARY KEY,
    status     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id     TEXT    PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT    NOT NULL,
    action TEXT    NOT NULL,
    target TEXT    NOT NULL,
    detail TEXT    NOT NULL
) STRICT;
