-- Changes one value where it lies, so that no other instance comes between reading and writing it.
--
-- KEYS[1] is the value. ARGV:
--   1  what to do: incr, touch or add
--   2  milliseconds to live from now on; 0 for ever
--   3  the notes of the value (its flags, then tags and the like) that the caller has looked at; may be empty
--   4  whether those notes are in force: 1 or 0
--   5  incr: what to add; add: the payload to store
--   6  the codec's version
--   7  the channel of the other instances
--   8  the message that tells them
--
-- Answers with a list that begins with
--   look   the value has other notes: look at them (they are in the payload that follows), and call again
--   none   touch: there is no value; add: there is one
--   type   incr: the value is no integer
--   bound  incr: the sum is out of bounds; the value follows, as text
--   done   then when the value expires by Redis's clock, 0 for never; the number as text; the milliseconds that
--          it was stored for; and the error of a message that this user may not send
local HEADER = 14
local LARGEST = 9007199254740991
local LONGEST_NOTES = 8388608

local what, milliseconds, notes, in_force = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function expiry(after)
  return after == 0 and 0 or now + after / 1000
end

local function stored(payload, after)
  if after == 0 then
    redis.call('SET', KEYS[1], payload)
  else
    redis.call('SET', KEYS[1], payload, 'PX', string.format('%.0f', after))
  end
end

local function done(expires_at, number, after)
  local told = redis.pcall('PUBLISH', ARGV[7], ARGV[8])
  local trouble = type(told) == 'table' and told.err or ''
  return {'done', string.format('%.17g', expires_at), number, string.format('%.0f', after), trouble}
end

-- MessagePack's integers; nil for anything else.
local WIDTHS = {[0xcc] = 1, [0xcd] = 2, [0xce] = 4, [0xcf] = 8, [0xd0] = 1, [0xd1] = 2, [0xd2] = 4, [0xd3] = 8}

local function integer(body)
  local first = string.byte(body, 1)
  if first == nil then return nil end
  if #body == 1 then
    if first < 0x80 then return first end
    if first >= 0xe0 then return first - 256 end
    return nil
  end
  local width = WIDTHS[first]
  if width == nil or #body ~= width + 1 then return nil end
  -- The sign comes first: so each step is exact, up to the bounds.
  local number = string.byte(body, 2)
  if first >= 0xd0 and number >= 0x80 then number = number - 256 end
  for at = 3, #body do number = number * 256 + string.byte(body, at) end
  return number
end

local function packed(number)
  if number >= 0 and number < 0x80 then return string.char(number) end
  local bytes = {}
  local rest = number
  for at = 8, 1, -1 do
    local low = rest % 256
    bytes[at] = string.char(low)
    rest = (rest - low) / 256
  end
  return string.char(0xd3) .. table.concat(bytes)
end

local payload = redis.pcall('GET', KEYS[1])
local flags, expires_at = 0, 0
local live = type(payload) == 'string' and #payload > HEADER and string.byte(payload, 1) == tonumber(ARGV[6])
if live then
  flags = string.byte(payload, 2)
  expires_at = struct.unpack('>d', string.sub(payload, 3, 10))
  -- Flags of 1 and 8 together are no payload. Compared in this way so that NaN, too, is no time.
  live = flags < 16 and not (flags >= 8 and flags % 2 == 1)
    and expires_at >= 0 and expires_at < 1e16 and (expires_at == 0 or now < expires_at)
end
local begin = HEADER + 1
if live and flags % 8 >= 2 then
  local known = string.sub(payload, 2, 2) .. string.sub(payload, begin, begin + #notes - 2)
  if notes == '' or known ~= notes then
    return {'look', #payload <= LONGEST_NOTES and payload or ''}
  end
  begin = begin + #notes - 1
  live = in_force
end

if what == 'touch' then
  if not live then return {'none'} end
  local kept = milliseconds
  if milliseconds > 0 and flags % 8 >= 4 then
    kept = milliseconds + struct.unpack('>d', string.sub(payload, HEADER + 1, HEADER + 8)) * 1000
  end
  local at = expiry(milliseconds)
  stored(string.sub(payload, 1, 2) .. struct.pack('>d', at) .. string.sub(payload, 11), kept)
  return done(at, '', kept)
end

if what == 'add' then
  if live then return {'none'} end
  local at = expiry(milliseconds)
  stored(string.sub(ARGV[5], 1, 2) .. struct.pack('>d', at) .. string.sub(ARGV[5], 11), milliseconds)
  return done(at, '', milliseconds)
end

if live then
  local number = flags % 2 == 0 and flags < 8 and integer(string.sub(payload, begin)) or nil
  if number == nil then return {'type'} end
  local sum = number + tonumber(ARGV[5])
  if sum > LARGEST or sum < -LARGEST or number > LARGEST or number < -LARGEST then
    return {'bound', string.format('%.0f', number)}
  end
  local left = redis.call('PTTL', KEYS[1])
  if left < 0 then left = 0 end
  if left == 0 and expires_at > 0 then left = 1 end
  stored(string.sub(payload, 1, begin - 1) .. packed(sum), left)
  return done(expires_at, string.format('%.0f', sum), left)
end
local at = expiry(milliseconds)
stored(struct.pack('>BBdf', tonumber(ARGV[6]), 0, at, 0) .. packed(tonumber(ARGV[5])), milliseconds)
return done(at, string.format('%.0f', ARGV[5]), milliseconds)
