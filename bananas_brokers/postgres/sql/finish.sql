-- Ends claims of jobs that have completed at their first attempt; those that were ended.
-- $1 ns, $2 time, $3 seconds until a follow-up is asked for again, then arrays: $4 ids, $5 fences,
-- $6 seconds that the bodies ran, $7 results
WITH {_clock}, mine AS MATERIALIZED (
    SELECT j.id, o.ran, o.result
    FROM unnest($4::text[], $5::bigint[], $6::float8[], $7::bytea[]) AS o (id, fence, ran, result)
    JOIN {schema}.jobs AS j ON j.ns + 0 = $1::int AND j.id = ANY($4::text[]) AND j.id = o.id
    WHERE j.state + 0 = 3 AND j.fence = o.fence AND j.detail IS NULL AND j.claimed_at IS NOT NULL
    ORDER BY j.id
    FOR UPDATE OF j
), done AS (
    UPDATE {schema}.jobs AS j SET
        state = 4, changed_at = now, finished_at = now,
        started_at = greatest(j.started_at, now - mine.ran),
        head = 0, rank = (100 - j.priority) * 2 + 1, result = mine.result,
        guard_at = CASE WHEN j.workflow IS NULL AND j.unique_key IS NULL THEN NULL
            ELSE now + $3::float8 END,
        guard_hold = CASE WHEN j.workflow IS NULL AND j.unique_key IS NULL THEN 0
            ELSE $3::float8 END,
        due_at = CASE WHEN j.workflow IS NULL AND j.unique_key IS NULL THEN NULL
            ELSE now + $3::float8 END
    FROM clock, mine
    WHERE j.ns + 0 = $1::int AND j.id = ANY(ARRAY(SELECT id FROM mine)) AND j.id = mine.id
    RETURNING j.id, j.name, j.routing_key, j.priority, j.gen, j.fence, j.workflow, now AS at,
        j.failures + j.deaths + 1 AS attempt, j.guard_at IS NOT NULL AS followed
), noted AS (
    INSERT INTO {schema}.events (ns, at, old, new, ids, names, queues, attempts, fences, workflows)
    SELECT $1::int, min(at), 3, 4, array_agg(id), array_agg(name), array_agg(routing_key),
        array_agg(attempt), array_agg(fence), array_agg(workflow)
    FROM done HAVING count(*) > 0
)
SELECT id, gen, routing_key, priority, followed FROM done
