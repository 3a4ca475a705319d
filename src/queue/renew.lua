-- Renews the leases one worker holds on jobs of one kind.
--
-- KEYS: lease, run. ARGV: lease in ms, tag, tag, …
-- Returns the positions (from 0) of the tags that are no longer the worker's.
local time = redis.call('TIME')
local lease_end = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
local until_ms = string.format('%.0f', lease_end)
-- Removes nothing, but a server whose memory is full lets a script that has removed something go on writing; without it
-- the living would lose their leases there.
redis.call('ZREM', KEYS[1], '')
local lost = {}
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[1], until_ms, ARGV[i])
  else
    lost[#lost + 1] = i - 2
  end
end
-- Somebody deleted a key: a running job without a lease would never be taken over. Give it one, a few at a time.
if redis.call('HLEN', KEYS[2]) > redis.call('ZCARD', KEYS[1]) then
  for _, tag in ipairs(redis.call('HRANDFIELD', KEYS[2], 100)) do
    redis.call('ZADD', KEYS[1], 'NX', until_ms, tag)
  end
end
return lost
