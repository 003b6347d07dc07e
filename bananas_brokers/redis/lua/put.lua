#!lua
-- Creates plain pending jobs that do not exist yet. Others go through apply.lua.
-- KEYS: heads messages events made due
-- ARGV: now, prefix, seconds of the guard or '', n, then n ids, n messages, and for each run of
--   alike jobs: queue, level, middle of the header, its shape, how many
-- RETURNS: places (from 1) of the jobs that existed
local prefix, guard, n = ARGV[2], ARGV[3], tonumber(ARGV[4])
local found = call('HMGET', KEYS[1], unpack(ARGV, 5, 4 + n))
local guard8 = guard == '' and zero8 or struct.pack('>d', now + tonumber(guard))
local front = 'p' .. zero8 .. now8 .. none8 .. zero8 .. zero8 .. guard8 .. '0'
local existed, heads, messages, all, m = {}, {}, {}, {}, 0
local event = {KEYS[3], '*', 'h', '-p' .. now8}
local woken, place = nil, 1
for run = 5 + 2 * n, #ARGV, 5 do
  local queue, level, shape = ARGV[run], ARGV[run + 1], ARGV[run + 3]
  local head = front .. ARGV[run + 2] .. now8 .. now8 .. shape
  local ids, last = {}, place + tonumber(ARGV[run + 4]) - 1
  for i = place, last do
    if found[i] then
      existed[#existed + 1] = i
    else
      local id = ARGV[4 + i]
      m = m + 1
      ids[#ids + 1], all[m] = id, id
      heads[2 * m - 1], heads[2 * m] = id, head
      messages[2 * m - 1], messages[2 * m] = id, ARGV[4 + n + i]
    end
  end
  place = last + 1
  if #ids > 0 then
    event[#event + 1] = shape
    event[#event + 1] = zero8 .. concat(ids, ' ')
    if guard == '' then
      local list = prefix .. 'q:' .. queue .. ':' .. level
      if call('RPUSH', list, unpack(ids)) == #ids then
        call('ZADD', prefix .. 'q:' .. queue, level, level)
      end
      if woken ~= queue then wake(prefix, queue) end
      woken = queue
    else
      for _, id in ipairs(ids) do
        call('ZADD', prefix .. 'pend:' .. queue, exactly, id)
        call('ZADD', KEYS[5], string.format('%.17g', now + tonumber(guard)), id)
      end
    end
  end
end
if m > 0 then
  call('HSET', KEYS[1], unpack(heads))
  call('HSET', KEYS[2], unpack(messages))
  call('ZADD', KEYS[4], exactly, concat(all, ' '))
  call('XADD', unpack(event))
end
return existed
