clock AS MATERIALIZED (
    SELECT coalesce($2::float8, extract(epoch FROM clock_timestamp())::float8) AS now
)
