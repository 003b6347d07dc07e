#!lua flags=allow-oom
-- USES: held
-- Extends a session, unless it has ended, and says how its claims stand.
-- KEYS: heads sessions descriptions
-- ARGV: now, prefix, session, description, mode (update full ended), ttl, age of orphans, then id
--   and fence (8 bytes) of each listed claim
-- RETURNS: {now, one of 0 lost 1 running 2 to be cancelled for each listed claim, ids that the
--   session holds besides, ids that lapsed while it was silent}
local prefix, session, mode = ARGV[2], ARGV[3], ARGV[5]
local ids, stands, listed, others = {}, {}, {}, {}
for i = 8, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
for first = 1, #ids, 1000 do
  local last = math.min(first + 999, #ids)
  for i, head in ipairs(call('HMGET', KEYS[1], unpack(ids, first, last))) do
    local at = first + i - 1
    local size = head and 88 + struct.unpack('>H', head, 87)
    if head and sub(head, 1, 9) == 'r' .. ARGV[7 + 2 * at]
      and sub(head, size + 1) == session then
      stands[at] = sub(head, 62, 62) == '1' and 2 or 1
      listed[ids[at]] = true
    else
      stands[at] = 0
    end
  end
end
if mode == 'ended' then
  others = held_by(KEYS[1], prefix, session, listed, math.huge, math.huge)
else
  call('ZADD', KEYS[2], string.format('%.17g', now + tonumber(ARGV[6])), session)
  call('HSET', KEYS[3], session, ARGV[4])
  if mode == 'full' then
    others = held_by(KEYS[1], prefix, session, listed, now - tonumber(ARGV[7]), 1000)
  end
end
return {exactly, stands, others, call('SMEMBERS', prefix .. 'lapsed:' .. session)}
