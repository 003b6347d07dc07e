#!lua flags=allow-oom
-- USES: claim
-- Claims pending jobs by name and generation.
-- KEYS: heads messages extras meta events sessions claims-of-the-session due
-- ARGV: now, prefix, session, ttl of a new session, then id, gen of each hint (no id twice)
-- RETURNS: {fence, now, heads of all hints from before the claim ('' for none), ids, messages,
--   extras}; ids are those claimed
local found, ids, heads, names = {}, {}, {}, {}
for i = 5, #ARGV, 2 do names[#names + 1] = ARGV[i] end
for i, head in ipairs(call('HMGET', KEYS[1], unpack(names))) do
  found[i] = head or ''
  local start_by = head and sub(head, 34, 41)
  if head and byte(head) == 112
    and sub(head, 55, 58) == struct.pack('>I4', tonumber(ARGV[4 + 2 * i]))
    and (start_by == zero8 or struct.unpack('>d', start_by) > now) then
    ids[#ids + 1], heads[#heads + 1] = names[i], head
    -- Its entry in a ready list, if any, is stale from now on.
    if sub(head, 63, 63) == 'L' then
      local size = struct.unpack('>H', head, 87)
      local base = cmsgpack.unpack(sub(head, 89, 88 + size))
      add(ARGV[2] .. 'stale', base[2], 1)
    end
  end
end
call('ZADD', KEYS[6], 'NX', string.format('%.17g', now + tonumber(ARGV[4])), ARGV[3])
if #ids == 0 then return {0, exactly, found, {}, {}, {}} end
local number = next_number(KEYS[4])
local messages, extras = claim_all(ARGV[2], ARGV[3], ARGV[4], number, ids, heads)
return {string.format('%.0f', number), exactly, found, ids, messages, extras}
