-- Claims records for a session: `ids` with their `heads`, all free to run; `number` is the fence.
-- KEYS 1-8 as in receive.lua. Returns their messages and the extras of those that have any.
local function claim_all(prefix, session, ttl, number, ids, heads)
  local fence8 = struct.pack('>I8', number)
  local front = 'r' .. fence8 .. now8 .. none8 .. now8 .. zero8 .. zero8
  local new, timed, guarded, extra_ids = {}, {}, {}, {}
  local event, shape, size, since = {KEYS[5], '*', 'h', 'pr' .. now8}, nil, 0, 1
  local seen, claimed, is_timed, has_extras, is_guarded
  for i = 1, #ids do
    local id, head = ids[i], heads[i]
    if head ~= seen then -- jobs that were put together have equal heads
      seen = head
      -- Jobs of a kind share the shape, and often they come one after the other.
      if not shape or sub(head, 81, size) ~= shape then
        if shape then
          event[#event + 1] = shape
          event[#event + 1] = fence8 .. concat(ids, ' ', since, i - 1)
        end
        size, since = 88 + struct.unpack('>H', head, 87), i
        shape = sub(head, 81, size)
      end
      claimed = front .. sub(head, 50, size) .. session
      is_timed = sub(head, 34, 49) ~= zero16
      has_extras, is_guarded = byte(head, 60) ~= 48, byte(head, 63) == 90
    end
    new[2 * i - 1], new[2 * i] = id, claimed
    if is_timed then timed[#timed + 1] = id end
    if has_extras then extra_ids[#extra_ids + 1] = id end
    if is_guarded then guarded[#guarded + 1] = i end
  end
  event[#event + 1] = shape
  event[#event + 1] = fence8 .. concat(ids, ' ', since)
  call('HSET', KEYS[1], unpack(new))
  if #timed > 0 then call('ZREM', KEYS[8], unpack(timed)) end
  for _, i in ipairs(guarded) do
    local size = struct.unpack('>H', heads[i], 87)
    local base = cmsgpack.unpack(sub(heads[i], 89, 88 + size))
    call('ZREM', prefix .. 'pend:' .. base[2], ids[i])
  end
  local fence = string.format('%.0f', number)
  call('HSET', KEYS[7], fence, concat(ids, ' '), fence .. '#', #ids)
  call('ZADD', KEYS[6], 'NX', string.format('%.17g', now + tonumber(ttl)), session)
  call('XADD', unpack(event))
  local extras = {}
  if #extra_ids > 0 then
    local found = call('HMGET', KEYS[3], unpack(extra_ids))
    for i, id in ipairs(extra_ids) do
      extras[#extras + 1] = id
      extras[#extras + 1] = found[i]
    end
  end
  return call('HMGET', KEYS[2], unpack(ids)), extras
end
