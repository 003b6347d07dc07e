clock AS MATERIALIZED (
    SELECT coalesce($2::float8, extract(epoch FROM clock_timestamp())::float8) AS now,
        nextval('{schema}.ord') AS first
), made AS (
    INSERT INTO {schema}.jobs (
        ns, id, name, routing_key, created_at, max_attempts, is_foreign, keep_until, workflow,
        unique_key, state, priority, head, rank, ord, gen, fence, failures, deaths, changed_at,
        pending_at, guard_at, guard_hold, due_at, message
    )
    SELECT $1::int, j.id, j.name, j.routing_key, now, j.max_attempts, 0, now, j.workflow,
        j.unique_key, 2, j.priority, 0, (100 - j.priority) * 2 + 1, first + j.place, 1, 0, 0, 0,
        now, now, now + $3::float8, coalesce($3::float8, 0), now + $3::float8, j.message
    FROM clock, j
    -- In the order of ids, so that two that create the same ones don't wait for each other.
    ORDER BY j.id, j.place
    ON CONFLICT (ns, id) DO NOTHING
    RETURNING id, name, routing_key, workflow, changed_at, 1::smallint AS attempt, 0::bigint AS fence
), noted AS (
    INSERT INTO {schema}.events (ns, at, old, new, ids, names, queues, attempts, fences, workflows)
    SELECT $1::int, min(changed_at), NULL, 2, array_agg(id), array_agg(name),
        array_agg(routing_key), array_agg(attempt), array_agg(fence), array_agg(workflow)
    FROM made HAVING count(*) > 0
)
