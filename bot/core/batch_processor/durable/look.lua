-- A key whose entry is gone is dropped: its item can be submitted anew, and nobody waits for it in vain.
local answers = {}
for i = 2, #KEYS - 3 do
  local said = says(KEYS[i])
  if said and (said:sub(1, 1) == 'P' or said == 'D') then
    if is_pending(said, KEYS[i]) then
      said = 'P'
    else
      redis.call('DEL', KEYS[i])
      said = 'L'
    end
  end
  answers[i - 1] = said
end
return answers
