local length = redis.call('XLEN', KEYS[1])
local limit = tonumber(ARGV[1])
local answers = {}
local all = ARGV[2] == '0' or length + #KEYS - 1 <= limit
for i = 2, #KEYS do
  local said = says(KEYS[i])
  if said and (said:sub(1, 1) ~= 'P' or is_pending(said)) then
    answers[i - 1] = 2
  elseif length >= limit or not all then
    answers[i - 1] = 0
  else
    local entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[i + 1])
    redis.call('SET', KEYS[i], 'P' .. entry)
    length = length + 1
    answers[i - 1] = 1
  end
end
answers[#answers + 1] = length
return answers
