#!lua flags=allow-oom
-- USES: mail claim
-- Takes what is ready, the most important first, and claims the records among it.
-- KEYS: heads messages extras meta events sessions claims-of-the-session due stale mail leases
--   leased inbox
-- ARGV: now, prefix, session ('': messages only), limit, ttl of a new session, seconds of a lease,
--   then the queues, the one whose turn it is first
-- RETURNS: {fence, now, length of the inbox, ids, heads, messages, extras, mail}; extras as id,
--   value, …; mail as number, queue, stored, …; heads are those from before the claim, as head, how
--   many, … for runs of equal ones
local prefix, session, left = ARGV[2], ARGV[3], tonumber(ARGV[4])
local ids, heads, letters, kept = {}, {}, {}, {}
mail_overdue(prefix, KEYS[10], KEYS[11], KEYS[12])

local find, one4 = string.find, '\0\0\0\1'

local function take(queue, entries)
  local names, gens, n = {}, {}, 0
  for i = 1, #entries do
    local entry = entries[i]
    if byte(entry) == 64 then
      letters[#letters + 1] = sub(entry, 2)
      letters[#letters + 1] = queue
      left = left - 1
    else
      local at = find(entry, ' ', 1, true)
      n = n + 1
      if at then
        names[n], gens[n] = sub(entry, 1, at - 1), struct.pack('>I4', tonumber(sub(entry, at + 1)))
      else
        names[n] = entry
      end
    end
  end
  if n == 0 then return end
  local found = call('HMGET', KEYS[1], unpack(names))
  local stale, count, seen, gen = 0, #ids, nil, nil
  for i = 1, n do
    local head = found[i]
    if head ~= seen then -- jobs that were put together have equal heads
      seen, gen = head, nil
      if head and byte(head) == 112 and (sub(head, 34, 41) == zero8
        or struct.unpack('>d', head, 34) > now) then
        gen = sub(head, 55, 58)
      end
    end
    if gen and gen == (gens[i] or one4) then
      count = count + 1
      ids[count], heads[count] = names[i], head
    else
      stale = stale + 1
    end
  end
  left = left - (n - stale)
  if stale > 0 then add(KEYS[9], queue, -stale) end
end

local function drain(queue, most)
  local index, stop = prefix .. 'q:' .. queue, left - most
  while left > stop do
    local level = call('ZREVRANGE', index, 0, 0)[1]
    if not level then return end
    local list = index .. ':' .. level
    local entries = call('LPOP', list, left - stop) or {}
    if #entries < left - stop then call('ZREM', index, level) end
    if session == '' then
      local mine = {}
      for _, entry in ipairs(entries) do
        if byte(entry) == 64 then mine[#mine + 1] = entry
        else kept[#kept + 1] = {index, level, entry} end
      end
      entries = mine
    end
    take(queue, entries)
  end
end

for i = 7, #ARGV do drain(ARGV[i], math.ceil(left / (#ARGV - i + 1))) end
for i = 7, #ARGV do
  if left > 0 then drain(ARGV[i], left) end
  if call('EXISTS', prefix .. 'q:' .. ARGV[i]) == 1 then wake(prefix, ARGV[i]) end
end
for i = #kept, 1, -1 do
  call('LPUSH', kept[i][1] .. ':' .. kept[i][2], kept[i][3])
  call('ZADD', kept[i][1], kept[i][2], kept[i][2])
end
if #ids == 0 and #letters == 0 then
  return {0, exactly, call('LLEN', KEYS[13]), {}, {}, {}, {}, {}}
end
local number, messages, extras, mail = next_number(KEYS[4]), {}, {}, {}
local fence = string.format('%.0f', number)
for i = 1, #letters, 2 do
  local stored = call('HGET', KEYS[10], letters[i])
  if stored then
    call('ZADD', KEYS[11], string.format('%.17g', now + tonumber(ARGV[6])), letters[i])
    call('HSET', KEYS[12], letters[i], fence)
    add(prefix .. 'leasing', letters[i + 1], 1)
    mail[#mail + 1], mail[#mail + 2], mail[#mail + 3] = letters[i], letters[i + 1], stored
  end
end
local runs, last = {}, 0
if #ids > 0 then
  messages, extras = claim_all(prefix, session, ARGV[5], number, ids, heads)
  for i = 1, #ids do
    if heads[i] ~= runs[last - 1] then
      last = last + 2
      runs[last - 1], runs[last] = heads[i], 0
    end
    runs[last] = runs[last] + 1
  end
end
return {fence, exactly, call('LLEN', KEYS[13]), ids, runs, messages, extras, mail}
