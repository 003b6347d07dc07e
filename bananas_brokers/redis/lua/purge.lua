#!lua flags=allow-oom
-- USES: mail
-- Deletes the ready and buried messages of a queue; records stay.
-- KEYS: mail leases leased
-- ARGV: now, prefix, queue
-- RETURNS: how many
local prefix, queue, gone = ARGV[2], ARGV[3], {}
mail_overdue(prefix, KEYS[1], KEYS[2], KEYS[3])
local index = prefix .. 'q:' .. queue
for _, level in ipairs(call('ZRANGE', index, 0, -1)) do
  local list, stay, before = index .. ':' .. level, {}, #gone
  for _, entry in ipairs(call('LRANGE', list, 0, -1)) do
    if byte(entry) == 64 then gone[#gone + 1] = sub(entry, 2)
    else stay[#stay + 1] = entry end
  end
  if #gone > before then
    call('DEL', list)
    for first = 1, #stay, 1000 do
      call('RPUSH', list, unpack(stay, first, math.min(first + 999, #stay)))
    end
    if #stay == 0 then call('ZREM', index, level) end
  end
end
for _, number in ipairs(call('HKEYS', prefix .. 'buried:' .. queue)) do
  gone[#gone + 1] = number
end
call('DEL', prefix .. 'buried:' .. queue)
for _, number in ipairs(gone) do call('HDEL', KEYS[1], number) end
return #gone
