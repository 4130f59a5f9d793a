-- Takes back the item of KEYS[2]; KEYS[3] has the entries that are asked for, KEYS[4] is the lane's, if there is one. ARGV: milliseconds for which
-- that is told, the consumer that asks, whether it may be ended though that one holds it. Answers: 0 there is
-- none; 1 or 2 items were taken back; 3, entry and consumer: it is held; 4: the same, but a newer one behind it
-- was taken back.
local key = KEYS[2]
local said = says(key)
if ARGV[4] ~= '' and redis.call('HDEL', KEYS[3], ARGV[4]) == 0 then return {0} end  -- it is asked for no more
local count = redis.call('HDEL', NEWER, key)
local function told()
  redis.call('HDEL', NEWER, '=' .. key)
  redis.call('SET', key, 'C', 'PX', ARGV[1])
  return {1 + count}
end
if not is_pending(said, key) or said == 'P' then return {0} end
if said == 'D' then
  stop_waiting(key)
  return told()
end
local entry = said:sub(2)
local held = redis.pcall('XPENDING', KEYS[1], 'GROUP_NAME', entry, entry, 1)
local owner = held[1] and held[1][2]
if not owner or owner == 'NOBODY_NAME' or owner == 'STOPPED_NAME' or owner == ARGV[2] and ARGV[3] == '1' then
  redis.call('XACK', KEYS[1], 'GROUP_NAME', entry)
  redis.call('XDEL', KEYS[1], entry)
  if #KEYS > 6 then leave(KEYS[4], entry) end
  return told()
end
return {count > 0 and 4 or 3, entry, owner}
