-- Whether a receive would get anything. $1 ns, $2 time, $5 queues, $6 whether records count
WITH {_clock}, {_mail}
SELECT (SELECT waits FROM mail) OR $6::bool AND EXISTS (
    SELECT 1 FROM unnest($5::text[]) AS q (name) CROSS JOIN LATERAL (
        SELECT 1 FROM {schema}.jobs AS j
        WHERE j.ns = $1::int AND j.routing_key = q.name AND j.state = 2 LIMIT 1
    ) AS pending
) AS waits, $3::text, $4::float8
