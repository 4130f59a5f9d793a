-- The checks of one tick, decided in one step by the server's clock.
--
-- KEYS[i]  the key of the client of the i-th check. One key holds all limits of a client, so that
--          removing it forgives the client everything.
-- ARGV[i]  the check, packed: limit (8 bytes), what is asked (1 byte), the limit's interval, tolerance
--          and epsilon in seconds, tokens, and three numbers that depend on what is asked.
--
-- Answers one string of doubles: the server's time, and for each check its slack (as in bucket.py)
-- and three more: after a refused take the steps of backoff so far, and in how many seconds a refusal
-- is early and an early one a step (as in penalty.py); after a take or a reservation that was granted
-- its number (0 for a take; and 0 for a reservation that was not), the bucket's epoch, and the number
-- of the last reservation; after a reset 1 if it found something.
--
-- A key's value is a byte for the format and 80 bytes for each limit: limit, debt, told, count, early,
-- step, keep, reserved, epoch, at. At the time `at` the bucket was full again in `debt` seconds, and its
-- client had been told to wait for `told` more, after `count` steps; a refusal is early in `early`
-- seconds, and an early one a step in `step`; in `keep` seconds nothing of it matters any more. `reserved`
-- numbers the reservations since the `epoch`, when the bucket was last full or forgiven. Seconds to go, not
-- moments: a clock that is set back, or that of a replica which took over, can give a client a little more
-- or a little less, but locks nobody out. An entry for the limit FORGIVEN says that the client was
-- forgiven: penalties of before may still be on their way.

local TAKE, PEEK, RESERVE, REFUND, PENALTY, RESET, RESET_LIMIT = 0, 1, 2, 3, 4, 5, 6
local FORGIVEN = 'p4reset!'
local FORMAT = 2
local SIZE = 80
local LARGEST = 1 + 1024 * SIZE -- bytes; more limits of one client would hold up Redis
local ENTRY = '<c8ddddddddd'
local CHECK = '<c8Bddddddd'
local LONGEST = 315576000 -- ten years, in seconds: what a key's life is cut to
local NEVER = 1e9 -- seconds; what is further away than a tenth of it never comes
local EARLY, LATENESS = 0.0015, 0.02 -- as in models.py and penalty.py
-- With a prefix of keys, the channel has it too.
local CHANNEL = (KEYS[1]:match('^[^:]+:(p4r:%a:)') and KEYS[1]:match('^[^:]+:') or '') .. 'p4r:reset'

local unpack, pack, call, pcall = struct.unpack, struct.pack, redis.call, redis.pcall
local max, min, ceil = math.max, math.min, math.ceil

local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local answer = {pack('<d', now)}

