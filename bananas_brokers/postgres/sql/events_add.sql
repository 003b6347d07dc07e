-- Appends the events of one operation.
-- $1 ns, $2 time, then arrays: $3 states before, $4 after, $5 ids, $6 names, $7 routing keys,
-- $8 attempts, $9 fences, $10 workflows
INSERT INTO {schema}.events (ns, at, olds, news, ids, names, queues, attempts, fences, workflows)
VALUES (
    $1::int, $2::float8, $3::smallint[], $4::smallint[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::bigint[], $10::text[]
)
