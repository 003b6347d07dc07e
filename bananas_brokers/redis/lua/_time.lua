-- Goes on where _now.lua ends.
local exactly = string.format('%.17g', now)

-- A number that nobody had before, over restarts and lost writes too: never behind the clock.
local function next_number(meta)
  local last = tonumber(call('HGET', meta, 'last') or 0)
  local number = math.max(last + 1, math.floor(now * 1000000))
  call('HSET', meta, 'last', string.format('%.0f', number))
  return number
end

local function wake(prefix, queue) ring(prefix .. 'wake:' .. queue) end

-- A counter in a hash, which is gone at 0.
local function add(key, field, by)
  if call('HINCRBY', key, field, by) == 0 then call('HDEL', key, field) end
end