for i = 1, #KEYS do
  local limit, mode, interval, tolerance, epsilon, tokens, a, b, c = unpack(CHECK, ARGV[i])
  local cost = tokens * interval
  local debt, told, count, early, step, keep, reserved, epoch = 0, -NEVER, 0, 0, 0, 0, 0, now
  local others, others_end, forgiven = nil, 0, false

  -- What is not ours (another type, another length, no numbers) is as if it were not there.
  local value = pcall('GET', KEYS[i])
  if type(value) == 'string' and #value % SIZE == 1 and value:byte(1) == FORMAT and #value <= LARGEST then
    for position = 2, #value, SIZE do
      local name, d, t, n, e, s, k, r, o, at = unpack(ENTRY, value, position)
      local elapsed = max(0, now - at)
      k = k - elapsed
      if k > 0 and k < 1e18 and d < 1e18 and t < 1e18 and n >= 0 and n < 1e6 and r >= 0 and r < 1e15
          and o > -1e12 and o < 1e12 and e > -1e19 and e < 1e19 and s > -1e19 and s < 1e19 then
        if name == limit then
          debt, told, count, early, step = max(0, d - elapsed), t - elapsed, n, e - elapsed, s - elapsed
          keep, reserved, epoch = k, r, o
        elseif mode ~= RESET_LIMIT or name ~= FORGIVEN then
          others = others or {}
          others[#others + 1] = value:sub(position, position + SIZE - 1)
          others_end = max(others_end, k)
          forgiven = forgiven or name == FORGIVEN
        end
      end
    end
  end

  local slack = tolerance - debt - cost
  local second, third, fourth = 0, 0, 0
  local changed = true
  local memory = -1 -- for how long an early client is remembered after its wait
  if mode == TAKE then
    local base, cap, grace = a, b, c
    memory = max(grace, interval)
    local passed = min(grace, LATENESS) - early -- since the client was told, if the wait is short
    local waited = told <= EARLY and told > -NEVER / 10 and passed * 16 >= told + passed
    if slack >= -epsilon or (slack >= -EARLY and waited) then
      debt = debt + cost
      slack = max(0, slack)
      third, fourth = epoch, reserved
    else
      local wait = -slack
      if base <= 0 then
        count, told, early, step = 0, wait * 0.999, NEVER, NEVER
      elseif told <= EARLY then -- a new wait
        if early < -NEVER / 10 and -told < memory then
          step = step > NEVER / 10 and grace or step
        else
          count, step = 0, grace
        end
        -- A thousandth less than is said: clocks of two machines do not run alike.
        told, early = wait * 0.999, min(grace, max(wait / 2, LATENESS))
      elseif early > 0 then
        told = min(told, wait * 0.999)
      elseif step > 0 then
        told, early = min(told, wait * 0.999), -NEVER
      else
        count = min(count + 1, 1000)
        local backoff = min(cap, base * 2 ^ (count - 1))
        if backoff + cost - interval > wait then
          debt = backoff + tolerance - interval
          wait = backoff + cost - interval
          slack = -wait
        end
        told, early, step = wait * 0.999, min(grace, max(wait / 2, LATENESS)), NEVER
      end
      second, third, fourth = count, early, step
    end
  elseif mode == RESERVE then
    if slack >= -epsilon or -slack <= a + EARLY then
      debt = debt + cost
      reserved = reserved + 1
      second, third, fourth = reserved, epoch, reserved
    else
      changed = false
    end
  elseif mode == REFUND then
    -- `a` is the number of the last reservation when the tokens were taken, `b` the epoch then, `c` the
    -- caller that gives back. Later reservations move up. Nothing is given back to a client in backoff, nor
    -- what was taken before it was forgiven.
    local in_backoff = count > 0 and step > NEVER / 10 and told > 0
    if debt > 0 and epoch == b and not in_backoff then
      if reserved > a and debt > tolerance then
        pcall('PUBLISH', CHANNEL, 'p4r:m:' .. limit .. pack('<dddd', c, b, a, cost) .. KEYS[i])
      end
      debt = max(0, debt - cost)
    else
      changed = false
    end
    slack = tolerance - debt
  elseif mode == PENALTY then
    -- `a` is when the bucket is full again, `b` until when the client was told to wait, `c` the steps;
    -- and `tokens` and `interval` are when a refusal is early and a step, `epsilon` the memory.
    if forgiven then
      changed = false
    else
      if told <= EARLY then
        early, step = tokens - now, interval - now
      else
        early = early < -NEVER / 10 and -NEVER or tokens - now
        step = step > NEVER / 10 and NEVER or interval - now
      end
      memory = epsilon
      debt, told, count = max(debt, a - now), max(told, b - now), max(count, c)
    end
    slack = tolerance - debt
  elseif mode == RESET then
    -- Its limit is FORGIVEN, so all that is known of the client is in `others`.
    second = others and 1 or 0
    others, others_end = nil, 0
    debt, told, count = a, -NEVER, 0
  elseif mode == RESET_LIMIT then
    -- What is known of this limit goes; `a` is how long the mark stays that the client was forgiven.
    second = keep > 0 and 1 or 0
    limit = FORGIVEN
    debt, told, count, early, step, keep, reserved, epoch = a, -NEVER, 0, 0, 0, 0, 0, now
  else
    changed = false
    slack = tolerance - debt
  end

  if changed then
    local was_early = early < -NEVER / 10
    keep = max(debt, told, was_early and (memory >= 0 and told + memory or keep) or 0)
    local longest = max(keep, others_end)
    if longest > 0 then
      local entry = ''
      if keep > 0 then
        entry = pack(ENTRY, limit, debt, told, count, early, step, keep, reserved, epoch, now)
      end
      call('SET', KEYS[i], string.char(FORMAT) .. entry .. (others and table.concat(others) or ''), 'PX', ceil(min(longest, LONGEST) * 1000) + 1)
    else
      call('DEL', KEYS[i])
    end
  end
  answer[i + 1] = pack('<dddd', slack, second, third, fourth)
end
return table.concat(answer)
