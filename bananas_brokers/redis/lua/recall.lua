#!lua flags=allow-oom
-- Nodes of workflows that are gone or may go, whose records are in other shards, are looked at again.
-- KEYS: later away
-- ARGV: now, prefix, then ids of workflows
-- RETURNS: nothing
for i = 3, #ARGV do
  local aside = ARGV[2] .. 'aside:' .. ARGV[i]
  for _, node in ipairs(call('SMEMBERS', aside)) do call('ZADD', KEYS[1], 0, node) end
  call('DEL', aside)
  call('ZREM', KEYS[2], ARGV[i])
end
