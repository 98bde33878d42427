-- Times are Unix milliseconds. Documents (state, fact, data, body) are bytes. Text is compared by
-- code points, so that the order of locks is the order that Python sorts keys in.

CREATE SEQUENCE aggregate_ids;
CREATE SEQUENCE event_seqs;

CREATE TABLE aggregates (
    id             BIGINT PRIMARY KEY DEFAULT nextval('aggregate_ids'),
    kind           TEXT COLLATE "C" NOT NULL,
    partner_app_id TEXT COLLATE "C" NOT NULL,
    key            TEXT COLLATE "C" NOT NULL,
    version        INTEGER NOT NULL,
    status         TEXT COLLATE "C" NOT NULL,
    conflict       INTEGER NOT NULL,
    link_id        TEXT COLLATE "C" NOT NULL,
    settles        INTEGER NOT NULL,
    touched_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    state          BYTEA NOT NULL,
    UNIQUE (key, partner_app_id, kind)
);
CREATE INDEX aggregates_by_link ON aggregates (link_id) WHERE link_id <> '';
CREATE INDEX aggregates_to_settle ON aggregates (touched_at) WHERE settles = 1;

CREATE TABLE events (
    seq            BIGINT PRIMARY KEY,
    partner_app_id TEXT COLLATE "C" NOT NULL,
    event_id       TEXT COLLATE "C" NOT NULL,
    variant        INTEGER NOT NULL,
    content        TEXT COLLATE "C" NOT NULL,
    type           TEXT COLLATE "C" NOT NULL,
    name           TEXT COLLATE "C" NOT NULL,
    time           BIGINT NOT NULL,
    label          TEXT COLLATE "C" NOT NULL,
    source         TEXT COLLATE "C" NOT NULL,
    batch_id       TEXT COLLATE "C" NOT NULL,
    received_at    BIGINT NOT NULL,
    duplicates     INTEGER NOT NULL DEFAULT 0,
    traceparent    TEXT COLLATE "C" NOT NULL DEFAULT '',
    UNIQUE (event_id, partner_app_id, variant)
);

CREATE TABLE payloads (
    seq         BIGINT PRIMARY KEY,
    received_at BIGINT NOT NULL,
    body        BYTEA NOT NULL
);

CREATE TABLE history (
    aggregate_id BIGINT NOT NULL,
    event_seq    BIGINT NOT NULL,
    fact         BYTEA NOT NULL,
 PRIMARY KEY (aggregate_id, event_seq)
);
CREATE INDEX history_by_event ON history (event_seq);

CREATE TABLE transitions (
    aggregate_id BIGINT NOT NULL,
    version      INTEGER NOT NULL,
    type         TEXT COLLATE "C" NOT NULL,
    from_status  TEXT COLLATE "C" NOT NULL,
    to_status    TEXT COLLATE "C" NOT NULL,
    event_seq    BIGINT,
    at           BIGINT NOT NULL,
    notified     INTEGER NOT NULL,
    data         BYTEA NOT NULL,
 PRIMARY KEY (aggregate_id, version)
);

CREATE TABLE deliveries (
    id           TEXT COLLATE "C" PRIMARY KEY,
    aggregate_id BIGINT NOT NULL,
    version      INTEGER NOT NULL,
    endpoint     TEXT COLLATE "C" NOT NULL,
    type         TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    round_start  INTEGER NOT NULL DEFAULT 0,
    due_at       BIGINT NOT NULL,
    wake_at      BIGINT NOT NULL,
    lease        TEXT COLLATE "C",
    lease_until  BIGINT,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    last_outcome TEXT COLLATE "C" NOT NULL DEFAULT '',
    last_error   TEXT COLLATE "C" NOT NULL DEFAULT '',
    replay       TEXT COLLATE "C" NOT NULL DEFAULT '',
    traceparent  TEXT COLLATE "C" NOT NULL DEFAULT '',
    UNIQUE (aggregate_id, version, endpoint)
);
CREATE INDEX deliveries_to_wake ON deliveries (wake_at) WHERE state IN ('pending', 'retrying');
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint, state);
CREATE INDEX deliveries_by_replay ON deliveries (replay) WHERE replay <> '';

CREATE TABLE attempts (
    delivery_id TEXT COLLATE "C" NOT NULL,
    number      INTEGER NOT NULL,
    at          BIGINT NOT NULL,
    duration_ms INTEGER NOT NULL,
    outcome     TEXT COLLATE "C" NOT NULL,
    status      INTEGER,
    error       TEXT COLLATE "C" NOT NULL,
    answer      BYTEA NOT NULL,
 PRIMARY KEY (delivery_id, number)
);

CREATE TABLE quarantine (
    id          TEXT COLLATE "C" PRIMARY KEY,
    reason      TEXT COLLATE "C" NOT NULL,
    detail      TEXT COLLATE "C" NOT NULL,
    source      TEXT COLLATE "C" NOT NULL,
    batch_id    TEXT COLLATE "C" NOT NULL,
    received_at BIGINT NOT NULL,
    content     TEXT COLLATE "C" NOT NULL,
    body        BYTEA NOT NULL,
    traceparent TEXT COLLATE "C" NOT NULL DEFAULT '',
    seen        INTEGER NOT NULL DEFAULT 1,
    status      TEXT COLLATE "C" NOT NULL DEFAULT 'open',
    resolved_at BIGINT,
    resolved_by TEXT COLLATE "C" NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX quarantine_open ON quarantine (source, content) WHERE status = 'open';
CREATE INDEX quarantine_by_reason ON quarantine (status, reason);

CREATE TABLE endpoints (
    id         TEXT COLLATE "C" PRIMARY KEY,
    status     TEXT COLLATE "C" NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    changed_at BIGINT NOT NULL
);

CREATE TABLE audit (
    id     TEXT COLLATE "C" PRIMARY KEY,
    at     BIGINT NOT NULL,
    actor  TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL
);
