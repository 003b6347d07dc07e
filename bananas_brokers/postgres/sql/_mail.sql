mail AS MATERIALIZED (
    SELECT EXISTS (
        SELECT 1 FROM unnest($5::text[]) AS q (name) JOIN {schema}.messages AS m
        ON m.ns = $1::int AND m.queue = q.name AND m.lease IS NULL
    ) OR EXISTS (
        SELECT 1 FROM unnest($5::text[]) AS q (name) JOIN {schema}.messages AS m
        ON m.ns = $1::int AND m.queue = q.name AND m.leased_until IS NOT NULL
            AND m.leased_until <= (SELECT now FROM clock)
    ) AS waits
)
