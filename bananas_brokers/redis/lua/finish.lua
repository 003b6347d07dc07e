#!lua flags=allow-oom
-- Ends claims whose jobs succeeded and from whose end nothing follows.
-- KEYS: heads results events meta finals-of-completed
-- ARGV: now, prefix, channel, n, how long the n bodies ran (8 bytes each), n characters ('1': its
--   result is kept), the claims (for each run of equal ones 'r', the fence, and in 2 bytes how
--   many), then n ids, then the results to keep
-- RETURNS: places (from 1) of those that apply.lua has to decide
local prefix, n, ran, flags, claims = ARGV[2], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local heads, results, done, refused = {}, {}, {}, {}
-- Jobs of one claim and one kind together: fence, shape and session as one word.
local kinds, alike, words, m = {}, {}, 0, 0
local found, seen = call('HMGET', KEYS[1], unpack(ARGV, 8, 7 + n)), nil
local held, before, after, kind, ids
local claim, run, ends, result = '', 1, 0, 7 + n
for i = 1, n do
  if i > ends then
    claim, ends = sub(claims, run, run + 8), ends + struct.unpack('>H', claims, run + 9)
    run = run + 11
  end
  local head, keeps = found[i], byte(flags, i) == 49
  if keeps then result = result + 1 end
  if head ~= seen then -- jobs that were put and claimed together have equal heads
    seen, held = head, nil
    if head and byte(head, 60) < 50 and byte(head, 61) == 48 and byte(head, 26) ~= 0 then
      held = sub(head, 1, 9)
      local fence = sub(head, 2, 9)
      before = 'c' .. fence .. now8
      after = sub(head, 26, 49) .. '0' .. sub(head, 51)
      kind = fence .. sub(head, 81)
      ids = alike[kind]
    end
  end
  if held == claim then
    if not ids then
      ids = {}
      alike[kind] = ids
      kinds[#kinds + 1] = kind
    end
    local id = ARGV[7 + i]
    m = m + 1
    done[m] = id
    heads[2 * m - 1] = id
    heads[2 * m] = before .. sub(ran, 8 * i - 7, 8 * i) .. after
    if keeps then
      results[words + 1], results[words + 2] = id, ARGV[result]
      words = words + 2
    end
    ids[#ids + 1] = id
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
