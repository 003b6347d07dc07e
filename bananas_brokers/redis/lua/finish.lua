#!lua flags=allow-oom
-- Ends claims whose jobs succeeded and from whose end nothing follows.
-- KEYS: heads results events meta finals-of-completed
-- ARGV: now, prefix, channel, n, then n ids, n times 'r' and the fence (9 bytes), n times how long
--   the body ran (8 bytes), n results, and one string of n characters: '1' for a result to keep
-- RETURNS: places (from 1) of those that apply.lua has to decide
local prefix, n = ARGV[2], tonumber(ARGV[4])
local flags = ARGV[5 + 4 * n]
local heads, results, done, refused, left = {}, {}, {}, {}, {}
local shapes, alike = {}, {}
for i, head in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV, 5, 4 + n))) do
  if head and string.sub(head, 1, 9) == ARGV[4 + n + i] and string.byte(head, 60) < 50
    and string.byte(head, 61) == 48 and string.byte(head, 26) ~= 0 then
    local id, size = ARGV[4 + i], 88 + struct.unpack('>H', head, 87)
    heads[#heads + 1] = id
    heads[#heads + 1] = 'c' .. string.sub(head, 2, 9) .. now8 .. ARGV[4 + 2 * n + i]
      .. string.sub(head, 26, 49) .. '0' .. string.sub(head, 51)
    if string.byte(flags, i) == 49 then
      results[#results + 1] = id
      results[#results + 1] = ARGV[4 + 3 * n + i]
    end
    done[#done + 1] = id
    -- The claims that are left of each batch, and the event: one field for alike jobs.
    local claim = string.sub(head, size + 1) .. string.sub(head, 2, 9)
    left[claim] = (left[claim] or 0) + 1
    local key = string.sub(head, 2, 9) .. string.sub(head, 81, size)
    if not alike[key] then
      alike[key] = {}
      shapes[#shapes + 1] = key
    end
    table.insert(alike[key], id)
  else
    refused[#refused + 1] = i
  end
end
if #done == 0 then return refused end
redis.call('HSET', KEYS[1], unpack(heads))
if #results > 0 then redis.call('HSET', KEYS[2], unpack(results)) end
for claim, count in pairs(left) do
  local key = prefix .. 'claims:' .. string.sub(claim, 1, -9)
  local fence = string.format('%.0f', struct.unpack('>I8', claim, #claim - 7))
  if redis.call('HINCRBY', key, fence .. '#', -count) <= 0 then
    redis.call('HDEL', key, fence, fence .. '#')
  end
end
local event = {KEYS[3], '*', 'h', 'rc' .. now8}
for _, key in ipairs(shapes) do
  event[#event + 1] = string.sub(key, 9)
  event[#event + 1] = string.sub(key, 1, 8) .. table.concat(alike[key], ' ')
end
redis.call('XADD', unpack(event))
local ended = table.concat(done, ' ')
redis.call('RPUSH', KEYS[5], now8 .. ended)
redis.call('HINCRBY', KEYS[4], 'finals', #done)
redis.call('PUBLISH', ARGV[3], ended)
return refused
