-- Whether a receive would get anything. $1 ns, $2 time, $5 queues, $6 whether records count
WITH {_clock}, {_mail}
SELECT (SELECT waits FROM mail) OR $6::bool AND EXISTS (
    SELECT 1 FROM {schema}.jobs AS j
    WHERE j.ns = $1::int AND j.routing_key = ANY($5::text[]) AND j.state = 2
) AS waits, $3::text, $4::float8
