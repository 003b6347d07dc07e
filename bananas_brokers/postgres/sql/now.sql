-- The ledger's clock. $1: the time of a test, or NULL
SELECT coalesce($1::float8, extract(epoch FROM clock_timestamp())::float8) AS now
