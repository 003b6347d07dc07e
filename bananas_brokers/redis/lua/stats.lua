#!lua flags=allow-oom
-- USES: mail
-- How much there is in queues.
-- KEYS: heads mail leases leased stale
-- ARGV: now, prefix, then queues
-- RETURNS: for each queue {ready, leased, buried, since when the oldest is ready or ''}
local prefix, answers = ARGV[2], {}
mail_overdue(prefix, KEYS[2], KEYS[3], KEYS[4])

-- When an entry became ready; nil if it is stale.
local function since(entry)
  if byte(entry) == 64 then
    local stored = call('HGET', KEYS[2], sub(entry, 2))
    return stored and struct.unpack('>d', stored)
  end
  local at = string.find(entry, ' ', 1, true)
  local gen = at and tonumber(sub(entry, at + 1)) or 1
  local head = call('HGET', KEYS[1], at and sub(entry, 1, at - 1) or entry)
  if head and byte(head) == 112 and struct.unpack('>I4', head, 55) == gen then
    return struct.unpack('>d', head, 73)
  end
end

for i = 3, #ARGV do
  local queue, ready, oldest = ARGV[i], 0, nil
  local index = prefix .. 'q:' .. queue
  for _, level in ipairs(call('ZRANGE', index, 0, -1)) do
    local list = index .. ':' .. level
    ready = ready + call('LLEN', list)
    for _, entry in ipairs(call('LRANGE', list, 0, 9)) do
      local at = since(entry)
      if at then
        oldest = math.min(oldest or at, at)
        break
      end
    end
  end
  ready = math.max(0, ready - tonumber(call('HGET', KEYS[5], queue) or 0))
  answers[#answers + 1] = {
    ready,
    tonumber(call('HGET', prefix .. 'leasing', queue) or 0),
    call('HLEN', prefix .. 'buried:' .. queue),
    oldest and string.format('%.17g', oldest) or '',
  }
end
return answers
