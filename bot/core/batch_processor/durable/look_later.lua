-- What is due now: {key, lane's name} of items, {name, lane's name} of plans, and the milliseconds until more
-- is (-1: never). Then how many items wait, and whether newer ones do. KEYS: plans' times, plans.
local this = now()
local items, plans = {}, {}
for _, key in ipairs(redis.call('ZRANGEBYSCORE', LATER, '-inf', this, 'LIMIT', 0, 100)) do
  local kept = redis.call('HGET', KEPT, key)
  items[#items + 1] = {key, kept and (unpacked(kept)) or ''}
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', this, 'LIMIT', 0, 100)) do
  local plan = redis.call('HGET', KEYS[2], name)
  local start = plan and plan:match('^%d+ %d+ %d+ ()')
  plans[#plans + 1] = {name, start and (unpacked(plan:sub(start))) or ''}
end
local left = -1
for _, key in ipairs({LATER, KEYS[1]}) do
  local first = redis.call('ZRANGEBYSCORE', key, '(' .. this, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if first and (left < 0 or first - this < left) then left = first - this end
end
return {items, plans, left, redis.call('ZCARD', LATER), redis.call('HLEN', NEWER)}
