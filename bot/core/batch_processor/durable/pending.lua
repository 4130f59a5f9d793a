-- What is known of an item. Its key says "P" and the id of its entry while that is in the stream, "D" while the
-- item waits for its time, "C" after it was taken back, or how it ended. The last three keys are those of the
-- items that wait: when each is due (by its key), what it is, and the newer ones of keys with an entry in the
-- stream. Without an entry's id it was written by an earlier version, and is believed.
local LATER, KEPT, NEWER = KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
local function says(key)
  local said = redis.pcall('GET', key)
  return type(said) == 'string' and said  -- of another type, nobody here wrote it
end
local function is_pending(said, key)
  if said == 'D' then return type(redis.pcall('ZSCORE', LATER, key)) == 'string' end
  if not said or said:sub(1, 1) ~= 'P' then return false end
  local entry = said:sub(2)
  if said == 'P' or #redis.call('XRANGE', KEYS[1], entry, entry) == 1 then return true end
  -- What an instance has been given is being handled, though its entry may be trimmed.
  local held = redis.pcall('XPENDING', KEYS[1], 'GROUP_NAME', entry, entry, 1)
  return #held == 1
end
local function is_ended(said)
  local mark = said and said:sub(1, 1)
  return mark and mark ~= 'P' and said ~= 'D' and said ~= 'C'
end
