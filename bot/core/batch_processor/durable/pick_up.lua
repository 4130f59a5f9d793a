-- Before a batch runs: the newest of each of its keys that were submitted to be replaced. ARGV: how many; for
-- each its entry and the place of its lane's key. Answers for each: "" as it is, "V" and a value that replaces
-- its own, "R" the newer one waits for its time, and this one has ended.
local this, count = now(), tonumber(ARGV[1])
local answers = {}
for i = 1, count do
  local key, entry, lane = KEYS[i + 1], ARGV[2 * i], KEYS[tonumber(ARGV[2 * i + 1])]
  answers[i] = {'', ''}
  if says(key) == 'P' .. entry then
    local newer = redis.call('HGET', NEWER, key)
    if newer then
      local due, kept = due_of(newer)
      redis.call('HDEL', NEWER, key)
      if due > this then
        redis.call('XACK', KEYS[1], 'GROUP_NAME', entry)
        redis.call('XDEL', KEYS[1], entry)
        if lane then leave(lane, entry) end
        redis.call('HDEL', NEWER, '=' .. key)
        wait(key, kept, due)
        answers[i] = {'R', ''}
      else
        local _, value = unpacked(kept)
        redis.call('HSET', NEWER, '=' .. key, value)  -- whoever takes the entry over needs it too
      end
    end
    local current = redis.call('HGET', NEWER, '=' .. key)
    if current then answers[i] = {'V', current} end
  end
end
return answers
