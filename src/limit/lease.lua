-- Hands out permits of one sender's bucket. Must do exactly what Bucket::lease in bucket.rs does; a test compares.
-- KEYS[1] bucket   ARGV: wanted, configured rate, burst us, ahead us, clean (0/1), hold us, raise share, max close us, keep ms
-- Returns permits, us until the last is usable, us to wait, effective rate, now us.
local wanted, configured, burst, ahead = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local hold, raise, max_close = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local bucket = redis.call('HMGET', KEYS[1], 'spent_until', 'rate', 'closed_until', 'slowed_at', 'raised_at')
local lowered = tonumber(bucket[2] or nil)
local closed_until = tonumber(bucket[3] or 0)

if ARGV[5] == '1' and lowered then
  local quiet_since = math.max(tonumber(bucket[4] or 0), closed_until) + hold
  if now - math.max(quiet_since, tonumber(bucket[5] or 0)) >= 1000000 then
    lowered = lowered + math.min(configured * raise, lowered * 0.1)
    redis.call('HSET', KEYS[1], 'raised_at', string.format('%.0f', now))
    if lowered < configured then
      redis.call('HSET', KEYS[1], 'rate', string.format('%.17g', lowered))
    else
      lowered = nil
      redis.call('HDEL', KEYS[1], 'rate')
    end
  end
end

local rate = math.min(lowered or configured, configured)
local step = 1000000 / rate
local horizon = now + ahead
local spent = math.max(math.min(tonumber(bucket[1] or horizon), horizon), now - math.max(burst, step))
if closed_until > now + max_close then
  closed_until = now + max_close
  redis.call('HSET', KEYS[1], 'closed_until', string.format('%.0f', closed_until))
end

local permits, last_in, wait = 0, 0, 0
if closed_until > now then
  wait = closed_until - now
else
  permits = math.min(math.floor((horizon - spent) / step), wanted)
  if permits < 1 then
    wait = math.max(math.ceil(spent + step - horizon), 1)
  end
end
spent = math.ceil(spent + permits * step)
if permits > 0 then
  last_in = math.max(spent - now, 0)
end
redis.call('HSET', KEYS[1], 'spent_until', string.format('%.0f', spent))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(ARGV[9]) + math.max(closed_until - now, 0) / 1000))
return { permits, last_in, wait, string.format('%.17g', rate), now }
