#!lua flags=allow-oom
-- USES: mail
-- What could be received here, so that one can choose between shards. Gives back what is overdue.
-- KEYS: heads mail leases leased inbox
-- ARGV: now, prefix, how many are wanted, '1' to put a token where something is, then queues
-- RETURNS: length of the inbox, then for each queue {level, entries, front, …}, the highest level
--   first, until there are enough; front: 0 for a head, else since when the first entry is ready
local prefix, most = ARGV[2], tonumber(ARGV[3])
mail_overdue(prefix, KEYS[2], KEYS[3], KEYS[4])

local function front(entry)
  if byte(entry) == 64 then
    local stored = call('HGET', KEYS[2], sub(entry, 2))
    return stored and struct.unpack('>d', stored) or now
  end
  local head = call('HGET', KEYS[1], string.match(entry, '^[^ ]+'))
  if not head then return now end
  return byte(head, 50) == 49 and 0 or struct.unpack('>d', head, 73)
end

local answers = {call('LLEN', KEYS[5])}
for i = 5, #ARGV do
  local index, found, left = prefix .. 'q:' .. ARGV[i], {}, most
  for _, level in ipairs(call('ZREVRANGE', index, 0, -1)) do
    local list = index .. ':' .. level
    local entries = call('LLEN', list)
    if entries == 0 then
      call('ZREM', index, level)
    else
      found[#found + 1] = tonumber(level)
      found[#found + 1] = entries
      found[#found + 1] = string.format('%.17g', front(call('LINDEX', list, 0)))
      left = left - entries
      if left <= 0 then break end
    end
  end
  if #found > 0 and ARGV[4] == '1' then wake(prefix, ARGV[i]) end
  answers[#answers + 1] = found
end
return answers
