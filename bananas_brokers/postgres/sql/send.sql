-- Stores messages of the transport.
-- $1 ns, $2 time, then arrays: $3 queues, $4 ranks, $5 bodies
WITH {_clock}, place AS MATERIALIZED (SELECT nextval('{schema}.ord') AS first)
INSERT INTO {schema}.messages (ns, ord, queue, rank, body, sent_at)
SELECT $1::int, first + m.place, m.queue, m.rank, m.body, now
FROM clock, place, unnest($3::text[], $4::smallint[], $5::bytea[])
    WITH ORDINALITY AS m (queue, rank, body, place)
