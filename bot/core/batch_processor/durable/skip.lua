-- The id of the entry that comes after so many others, from the newest on (ARGV[2] is 1) or the oldest.
local left, newest_first = tonumber(ARGV[1]), ARGV[2] == '1'
local start = newest_first and '+' or '-'
while true do
  local count = math.min(left + 1, 20)
  local page
  if newest_first then
    page = redis.call('XREVRANGE', KEYS[1], start, '-', 'COUNT', count)
  else
    page = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', count)
  end
  if #page < count then return false end
  if count == left + 1 then return page[count][1] end
  left = left - count
  start = '(' .. page[count][1]
end
