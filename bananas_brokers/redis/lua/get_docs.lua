#!lua flags=no-writes
-- USES: docs
-- Documents by key.
-- KEYS: docs
-- ARGV: now, then keys
-- RETURNS: what is stored, or '', for each
local found = {}
for i = 2, #ARGV do found[i - 1] = doc_of(call('HGET', KEYS[1], ARGV[i])) or '' end
return found
