-- Adds a plan, or replaces that of its name, which keeps its times if the period is the same. KEYS: plans' times,
-- plans. ARGV: name, period and jitter in milliseconds, what else is kept, a random number, the most plans.
-- Answers when it is due, in milliseconds; -1: there are too many.
local name, every, jitter = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local before = redis.call('HGET', KEYS[2], name)
if not before and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then return '-1' end
local due = redis.call('ZSCORE', KEYS[1], name)
local period, anchor
if before then period, anchor = before:match('^(%d+) (%d+) ') end
if not due or tonumber(period) ~= every then
  anchor = string.format('%.0f', now())
  due = string.format('%.0f', anchor + every + math.floor(jitter * ARGV[5]))
  redis.call('ZADD', KEYS[1], due, name)
end
redis.call('HSET', KEYS[2], name, ARGV[2] .. ' ' .. anchor .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return due
