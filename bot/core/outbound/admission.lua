-- What the instances of one bot ask in one tick, decided in one step by the server's clock.
--
-- KEYS[i]  {p4o:BOT}:KIND:CHAT of the i-th call, behind the prefix of keys. The tag in braces is one for a bot, so that in a cluster
--          all of its keys are on one node. KIND: w messages, e separate edits, t chat actions (sorted sets:
--          a member for each message that counts, by when it counted); b and f buckets of messages and
--          separate edits (when it is full again); n: counted nowhere. Others: :h:CHAT the chat's hold,
--          :all the hold of all chats, :bulk and :paid the windows of all chats, :others when the last went
--          that is no answer, :refused the chats refused lately, :epoch since when Redis remembers.
-- ARGV[i]  the call, packed: what is asked, flags, the reservation's id (16 bytes), eight numbers that
--          depend on what is asked, and for ADMIT the chat's windows (number, seconds).
--
-- Answers one string of doubles: the server's time, the epoch, and for each call two: what stands in the way
-- (0 nothing) and for how many seconds.
--
-- A message counts in its chat's windows from its reservation until a window after the STAMP that tells of
-- its answer. In flight it counts as if it were answered when its LEASE ends, which another STAMP renews: what
-- a process that was killed had reserved is free again a lease and a window later. In the windows of all chats
-- it counts until a window after it LEFT. Whatever is found under a key that is not ours is removed.

local ADMIT, STAMP, LEFT, REFUND, HOLD, RELEASE = 0, 1, 2, 3, 4, 6
local CLEAR, CHAT_FULL, GATE_FULL, CHAT_HELD, ALL_HELD, FORGOTTEN = 0, 1, 2, 3, 4, 5
local WINDOWS, BUCKET, UNSCALED = 1, 2, 3
local LEASE, GATE_LEASE = 30, 5 -- seconds; as in reservations.py
local LONGEST = 1000000 -- seconds; no hold and no debt is longer
local LOWEST_SHARE, RECOVERY = 0.25, 0.1 / 60 -- as in penalties.py
local GLOBAL_CHATS, GLOBAL_WITHIN = 3, 2
local REMEMBERED = 86400 -- seconds that an unused budget's epoch stays
local CALL = '<BBc16dddddddd'
local HEADER = 1 + 1 + 16 + 8 * 8
local ROUNDING = 0.000001
local RELEASED = KEYS[1]:match('^[^{]*') .. 'p4o:release'

local call, pcall, unpack, pack = redis.call, redis.pcall, struct.unpack, struct.pack
local max, min, floor, ceil = math.max, math.min, math.floor, math.ceil

local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function is_number(x)
  return x ~= nil and x == x and x > -1e15 and x < 1e15
end

local function text_of(key)
  local value = pcall('GET', key)
  if type(value) == 'table' and value.err then
    call('DEL', key)
    return nil
  end
  return value or nil
end

local function number_of(key)
  local value = tonumber(text_of(key) or nil)
  return is_number(value) and value or nil
end

local function seconds(x) -- for PX
  return ceil(max(0.001, x) * 1000)
end

local function purge(key, window, lease)
  local removed = pcall('ZREMRANGEBYSCORE', key, '-inf', string.format('%.6f', now - window + ROUNDING))
  if type(removed) == 'table' and removed.err then
    call('DEL', key)
    return
  end
  -- The clock was set back, or somebody else wrote it.
  call('ZREMRANGEBYSCORE', key, string.format('(%.6f', now + lease + 1), '+inf')
end

local function window_wait(key, cost, most, window)
  local from = string.format('(%.6f', now - window + ROUNDING)
  local used = call('ZCOUNT', key, from, '+inf')
  local excess = used + min(cost, most) - most
  if excess <= 0 or used == 0 then
    return 0
  end
  local found = call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', excess - 1, 1)
  -- What is in flight is not answered before now.
  return max(0.001, min(tonumber(found[2]), now) + window - now)
end

local function count(key, id, cost, at, life)
  for i = 1, cost do
    call('ZADD', key, string.format('%.6f', at), id .. i)
  end
  call('PEXPIRE', key, seconds(life))
