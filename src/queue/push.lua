-- Rings for a unique job, unless one with its key already waits.
--
-- KEYS: ready, due, the held key. ARGV: text, job id, ttl of the hold in ms, due in ms since 1970 or ''.
-- Returns 1 when the job was queued, 0 when another one waits.
--
-- A hold is believed only while something waits: if the list vanished from Redis, its holds must not keep new bells out.
local waiting = redis.call('EXISTS', KEYS[1], KEYS[2]) > 0
if waiting and redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
if ARGV[4] == '' then
  redis.call('RPUSH', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
end
return 1
