#!lua flags=allow-oom
-- Clears the guards of pending jobs whose messages were sent.
-- KEYS: heads due
-- ARGV: now, then id and gen of each
-- RETURNS: how many guards were cleared
local names, cleared = {}, 0
for i = 2, #ARGV, 2 do names[#names + 1] = ARGV[i] end
for i, head in ipairs(call('HMGET', KEYS[1], unpack(names))) do
  if head and byte(head) == 112
    and sub(head, 55, 58) == struct.pack('>I4', tonumber(ARGV[2 * i + 1]))
    and sub(head, 42, 49) ~= zero8 then
    call('HSET', KEYS[1], names[i], sub(head, 1, 41) .. zero8 .. sub(head, 50))
    local start_by = sub(head, 34, 41)
    if start_by == zero8 then
      call('ZREM', KEYS[2], names[i])
    else
      call('ZADD', KEYS[2], string.format('%.17g', struct.unpack('>d', start_by)), names[i])
    end
    cleared = cleared + 1
  end
end
return cleared
