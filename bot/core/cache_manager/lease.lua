-- Takes, renews or gives back a lease: a key that lives for a while and holds the token of its owner.
--
-- KEYS[1] is the lease. ARGV: take, renew or give; the token; milliseconds; and for give, the channel and the
-- message that wakes those who wait. Answers with 0 if it is done; otherwise with the milliseconds that
-- another owner has left, at least 1.
local what, token, milliseconds = ARGV[1], ARGV[2], ARGV[3]
if what == 'take' and redis.call('SET', KEYS[1], token, 'NX', 'PX', milliseconds) then return 0 end
if redis.pcall('GET', KEYS[1]) ~= token then return math.max(1, redis.call('PTTL', KEYS[1])) end
if what == 'give' then
  redis.call('DEL', KEYS[1])
  redis.pcall('PUBLISH', ARGV[4], ARGV[5])
else
  redis.call('PEXPIRE', KEYS[1], milliseconds)
end
return 0
