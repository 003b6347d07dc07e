-- Ends leases; which of them still held. $1 ns, $2 time, $3 numbers, $4 leases,
-- $5 what to do (ack, release or bury), $6 the reason. `coalesce` hides from the planner that only
-- leased messages count: while the tables are empty it would walk the index of all of these.
WITH {_clock}, mine AS MATERIALIZED (
    SELECT m.ord FROM clock, unnest($3::bigint[], $4::bigint[]) AS t (ord, lease)
    JOIN {schema}.messages AS m ON m.ord = ANY($3::bigint[]) AND m.ord = t.ord
    WHERE m.ns + 0 = $1::int AND m.lease = t.lease AND coalesce(m.leased_until, 0) > now
    ORDER BY m.ord
    FOR UPDATE OF m
), acked AS (
    DELETE FROM {schema}.messages AS m
    WHERE $5::text = 'ack' AND m.ord = ANY(ARRAY(SELECT ord FROM mine))
), released AS (
    UPDATE {schema}.messages AS m
    SET lease = NULL, leased_until = NULL, redelivered = true, rank = m.rank - m.rank % 2
    WHERE $5::text = 'release' AND m.ord = ANY(ARRAY(SELECT ord FROM mine))
), buried AS (
    UPDATE {schema}.messages AS m
    SET lease = 0, leased_until = NULL, reason = $6::text
    WHERE $5::text = 'bury' AND m.ord = ANY(ARRAY(SELECT ord FROM mine))
)
SELECT ord FROM mine
