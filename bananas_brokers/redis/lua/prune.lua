#!lua flags=allow-oom
-- USES: forget
-- Deletes plain records of one state that ended up to an instant, first ended first.
-- KEYS: heads messages extras results meta later docs doc-keys jobs-with-docs doc-expiries
--   finals-of-the-state
-- ARGV: now, state, instant, limit
-- RETURNS: {how many went, whether there may be more}; others are in `later`, at 0
local bound, left, gone = tonumber(ARGV[3]), tonumber(ARGV[4]), 0
for _ = 1, 20 do
  local entry = call('LINDEX', KEYS[11], 0)
  if not entry or left <= 0 then return {gone, entry and 1 or 0} end
  local ended8 = sub(entry, 1, 8)
  if struct.unpack('>d', ended8) > bound then return {gone, 0} end
  local ids, rest, plain = {}, {}, {}
  for id in string.gmatch(sub(entry, 9), '[^ ]+') do
    if #ids < left then ids[#ids + 1] = id else rest[#rest + 1] = id end
  end
  for i, head in ipairs(call('HMGET', KEYS[1], unpack(ids))) do
    -- Anything else lives again, or is another end of it.
    if head and sub(head, 1, 1) == ARGV[2] and sub(head, 10, 17) == ended8 then
      if sub(head, 61, 61) == '0' and sub(head, 64, 64) == '0' then
        plain[#plain + 1] = ids[i]
      else
        call('ZADD', KEYS[6], 0, ids[i])
      end
    end
  end
  forget(plain)
  gone, left = gone + #plain, left - #plain
  if #rest > 0 then
    call('LSET', KEYS[11], 0, ended8 .. concat(rest, ' '))
  else
    call('LPOP', KEYS[11])
  end
end
return {gone, 1}
