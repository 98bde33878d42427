-- What the console saw of queues, spool and store, for its charts after a restart.

CREATE TABLE samples (
    at    BIGINT PRIMARY KEY,
    point BYTEA NOT NULL
);
