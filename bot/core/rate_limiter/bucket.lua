-- The checks of one tick, decided in one step by the server's clock.
--
-- KEYS[i]  the key of the client of the i-th check. One key holds all limits of a client, so that
--          removing it forgives the client everything.
-- ARGV[i]  the check, packed: limit (8 bytes), what is asked (1 byte), the limit's interval, tolerance
--          and epsilon in seconds, tokens, and three numbers that depend on what is asked.
--
-- Answers one string of doubles: the server's time, and for each check its slack (as in bucket.py)
-- and a second number: violations in a row after a take, 1 after a reservation that was granted or a
-- reset that found something.
--
-- A key's value is 40 bytes for each limit: limit, debt, told, count, at. At the time `at` the bucket
-- was full again in `debt` seconds, and its client had been told to wait for `told` more, after `count`
-- violations. Seconds to go, not moments: a clock that is set back, or that of a replica which took
-- over, can give a client a little more or a little less, but locks nobody out. An entry for the limit
-- FORGIVEN says that the client was forgiven: penalties of before may still be on their way.

local TAKE, PEEK, RESERVE, REFUND, PENALTY, RESET = 0, 1, 2, 3, 4, 5
local FORGIVEN = 'p4reset!'
local ENTRY = '<c8dddd'
local CHECK = '<c8Bddddddd'
local LONGEST = 315576000 -- ten years, in seconds: what a key's life is cut to

local unpack, pack, call, pcall = struct.unpack, struct.pack, redis.call, redis.pcall
local max, min, ceil = math.max, math.min, math.ceil

local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local answer = {pack('<d', now)}

for i = 1, #KEYS do
  local limit, mode, interval, tolerance, epsilon, tokens, a, b, c = unpack(CHECK, ARGV[i])
  local cost = tokens * interval
  local debt, told, count = 0, 0, 0
  local others, others_end, forgiven = '', 0, false

  -- What is not ours (another type, another length, no numbers) is as if it were not there.
  local value = pcall('GET', KEYS[i])
  if type(value) == 'string' and #value % 40 == 0 then
    for position = 1, #value, 40 do
      local name, was_debt, was_told, was_count, at = unpack(ENTRY, value, position)
      local elapsed = max(0, now - at)
      was_debt, was_told = was_debt - elapsed, was_told - elapsed
      local mine = name == limit
      if was_debt < 1e18 and was_told < 1e18 and was_count >= 0 and was_count < 1e6 then
        if mine then
          debt, told = max(0, was_debt), was_told
          count = (debt > 0 or told > 0) and was_count or 0 -- a full bucket says nothing
        elseif was_debt > 0 or was_told > 0 then
          others = others .. value:sub(position, position + 39)
          others_end = max(others_end, was_debt, was_told)
          forgiven = forgiven or name == FORGIVEN
        end
      end
    end
  end

  local slack = tolerance - debt - cost
  local second = 0
  local changed = true
  if mode == TAKE then
    if slack >= -epsilon then
      debt = debt + cost
      slack = max(0, slack)
    else
      if told > 0 then
        local base, cap = a, b
        count = min(count + 1, 1000)
        local backoff = min(cap, base * 2 ^ (count - 1))
        local wait = backoff + cost - interval
        if wait + slack > 0 then
          debt = backoff + tolerance - interval
          slack = -wait
        end
      else
        count = 0
      end
      -- A thousandth less than was said: clocks of two machines do not run alike.
      told = -slack * 0.999 - epsilon
    end
    second = count
  elseif mode == RESERVE then
    if slack >= -epsilon or -slack <= a then
      debt = debt + cost
      second = 1
    else
      changed = false
    end
  elseif mode == REFUND then
    -- `a` is when the bucket is full again if nobody reserved later than this. Who did keeps the time
    -- that was told, so that much is not given back; nor is anything to a client in backoff.
    local back = cost - max(0, now + debt - a)
    if debt > 0 and count == 0 and back > 0 then
      debt = max(0, debt - back)
    else
      changed = false
    end
    slack = tolerance - debt
  elseif mode == PENALTY then
    if forgiven then
      changed = false
    else
      debt, told, count = max(debt, a - now), max(told, b - now), max(count, c)
    end
    slack = tolerance - debt
  elseif mode == RESET then
    -- Its limit is FORGIVEN, so all that is known of the client is in `others`.
    second = others ~= '' and 1 or 0
    others, others_end = '', 0
    debt, told, count = a, 0, 0
  else
    changed = false
    slack = tolerance - debt
  end

  if changed then
    told = max(0, told)
    local left = max(debt, told, others_end)
    if left > 0 then
      call('SET', KEYS[i], pack(ENTRY, limit, debt, told, count, now) .. others,
           'PX', ceil(min(left, LONGEST) * 1000) + 1)
    else
      call('DEL', KEYS[i])
    end
  end
  answer[i + 1] = pack('<dd', slack, second)
end
return table.concat(answer)
