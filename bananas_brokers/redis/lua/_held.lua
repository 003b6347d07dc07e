-- Ids that a session's batches hold and that really run under their fences; `skip[id]` leaves one
-- out, batches claimed after `before` too, `most` is how many at most.
local function held_by(heads, prefix, session, skip, before, most)
  local found = {}
  local batches = call('HGETALL', prefix .. 'claims:' .. session)
  for i = 1, #batches, 2 do
    local fence = tonumber(batches[i])
    if fence and #found < most then
      local ids = {}
      for id in string.gmatch(batches[i + 1], '[^ ]+') do
        if not skip[id] then ids[#ids + 1] = id end
      end
      local want = 'r' .. struct.pack('>I8', fence)
      for j, head in ipairs(#ids > 0 and call('HMGET', heads, unpack(ids)) or {}) do
        if head and sub(head, 1, 9) == want and #found < most
          and struct.unpack('>d', head, 26) < before then
          found[#found + 1] = ids[j]
        end
      end
    end
  end
  return found
end
