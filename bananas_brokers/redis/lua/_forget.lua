-- Deletes records and their documents, without trace. KEYS 1-9 as in prune.lua.
local function forget(ids)
  if #ids == 0 then return end
  for key = 1, 4 do call('HDEL', KEYS[key], unpack(ids)) end
  call('HINCRBY', KEYS[5], 'finals', -#ids)
  call('ZREM', KEYS[6], unpack(ids))
  if call('EXISTS', KEYS[9]) == 0 then return end
  for i, has in ipairs(call('SMISMEMBER', KEYS[9], unpack(ids))) do
    if has == 1 then
      local from = 'job/' .. ids[i] .. '/'
      local keys = call('ZRANGEBYLEX', KEYS[8], '[' .. from, '(' .. 'job/' .. ids[i] .. '0')
      for _, key in ipairs(keys) do
        call('HDEL', KEYS[7], key)
        call('ZREM', KEYS[8], key)
        call('ZREM', KEYS[10], key)
      end
      call('SREM', KEYS[9], ids[i])
    end
  end
end
