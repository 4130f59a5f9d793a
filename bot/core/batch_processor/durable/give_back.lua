local group, consumer = ARGV[1], ARGV[2]
for i = 5, #ARGV, 2 do
  if #redis.call('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1, consumer) == 1 then
    redis.call('XCLAIM', KEYS[1], group, ARGV[3], 0, ARGV[i],
               'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end
