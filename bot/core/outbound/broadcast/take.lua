-- Own a broadcast if nothing of it has changed since it was looked at. Answers 0, or its generation.
-- KEYS: the broadcast's hash, the set of the claimed. ARGV: owner and beat as seen, the new owner's token,
-- its lease, the time, '1' to forget which recipients are done.

local owner = redis.call('HGET', KEYS[1], 'owner') or ''
local beat = redis.call('HGET', KEYS[1], 'beat') or '0'
if owner ~= ARGV[1] or beat ~= ARGV[2] then
    return 0
end
local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation or ARGV[6] == '1' then
    -- Recipients that are done are kept under the generation: another one forgets them all at once.
    generation = (tonumber(generation) or 0) + 1
    redis.call('HSET', KEYS[1], 'generation', generation, 'started_at', ARGV[5])
    redis.call('HDEL', KEYS[1], 'count_s', 'count_b', 'count_d', 'count_n', 'count_f')
    redis.call('DEL', KEYS[2])
end
redis.call('HDEL', KEYS[1], 'finished_at')
redis.call('HSET', KEYS[1], 'owner', ARGV[3], 'lease', ARGV[4])
redis.call('HINCRBY', KEYS[1], 'beat', 1)
return tonumber(generation)
