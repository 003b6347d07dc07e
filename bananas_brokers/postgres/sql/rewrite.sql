-- New messages of records that are locked. $1 ns, $2 ids, $3 messages
UPDATE {schema}.jobs AS j SET message = u.message
FROM unnest($2::text[], $3::bytea[]) AS u (id, message)
WHERE j.ns = $1::int AND j.id = u.id
