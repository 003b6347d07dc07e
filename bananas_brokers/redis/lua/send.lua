#!lua
-- Messages for the transport's own queues.
-- KEYS: mail meta
-- ARGV: now, prefix, then queue, level, '1' to go before its equals, body of each
-- RETURNS: how many
local prefix = ARGV[2]
for i = 3, #ARGV, 4 do
  local queue, level, body = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local number = call('HINCRBY', KEYS[2], 'mail', 1)
  call('HSET', KEYS[1], number, now8 .. string.char(level) .. '0'
    .. struct.pack('>H', #queue) .. queue .. body)
  local push = ARGV[i + 2] == '1' and 'LPUSH' or 'RPUSH'
  call(push, prefix .. 'q:' .. queue .. ':' .. level, '@' .. number)
  call('ZADD', prefix .. 'q:' .. queue, level, level)
  wake(prefix, queue)
end
return (#ARGV - 2) / 4
