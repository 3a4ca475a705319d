-- Settles claimed jobs: what their handlers' results mean for the queue.
--
-- KEYS: ready, due, lease, run of each kind that is spoken of; then dead, doing.
-- ARGV: for each kind the number of done jobs and their tags; then groups of five: verb, kind (from 1), tag, a, header.
--   H  head of the ready list (given back)      T  tail of the ready list (its next turn)
--   R  due in `a` ms                            L  due at `a`, ms since 1970
--   D  dead: `a` is its reference, header its record
-- A header of '-' leaves the entry as it is.
-- A tag that is not in `run` is stale: the job was taken over, and whatever is said about it is ignored.
-- Returns how many of the groups of five were stale.
local kinds = (#KEYS - 2) / 4
local dead, doing = KEYS[#KEYS - 1], KEYS[#KEYS]
-- Only jobs that run for a while, or took down a worker before, have said what they were doing.
local told = redis.call('EXISTS', doing) == 1
local i = 1
for k = 1, kinds do
  local n = tonumber(ARGV[i])
  if n > 0 then
    redis.call('HDEL', KEYS[k * 4], unpack(ARGV, i + 1, i + n))
    redis.call('ZREM', KEYS[k * 4 - 1], unpack(ARGV, i + 1, i + n))
    if told then redis.call('HDEL', doing, unpack(ARGV, i + 1, i + n)) end
  end
  i = i + n + 1
end

local now
local function after(ms)
  if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return string.format('%.0f', now + tonumber(ms))
end

local stale = 0
while i < #ARGV do
  local verb, k, tag, a, header = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local ready, due, lease, run = KEYS[k * 4 - 3], KEYS[k * 4 - 2], KEYS[k * 4 - 1], KEYS[k * 4]
  local entry = redis.call('HGET', run, tag)
  if entry then
    redis.call('HDEL', run, tag)
    redis.call('ZREM', lease, tag)
    if told then redis.call('HDEL', doing, tag) end
    if verb ~= 'D' and header ~= '-' then
      local text = string.match(entry, '^\1%d+ %d+ %d+ %d+ %S+ %S+\n()')
      entry = header .. (text and string.sub(entry, text) or entry)
    end
    if verb == 'H' then
      redis.call('LPUSH', ready, entry)
    elseif verb == 'T' then
      redis.call('RPUSH', ready, entry)
    elseif verb == 'R' then
      redis.call('ZADD', due, after(a), entry)
    elseif verb == 'L' then
      redis.call('ZADD', due, a, entry)
    elseif verb == 'D' then
      redis.call('HSET', dead, a, header)
    end
  else
    stale = stale + 1
  end
  i = i + 5
end
return stale
