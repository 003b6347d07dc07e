-- The same for jobs that differ in ids and messages alone.
-- $1 ns, $2 time, $3 seconds of the first guard or NULL, $4 name, $5 routing key, $6 priority,
-- $7 max_attempts, $8 workflow, $9 unique key, $10 ids, $11 messages
WITH j AS (
    SELECT u.id, $4::text AS name, $5::text AS routing_key, $6::smallint AS priority,
        $7::bigint AS max_attempts, $8::text AS workflow, $9::text AS unique_key, u.message, u.place
    FROM unnest($10::text[], $11::bytea[]) WITH ORDINALITY AS u (id, message, place)
), {_made}
SELECT CASE WHEN count(*) < cardinality($10::text[]) THEN coalesce(array_agg(id), '{}') END AS ids
FROM made
