#!lua flags=allow-oom
-- USES: mail
-- Ends leases: the messages are gone, ready again, or set aside.
-- KEYS: mail leases leased
-- ARGV: now, prefix, mode (ack release bury), reason, then number and lease of each
-- RETURNS: 1 for each whose lease still held, else 0
local prefix, mode, answers = ARGV[2], ARGV[3], {}
for i = 5, #ARGV, 2 do
  local number = ARGV[i]
  local ends = call('ZSCORE', KEYS[2], number)
  local mine = ends and tonumber(ends) > now and call('HGET', KEYS[3], number) == ARGV[i + 1]
  answers[#answers + 1] = mine and 1 or 0
  if mine and mode == 'release' then
    mail_back(prefix, KEYS[1], KEYS[2], KEYS[3], number)
  elseif mine then
    local stored = call('HGET', KEYS[1], number)
    call('ZREM', KEYS[2], number)
    call('HDEL', KEYS[3], number)
    if stored then add(prefix .. 'leasing', mail_queue(stored), -1) end
    if stored and mode == 'bury' then
      call('HSET', prefix .. 'buried:' .. mail_queue(stored), number, ARGV[4])
    else
      call('HDEL', KEYS[1], number)
    end
  end
end
return answers
