#!lua flags=no-writes
-- USES: docs
-- Documents by the beginning of their keys.
-- KEYS: docs keys-in-order
-- ARGV: now, prefix, after, limit
-- RETURNS: key, stored, …
local prefix, after, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local from = after >= prefix and '(' .. after or '[' .. prefix
local found = {}
while #found < 2 * limit do
  local keys = call('ZRANGEBYLEX', KEYS[2], from, '+', 'LIMIT', 0, limit)
  if #keys == 0 then return found end
  for _, key in ipairs(keys) do
    if sub(key, 1, #prefix) ~= prefix then return found end
    local stored = doc_of(call('HGET', KEYS[1], key))
    if stored and #found < 2 * limit then
      found[#found + 1], found[#found + 2] = key, stored
    end
  end
  from = '(' .. keys[#keys]
end
return found
