-- Deletes final records of one state whose time is over, the first finished first, with their
-- documents. How many, how many were looked at, and the last of these.
-- $1 ns, $2 time, $3 state, $4 that must have ended before, $5 $6 behind this (finished_at, id),
-- $7 most to look at, $8 most to delete, $9 that a workflow must have ended before, by state - 4
WITH {_clock}, seen AS MATERIALIZED (
    SELECT j.id, j.finished_at, j.workflow, j.keep_until, j.guard_at
    FROM {schema}.jobs AS j
    WHERE j.ns = $1::int AND j.state = $3::smallint AND j.state >= 4
        AND j.finished_at <= $4::float8 AND (j.finished_at, j.id) > ($5::float8, $6::text)
    ORDER BY j.ns, j.state, j.finished_at, j.id
    LIMIT $7::int
), chosen AS MATERIALIZED (
    SELECT s.id FROM clock, seen AS s
    WHERE s.keep_until <= now AND s.guard_at IS NULL AND (s.workflow IS NULL OR coalesce((
        SELECT w.state >= 4 AND w.guard_at IS NULL AND w.keep_until <= now
            AND w.finished_at <= ($9::float8[])[w.state - 3]
        FROM {schema}.jobs AS w WHERE w.ns + 0 = $1::int AND w.id = s.workflow
    ), true))
    ORDER BY s.finished_at, s.id
    LIMIT $8::int
), gone AS (
    DELETE FROM {schema}.jobs AS j
    WHERE j.ns + 0 = $1::int AND j.id = ANY(ARRAY(SELECT id FROM chosen)) AND j.state = $3::smallint
    RETURNING j.id
), bare AS (
    DELETE FROM {schema}.docs WHERE ns = $1::int AND key = ANY(ARRAY(
        SELECT mine.key FROM gone CROSS JOIN LATERAL (
            SELECT d.key FROM {schema}.docs AS d WHERE d.ns = $1::int
                AND d.key >= 'job/' || gone.id || '/' AND d.key < 'job/' || gone.id || '0'
            OFFSET 0
        ) AS mine
    ))
)
SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM seen) AS seen,
    (SELECT count(*) FROM chosen) AS chosen,
    (SELECT s.finished_at FROM seen AS s ORDER BY s.finished_at DESC, s.id DESC LIMIT 1) AS at,
    (SELECT s.id FROM seen AS s ORDER BY s.finished_at DESC, s.id DESC LIMIT 1) AS id
