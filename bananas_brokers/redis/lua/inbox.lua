#!lua flags=allow-oom
-- Moves raw messages of plain clients from the inbox to their queues, if nobody else did.
-- KEYS: inbox mail meta
-- ARGV: now, prefix, then queue, level, body of each, in the order of the inbox
-- RETURNS: how many
local prefix, count = ARGV[2], (#ARGV - 2) / 3
local found = call('LRANGE', KEYS[1], 0, count - 1)
for i = 1, count do
  if found[i] ~= ARGV[2 + 3 * i] then return 0 end
end
call('LTRIM', KEYS[1], count, -1)
for i = 3, #ARGV, 3 do
  local queue, level, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local number = call('HINCRBY', KEYS[3], 'mail', 1)
  call('HSET', KEYS[2], number, now8 .. string.char(level) .. '0'
    .. struct.pack('>H', #queue) .. queue .. body)
  call('RPUSH', prefix .. 'q:' .. queue .. ':' .. level, '@' .. number)
  call('ZADD', prefix .. 'q:' .. queue, level, level)
  wake(prefix, queue)
end
return count
