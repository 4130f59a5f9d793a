-- Submits the items of plans that are due. KEYS: the stream, the items' keys, lanes, plans' times, plans. ARGV:
-- limit, a random number, how many; for each its name, its lane's name and the place of that one's key. Answers
-- how many were submitted, and how many left out because the one before is pending or there is no room.
local this, limit, count = now(), tonumber(ARGV[1]), tonumber(ARGV[3])
local times, plans = KEYS[#KEYS - 4], KEYS[#KEYS - 3]
local length = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', LATER)
local submitted, left_out, chance = 0, 0, tonumber(ARGV[2])
for i = 1, count do
  local key, at = KEYS[i + 1], 1 + 3 * i
  local name, lane_name, lane = ARGV[at], ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])]
  local due = tonumber(redis.call('ZSCORE', times, name) or nil)
  local plan = redis.call('HGET', plans, name)
  local every, anchor, jitter, start
  if plan then every, anchor, jitter, start = plan:match('^(%d+) (%d+) (%d+) ()') end
  if due and not start then redis.call('ZREM', times, name) end  -- it was removed, or nobody here wrote it
  if due and due <= this and start then
    local kept_lane, value = unpacked(plan:sub(start))
    if kept_lane == lane_name then  -- otherwise it was changed meanwhile
      -- Counted from the first time, so that it does not drift; what was missed is left out.
      local tick = anchor + (math.floor((this - anchor) / every) + 1) * every
      chance = (chance * 7919) % 1
      redis.call('ZADD', times, string.format('%.0f', tick + math.floor(jitter * chance)), name)
      if is_pending(says(key), key) or length >= limit then
        left_out = left_out + 1
      else
        enqueue(key, lane, lane_name, value)
        length = length + 1
        submitted = submitted + 1
      end
    end
  end
end
return {submitted, left_out}
