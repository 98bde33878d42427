-- What keeps age in bounds: who does a task that only one process may do at a time, and since
-- when each kind of row is kept whole.

CREATE TABLE leases (
    name       TEXT    PRIMARY KEY,
    holder     TEXT    NOT NULL,
    held_until INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The first pass is due an interval after this.
INSERT INTO leases (name, holder, held_until, ended_at)
VALUES ('retention', '', 0, CAST(unixepoch('subsec') * 1000 AS INTEGER));

CREATE TABLE retention (
    kind       TEXT    PRIMARY KEY,
    kept_since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
