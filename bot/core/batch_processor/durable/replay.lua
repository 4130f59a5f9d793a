-- 1: the dead letter is an item again; 0: its key is that of an item that is pending; -1: there is no room;
-- -2: the dead letter is gone. KEYS[4], ARGV[4]: its lane, if it has one.
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return -2 end
if redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', LATER) >= tonumber(ARGV[3]) then return -1 end
if is_pending(says(KEYS[3]), KEYS[3]) then return 0 end
-- First, so that memory may be full: it frees what the item takes.
redis.call('XDEL', KEYS[2], ARGV[1])
local entry
if ARGV[4] then
  entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[2], 'l', ARGV[4])
  join(KEYS[4], entry)
else
  entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[2])
end
redis.call('SET', KEYS[3], 'P' .. entry)
return 1
