#!lua
-- USES: docs cas
-- Payloads of new jobs: refused when the server is full. See _cas.lua.
