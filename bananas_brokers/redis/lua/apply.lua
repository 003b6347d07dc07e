#!lua flags=allow-oom
-- USES: apply
-- Changes of records that exist. See _apply.lua.
