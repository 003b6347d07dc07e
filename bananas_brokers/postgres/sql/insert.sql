-- Creates records; which of them are new. The events are for all of them.
-- $1 ns, $2 to $36 arrays in the order of the names below, $37 time, then arrays of events:
-- $38 states before, $39 after, $40 ids, $41 names, $42 routing keys, $43 attempts, $44 fences,
-- $45 workflows
WITH made AS (
    INSERT INTO {schema}.jobs (
        ns, id, name, routing_key, created_at, max_attempts, queue_timeout, is_foreign, keep_until,
        workflow, unique_key, state, priority, head, rank, ord, gen, fence, failures, deaths,
        worker, changed_at, pending_at, started_at, finished_at, run_at, expires_at, start_by,
        guard_at, guard_hold, due_at, detail, claimed_at, result, tags, message
    )
    SELECT $1::int, u.id, u.name, u.routing_key, u.created_at, u.max_attempts, u.queue_timeout,
        u.is_foreign, u.keep_until, u.workflow, u.unique_key, u.state, u.priority, u.head, u.rank,
        u.ord, u.gen, u.fence, u.failures, u.deaths, u.worker, u.changed_at, u.pending_at,
        u.started_at, u.finished_at, u.run_at, u.expires_at, u.start_by, u.guard_at, u.guard_hold,
        u.due_at, u.detail, u.claimed_at, u.result,
        CASE WHEN u.tags IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(u.tags::json)) END,
        u.message
    FROM unnest(
        $2::text[], $3::text[], $4::text[], $5::float8[], $6::bigint[], $7::float8[],
        $8::smallint[], $9::float8[], $10::text[], $11::text[], $12::smallint[], $13::smallint[],
        $14::smallint[], $15::smallint[], $16::bigint[], $17::bigint[], $18::bigint[],
        $19::bigint[], $20::bigint[], $21::text[], $22::float8[], $23::float8[], $24::float8[],
        $25::float8[], $26::float8[], $27::float8[], $28::float8[], $29::float8[], $30::float8[],
        $31::float8[], $32::bytea[], $33::float8[], $34::bytea[], $35::text[], $36::bytea[]
    ) AS u (
        id, name, routing_key, created_at, max_attempts, queue_timeout, is_foreign, keep_until,
        workflow, unique_key, state, priority, head, rank, ord, gen, fence, failures, deaths,
        worker, changed_at, pending_at, started_at, finished_at, run_at, expires_at, start_by,
        guard_at, guard_hold, due_at, detail, claimed_at, result, tags, message
    )
    ORDER BY u.id
    ON CONFLICT (ns, id) DO NOTHING
    RETURNING id
), noted AS (
    INSERT INTO {schema}.events (ns, at, olds, news, ids, names, queues, attempts, fences, workflows)
    SELECT $1::int, $37::float8, $38::smallint[], $39::smallint[], $40::text[], $41::text[], $42::text[],
        $43::bigint[], $44::bigint[], $45::text[]
)
SELECT id FROM made
