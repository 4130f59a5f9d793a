-- KEYS: the stream, the key of each item, lanes. ARGV: limit, whether all or none, how many items, a value for
-- each, then what names the lane of each and its place in KEYS, if any item has one.
local length = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', LATER)
local limit, count = tonumber(ARGV[1]), tonumber(ARGV[3])
local answers = {}
local replaced = redis.call('EXISTS', NEWER) == 1
local all = ARGV[2] == '0' or length + count <= limit
for i = 1, count do
  local key = KEYS[i + 1]
  local said = says(key)
  if is_ended(said) or is_pending(said, key) then
    answers[i] = 2
  elseif length >= limit or not all then
    answers[i] = 0
  else
    local lane = KEYS[tonumber(ARGV[3 + 2 * count + i] or '0')]
    local entry
    if lane then
      entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[i + 3], 'l', ARGV[3 + count + i])
      join(lane, entry)
    else
      entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[i + 3])
    end
    redis.call('SET', key, 'P' .. entry)
    if replaced then redis.call('HDEL', NEWER, key, '=' .. key) end  -- of an earlier one, which was lost
    length = length + 1
    answers[i] = 1
  end
end
answers[count + 1] = length
return answers
