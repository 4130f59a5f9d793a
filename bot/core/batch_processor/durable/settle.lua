-- Memory may be full: what frees some comes first then, after which a script may take some, so that a dead
-- letter has the place of its entry. A result that cannot be kept is let go.
local answers = {}
for i = 3, #KEYS do
  local at = 4 + (i - 3) * 3
  local entry, outcome, letter = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  redis.call('XACK', KEYS[1], ARGV[1], entry)
  if redis.call('XDEL', KEYS[1], entry) == 1 or says(KEYS[i]) == 'P' .. entry then
    if letter ~= '' then
      redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'v', letter)
    end
    local kept = redis.pcall('SET', KEYS[i], outcome, 'PX', ARGV[2])
    if kept.err then redis.call('DEL', KEYS[i]) end
    answers[#answers + 1] = 1
  elseif says(KEYS[i]) == outcome then
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
