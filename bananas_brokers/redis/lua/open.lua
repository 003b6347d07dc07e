#!lua flags=allow-oom
-- What a namespace is written as; a new one gets our form.
-- KEYS: meta
-- ARGV: now, schema, shards
-- RETURNS: {schema, shards}
if call('HSETNX', KEYS[1], 'schema', ARGV[2]) == 1 then
  call('HSET', KEYS[1], 'shards', ARGV[3])
end
-- A namespace from before there were shards says nothing of them.
return {call('HGET', KEYS[1], 'schema'), call('HGET', KEYS[1], 'shards') or '1'}
