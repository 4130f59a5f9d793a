-- Slots in use, of all instances: the calls of one tick, decided in one step by the server's clock.
--
-- KEYS[i]  the key of the limit and client of the i-th call. It is a sorted set of the slots that are taken,
--          by the time in ms at which their leases end. Beside it, in the same hash slot of a cluster, are
--          `:w`, who waits, in order of arrival, and `:x`, who waits by the end of the lease.
-- ARGV[i]  the call, packed: what is asked (1 byte), how many slots there are, the lease in seconds; and the
--          name of the slot, which begins with the 16 digits of its instance.
--
-- Answers one string of doubles, three for each call: the state, and how many are in flight and waiting.
--
-- A free slot goes to the one that waits longest. Its instance is told by a message, and finds out by asking
-- again if the message is lost. A slot whose instance died is free when its lease has ended.
--
-- If somebody who waits is unknown, as when Redis was restarted without its data, nobody is called for half a
-- lease (`:q`): so that those who hold slots can say so first.

local TAKE, WAIT, RENEW, RELEASE, PEEK, AGAIN = 0, 1, 2, 3, 4, 5
local REFUSED, HELD, WAITING, OVER = 0, 1, 2, 3
local HEAD = 17 -- bytes before the name
local LONGEST = 300000 -- ms: the longest lease; a later end is that of a clock that was set back since
local MANY = 1000 -- members that are given to one command

local unpack_numbers, pack, call, pcall = struct.unpack, struct.pack, redis.call, redis.pcall
local min, floor = math.min, math.floor

local time = call('TIME')
local now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
local answer = {}

for i = 1, #KEYS do
  local asked, most, lease = unpack_numbers('<Bdd', ARGV[i])
  local name = ARGV[i]:sub(HEAD + 1)
  local taken, line, ends, quiet = KEYS[i], KEYS[i] .. ':w', KEYS[i] .. ':x', KEYS[i] .. ':q'
  local until_ms = now + min(LONGEST, floor(lease * 1000))
  local channel = KEYS[i]:match('^(.-c:){')

  -- What is not ours is as if it were not there.
  for _, key in ipairs({taken, line, ends}) do
    local kind = call('TYPE', key).ok
    if kind ~= 'zset' and kind ~= 'none' then
      call('DEL', key)
    end
  end

  call('ZREMRANGEBYSCORE', taken, '-inf', now)
  call('ZREMRANGEBYSCORE', taken, '(' .. (now + LONGEST), '+inf')
  for _, range in ipairs({{'-inf', now}, {'(' .. (now + LONGEST), '+inf'}}) do
    local gone = call('ZRANGEBYSCORE', ends, range[1], range[2], 'LIMIT', 0, MANY)
    if #gone > 0 then
      call('ZREM', ends, unpack(gone))
      call('ZREM', line, unpack(gone))
    end
  end

  -- Give the free slots to those that wait.
  local function serve()
    local free = min(most - call('ZCARD', taken), MANY)
    if free > 0 and call('ZCARD', line) > 0 and call('EXISTS', quiet) == 0 then
      for _, first in ipairs(call('ZRANGE', line, 0, free - 1)) do
        call('ZREM', line, first)
        -- Who has no lease any more, as when one of two keys was evicted, is not served.
        if call('ZREM', ends, first) == 1 then
          call('ZADD', taken, until_ms, first)
          if channel and first ~= name then
            pcall('PUBLISH', channel .. first:sub(1, 16), first)
          end
        end
      end
    end
  end

  local state = REFUSED
  if asked == TAKE or asked == WAIT or asked == AGAIN then
    local is_unknown = asked == AGAIN and not (call('ZSCORE', taken, name) or call('ZSCORE', line, name))
    if is_unknown then
      call('SET', quiet, '', 'PX', floor(lease * 500))
    end
    serve()
    local is_free = not is_unknown and call('ZCARD', line) == 0 and call('ZCARD', taken) < most
    if is_free or call('ZSCORE', taken, name) then
      call('ZADD', taken, until_ms, name)
      state = HELD
    elseif asked ~= TAKE then
      if not call('ZSCORE', line, name) then
        local last = call('ZRANGE', line, -1, -1, 'WITHSCORES')
        call('ZADD', line, (tonumber(last[2]) or 0) + 1, name)
      end
      call('ZADD', ends, until_ms, name)
      state = WAITING
    end
  elseif asked == RENEW then
    local kept = call('ZSCORE', taken, name)
    call('ZADD', taken, until_ms, name)
    -- One whose lease had ended is in progress all the same: it counts, also above what is allowed.
    state = (kept or call('ZCARD', taken) <= most) and HELD or OVER
    serve()
  elseif asked == RELEASE then
    call('ZREM', taken, name)
    call('ZREM', line, name)
    call('ZREM', ends, name)
    serve()
  end
  if asked ~= PEEK then
    for _, key in ipairs({taken, line, ends}) do
      call('PEXPIRE', key, LONGEST)
    end
  end
  answer[i] = pack('<ddd', state, call('ZCARD', taken), call('ZCARD', line))
end
return table.concat(answer)
