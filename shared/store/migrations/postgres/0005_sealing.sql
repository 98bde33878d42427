-- What is personal rests sealed, apart from what is folded: in `private`, NULL where nothing is.
-- Data keys have tables of their own, so that backups can leave them out. They lie in small parts,
-- since PostgreSQL leaves the bytes of a deleted row in their place until its table is written
-- anew: that is done with the part of a key that was destroyed, and locks only this part.

ALTER TABLE aggregates ADD COLUMN private BYTEA;
ALTER TABLE history ADD COLUMN private BYTEA;
ALTER TABLE transitions ADD COLUMN private BYTEA;
ALTER TABLE attempts ADD COLUMN private BYTEA;

CREATE TABLE data_keys (
    aggregate_id BIGINT PRIMARY KEY,
    wrapped_by   TEXT COLLATE "C" NOT NULL,
    key          BYTEA NOT NULL
) PARTITION BY HASH (aggregate_id);
CREATE TABLE data_keys_00 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 0);
CREATE TABLE data_keys_01 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 1);
CREATE TABLE data_keys_02 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 2);
CREATE TABLE data_keys_03 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 3);
CREATE TABLE data_keys_04 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 4);
CREATE TABLE data_keys_05 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 5);
CREATE TABLE data_keys_06 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 6);
CREATE TABLE data_keys_07 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 7);
CREATE TABLE data_keys_08 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 8);
CREATE TABLE data_keys_09 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 9);
CREATE TABLE data_keys_10 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 10);
CREATE TABLE data_keys_11 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 11);
CREATE TABLE data_keys_12 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 12);
CREATE TABLE data_keys_13 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 13);
CREATE TABLE data_keys_14 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 14);
CREATE TABLE data_keys_15 PARTITION OF data_keys FOR VALUES WITH (MODULUS 16, REMAINDER 15);

CREATE TABLE quarantine_keys (
    entry_id   TEXT COLLATE "C" PRIMARY KEY,
    wrapped_by TEXT COLLATE "C" NOT NULL,
    key        BYTEA NOT NULL
);

-- Keys that the store makes for itself where none is configured.
CREATE TABLE store_keys (
    name TEXT COLLATE "C" PRIMARY KEY,
    key  BYTEA NOT NULL
);

INSERT INTO store_keys (name, key)
VALUES ('index', decode(replace(concat(gen_random_uuid(), gen_random_uuid()), '-', ''), 'hex'));

-- Keyed hashes of tax ids, and the aggregates that name them; cut like the keys.
CREATE TABLE subjects (
    aggregate_id BIGINT NOT NULL,
    token        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (aggregate_id, token)
) PARTITION BY HASH (aggregate_id);
CREATE TABLE subjects_00 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 0);
CREATE TABLE subjects_01 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 1);
CREATE TABLE subjects_02 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 2);
CREATE TABLE subjects_03 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 3);
CREATE TABLE subjects_04 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 4);
CREATE TABLE subjects_05 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 5);
CREATE TABLE subjects_06 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 6);
CREATE TABLE subjects_07 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 7);
CREATE TABLE subjects_08 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 8);
CREATE TABLE subjects_09 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 9);
CREATE TABLE subjects_10 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 10);
CREATE TABLE subjects_11 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 11);
CREATE TABLE subjects_12 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 12);
CREATE TABLE subjects_13 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 13);
CREATE TABLE subjects_14 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 14);
CREATE TABLE subjects_15 PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER 15);
CREATE INDEX subjects_by_token ON subjects (token);

-- Which product requests were ordered for which consents.
CREATE TABLE ordered_for (
    aggregate_id BIGINT NOT NULL,
    consent_id   TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (aggregate_id, consent_id)
);
CREATE INDEX ordered_for_by_consent ON ordered_for (consent_id);

-- Erasures asked for, and the receipt of each.
CREATE TABLE erasures (
    id             TEXT COLLATE "C" PRIMARY KEY,
    aggregate_id   BIGINT NOT NULL,
    kind           TEXT COLLATE "C" NOT NULL,
    partner_app_id TEXT COLLATE "C" NOT NULL,
    key            TEXT COLLATE "C" NOT NULL,
    reason         TEXT COLLATE "C" NOT NULL,
    asked_at       BIGINT NOT NULL,
    state          TEXT COLLATE "C" NOT NULL,
    due_at         BIGINT NOT NULL,
    tokens         TEXT COLLATE "C" NOT NULL,
    receipt        BYTEA NOT NULL
);
CREATE INDEX erasures_to_do ON erasures (due_at) WHERE state <> 'done';
CREATE INDEX erasures_by_key ON erasures (key);

-- What was erased while it was open keeps its place, so that a repetition only counts.
DROP INDEX quarantine_open;
CREATE UNIQUE INDEX quarantine_open ON quarantine (source, content)
    WHERE status IN ('open', 'erased');
