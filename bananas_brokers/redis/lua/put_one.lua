#!lua
-- Creates one plain pending job that does not exist yet and has no guard: what put.lua does, for a
-- lone submit.
-- KEYS: heads messages events made, list of its level, levels of its queue, its bell
-- ARGV: now, id, message, level, middle of the header, its shape
-- RETURNS: 1 if it was created, else 0
local id, shape = ARGV[2], ARGV[6]
local front = 'p' .. zero8 .. now8 .. none8 .. zero8 .. zero8 .. zero8 .. '0'
if call('HSETNX', KEYS[1], id, front .. ARGV[5] .. now8 .. now8 .. shape) == 0 then return 0 end
call('HSET', KEYS[2], id, ARGV[3])
call('ZADD', KEYS[4], now, id)
call('XADD', KEYS[3], '*', 'h', '-p' .. now8, shape, zero8 .. id)
if call('RPUSH', KEYS[5], id) == 1 then call('ZADD', KEYS[6], ARGV[4], ARGV[4]) end
ring(KEYS[7])
return 1
