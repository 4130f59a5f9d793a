-- The name of the lane of the entry that the key KEYS[2] tells of; empty if there is none.
local said = says(KEYS[2])
if not said or said:sub(1, 1) ~= 'P' or said == 'P' then return '' end
local fields = (redis.call('XRANGE', KEYS[1], said:sub(2), said:sub(2))[1] or {nil, {}})[2]
for i = 1, #fields, 2 do
  if fields[i] == 'l' then return fields[i + 1] end
end
return ''
