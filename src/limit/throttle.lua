-- A provider refused a request as too fast. Must do exactly what Bucket::throttle in bucket.rs does; a test compares.
-- KEYS[1] bucket   ARGV: configured rate, close us, hold us, max close us, keep ms
-- Returns us until the sender opens again, effective rate, now us.
local configured, close, hold, max_close = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local bucket = redis.call('HMGET', KEYS[1], 'rate', 'closed_until', 'slowed_at')
local rate = math.min(tonumber(bucket[1] or configured), configured)
local closed_until = tonumber(bucket[2] or 0)
local slowed_at = tonumber(bucket[3] or 0)

if now >= closed_until and now - slowed_at >= 1000000 then
  local factor = 0.8
  if now - math.max(slowed_at, closed_until) < hold then
    factor = 0.6
  end
  rate = math.max(rate * factor, math.min(0.5, rate))
  redis.call('HSET', KEYS[1], 'rate', string.format('%.17g', rate), 'slowed_at', string.format('%.0f', now))
end
closed_until = math.max(closed_until, now + math.min(close, max_close))
redis.call('HSET', KEYS[1], 'closed_until', string.format('%.0f', closed_until), 'throttled_at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(ARGV[5]) + (closed_until - now) / 1000))
return { closed_until - now, string.format('%.17g', rate), now }
