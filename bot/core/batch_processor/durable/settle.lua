-- KEYS: the stream, the dead letters, the key of each item, lanes. ARGV: consumer, milliseconds to keep
-- outcomes, dead letters to keep, whether the consumer takes what is next in the lanes, how many items; for
-- each its entry, outcome, dead letter and the place of its lane in KEYS (0: none).
-- Answers: 0 somebody else has ended it, 1 it is ended, 2 it is, and a newer one of its key comes next, whose
-- outcome counts.
-- Memory may be full: what frees some comes first then, after which a script may take some, so that a dead
-- letter has the place of its entry. A result that cannot be kept is let go.
local consumer, count = ARGV[1], tonumber(ARGV[5])
local answers, following = {}, {}
local replaced = redis.call('EXISTS', NEWER) == 1
for i = 1, count do
  local at = 2 + i * 4
  local key, entry, outcome, letter = KEYS[i + 2], ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local lane = KEYS[tonumber(ARGV[at + 3])]
  answers[i] = 0
  -- Whoever lost its lease to another may not end what that one handles, for the lane would go on.
  if not lane or is_held_by(consumer, entry) then
    redis.call('XACK', KEYS[1], 'GROUP_NAME', entry)
    if redis.call('XDEL', KEYS[1], entry) == 1 or says(key) == 'P' .. entry then
      if letter ~= '' then
        redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'v', letter)
      end
      local newer = replaced and redis.call('HGET', NEWER, key)
      if replaced then redis.call('HDEL', NEWER, key, '=' .. key) end
      if newer and says(key) == 'P' .. entry then
        local due, kept = due_of(newer)
        wait(key, kept, due)
        answers[i] = 2
      else
        local kept = redis.pcall('SET', key, outcome, 'PX', ARGV[2])
        if kept.err then redis.call('DEL', key) end
        answers[i] = 1
      end
    end
    if lane then
      local next = leave(lane, entry, ARGV[4] == '1' and consumer)
      if next then following[#following + 1] = next end
    end
  end
  if answers[i] == 0 and says(key) == outcome then
    answers[i] = 1
    -- It was ended before, and the answer may have been lost with what was next.
    local next = lane and ARGV[4] == '1' and first_of(lane)
    if next and is_held_by(consumer, next) then
      following[#following + 1] = redis.call('XRANGE', KEYS[1], next, next)[1]
    end
  end
end
return {answers, following}
