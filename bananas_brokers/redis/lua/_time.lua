-- Every script begins with this: `now` in unix seconds on the server's clock, unless ARGV[1] has it
-- (tests with a clock of their own), and the packed constants of a header (see header.py).
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local now8 = struct.pack('>d', now)
local zero8, none8 = string.rep('\0', 8), struct.pack('>d', -1)
local exactly = string.format('%.17g', now)

-- A number that nobody had before, over restarts and lost writes too: never behind the clock.
local function next_number(meta)
  local last = tonumber(redis.call('HGET', meta, 'last') or 0)
  local number = math.max(last + 1, math.floor(now * 1000000))
  redis.call('HSET', meta, 'last', string.format('%.0f', number))
  return number
end

-- One token tells idle receivers of a queue to look.
local function wake(prefix, queue)
  local bell = prefix .. 'wake:' .. queue
  if redis.call('EXISTS', bell) == 0 then
    redis.call('RPUSH', bell, '1')
    redis.call('PEXPIRE', bell, 60000)
  end
end
