-- What the console saw of queues, spool and store, for its charts after a restart.

CREATE TABLE samples (
    at    INTEGER PRIMARY KEY,
    point BLOB NOT NULL
) STRICT;
