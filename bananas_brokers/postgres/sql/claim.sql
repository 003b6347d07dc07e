-- Claims pending jobs of the given generations.
-- $1 ns, $2 time, $3 session, $4 seconds that a claim lasts, $5 ids, $6 generations
WITH {_clock}, chosen AS MATERIALIZED (
    SELECT j.id, 0 AS spot
    FROM unnest($5::text[], $6::bigint[]) AS h (id, gen)
    JOIN {schema}.jobs AS j ON j.ns + 0 = $1::int AND j.id = ANY($5::text[]) AND j.id = h.id
    WHERE j.state + 0 = 2 AND j.gen = h.gen
        AND (j.start_by IS NULL OR j.start_by > (SELECT now FROM clock))
    ORDER BY j.id
    FOR UPDATE OF j
), {_claimed}
SELECT claimed.* FROM claimed
