-- Compare and set: each record whose header is still the expected one gets its commands.
-- KEYS: heads
-- ARGV: now, prefix, session whose claims must have run out or '', sessions, then for each record:
--   id, expected header ('' for none), how many commands, and of each how many words and the words
-- RETURNS: for each record 1 if it was written, else 0
local special = {}

-- One claim of a batch is over.
special['!unclaim'] = function(key, fence)
  if call('HINCRBY', key, fence .. '#', -1) <= 0 then
    call('HDEL', key, fence, fence .. '#')
  end
end

special['!add'] = add

special['!wake'] = function(queue) wake(ARGV[2], queue) end

-- A record that prune had set aside is in the order of ends again.
special['!recall'] = function(later, id, finals, entry)
  if call('ZREM', later, id) == 1 then call('LPUSH', finals, entry) end
end

local answers = {}
local lapsed = true
if ARGV[3] ~= '' then
  local ends = call('ZSCORE', ARGV[4], ARGV[3])
  lapsed = ends and tonumber(ends) <= now
end
local at = 5
while at <= #ARGV do
  local id, expected, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local same = lapsed and (call('HGET', KEYS[1], id) or '') == expected
  at = at + 3
  for _ = 1, count do
    local size = tonumber(ARGV[at])
    if same then
      local run = special[ARGV[at + 1]]
      if run then run(unpack(ARGV, at + 2, at + size))
      else call(unpack(ARGV, at + 1, at + size)) end
    end
    at = at + size + 1
  end
  answers[#answers + 1] = same and 1 or 0
end
return answers
