#!lua flags=no-writes
-- Records as they are at one moment.
-- KEYS: heads extras messages results
-- ARGV: now, 'm' with messages and 'r' with results (both, one or ''), then ids
-- RETURNS: {now, heads, extras, messages, results}
local ids = {unpack(ARGV, 3)}
if #ids == 0 then return {exactly, {}, {}, {}, {}} end
local function read(key) return call('HMGET', key, unpack(ids)) end
return {
  exactly, read(KEYS[1]), read(KEYS[2]),
  string.find(ARGV[2], 'm', 1, true) and read(KEYS[3]) or {},
  string.find(ARGV[2], 'r', 1, true) and read(KEYS[4]) or {},
}
