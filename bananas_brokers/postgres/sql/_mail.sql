mail AS MATERIALIZED (
    SELECT EXISTS (
        SELECT 1 FROM {schema}.messages AS m
        WHERE m.ns = $1::int AND m.queue = ANY($5::text[]) AND m.lease IS NULL
    ) OR EXISTS (
        SELECT 1 FROM {schema}.messages AS m
        WHERE m.ns = $1::int AND m.queue = ANY($5::text[]) AND m.leased_until IS NOT NULL
            AND m.leased_until <= (SELECT now FROM clock)
    ) AS waits
)
