-- The checks of one tick, decided in one step by the server's clock.
--
-- KEYS[i]  the key of the client of the i-th check. One key holds all limits of a client, so that
--          removing it forgives the client everything.
-- ARGV[i]  the check, packed: limit (8 bytes), what is asked (1 byte, and WINDOW for an exact window), the
--          limit's interval, tolerance and epsilon in seconds (of a window: its seconds, its requests, and
--          nothing), tokens, and three numbers that depend on what is asked. What is asked may be JOINT: so
--          many (`tokens`) checks follow, each with its key's length (2 bytes) and its key, and all are taken
--          or none; `a` is QUIET if a refusal is to be counted nowhere, LOOK if nothing is to be taken.
--
-- Answers one string of doubles: the server's time, and for each check its slack (as in bucket.py)
-- and three more: after a refused take the steps of backoff so far, and in how many seconds a refusal
-- is early and an early one a step (as in penalty.py); after a take or a reservation that was granted
-- its number (0 for a take; and 0 for a reservation that was not), the bucket's epoch, and the number
-- of the last reservation; after a reset or a credit 1 if it found something. A window's slack is 0.0 or less,
-- and after a take that was granted the fourth is the time for which it counts. For JOINT they are the number
-- of its checks, two of no meaning, and MARK; and after the answers to all checks follow, for each of its own,
-- those four and two more: of a window the tokens that count, and in how many seconds none does.
--
-- A key's value is a byte for the format and 80 bytes for each limit: limit, debt, told, count, early,
-- step, keep, reserved, epoch, at. At the time `at` the bucket was full again in `debt` seconds, and its
-- client had been told to wait for `told` more, after `count` steps; a refusal is early in `early`
-- seconds, and an early one a step in `step`; in `keep` seconds nothing of it matters any more. `reserved`
-- numbers the reservations since the `epoch`, when the bucket was last full or forgiven. Seconds to go, not
-- moments: a clock that is set back, or that of a replica which took over, can give a client a little more
-- or a little less, but locks nobody out. An entry for the limit FORGIVEN says that the client was
-- forgiven: penalties of before may still be on their way.
--
-- A window has such an entry too; its `debt` is for how long a backoff holds the client. The times of its
-- tokens are under a key of its own (times_key, in the client's hash slot): the entry's epoch and the times,
-- ascending, 8 bytes each. Another epoch, or no entry, means that they count no more, so that removing the
-- client's key still forgives everything. What is decided is what windows.py decides.

local TAKE, PEEK, RESERVE, REFUND, PENALTY, RESET, RESET_LIMIT, CREDIT, CHARGE, JOINT = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
local WINDOW = 16
local QUIET, LOOK = 1, 2
local MARK = -4e18
local MAX_DEBT = 10 -- as in bucket.py
local FEW = 16 -- as in windows.py
local FORGIVEN = 'p4reset!'
local FORMAT = 2
local SIZE = 80
local LARGEST = 1 + 1024 * SIZE -- bytes; more limits of one client would hold up Redis
local ENTRY = '<c8ddddddddd'
local CHECK = '<c8Bddddddd'
local CHECK_SIZE = 65
local LONGEST = 315576000 -- ten years, in seconds: what a key's life is cut to
local NEVER = 1e9 -- seconds; what is further away than a tenth of it never comes
local EARLY, LATENESS = 0.0015, 0.02 -- as in models.py and penalty.py
-- With a prefix of keys, the channel has it too.
local PREFIX = KEYS[1]:match('^[^:]+:(p4r:%a:)') and KEYS[1]:match('^[^:]+:') or '' -- PHASE4_KEY_PREFIX
local CHANNEL = PREFIX .. 'p4r:reset'

local JUDGE = 'judge' -- a phase of a joint check: decide, and change nothing

local unpack, pack, call, pcall = struct.unpack, struct.pack, redis.call, redis.pcall
local max, min, ceil = math.max, math.min, math.ceil

local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

-- The times of a window's tokens: a small object over one string in Redis.

local function times_key(key, limit)
  local hex = limit:gsub('.', function(c) return string.format('%02x', c:byte()) end)
  return PREFIX .. 'p4r:w:{' .. key .. '}:' .. hex
end

local function time_at(times, index) -- from 0 on
  return (unpack('<d', call('GETRANGE', times.key, 8 + 8 * index, 15 + 8 * index)))
end

local function find_times(key, limit, epoch, most)
  local times = {key = times_key(key, limit), count = 0, epoch = epoch}
  local size = pcall('STRLEN', times.key)
  if type(size) ~= 'number' or size < 16 or size % 8 ~= 0 or size > 8 * (1 + 2 * most + FEW) then
    return times
  end
  if unpack('<d', call('GETRANGE', times.key, 0, 7)) ~= epoch then
    return times
  end
  times.count = (size - 8) / 8
  local last = time_at(times, times.count - 1)
  if last ~= last or last < 0 or last > 1e12 then
    times.count = 0
  end
  return times
end

local function read_times(times, first, past) -- the times from index first to past - 1
  local found = {}
  if past > first then
    local text = call('GETRANGE', times.key, 8 + 8 * first, 7 + 8 * past)
    for position = 1, #text, 8 do
      found[#found + 1] = (unpack('<d', text, position))
    end
  end
  return found
end

local function write_times(times, found)
  times.count, times.written = #found, true
  if #found == 0 then
    call('DEL', times.key)
    return
  end
  local packed = {pack('<d', times.epoch)}
  for j = 1, #found do
    packed[j + 1] = pack('<d', found[j])
  end
  call('SET', times.key, table.concat(packed))
end

local function expired(times, window) -- how many count no more
  local low, high = 0, times.count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if time_at(times, middle) + window <= now then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function add_times(times, most, window, tokens)
  local first, packed = 0, string.rep(pack('<d', now), tokens)
  if times.count >= FEW and time_at(times, math.floor(times.count / 2)) + window <= now then
    first = math.floor(times.count / 2) + 1
  end
  if times.count - first + tokens > 2 * most then
    first = times.count + tokens - most
  end
  if times.count == 0 then
    call('SET', times.key, pack('<d', times.epoch) .. packed)
  elseif first == 0 then
    call('APPEND', times.key, packed)
  else
    local kept = first < times.count and call('GETRANGE', times.key, 8 + 8 * first, -1) or ''
    call('SET', times.key, pack('<d', times.epoch) .. kept .. packed)
  end
  times.count = times.count - first + tokens
end

-- As Windows.charge and Windows.refund.
local function charge_times(times, most, window, tokens)
  local found = read_times(times, 0, times.count)
  local at = max(now, found[#found] or now)
  local old = 0
  while at == now and old < #found and found[old + 1] + window <= now do
    old = old + 1
  end
  local room = min(tokens, most - min(most, #found - old))
  for _ = 1, room do
    found[#found + 1] = at
  end
  tokens = min(tokens - room, math.floor(most * max(0, MAX_DEBT - (at - now) / window)))
  local kept = {}
  if tokens > 0 then
    local windows = math.floor(tokens / most)
    local rest = tokens - windows * most
    local before = #found - most
    for j = rest + 1, most do
      kept[#kept + 1] = found[before + j] + windows * window
    end
    for j = 1, rest do
      kept[#kept + 1] = found[before + j] + (windows + 1) * window
    end
  else
    for j = max(1, #found - most + 1), #found do
      kept[#kept + 1] = found[j]
    end
  end
  write_times(times, kept)
end

local function refund_times(times, most, window, tokens)
  local found = read_times(times, 0, times.count)
  local rounds = 0
  while tokens > 0 and #found > 0 and found[#found] > now and rounds <= MAX_DEBT + 1 do
    local first = #found
    while first > 1 and found[first - 1] > now and #found - first + 1 < tokens do
      first = first - 1
    end
    local kept = {}
    for j = first, #found do
      kept[#kept + 1] = #found == most and min(found[j] - window, found[1]) or nil
    end
    for j = 1, first - 1 do
      kept[#kept + 1] = found[j]
    end
    tokens, found, rounds = tokens - (#found - first + 1), kept, rounds + 1
  end
  local first = 1
  while first <= #found and found[first] + window <= now do
    first = first + 1
  end
  local kept = {}
  for j = first + tokens, #found do
    kept[#kept + 1] = found[j]
  end
  write_times(times, kept)
end

local function take_back_times(times, at, tokens)
  local found, kept = read_times(times, 0, times.count), {}
  for j = 1, #found do
    if found[j] == at and tokens > 0 then
      tokens = tokens - 1
    else
      kept[#kept + 1] = found[j]
    end
  end
  write_times(times, kept)
end

-- One check, packed from `position` on. A joint one goes through it twice: see JUDGE.
local function check(key, packed, position, phase)
  local limit, mode, interval, tolerance, epsilon, tokens, a, b, c = unpack(CHECK, packed, position)
  local windowed = mode >= WINDOW
  if windowed then
    mode = mode - WINDOW
  end
  local cost = tokens * interval
  local debt, told, count, early, step, keep, reserved, epoch = 0, -NEVER, 0, 0, 0, 0, 0, now
  local others, others_end, forgiven, last_at = nil, 0, false, now

  -- What is not ours (another type, another length, no numbers) is as if it were not there.
  local value = pcall('GET', key)
  if type(value) == 'string' and #value % SIZE == 1 and value:byte(1) == FORMAT and #value <= LARGEST then
    for position = 2, #value, SIZE do
      local name, d, t, n, e, s, k, r, o, at = unpack(ENTRY, value, position)
      local elapsed = max(0, now - at)
      k = k - elapsed
      if k > 0 and k < 1e18 and d < 1e18 and t < 1e18 and n >= 0 and n < 1e6 and r >= 0 and r < 1e15
          and o > -1e12 and o < 1e12 and e > -1e19 and e < 1e19 and s > -1e19 and s < 1e19 then
        if name == limit then
          debt, told, count, early, step = max(0, d - elapsed), t - elapsed, n, e - elapsed, s - elapsed
          keep, reserved, epoch, last_at = k, r, o, at
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
  local used, empty_in, shifted = 0, 0, false
  local times, most, window
  if windowed and mode == PENALTY then
    empty_in = max(0, keep) -- the times stay as they are
  elseif windowed then
    window, most = interval, tolerance
    times = find_times(key, limit, epoch, most)
    if times.count > 0 and last_at > now then -- the clock was set back
      local found = read_times(times, 0, times.count)
      for j = 1, #found do
        found[j] = found[j] - (last_at - now)
      end
      shifted = true
      write_times(times, found)
    end
    local due, index = now, times.count + tokens - 1 - most
    if (mode == TAKE or mode == PEEK) and times.count > 0 then
      local last = time_at(times, times.count - 1)
      due = max(now, last, index >= 0 and time_at(times, index) + window or now)
      if not (due <= now + (MAX_DEBT + 2) * window) then
        times.count, due = 0, now -- no time of ours
      end
    end
    if debt > EARLY then
      due = max(due, now + debt - EARLY)
    end
    slack = due > now and now - due - EARLY or 0
    interval, epsilon = window / most, 0
  end
  local changed = true
  local memory = -1 -- for how long an early client is remembered after its wait
  if mode == TAKE then
    local base, cap, grace = a, b, c
    memory = max(grace, interval)
    local passed = min(grace, LATENESS) - early -- since the client was told, if the wait is short
    local waited = told <= EARLY and told > -NEVER / 10 and passed * 16 >= told + passed
    if slack >= -epsilon or (slack >= -EARLY and waited and not windowed) then
      slack = max(0, slack)
      if phase == JUDGE then
        changed = false
      elseif windowed then
        add_times(times, most, window, tokens)
        third, fourth = epoch, now
      else
        debt = debt + cost
        third, fourth = epoch, reserved
      end
    elseif phase == JUDGE then
      changed = false
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
        if windowed then
          debt, wait = max(debt, backoff), max(wait, backoff)
          slack = -wait
        elseif backoff + cost - interval > wait then
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
  elseif mode == CHARGE then
    if windowed then
      charge_times(times, most, window, tokens)
    else
      debt = max(debt, min(debt + cost, (1 + MAX_DEBT) * tolerance))
      slack = tolerance - debt
    end
  elseif mode == CREDIT then
    -- `c` is the caller that gives back. All who wait move up. Nothing for a client in backoff.
    local in_backoff = count > 0 and step > NEVER / 10 and told > 0
    if windowed then
      changed = debt <= 0 and times.count > expired(times, window)
      if changed then
        refund_times(times, most, window, tokens)
        cost = tokens * interval
      end
    else
      changed = debt > 0 and not in_backoff
      debt = changed and max(0, debt - cost) or debt
      slack = tolerance - debt
    end
    if changed then
      second = 1
      pcall('PUBLISH', CHANNEL, 'p4r:m:' .. limit .. pack('<dddd', c, epoch, 0, cost) .. key)
    end
  elseif mode == REFUND and windowed then
    -- `a` is the time for which the tokens count, `b` the epoch then.
    changed = epoch == b and times.count > 0
    if changed then
      take_back_times(times, a, tokens)
    end
  elseif mode == REFUND then
    -- `a` is the number of the last reservation when the tokens were taken, `b` the epoch then, `c` the
    -- caller that gives back. Later reservations move up. Nothing is given back to a client in backoff, nor
    -- what was taken before it was forgiven.
    local in_backoff = count > 0 and step > NEVER / 10 and told > 0
    if debt > 0 and epoch == b and not in_backoff then
      if reserved > a and debt > tolerance then
        pcall('PUBLISH', CHANNEL, 'p4r:m:' .. limit .. pack('<dddd', c, b, a, cost) .. key)
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
    for j = 1, others and #others or 0 do
      pcall('DEL', times_key(key, others[j]:sub(1, 8)))
    end
    others, others_end = nil, 0
    debt, told, count = a, -NEVER, 0
  elseif mode == RESET_LIMIT then
    -- What is known of this limit goes; `a` is how long the mark stays that the client was forgiven.
    second = keep > 0 and 1 or 0
    pcall('DEL', times_key(key, limit))
    limit, times = FORGIVEN, nil
    debt, told, count, early, step, keep, reserved, epoch = a, -NEVER, 0, 0, 0, 0, 0, now
  else
    changed = false
    slack = windowed and slack or tolerance - debt
  end

  if times then
    if times.count > 0 then
      used = times.count - expired(times, window)
      empty_in = max(0, time_at(times, times.count - 1) + window - now)
    end
    if times.count > 0 and (changed or times.written) then
      call('PEXPIRE', times.key, ceil(min(empty_in, LONGEST) * 1000) + 1)
    end
  end
  if changed or shifted then
    local was_early = early < -NEVER / 10
    keep = max(debt, told, empty_in, was_early and (memory >= 0 and told + memory or keep) or 0)
    local longest = max(keep, others_end)
    if longest > 0 then
      local entry = ''
      if keep > 0 then
        entry = pack(ENTRY, limit, debt, told, count, early, step, keep, reserved, epoch, now)
      end
      call('SET', key, string.char(FORMAT) .. entry .. (others and table.concat(others) or ''), 'PX', ceil(min(longest, LONGEST) * 1000) + 1)
    else
      call('DEL', key)
    end
  end
  return slack, second, third, fourth, used, empty_in
end

local answer = {pack('<d', now)}
local details = {}

-- Checks of which all are granted or none. Those that refuse count it, unless it is quiet.
local function joint(i)
  local _, _, _, _, _, number, how = unpack(CHECK, ARGV[i])
  local items, position, least = {}, CHECK_SIZE + 1, 0
  for j = 1, number do
    local length = unpack('<H', ARGV[i], position + CHECK_SIZE)
    local key = ARGV[i]:sub(position + CHECK_SIZE + 2, position + CHECK_SIZE + 1 + length)
    items[j] = {key, position}
    items[j].result = {check(key, ARGV[i], position, JUDGE)}
    least = min(least, items[j].result[1])
    position = position + CHECK_SIZE + 2 + length
  end
  for j = 1, number do
    local item = items[j]
    if how ~= LOOK and (least >= 0 or (item.result[1] < 0 and how ~= QUIET)) then
      item.result = {check(item[1], ARGV[i], item[2], nil)}
    end
    local r = item.result
    details[#details + 1] = pack('<dddddd', r[1], r[2], r[3], r[4], r[5], r[6])
  end
  return number, 0, 0, MARK
end

for i = 1, #KEYS do
  if ARGV[i]:byte(9) == JOINT then
    answer[i + 1] = pack('<dddd', joint(i))
  else
    local slack, second, third, fourth = check(KEYS[i], ARGV[i], 1, nil)
    answer[i + 1] = pack('<dddd', slack, second, third, fourth)
  end
end
return table.concat(answer) .. table.concat(details)
