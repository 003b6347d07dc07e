#!lua flags=allow-oom
-- A write whose only use is that WAIT and WAITAOF, which look no further back than the last write of
-- their own connection, cover all that came before it.
-- KEYS: meta
-- ARGV: now
-- RETURNS: 1
call('HSET', KEYS[1], 'mark', exactly)
return 1
