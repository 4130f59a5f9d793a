-- Whether what a key says is that its item is pending, and its entry is there. Without an entry's id it was
-- written by an earlier version, and is believed.
local function says(key)
  local said = redis.pcall('GET', key)
  return type(said) == 'string' and said  -- of another type, nobody here wrote it
end
local function is_pending(said)
  if not said or said:sub(1, 1) ~= 'P' then return false end
  local entry = said:sub(2)
  if said == 'P' or #redis.call('XRANGE', KEYS[1], entry, entry) == 1 then return true end
  -- What an instance has been given is being handled, though its entry may be trimmed.
  local held = redis.pcall('XPENDING', KEYS[1], 'GROUP_NAME', entry, entry, 1)
  return #held == 1
end
