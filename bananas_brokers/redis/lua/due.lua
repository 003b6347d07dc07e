#!lua flags=allow-oom
-- USES: held
-- What is due: claims of sessions whose time ran out, and records whose time has come.
-- KEYS: heads meta due sessions descriptions
-- ARGV: now, prefix, limit, longest gap between two runs, seconds of grace after a longer one
-- RETURNS: {now, session and its ids by turns, ids that are due, whether there is more}
local prefix, left = ARGV[2], tonumber(ARGV[3])
local last, grace = unpack(call('HMGET', KEYS[2], 'last_due', 'grace'))
grace = tonumber(grace or 0)
if last and now - tonumber(last) > tonumber(ARGV[4]) then grace = now + tonumber(ARGV[5]) end
call('HSET', KEYS[2], 'last_due', exactly, 'grace', string.format('%.17g', grace))
local lapsed, more = {}, 0
if now >= grace then
  for _, session in ipairs(call('ZRANGEBYSCORE', KEYS[4], '-inf', exactly, 'LIMIT', 0, 100)) do
    local ids = held_by(KEYS[1], prefix, session, {}, math.huge, left + 1)
    if #ids > left then
      more = 1
      ids[#ids] = nil
    end
    left = left - #ids
    if #ids > 0 then
      lapsed[#lapsed + 1], lapsed[#lapsed + 2] = session, ids
    elseif more == 0 then
      call('ZREM', KEYS[4], session)
      call('HDEL', KEYS[5], session)
      call('DEL', prefix .. 'claims:' .. session)
    end
  end
end
local ids = call('ZRANGEBYSCORE', KEYS[3], '-inf', exactly, 'LIMIT', 0, left + 1)
if #ids > left then
  more = 1
  ids[#ids] = nil
end
return {exactly, lapsed, ids, more}
