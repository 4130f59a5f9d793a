-- Items whose time has come go into the stream. ARGV: how many; for each the name of its lane and the place of
-- that one's key. How many were moved; another instance may have been quicker.
local this, count, moved = now(), tonumber(ARGV[1]), 0
for i = 1, count do
  local key = KEYS[i + 1]
  local due = tonumber(redis.call('ZSCORE', LATER, key) or nil)
  if due and due <= this then
    local kept = redis.call('HGET', KEPT, key)
    local lane_name, value = '', nil
    if kept then lane_name, value = unpacked(kept) end
    if not kept then
      redis.call('ZREM', LATER, key)
      if says(key) == 'D' then redis.call('DEL', key) end
    elseif lane_name == ARGV[2 * i] then  -- otherwise it was replaced meanwhile
      stop_waiting(key)
      enqueue(key, KEYS[tonumber(ARGV[2 * i + 1])], lane_name, value)
      moved = moved + 1
    end
  end
end
return moved
