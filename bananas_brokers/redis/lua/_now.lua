-- Every script begins with this: `now` in unix seconds on the server's clock, unless ARGV[1] has it
-- (tests with a clock of their own), and the packed constants of a header (see header.py). All but
-- the shortest go on with _time.lua.
local call, sub, byte, concat = redis.call, string.sub, string.byte, table.concat
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] + time[2] / 1000000
end
local now8 = struct.pack('>d', now)
local zero8, none8 = '\0\0\0\0\0\0\0\0', '\191\240\0\0\0\0\0\0'
local zero16 = zero8 .. zero8

-- One token tells idle receivers of a queue to look.
local function ring(bell)
  if call('EXISTS', bell) == 0 then
    call('RPUSH', bell, '1')
    call('PEXPIRE', bell, 60000)
  end
end
