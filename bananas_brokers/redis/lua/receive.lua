#!lua flags=allow-oom
-- USES: mail claim
-- Takes what is ready, the most important first, and claims the records among it.
-- KEYS: heads messages extras meta events sessions claims-of-the-session due stale mail leases
--   leased inbox
-- ARGV: now, prefix, session ('': messages only), limit, ttl of a new session, seconds of a lease,
--   how many queues may have lost their token to the receiver, the key that says whether it was
--   called off ('': it can't be), the lowest priority to take, then the queues: the ones without
--   token first, then the one whose turn it is
-- RETURNS: {fence, now, length of the inbox, how many queues were looked at, ids, heads, messages,
--   extras, mail}; extras as id, value, …; mail as number, queue, stored, …; heads are those from
--   before the claim, as head, how many, … for runs of equal ones
local prefix, session, left, rung = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[7])
local ids, heads, letters, kept = {}, {}, {}, {}
local names, gens, owners, n = {}, {}, {}, 0
local find, one4 = string.find, '\0\0\0\1'
local lowest, under = tonumber(ARGV[9]), false
if ARGV[8] ~= '' and call('EXISTS', ARGV[8]) == 1 then
  for i = 10, 9 + rung do
    if call('EXISTS', prefix .. 'q:' .. ARGV[i]) == 1 then wake(prefix, ARGV[i]) end
  end
  return {0, exactly, 0, 0, {}, {}, {}, {}, {}}
end
mail_overdue(prefix, KEYS[10], KEYS[11], KEYS[12])

-- Takes up to `most` entries of a queue; whether there may be more.
local function pop(queue, most)
  local index = prefix .. 'q:' .. queue
  while most > 0 do
    local level = call('ZREVRANGE', index, 0, 0)[1]
    if not level then return false end
    if tonumber(level) < lowest then
      under = true
      return false
    end
    local entries = call('LPOP', index .. ':' .. level, most) or {}
    if #entries < most then call('ZREM', index, level) end
    for i = 1, #entries do
      local entry = entries[i]
      local is_letter = byte(entry) == 64
      if session == '' and not is_letter then
        kept[#kept + 1] = {index, level, entry}
      else
        most, left = most - 1, left - 1
        if is_letter then
          letters[#letters + 1] = sub(entry, 2)
          letters[#letters + 1] = queue
        else
          local at = find(entry, ' ', 1, true)
          n = n + 1
          names[n], owners[n] = entry, queue
          if at then
            names[n] = sub(entry, 1, at - 1)
            gens[n] = struct.pack('>I4', tonumber(sub(entry, at + 1)))
          end
        end
      end
    end
  end
  return true
end

-- Looks at all records whose entries were taken: which of them are still to be run?
local function judge()
  if n == 0 then return end
  local found, stale, count, seen, gen = call('HMGET', KEYS[1], unpack(names)), {}, #ids, nil, nil
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
      left = left + 1
      stale[owners[i]] = (stale[owners[i]] or 0) + 1
    end
  end
  for queue, number in pairs(stale) do add(KEYS[9], queue, -number) end
  names, gens, owners, n = {}, {}, {}, 0
end

-- A share for each until that is enough: queues behind stay for the next time. Who asks for many
-- runs short jobs, and may find some of a kind.
local seen, more, least = 9, {}, math.floor(left / 25)
while left > 0 and seen < #ARGV do
  seen = seen + 1
  local share = math.ceil(left / (#ARGV - seen + 1))
  more[seen] = pop(ARGV[seen], math.min(left, math.max(least, share)))
end
judge()
for i = 10, seen do
  while left > 0 and more[i] do
    more[i] = pop(ARGV[i], left)
    judge()
  end
end
for i = 10, math.max(seen, 9 + rung) do
  if more[i] or ((under or i > seen) and call('EXISTS', prefix .. 'q:' .. ARGV[i]) == 1) then
    wake(prefix, ARGV[i])
  end
end
for i = #kept, 1, -1 do
  call('LPUSH', kept[i][1] .. ':' .. kept[i][2], kept[i][3])
  call('ZADD', kept[i][1], kept[i][2], kept[i][2])
end
if #ids == 0 and #letters == 0 then
  return {0, exactly, call('LLEN', KEYS[13]), seen - 9, {}, {}, {}, {}, {}}
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
return {fence, exactly, call('LLEN', KEYS[13]), seen - 9, ids, runs, messages, extras, mail}
