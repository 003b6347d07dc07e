-- Clears the guards of confirmed sends, and of follow-ups that are complete.
-- $1 ns, $2 ids, $3 generations, $4 whether each is a follow-up
WITH mine AS MATERIALIZED (
    SELECT j.id
    FROM unnest($2::text[], $3::bigint[], $4::bool[]) AS s (id, gen, followed)
    JOIN {schema}.jobs AS j ON j.ns + 0 = $1::int AND j.id = ANY($2::text[]) AND j.id = s.id
    WHERE j.gen = s.gen AND j.guard_at IS NOT NULL
        AND CASE WHEN s.followed THEN j.state >= 4 ELSE j.state = 2 END
    ORDER BY j.id
    FOR UPDATE OF j
)
UPDATE {schema}.jobs AS j
SET guard_at = NULL, due_at = CASE WHEN j.state = 2 THEN j.start_by END
WHERE j.ns + 0 = $1::int AND j.id = ANY(ARRAY(SELECT id FROM mine))
