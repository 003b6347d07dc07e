-- Conditional writes of documents.
-- KEYS: docs keys-in-order expiries meta jobs-with-docs
-- ARGV: now, then key, 'w' or 'd' (delete), value, expected version or '', ttl or '', job or ''
-- RETURNS: {done, stored or ''} of each
local answers = {}
for i = 2, #ARGV, 6 do
  local key, delete, value = ARGV[i], ARGV[i + 1] == 'd', ARGV[i + 2]
  local stored = doc_of(call('HGET', KEYS[1], key))
  local version = stored and string.format('%.0f', struct.unpack('>I8', stored)) or '0'
  if ARGV[i + 3] ~= '' and ARGV[i + 3] ~= version then
    answers[#answers + 1] = {0, stored or ''}
  elseif delete then
    call('HDEL', KEYS[1], key)
    call('ZREM', KEYS[2], key)
    call('ZREM', KEYS[3], key)
    answers[#answers + 1] = {1, ''}
  else
    local ends = ARGV[i + 4] ~= '' and now + tonumber(ARGV[i + 4]) or 0
    local new = struct.pack('>I8', next_number(KEYS[4])) .. struct.pack('>d', ends) .. value
    call('HSET', KEYS[1], key, new)
    call('ZADD', KEYS[2], 0, key)
    if ends ~= 0 then call('ZADD', KEYS[3], string.format('%.17g', ends), key)
    else call('ZREM', KEYS[3], key) end
    if ARGV[i + 5] ~= '' then call('SADD', KEYS[5], ARGV[i + 5]) end
    answers[#answers + 1] = {1, new}
  end
end
return answers
