#!lua flags=allow-oom
-- USES: forget
-- Deletes records whose headers are still the expected ones, and calls back what waited for them.
-- KEYS: heads messages extras results meta later docs doc-keys jobs-with-docs doc-expiries
-- ARGV: now, prefix, then id and expected header of each
-- RETURNS: how many went
local prefix, gone = ARGV[2], {}
for i = 3, #ARGV, 2 do
  if call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then gone[#gone + 1] = ARGV[i] end
end
forget(gone)
for _, id in ipairs(gone) do
  local nodes = call('SMEMBERS', prefix .. 'aside:' .. id)
  for _, node in ipairs(nodes) do call('ZADD', KEYS[6], 0, node) end
  call('DEL', prefix .. 'aside:' .. id)
end
return #gone
