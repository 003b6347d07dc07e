-- Claims the best pending jobs of some queues; nothing while there are messages too. One row at
-- least, whose `waits` says so.
-- $1 ns, $2 time, $3 session, $4 seconds that a claim lasts, $5 queues, $6 most jobs, $7 the number
-- of the queue whose turn it is to be first, or NULL
WITH {_clock}, {_mail}, picked AS MATERIALIZED (
    SELECT best.id, best.rank, best.ord, q.place
    FROM unnest($5::text[]) WITH ORDINALITY AS q (name, place)
    CROSS JOIN LATERAL (
        SELECT j.id, j.rank, j.ord FROM {schema}.jobs AS j
        WHERE j.ns = $1::int AND j.routing_key = q.name AND j.state = 2
            AND (j.start_by IS NULL OR j.start_by > (SELECT now FROM clock))
            AND NOT (SELECT waits FROM mail)
        ORDER BY j.ns, j.routing_key, j.rank, j.ord
        LIMIT $6::int
        FOR UPDATE SKIP LOCKED
    ) AS best
), leader AS MATERIALIZED (
    SELECT id FROM picked WHERE $7::int IS NOT NULL
    ORDER BY (place - 1 - $7::int % cardinality($5::text[]) + cardinality($5::text[]))
        % cardinality($5::text[]), rank, ord
    LIMIT 1
), chosen AS MATERIALIZED (
    SELECT id, row_number() OVER (
        ORDER BY id IS DISTINCT FROM (SELECT id FROM leader), rank, ord
    ) AS spot
    FROM picked
    ORDER BY spot
    LIMIT $6::int
), {_claimed}
SELECT (SELECT waits FROM mail) AS waits, claimed.*
FROM (VALUES (1)) AS one LEFT JOIN claimed ON true
ORDER BY claimed.spot
