-- PostgreSQL updates a row without touching its indexes only if no index names, in its columns or
-- in its condition, anything that changed, and if the page has room. `touched_at` changes with
-- each event, so the index of what is to settle does without it: those are few at any time.

DROP INDEX aggregates_to_settle;
CREATE INDEX aggregates_to_settle ON aggregates (id) WHERE settles = 1;
ALTER TABLE aggregates SET (fillfactor = 80);
