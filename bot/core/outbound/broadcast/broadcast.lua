-- One step of a broadcast's progress. All keys share a hash tag, so a cluster has them on one node.
-- KEYS: the broadcast's hash, the set of the claimed, then the bucket of each chat in turn.
-- ARGV: the step, the owner's token, then what the step takes.
-- Answers {-1} to anybody but the owner, else {1 if the owner was unknown and is entered now else 0, ...}.

local step, token = ARGV[1], ARGV[2]
local owner = redis.call('HGET', KEYS[1], 'owner')
local lost = 0
if not owner then
    -- The server has lost its data, and with it the lease: nobody else has it.
    redis.call('HSET', KEYS[1], 'owner', token, 'beat', 1, 'lease', ARGV[3], 'started_at', ARGV[4],
        'generation', ARGV[5])
    lost = 1
elseif owner ~= token then
    if step == 'let_go' and owner == '' and redis.call('HGET', KEYS[1], 'left') == token then
        return {0} -- asked again, because the answer was lost
    end
    return {-1}
end

if step == 'beat' then
    redis.call('HINCRBY', KEYS[1], 'beat', 1)
elseif step == 'claim' then
    local open = {lost}
    for i = 3, #KEYS do
        local chat = ARGV[i + 3]
        local state = redis.call('HGET', KEYS[i], chat)
        if not state then
            redis.call('HSET', KEYS[i], chat, 'q')
            redis.call('SADD', KEYS[2], chat)
        end
        if not state or state == 'q' then
            open[#open + 1] = i - 2
        end
    end
    return open
elseif step == 'record' then
    for i = 3, #KEYS do
        local chat, ended = ARGV[2 * i], ARGV[2 * i + 1]
        local state = redis.call('HGET', KEYS[i], chat)
        if not state or state == 'q' then
            redis.call('HSET', KEYS[i], chat, ended)
            redis.call('HINCRBY', KEYS[1], 'count_' .. string.sub(ended, 1, 1), 1)
        end
        redis.call('SREM', KEYS[2], chat)
    end
elseif step == 'release' then
    for i = 3, #KEYS do
        local chat = ARGV[i + 3]
        if redis.call('HGET', KEYS[i], chat) == 'q' then
            redis.call('HDEL', KEYS[i], chat)
        end
        redis.call('SREM', KEYS[2], chat)
    end
elseif step == 'let_go' then
    redis.call('HSET', KEYS[1], 'owner', '', 'left', token)
    redis.call('HINCRBY', KEYS[1], 'beat', 1)
    if ARGV[6] ~= '' then
        redis.call('HSET', KEYS[1], 'finished_at', ARGV[6])
    end
end
return {lost}
