-- Writes the changing columns of records that are locked.
-- $1 ns, then arrays in the order of the names below
UPDATE {schema}.jobs AS j SET
    state = u.state, priority = u.priority, head = u.head, rank = u.rank, ord = u.ord, gen = u.gen,
    fence = u.fence, failures = u.failures, deaths = u.deaths, worker = u.worker,
    changed_at = u.changed_at, pending_at = u.pending_at, started_at = u.started_at,
    finished_at = u.finished_at, run_at = u.run_at, expires_at = u.expires_at, start_by = u.start_by,
    guard_at = u.guard_at, guard_hold = u.guard_hold, due_at = u.due_at, detail = u.detail,
    claimed_at = u.claimed_at, result = u.result
FROM unnest(
    $2::text[], $3::smallint[], $4::smallint[], $5::smallint[], $6::smallint[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::float8[],
    $14::float8[], $15::float8[], $16::float8[], $17::float8[], $18::float8[], $19::float8[],
    $20::float8[], $21::float8[], $22::float8[], $23::bytea[], $24::float8[], $25::bytea[]
) AS u (
    id, state, priority, head, rank, ord, gen, fence, failures, deaths, worker, changed_at,
    pending_at, started_at, finished_at, run_at, expires_at, start_by, guard_at, guard_hold,
    due_at, detail, claimed_at, result
)
WHERE j.ns = $1::int AND j.id = u.id
