#!lua flags=allow-oom
-- Ends claims whose jobs succeeded and from whose end nothing follows.
-- KEYS: heads results events meta finals-of-completed
-- ARGV: now, prefix, channel, n, then n ids, n times 'r' and the fence (9 bytes), n times how long
--   the body ran (8 bytes), n results, and one string of n characters: '1' for a result to keep
-- RETURNS: places (from 1) of those that apply.lua has to decide
local prefix, n = ARGV[2], tonumber(ARGV[4])
local flags = ARGV[5 + 4 * n]
local heads, results, done, refused = {}, {}, {}, {}
-- Jobs of one claim and one kind together: fence, shape and session as one word.
local kinds, alike, words, m = {}, {}, 0, 0
for i, head in ipairs(call('HMGET', KEYS[1], unpack(ARGV, 5, 4 + n))) do
  if head and sub(head, 1, 9) == ARGV[4 + n + i] and byte(head, 60) < 50 and byte(head, 61) == 48
    and byte(head, 26) ~= 0 then
    local id = ARGV[4 + i]
    m = m + 1
    done[m] = id
    heads[2 * m - 1] = id
    heads[2 * m] = 'c' .. sub(head, 2, 9) .. now8 .. ARGV[4 + 2 * n + i] .. sub(head, 26, 49) .. '0'
      .. sub(head, 51)
    if byte(flags, i) == 49 then
      results[words + 1], results[words + 2] = id, ARGV[4 + 3 * n + i]
      words = words + 2
    end
    local kind = sub(head, 2, 9) .. sub(head, 81)
    local ids = alike[kind]
    if ids then
      ids[#ids + 1] = id
    else
      alike[kind] = {id}
      kinds[#kinds + 1] = kind
    end
  else
    refused[#refused + 1] = i
  end
end
if m == 0 then return refused end
call('HSET', KEYS[1], unpack(heads))
if words > 0 then call('HSET', KEYS[2], unpack(results)) end
local event = {KEYS[3], '*', 'h', 'rc' .. now8}
local batches, ended = {}, {}
for i, kind in ipairs(kinds) do
  local ids, size = alike[kind], 16 + struct.unpack('>H', kind, 15)
  event[2 * i + 3] = sub(kind, 9, size)
  event[2 * i + 4] = sub(kind, 1, 8) .. concat(ids, ' ')
  local batch = sub(kind, 1, 8) .. sub(kind, size + 1)
  if not ended[batch] then batches[#batches + 1] = batch end
  ended[batch] = (ended[batch] or 0) + #ids
end
for _, batch in ipairs(batches) do
  local key = prefix .. 'claims:' .. sub(batch, 9)
  local fence = string.format('%.0f', struct.unpack('>I8', batch))
  if call('HINCRBY', key, fence .. '#', -ended[batch]) <= 0 then
    call('HDEL', key, fence, fence .. '#')
  end
end
call('XADD', unpack(event))
local all = concat(done, ' ')
call('RPUSH', KEYS[5], now8 .. all)
call('HINCRBY', KEYS[4], 'finals', m)
call('PUBLISH', ARGV[3], all)
return refused
