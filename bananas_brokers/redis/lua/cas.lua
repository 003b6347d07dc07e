#!lua flags=allow-oom
-- USES: docs cas
-- Documents that workers need to go on. See _cas.lua.
