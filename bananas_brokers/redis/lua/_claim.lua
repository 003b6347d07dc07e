-- Claims records for a session: `ids` with their `heads`, all free to run; `number` is the fence.
-- KEYS 1-8 as in receive.lua. Returns their messages and the extras of those that have any.
local function claim_all(prefix, session, ttl, number, ids, heads)
  local fence8 = struct.pack('>I8', number)
  local front = 'r' .. fence8 .. now8 .. none8 .. now8 .. zero8 .. zero8
  local new, timed, guarded, extra_ids = {}, {}, {}, {}
  local event, shape, alike = {KEYS[5], '*', 'h', 'pr' .. now8}, nil, {}
  for i, id in ipairs(ids) do
    local head = heads[i]
    local size = 88 + struct.unpack('>H', head, 87)
    local mine = string.sub(head, 81, size)
    if mine ~= shape then
      if shape then
        event[#event + 1] = shape
        event[#event + 1] = fence8 .. table.concat(alike, ' ')
      end
      shape, alike = mine, {}
    end
    alike[#alike + 1] = id
    new[#new + 1] = id
    new[#new + 1] = front .. string.sub(head, 50, size) .. session
    if string.sub(head, 34, 41) ~= zero8 or string.sub(head, 42, 49) ~= zero8 then
      timed[#timed + 1] = id
    end
    if string.sub(head, 63, 63) == 'Z' then guarded[#guarded + 1] = i end
    if string.sub(head, 60, 60) ~= '0' then extra_ids[#extra_ids + 1] = id end
  end
  event[#event + 1] = shape
  event[#event + 1] = fence8 .. table.concat(alike, ' ')
  redis.call('HSET', KEYS[1], unpack(new))
  if #timed > 0 then redis.call('ZREM', KEYS[8], unpack(timed)) end
  for _, i in ipairs(guarded) do
    local size = struct.unpack('>H', heads[i], 87)
    local base = cmsgpack.unpack(string.sub(heads[i], 89, 88 + size))
    redis.call('ZREM', prefix .. 'pend:' .. base[2], ids[i])
  end
  local fence = string.format('%.0f', number)
  redis.call('HSET', KEYS[7], fence, table.concat(ids, ' '), fence .. '#', #ids)
  redis.call('ZADD', KEYS[6], 'NX', string.format('%.17g', now + tonumber(ttl)), session)
  redis.call('XADD', unpack(event))
  local extras = {}
  if #extra_ids > 0 then
    local found = redis.call('HMGET', KEYS[3], unpack(extra_ids))
    for i, id in ipairs(extra_ids) do
      extras[#extras + 1] = id
      extras[#extras + 1] = found[i]
    end
  end
  return redis.call('HMGET', KEYS[2], unpack(ids)), extras
end
