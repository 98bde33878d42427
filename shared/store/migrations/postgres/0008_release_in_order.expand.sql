-- What is held for an endpoint is released oldest first, a few at a time: without reading and
-- sorting all the rest of it each time.

CREATE INDEX deliveries_to_release ON deliveries (endpoint, created_at, id) WHERE state = 'held';
