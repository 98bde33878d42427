-- What keeps age in bounds: who does a task that only one process may do at a time, and since
-- when each kind of row is kept whole.

CREATE TABLE leases (
    name       TEXT COLLATE "C" PRIMARY KEY,
    holder     TEXT COLLATE "C" NOT NULL,
    held_until BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL
);

-- The first pass is due an interval after this.
INSERT INTO leases (name, holder, held_until, ended_at)
VALUES ('retention', '', 0, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);

CREATE TABLE retention (
    kind       TEXT COLLATE "C" PRIMARY KEY,
    kept_since BIGINT NOT NULL
);

-- Payloads and attempts, the heavy tables whose rows go by their age alone, are cut by the UTC day,
-- so that a day goes by dropping a table. Each part has a primary key of its own; the whole has
-- none, so a table filled before becomes a part as it stands: it is read once, and no index is
-- built. That part ends a day after its newest row. The parts of the days to come are made ahead by
-- `shared.store.postgres.partitions`; what falls into none lands in the default part.

ALTER TABLE payloads RENAME TO payloads_before;
ALTER TABLE payloads_before RENAME CONSTRAINT payloads_pkey TO payloads_before_pkey;
CREATE TABLE payloads (
    seq         BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    body        BYTEA NOT NULL
) PARTITION BY RANGE (received_at);

ALTER TABLE attempts RENAME TO attempts_before;
ALTER TABLE attempts_before RENAME CONSTRAINT attempts_pkey TO attempts_before_pkey;
CREATE TABLE attempts (
    delivery_id TEXT COLLATE "C" NOT NULL,
    number      INTEGER NOT NULL,
    at          BIGINT NOT NULL,
    duration_ms INTEGER NOT NULL,
    outcome     TEXT COLLATE "C" NOT NULL,
    status      INTEGER,
    error       TEXT COLLATE "C" NOT NULL,
    answer      BYTEA NOT NULL
) PARTITION BY RANGE (at);

DO $$
DECLARE
    day CONSTANT BIGINT := 86400000;
    line BIGINT;
BEGIN
    SELECT (max(received_at) / day + 2) * day INTO line FROM payloads_before;
    IF line IS NULL THEN
        DROP TABLE payloads_before;
    ELSE
        EXECUTE 'ALTER TABLE payloads ATTACH PARTITION payloads_before '
             || 'FOR VALUES FROM (MINVALUE) TO (' || line || ')';
    END IF;
    SELECT (max(at) / day + 2) * day INTO line FROM attempts_before;
    IF line IS NULL THEN
        DROP TABLE attempts_before;
    ELSE
        EXECUTE 'ALTER TABLE attempts ATTACH PARTITION attempts_before '
             || 'FOR VALUES FROM (MINVALUE) TO (' || line || ')';
    END IF;
END $$;

CREATE TABLE payloads_default PARTITION OF payloads (PRIMARY KEY (seq)) DEFAULT;
CREATE TABLE attempts_default PARTITION OF attempts (PRIMARY KEY (delivery_id, number)) DEFAULT;

-- The rest goes in small steps. Autovacuum follows them closely, so that the room is used again.

ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE history SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE transitions SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE deliveries SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE aggregates SET (autovacuum_vacuum_scale_factor = 0.02);
