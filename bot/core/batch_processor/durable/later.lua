-- Items that wait for their time. What is kept of one is the name of its lane, with its length, and its value.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function packed(lane_name, value)
  return #lane_name .. ':' .. lane_name .. value
end
local function unpacked(kept)
  local length, start = kept:match('^(%d+):()')
  if not length then return '', kept end  -- nobody here wrote it, and whoever reads it will find so
  return kept:sub(start, start + length - 1), kept:sub(start + length)
end
-- What an earlier item of the key has left behind, whose entry was lost.
local function forget_newer(key)
  redis.call('HDEL', NEWER, key, '=' .. key)
end
-- When a newer item is due, and what is kept of it.
local function due_of(newer)
  local due, start = newer:match('^(%d+):()')
  return tonumber(due) or 0, newer:sub(start or 1)
end
local function wait(key, kept, due)
  forget_newer(key)
  redis.call('HSET', KEPT, key, kept)
  redis.call('ZADD', LATER, due, key)
  redis.call('SET', key, 'D')
end
local function stop_waiting(key)
  local kept = redis.call('HGET', KEPT, key)
  redis.call('ZREM', LATER, key)
  redis.call('HDEL', KEPT, key)
  return kept
end
local function enqueue(key, lane, lane_name, value)
  local entry
  forget_newer(key)
  if lane_name ~= '' then
    entry = redis.call('XADD', KEYS[1], '*', 'v', value, 'l', lane_name)
    join(lane, entry)
  else
    entry = redis.call('XADD', KEYS[1], '*', 'v', value)
  end
  redis.call('SET', key, 'P' .. entry)
end
