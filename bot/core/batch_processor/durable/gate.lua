-- Of entries that the consumer ARGV[1] was given: 1, it is the first of its lane and may be handled; 0, it was
-- let go of until it is, or is another consumer's now.
local answers = {}
for i = 2, #ARGV do
  local entry, lane = ARGV[i], KEYS[i]
  answers[i - 1] = 0
  if is_held_by(ARGV[1], entry) then
    go_on(lane)
    local first, last = first_of(lane), redis.pcall('LINDEX', lane, -1)
    -- Where the list is lost, or a part of it.
    if not first or is_newer(first, entry) then
      redis.pcall('LPUSH', lane, entry)
      first = entry
    elseif is_newer(entry, last) then
      redis.pcall('RPUSH', lane, entry)
    end
    if first == entry then
      answers[i - 1] = 1
      redis.call('XCLAIM', KEYS[1], 'GROUP_NAME', ARGV[1], 0, entry, 'JUSTID')  -- its lease begins now
    else
      redis.call('XACK', KEYS[1], 'GROUP_NAME', entry)
    end
  end
end
return answers
