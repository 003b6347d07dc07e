-- Writes changed records and their events, all or, if one of them is not as it was read, none;
-- whether it did.
-- $1 ns, $2 to $27 arrays in the order of the names below (the version is NULL where the record is
-- locked, the message where it stays), $28 time, then arrays of events: $29 states before,
-- $30 after, $31 ids, $32 names, $33 routing keys, $34 attempts, $35 fences, $36 workflows
WITH wish AS MATERIALIZED (
    SELECT * FROM unnest(
        $2::text[], $3::smallint[], $4::smallint[], $5::smallint[], $6::smallint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::float8[],
        $14::float8[], $15::float8[], $16::float8[], $17::float8[], $18::float8[], $19::float8[],
        $20::float8[], $21::float8[], $22::float8[], $23::bytea[], $24::float8[], $25::bytea[],
        $26::text[], $27::bytea[]
    ) AS u (
        id, state, priority, head, rank, ord, gen, fence, failures, deaths, worker, changed_at,
        pending_at, started_at, finished_at, run_at, expires_at, start_by, guard_at, guard_hold,
        due_at, detail, claimed_at, result,
        version, message
    )
), mine AS MATERIALIZED (
    SELECT j.id FROM wish
    JOIN {schema}.jobs AS j ON j.ns + 0 = $1::int AND j.id = ANY($2::text[]) AND j.id = wish.id
    WHERE wish.version IS NULL OR wish.version = j.xmin::text
    ORDER BY j.id
    FOR UPDATE OF j
), verdict AS MATERIALIZED (
    SELECT count(*) = cardinality($2::text[]) AS fine FROM mine
), changed AS (
    UPDATE {schema}.jobs AS j SET
        state = u.state, priority = u.priority, head = u.head, rank = u.rank, ord = u.ord, gen = u.gen,
        fence = u.fence, failures = u.failures, deaths = u.deaths, worker = u.worker,
        changed_at = u.changed_at, pending_at = u.pending_at, started_at = u.started_at,
        finished_at = u.finished_at, run_at = u.run_at, expires_at = u.expires_at, start_by = u.start_by,
        guard_at = u.guard_at, guard_hold = u.guard_hold, due_at = u.due_at, detail = u.detail,
        claimed_at = u.claimed_at, result = u.result,
        message = coalesce(u.message, j.message)
    FROM verdict, wish AS u
    WHERE verdict.fine AND j.ns + 0 = $1::int AND j.id = ANY($2::text[]) AND j.id = u.id
), noted AS (
    INSERT INTO {schema}.events (ns, at, olds, news, ids, names, queues, attempts, fences, workflows)
    SELECT $1::int, $28::float8, $29::smallint[], $30::smallint[], $31::text[], $32::text[], $33::text[],
        $34::bigint[], $35::bigint[], $36::text[]
    FROM verdict WHERE verdict.fine AND cardinality($31::text[]) > 0
)
SELECT fine FROM verdict
