-- Begins leases anew. KEYS[2] has the entries that somebody wants to take back. Answers the entries that are the
-- consumer's no more, and those of its own that are asked for.
local lost, asked = {}, {}
local any = redis.call('EXISTS', KEYS[2]) == 1
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    if any and redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then asked[#asked + 1] = ARGV[i] end
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return {lost, asked}
