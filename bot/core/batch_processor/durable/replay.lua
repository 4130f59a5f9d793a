if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[3]) then return -1 end
if is_pending(says(KEYS[3])) then return 0 end
if redis.call('XDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
local entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[2])
redis.call('SET', KEYS[3], 'P' .. entry)
return 1
