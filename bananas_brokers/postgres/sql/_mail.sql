mail AS MATERIALIZED (
    SELECT EXISTS (
        SELECT 1 FROM unnest($5::text[]) AS q (name) CROSS JOIN LATERAL (
            SELECT 1 FROM {schema}.messages AS m
            WHERE m.ns = $1::int AND m.queue = q.name AND m.lease IS NULL LIMIT 1
        ) AS ready
    ) OR EXISTS (
        SELECT 1 FROM unnest($5::text[]) AS q (name) CROSS JOIN LATERAL (
            SELECT 1 FROM {schema}.messages AS m
            WHERE m.ns = $1::int AND m.queue = q.name AND m.leased_until IS NOT NULL
                AND m.leased_until <= (SELECT now FROM clock) LIMIT 1
        ) AS overdue
    ) AS waits
)
