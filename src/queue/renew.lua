-- Renews the leases one worker holds on jobs of one kind.
--
-- KEYS: lease, run, doing. ARGV: lease in ms, how long `doing` outlives the last word in ms, then tag, word of each job.
-- A word says what the job's handler is about to do; '' leaves the last one as it is.
-- Returns the positions (from 0) of the jobs that are no longer the worker's.
local time = redis.call('TIME')
local lease_end = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
local until_ms = string.format('%.0f', lease_end)
-- Removes nothing, but a server whose memory is full lets a script that has removed something go on writing; without it
-- the living would lose their leases there.
redis.call('ZREM', KEYS[1], '')
local lost, told = {}, false
for i = 3, #ARGV, 2 do
  local tag, word = ARGV[i], ARGV[i + 1]
  if redis.call('HEXISTS', KEYS[2], tag) == 1 then
    redis.call('ZADD', KEYS[1], until_ms, tag)
    if word ~= '' then
      redis.call('HSET', KEYS[3], tag, word)
      told = true
    end
  else
    lost[#lost + 1] = (i - 3) / 2
    redis.call('HDEL', KEYS[3], tag)
  end
end
-- Should a running job vanish from Redis, its word must not stay for ever.
if told then redis.call('PEXPIRE', KEYS[3], ARGV[2]) end
-- Somebody deleted a key: a running job without a lease would never be taken over. Give it one, a few at a time.
if redis.call('HLEN', KEYS[2]) > redis.call('ZCARD', KEYS[1]) then
  for _, tag in ipairs(redis.call('HRANDFIELD', KEYS[2], 100)) do
    redis.call('ZADD', KEYS[1], 'NX', until_ms, tag)
  end
end
return lost
