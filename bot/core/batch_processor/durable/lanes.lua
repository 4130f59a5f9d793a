-- A lane is a list of the entries of its items, in the order of their submission. All of them are in the
-- stream. The first is new to the group, or in the hands of one consumer; the others are new, or were let go
-- of by the consumer that read them, until they are the first.
local function is_held(entry)
  return #redis.pcall('XPENDING', KEYS[1], 'GROUP_NAME', entry, entry, 1) == 1  -- there may be no group
end
local function is_held_by(consumer, entry)
  return #redis.pcall('XPENDING', KEYS[1], 'GROUP_NAME', entry, entry, 1, consumer) == 1
end
local function is_newer(entry, other)
  local time, number = entry:match('^(%d+)-(%d+)$')
  local other_time, other_number = other:match('^(%d+)-(%d+)$')
  time, other_time = tonumber(time), tonumber(other_time)
  return time > other_time or time == other_time and tonumber(number) > tonumber(other_number)
end
local last_read
local function was_read(entry)
  if not last_read then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
      local told = {}
      for i = 1, #group, 2 do told[group[i]] = group[i + 1] end
      if told['name'] == 'GROUP_NAME' then last_read = told['last-delivered-id'] end
    end
  end
  return last_read and not is_newer(entry, last_read)
end
local function first_of(lane)
  local first = redis.pcall('LINDEX', lane, 0)
  return type(first) == 'string' and first  -- of another type, nobody here wrote it
end
-- Sees to it that the first entry of a lane is new or held, and forgets those that are gone from the stream.
-- It goes to the consumer, if one is named, and is returned then; otherwise to whoever claims next.
local function go_on(lane, consumer)
  while true do
    local first = first_of(lane)
    if not first or is_held(first) then return nil end
    if #redis.call('XRANGE', KEYS[1], first, first) == 1 then
      if not was_read(first) then return nil end
      if not consumer then
        redis.call('XCLAIM', KEYS[1], 'GROUP_NAME', 'NOBODY_NAME', 0, first,
                   'IDLE', 86400000, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
        return nil
      end
      local got = redis.call('XCLAIM', KEYS[1], 'GROUP_NAME', consumer, 0, first, 'RETRYCOUNT', 1, 'FORCE')
      return got[1]
    end
    redis.call('LPOP', lane)
  end
end
local function join(lane, entry)
  redis.pcall('RPUSH', lane, entry)
  if first_of(lane) ~= entry then go_on(lane) end  -- those before it may be gone
end
local function leave(lane, entry, consumer)
  redis.pcall('LREM', lane, 1, entry)
  return go_on(lane, consumer)
end
