-- Writes documents whose version is as expected. One row a key: whether it was written (NULL: it
-- came into being meanwhile, look again), and the version and value that it had before.
-- $1 ns, $2 time, then arrays: $3 keys, all different, $4 versions (NULL: any, 0: absent),
-- $5 values (NULL: delete), $6 seconds to live
WITH {_clock}, wish AS MATERIALIZED (
    SELECT * FROM unnest($3::text[], $4::bigint[], $5::bytea[], $6::float8[])
        AS w (key, version, value, ttl)
), found AS MATERIALIZED (
    SELECT d.key, d.version, d.value,
        d.expires_at IS NULL OR d.expires_at > (SELECT now FROM clock) AS lives
    FROM {schema}.docs AS d WHERE d.ns = $1::int AND d.key = ANY($3::text[])
    ORDER BY d.key
    FOR UPDATE OF d
), judged AS MATERIALIZED (
    SELECT wish.key, wish.value, wish.ttl, found.key IS NOT NULL AS there,
        wish.version IS NULL
            OR wish.version = CASE WHEN found.lives THEN found.version ELSE 0 END AS fits,
        CASE WHEN found.lives THEN found.version END AS old_version,
        CASE WHEN found.lives THEN found.value END AS old_value
    FROM wish LEFT JOIN found ON found.key = wish.key
), deleted AS (
    DELETE FROM {schema}.docs AS d USING judged AS j
    WHERE d.ns = $1::int AND d.key = ANY($3::text[]) AND d.key = j.key
        AND j.fits AND j.there AND j.value IS NULL
), changed AS (
    UPDATE {schema}.docs AS d
    SET value = j.value, version = nextval('{schema}.version'),
        expires_at = (SELECT now FROM clock) + j.ttl
    FROM judged AS j
    WHERE d.ns = $1::int AND d.key = ANY($3::text[]) AND d.key = j.key
        AND j.fits AND j.there AND j.value IS NOT NULL
    RETURNING d.key, d.version
), added AS (
    INSERT INTO {schema}.docs (ns, key, value, version, expires_at)
    SELECT $1::int, j.key, j.value, nextval('{schema}.version'), (SELECT now FROM clock) + j.ttl
    FROM judged AS j
    WHERE j.fits AND NOT j.there AND j.value IS NOT NULL
    ORDER BY j.key
    ON CONFLICT (ns, key) DO NOTHING
    RETURNING key, version
), written AS (
    SELECT * FROM changed UNION ALL SELECT * FROM added
)
SELECT j.key, j.old_version, j.old_value, written.version,
    CASE WHEN NOT j.fits THEN false
        WHEN j.value IS NULL OR written.version IS NOT NULL THEN true END AS done
FROM judged AS j LEFT JOIN written ON written.key = j.key
