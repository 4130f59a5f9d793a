-- XAUTOCLAIM in two steps, because what is claimed depends on how often it was delivered before.
local group, consumer, lease = ARGV[1], ARGV[2], ARGV[3]
local room, alone_from, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local alone = ARGV[7] == '1'
local taken = {}
local start = '-'
for _ = 1, 20 do
  local idle = redis.call('XPENDING', KEYS[1], group, 'IDLE', lease, start, '+', 100)
  for _, entry in ipairs(idle) do
    local id, deliveries = entry[1], entry[4]
    local stopped = entry[2] == ARGV[8] and 1 or 0
    local wanted = #taken < room
    if deliveries >= alone_from and deliveries < most then
      wanted = alone
      alone = false
    end
    if wanted then
      local got = redis.call('XCLAIM', KEYS[1], group, consumer, lease, id)
      if got[1] and got[1][2] then
        taken[#taken + 1] = {id, deliveries + 1, got[1][2][2], stopped, got[1][2][4] or ''}
      else
        redis.call('XACK', KEYS[1], group, id)
      end
    end
  end
  if #idle < 100 or #taken >= room then break end
  start = '(' .. idle[#idle][1]
end
return taken
