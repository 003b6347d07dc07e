#!lua
-- USES: apply
-- New records: refused when the server is full. See _apply.lua.