end

local function uncount(key, id, cost)
  for i = 1, cost do
    if pcall('ZREM', key, id .. i) ~= 1 then
      return
    end
  end
end

-- Until when the chat is held, and its share of its rate now and when it began to recover.
local function hold_of(key)
  local value = text_of(key)
  if value and #value == 24 then
    local till, share, from = unpack('<ddd', value)
    if is_number(till) and is_number(share) and is_number(from) and till <= now + LONGEST and from <= now + LONGEST then
      return till, min(1, max(LOWEST_SHARE, share + max(0, now - from) * RECOVERY))
    end
  end
  return 0, 1
end

local answer = {}
local epoch_key = KEYS[1]:match('^[^{]*%b{}') .. ':epoch'
local epoch = number_of(epoch_key)
if not epoch or epoch <= 0 then
  epoch = now
  call('SET', epoch_key, string.format('%.6f', epoch))
  epoch = tonumber(string.format('%.6f', epoch))
end
call('PEXPIRE', epoch_key, REMEMBERED * 1000)
answer[1] = pack('<dd', now, epoch)

for i = 1, #KEYS do
  local tag, kind, chat = KEYS[i]:match('^([^{]*%b{}):(%a):(.*)$')
  local op, flags, id, a, b, c, d, e, f, g, h = unpack(CALL, ARGV[i])
  local mode, gate, starved = flags % 4, floor(flags / 4) % 4, flags >= 16
  local gate_key = gate == 3 and tag .. ':paid' or tag .. ':bulk'
  local scope, wait = CLEAR, 0

  if op == ADMIT then
    -- a cost, b the epoch that the instance knows, c and d number and seconds of the gate,
    -- e, f and g interval, burst and the instance's own debt of a bucket, h within how many of the gate it
    -- leaves: the rest is kept for answers
    local cost = a
    local till, share = hold_of(tag .. ':h:' .. chat)
    local all = number_of(tag .. ':all') or 0
    if all > now and all <= now + LONGEST then
      scope, wait = ALL_HELD, all - now
    elseif till > now then
      scope, wait = CHAT_HELD, till - now
    elseif b ~= 0 and b ~= epoch then
      scope = FORGOTTEN
    end
    local windows, longest, interval, debt = {}, 0, e, 0
    if scope == CLEAR and mode == BUCKET then
      local burst = f
      if share < 1 then
        interval, burst = e / share, max(1, floor(f * share))
      end
      debt = min(LONGEST, max(0, g, (number_of(KEYS[i]) or 0) - now))
      wait = debt - (burst - min(cost, burst)) * interval
      if wait > ROUNDING then
        scope = CHAT_FULL
      end
    elseif scope == CLEAR and mode ~= 0 then
      for position = HEADER + 1, #ARGV[i], 16 do
        local most, window = unpack('<dd', ARGV[i], position)
        if mode == WINDOWS and share < 1 then
          most = max(1, floor(most * share))
        end
        windows[#windows + 1] = {most, window}
        longest = max(longest, window)
      end
      purge(KEYS[i], longest, LEASE)
      wait = 0
      for j = 1, #windows do
        wait = max(wait, window_wait(KEYS[i], cost, windows[j][1], windows[j][2]))
      end
      if wait > 0 then
        scope = CHAT_FULL
      end
    end
    if scope == CLEAR and gate ~= 0 then
      purge(gate_key, d, GATE_LEASE)
      if gate ~= 2 then
        wait = window_wait(gate_key, cost, h, d)
        if wait > 0 and starved then
          wait = max(0, min(wait, (number_of(tag .. ':others') or 0) + d - now))
        end
        if wait > 0 then
          scope = GATE_FULL
        end
      end
    end
    if scope == CLEAR then
      wait = 0
      if mode == BUCKET then
        debt = debt + cost * interval
        call('SET', KEYS[i], string.format('%.6f', now + debt), 'PX', seconds(debt))
      elseif mode ~= 0 then
        count(KEYS[i], id, cost, now + LEASE, LEASE + longest)
      end
      if gate ~= 0 then
        count(gate_key, id, min(cost, c), now + GATE_LEASE, GATE_LEASE + d)
        if gate == 1 then
          call('SET', tag .. ':others', string.format('%.6f', now), 'PX', seconds(d))
        end
      end
    end
  elseif op == STAMP then
    -- a cost, b for how many seconds it has been answered (less than 0: in flight), c the longest window,
    -- e the bucket's interval
    if mode == BUCKET then
      -- It was received now at the latest, so what it took is refilled from now on.
      local full = now + min(LONGEST, a * e)
      if full > (number_of(KEYS[i]) or 0) then
        call('SET', KEYS[i], string.format('%.6f', full), 'PX', seconds(full - now))
      end
    else
      purge(KEYS[i], c, LEASE)
    end
    if mode ~= BUCKET and b < c then
      count(KEYS[i], id, a, b < 0 and now + LEASE or now - b, LEASE + c)
    end
  elseif op == LEFT then
    -- a cost, c and d number and seconds of the gate
    purge(gate_key, d, GATE_LEASE)
    count(gate_key, id, min(a, c), now, GATE_LEASE + d)
  elseif op == REFUND then
    -- a cost, c the gate's number, e the bucket's interval
    if mode == BUCKET then
      local full = number_of(KEYS[i])
      if full and full - a * e > now then
        call('SET', KEYS[i], string.format('%.6f', full - a * e), 'PX', seconds(full - a * e - now))
      elseif full then
        call('DEL', KEYS[i])
      end
    elseif mode ~= 0 then
      uncount(KEYS[i], id, a)
    end
    if gate ~= 0 then
      uncount(gate_key, id, min(a, c))
    end
  elseif op == HOLD then
    -- a seconds, b 1 if Telegram refused it just now, c the share of its rate at most, d 1 if all are meant
    local till = now + min(LONGEST, a)
    if d == 1 then
      till = max(till, number_of(tag .. ':all') or 0)
      call('SET', tag .. ':all', string.format('%.6f', till), 'PX', seconds(till - now))
    else
      local key = tag .. ':h:' .. chat
      local before, share = hold_of(key)
      share = b == 1 and max(LOWEST_SHARE, share / 2) or min(share, max(LOWEST_SHARE, c))
      till = max(till, before)
      local life = max(0, till - now) + (1 - share) / RECOVERY
      call('SET', key, pack('<ddd', till, share, max(now, till)), 'PX', seconds(life))
      if b == 1 then
        local recent = tag .. ':refused'
        purge(recent, GLOBAL_WITHIN, 0)
        call('ZADD', recent, string.format('%.6f', now), chat)
        call('PEXPIRE', recent, GLOBAL_WITHIN * 1000)
        if call('ZCARD', recent) >= GLOBAL_CHATS then
          for _, other in ipairs(call('ZRANGE', recent, 0, 20)) do
            till = max(till, (hold_of(tag .. ':h:' .. other)))
          end
          till = max(till, number_of(tag .. ':all') or 0)
          call('DEL', recent)
          call('SET', tag .. ':all', string.format('%.6f', till), 'PX', seconds(till - now))
          scope, wait = ALL_HELD, till - now
        end
      end
    end
  elseif op == RELEASE then
    -- d 1 if all are meant
    if d == 1 then
      local till = number_of(tag .. ':all') or 0
      if till > now then
        scope, wait = ALL_HELD, till - now
      end
      call('DEL', tag .. ':all')
    else
      local key = tag .. ':h:' .. chat
      local till, share = hold_of(key)
      if till > now then
        scope, wait = CHAT_HELD, till - now
      end
      if share < 1 then
        call('SET', key, pack('<ddd', now, share, now), 'PX', seconds((1 - share) / RECOVERY))
      else
        call('DEL', key)
      end
    end
    pcall('PUBLISH', RELEASED, KEYS[i])
  end
  answer[i + 1] = pack('<dd', scope, max(0, wait))
end

return table.concat(answer)
