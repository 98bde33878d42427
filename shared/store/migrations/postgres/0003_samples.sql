-- What the console saw of queues, spool and store, once a minute, for its charts after a restart.

CREATE TABLE samples (
    at    BIGINT PRIMARY KEY,
    point BYTEA NOT NULL
);
