claimed AS (
    UPDATE {schema}.jobs AS j SET
        state = 3, worker = $3::text, changed_at = now, started_at = now, claimed_at = now,
        guard_at = NULL, start_by = NULL, due_at = NULL,
        -- Rises for ever, also when the server forgot its last moments, or the record was deleted.
        fence = greatest(j.fence + 1, (now * 1000000)::bigint)
    FROM clock, chosen
    WHERE j.ns + 0 = $1::int AND j.id = ANY(ARRAY(SELECT id FROM chosen)) AND j.id = chosen.id
    RETURNING chosen.spot, j.id, j.fence, j.gen, j.name, j.routing_key, j.priority, j.failures,
        j.deaths, j.max_attempts, j.created_at, now AS at, j.detail, j.message, j.workflow
), noted AS (
    INSERT INTO {schema}.events (ns, at, old, new, ids, names, queues, attempts, fences, workflows)
    SELECT $1::int, min(at), 2, 3, array_agg(id), array_agg(name), array_agg(routing_key),
        array_agg(failures + deaths + 1), array_agg(fence), array_agg(workflow)
    FROM claimed HAVING count(*) > 0
), known AS (
    INSERT INTO {schema}.sessions (ns, id, renewed_at, expires_at)
    SELECT $1::int, $3::text, now, now + $4::float8 FROM clock WHERE EXISTS (SELECT 1 FROM claimed)
    ON CONFLICT (ns, id) DO NOTHING
)
