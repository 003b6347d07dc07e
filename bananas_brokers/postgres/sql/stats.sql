-- Counts of some queues. The oldest of each level is the first in its order, so a long queue costs
-- no more than one look a level for that.
-- $1 ns, $2 time, $3 queues, $4 whether pending records count as messages
WITH {_clock}
SELECT q.name,
    (SELECT count(*) FROM {schema}.messages AS m
        WHERE m.ns = $1::int AND m.queue = q.name AND m.lease IS NULL) AS ready,
    CASE WHEN $4::bool THEN (SELECT count(*) FROM {schema}.jobs AS j
        WHERE j.ns = $1::int AND j.routing_key = q.name AND j.state = 2) ELSE 0 END AS pending,
    (SELECT count(*) FROM {schema}.messages AS m WHERE m.ns = $1::int AND m.queue = q.name
        AND m.leased_until IS NOT NULL AND m.leased_until <= now) AS overdue,
    (SELECT count(*) FROM {schema}.messages AS m WHERE m.ns = $1::int AND m.queue = q.name
        AND m.leased_until IS NOT NULL AND m.leased_until > now) AS leased,
    (SELECT count(*) FROM {schema}.messages AS m
        WHERE m.ns = $1::int AND m.queue = q.name AND m.lease = 0) AS buried,
    least(
        (SELECT min(m.sent_at) FROM {schema}.messages AS m WHERE m.ns = $1::int
            AND m.queue = q.name AND m.leased_until IS NOT NULL AND m.leased_until <= now),
        (WITH RECURSIVE levels (rank) AS (
            (SELECT rank FROM {schema}.messages
                WHERE ns = $1::int AND queue = q.name AND lease IS NULL
                ORDER BY ns, queue, rank LIMIT 1)
            UNION ALL
            SELECT (SELECT m.rank FROM {schema}.messages AS m
                WHERE m.ns = $1::int AND m.queue = q.name AND m.lease IS NULL
                    AND m.rank > levels.rank
                ORDER BY m.ns, m.queue, m.rank LIMIT 1)
            FROM levels WHERE levels.rank IS NOT NULL
        ) SELECT min((SELECT m.sent_at FROM {schema}.messages AS m
            WHERE m.ns = $1::int AND m.queue = q.name AND m.lease IS NULL
                AND m.rank = levels.rank
            ORDER BY m.ns, m.queue, m.rank, m.ord LIMIT 1)) FROM levels),
        (WITH RECURSIVE levels (rank) AS (
            (SELECT rank FROM {schema}.jobs
                WHERE $4::bool AND ns = $1::int AND routing_key = q.name AND state = 2
                ORDER BY ns, routing_key, rank LIMIT 1)
            UNION ALL
            SELECT (SELECT j.rank FROM {schema}.jobs AS j
                WHERE j.ns = $1::int AND j.routing_key = q.name AND j.state = 2
                    AND j.rank > levels.rank
                ORDER BY j.ns, j.routing_key, j.rank LIMIT 1)
            FROM levels WHERE levels.rank IS NOT NULL
        ) SELECT min((SELECT j.pending_at FROM {schema}.jobs AS j
            WHERE j.ns = $1::int AND j.routing_key = q.name AND j.state = 2
                AND j.rank = levels.rank
            ORDER BY j.ns, j.routing_key, j.rank, j.ord LIMIT 1)) FROM levels)
    ) AS oldest
FROM clock, unnest($3::text[]) WITH ORDINALITY AS q (name, place)
ORDER BY q.place
