#!lua flags=allow-oom
-- Old events, expired documents, and the index of new jobs as far as its jobs are gone.
-- KEYS: heads events meta docs doc-keys doc-expiries made
-- ARGV: now, instant up to which events go, jobs in the index to look at, about
-- RETURNS: whether there is more to do
local more = 0
local old = call('XRANGE', KEYS[2], '-', '+', 'COUNT', 200)
local last
for _, entry in ipairs(old) do
  if struct.unpack('>d', entry[2][2], 3) >= tonumber(ARGV[2]) then break end
  last = entry[1]
end
if last then
  local left = call('XRANGE', KEYS[2], '(' .. last, '+', 'COUNT', 1)
  if left[1] then call('XTRIM', KEYS[2], 'MINID', left[1][1])
  else call('DEL', KEYS[2]) end
  call('HSET', KEYS[3], 'events_from', last)
  if #old == 200 and left[1] then more = 1 end
end
local expired = call('ZRANGEBYSCORE', KEYS[6], '-inf', exactly, 'LIMIT', 0, 100)
for _, key in ipairs(expired) do
  call('HDEL', KEYS[4], key)
  call('ZREM', KEYS[5], key)
  call('ZREM', KEYS[6], key)
end
-- The index is looked at from its oldest entry on, a part of it at each call, round and round.
local from = call('HGET', KEYS[3], 'swept') or '-inf'
local entries = call('ZRANGEBYSCORE', KEYS[7], from, '+inf', 'WITHSCORES', 'LIMIT', 0, 500)
local left, stopped = tonumber(ARGV[3]), #entries == 1000 and entries[1000]
for i = 1, #entries, 2 do
  local ids, live = {}, {}
  for id in string.gmatch(entries[i], '[^ ]+') do ids[#ids + 1] = id end
  for j, head in ipairs(call('HMGET', KEYS[1], unpack(ids))) do
    -- As numbers: servers write scores in different ways.
    if head and struct.unpack('>d', head, 65) == tonumber(entries[i + 1]) then
      live[#live + 1] = ids[j]
    end
  end
  if #live <= #ids / 2 then
    call('ZREM', KEYS[7], entries[i])
    if #live > 0 then call('ZADD', KEYS[7], entries[i + 1], concat(live, ' ')) end
  end
  left = left - #ids
  if left <= 0 and i + 1 < #entries then
    stopped = entries[i + 1]
    break
  end
end
if stopped then call('HSET', KEYS[3], 'swept', '(' .. stopped) else call('HDEL', KEYS[3], 'swept') end
return more
