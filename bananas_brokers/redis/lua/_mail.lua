-- Messages of the transport: number -> sent_at 8, level 1, redelivered 1, length of queue 2,
-- queue, body; in ready lists they stand as '@' .. number.
local function mail_queue(stored)
  return sub(stored, 13, 12 + struct.unpack('>H', stored, 11))
end

-- A leased message is ready again, before its equals.
local function mail_back(prefix, mail, leases, leased, number)
  local stored = call('HGET', mail, number)
  call('ZREM', leases, number)
  call('HDEL', leased, number)
  if not stored then return end
  local queue, level = mail_queue(stored), byte(stored, 9)
  call('HSET', mail, number, sub(stored, 1, 9) .. '1' .. sub(stored, 11))
  call('LPUSH', prefix .. 'q:' .. queue .. ':' .. level, '@' .. number)
  call('ZADD', prefix .. 'q:' .. queue, level, level)
  add(prefix .. 'leasing', queue, -1)
  wake(prefix, queue)
end

-- Leases that are over.
local function mail_overdue(prefix, mail, leases, leased)
  local over = call('ZRANGEBYSCORE', leases, '-inf', exactly, 'LIMIT', 0, 100)
  for _, number in ipairs(over) do mail_back(prefix, mail, leases, leased, number) end
end
