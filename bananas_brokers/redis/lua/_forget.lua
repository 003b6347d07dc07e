-- Deletes records and their documents, without trace. KEYS 1-9 as in prune.lua.
local function forget(ids)
  if #ids == 0 then return end
  for key = 1, 4 do redis.call('HDEL', KEYS[key], unpack(ids)) end
  redis.call('HINCRBY', KEYS[5], 'finals', -#ids)
  redis.call('ZREM', KEYS[6], unpack(ids))
  if redis.call('EXISTS', KEYS[9]) == 0 then return end
  for i, has in ipairs(redis.call('SMISMEMBER', KEYS[9], unpack(ids))) do
    if has == 1 then
      local from = 'job/' .. ids[i] .. '/'
      local keys = redis.call('ZRANGEBYLEX', KEYS[8], '[' .. from, '(' .. 'job/' .. ids[i] .. '0')
      for _, key in ipairs(keys) do
        redis.call('HDEL', KEYS[7], key)
        redis.call('ZREM', KEYS[8], key)
        redis.call('ZREM', KEYS[10], key)
      end
      redis.call('SREM', KEYS[9], ids[i])
    end
  end
end
