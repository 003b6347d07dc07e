-- Creates jobs that are pending at once and have nothing special: which were new, NULL if all.
-- $1 ns, $2 time, $3 seconds of the first guard or NULL, then arrays: $4 ids, $5 names,
-- $6 routing keys, $7 priorities, $8 max_attempts, $9 workflows, $10 unique keys, $11 messages
WITH j AS (
    SELECT * FROM unnest(
        $4::text[], $5::text[], $6::text[], $7::smallint[], $8::bigint[], $9::text[], $10::text[],
        $11::bytea[]
    ) WITH ORDINALITY AS u (
        id, name, routing_key, priority, max_attempts, workflow, unique_key, message, place
    )
), {_made}
SELECT CASE WHEN count(*) < cardinality($4::text[]) THEN coalesce(array_agg(id), '{}') END AS ids
FROM made
