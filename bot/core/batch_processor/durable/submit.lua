-- As add.lua, of items that wait for a time, or take the place of others. ARGV: limit, whether all or none, how
-- many, whether they replace, "in" or "at", milliseconds, then a value, a lane's name and its key's place for
-- each. Answers: 0 no room, 1 added, 2 known, 3 replaced.
local limit, count = tonumber(ARGV[1]), tonumber(ARGV[3])
local replace, this = ARGV[4] == '1', now()
local due = ARGV[5] == 'in' and this + ARGV[6] or math.max(0, ARGV[6])
local length = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', LATER)
local all = ARGV[2] == '0' or length + count <= limit
local answers = {}
local function take_in(key, lane, lane_name, value)
  if due > this then wait(key, packed(lane_name, value), due) else enqueue(key, lane, lane_name, value) end
end
for i = 1, count do
  local key, at = KEYS[i + 1], 4 + 3 * i
  local value, lane_name, lane = ARGV[at], ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])]
  local said = says(key)
  local pending = is_pending(said, key)
  if said == 'P' or not replace and (pending or is_ended(said)) then
    answers[i] = 2
  elseif not pending then
    if length >= limit or not all then
      answers[i] = 0
    else
      take_in(key, lane, lane_name, value)
      length = length + 1
      answers[i] = 1
    end
  else
    if said == 'D' then
      stop_waiting(key)
      take_in(key, lane, lane_name, value)
    else
      redis.call('HSET', NEWER, key, string.format('%.0f:', due) .. packed(lane_name, value))
    end
    answers[i] = 3
  end
end
answers[count + 1] = length
return answers
