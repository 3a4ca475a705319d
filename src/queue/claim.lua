-- Claims jobs for one worker: all its kinds, in order of priority, never more than it has free slots.
--
-- KEYS: ready, due, lease, run of each kind; then dead, doing.
-- ARGV: 1 tag prefix, 2 first tag number, 3 shared slots, 4 sweep (0 nothing, 1 due jobs, 2 abandoned ones too), 5 most members,
--       6 longest text, 7 what the names of held `unique` keys begin with, then name, own slots (-1: the kind rests), lease in ms
--       of each kind.
-- Returns: now in ms, whether more is due, the claimed entries of each kind, how many of each were taken over. Tags are counted
-- up in that order.
--
-- A script stops everybody else's commands while it runs, so everything here is bounded: of the `most` members one call may
-- touch, due jobs get at most half, shared evenly by the kinds, and whatever they leave is for jobs that are taken.
local kinds = (#KEYS - 2) / 4
local dead, doing = KEYS[#KEYS - 1], KEYS[#KEYS]
local prefix, number, shared = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local sweep, room, longest, held = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local step = math.floor(room / 2 / kinds)
-- The first look is at few: were they megabytes each, a whole chunk would stop the server for a while.
local FIRST, CHUNK, BYTES = 10, 50, 2097152

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))

-- Too long for anybody to run: the text is parked beside the dead set and never travels through a claim.
local oversized = 0
local function park(name, text)
  oversized = oversized + 1
  local ref = prefix .. 'x' .. time[1] .. time[2] .. '.' .. oversized
  redis.call('SET', dead .. ':' .. ref, text)
  redis.call('HSET', dead, ref, 'P ' .. name .. ' ' .. now)
end

-- A claimed job lets go of its `unique` key here and not after the script, so that no crash comes between. Its id is compared:
-- when a job is claimed for the second time, the next one may hold the key. What cannot be read holds nothing, or no longer
-- than its time. Nothing here may fail, and nothing may take long: no text of ours that names a key is longer than READ.
local READ = 65536
local find, format = string.find, string.format
local function let_go(name, entry)
  if #entry > READ or not find(entry, '"unique"', 1, true) then return end
  local text = string.sub(entry, string.match(entry, '^\1[^\n]*\n()') or 1)
  local read, job = pcall(cjson.decode, text)
  if not read or type(job) ~= 'table' or type(job.unique) ~= 'string' or type(job.id) ~= 'string' then return end
  local key = held .. name .. ':' .. job.unique
  if redis.pcall('GET', key) == job.id then redis.pcall('DEL', key) end
end

local more = 0
local function promote(ready, due)
  local left, bytes, chunk = step, 0, FIRST
  while left > 0 and bytes < BYTES do
    local entries = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, math.min(left, chunk))
    if #entries == 0 then return end
    -- Removed before added: a server whose memory is full refuses a script's first addition, but none after a removal.
    redis.call('ZREM', due, unpack(entries))
    redis.call('RPUSH', ready, unpack(entries))
    for _, entry in ipairs(entries) do bytes = bytes + #entry end
    left, room, chunk = left - #entries, room - #entries, CHUNK
  end
  more = 1
end

local budget = BYTES
-- An expired lease: its owner died or stalled. The new tag makes whatever that owner still says about the job void.
-- What the owner said last that it was about to do is kept behind the tag, for whoever asks what killed it.
local function take_over(lease, run, free, taken)
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', lease, '-inf', now, 'LIMIT', 0, math.min(free, room))) do
    local entry = redis.call('HGET', run, tag)
    redis.call('ZREM', lease, tag)
    room = room - 1
    if entry then
      redis.call('HDEL', run, tag)
      local last = redis.call('HGET', doing, tag)
      if last then
        redis.call('HDEL', doing, tag)
        tag = tag .. '@' .. string.gsub(string.sub(last, 1, 80), '%s', '_')
      end
      local a, c, s, first, ref, rest = string.match(entry, '^\1(%d+) (%d+) (%d+) (%d+) (%S+) %S+\n()')
      if a then
        entry = '\1' .. a .. ' ' .. (tonumber(c) + 1) .. ' ' .. s .. ' ' .. first .. ' ' .. ref .. ' ' .. tag .. '\n'
          .. string.sub(entry, rest)
      else
        entry = '\0010 1 0 ' .. now .. ' ' .. string.match(tag, '^[^@]+') .. ' ' .. tag .. '\n' .. entry
      end
      taken[#taken + 1] = entry
      budget = budget - #entry
      if budget <= 0 then return end
    end
  end
end

local function take_fresh(name, ready, free, taken)
  local chunk = FIRST
  while free > 0 and room > 0 and budget > 0 do
    local entries = redis.call('LPOP', ready, math.min(free, room, chunk))
    if not entries then return end
    room, chunk = room - #entries, CHUNK
    for _, entry in ipairs(entries) do
      if #entry > longest then
        park(name, entry)
        chunk = FIRST
      else
        taken[#taken + 1] = entry
        free = free - 1
      end
      budget = budget - #entry
    end
  end
end

-- A small sorted set is a list that every addition walks through, and with a hundred leases that is half the cost of a claim.
-- One whose first member is a long one is a tree from the beginning and stays one; the member is gone before anybody sees it.
local LONG, FEW = string.rep('.', 65), 32
local function hold(lease, run, taken, lease_end, free)
  local tree = free > FEW and redis.call('EXISTS', lease) == 0
  if tree then redis.call('ZADD', lease, lease_end, LONG) end
  local fields, members, n = {}, {}, 0
  for i = 1, #taken do
    local tag = prefix .. format('%d', number)
    number = number + 1
    fields[n + 1], fields[n + 2] = tag, taken[i]
    members[n + 1], members[n + 2] = lease_end, tag
    n = n + 2
    if n >= 1000 or i == #taken then
      redis.call('HSET', run, unpack(fields, 1, n))
      redis.call('ZADD', lease, unpack(members, 1, n))
      fields, members, n = {}, {}, 0
    end
  end
  if tree then redis.call('ZREM', lease, LONG) end
end

local reply = { tonumber(now), 0 }
local abandoned = {}
for k = 1, kinds do
  local at = (k - 1) * 4
  local ready, due, lease, run = KEYS[at + 1], KEYS[at + 2], KEYS[at + 3], KEYS[at + 4]
  local name, own, lease_ms = ARGV[5 + k * 3], tonumber(ARGV[6 + k * 3]), tonumber(ARGV[7 + k * 3])
  local taken = {}
  if sweep >= 1 then promote(ready, due) end
  local free = own + shared
  if free > 0 and own >= 0 then
    if sweep >= 2 then take_over(lease, run, free, taken) end
    abandoned[k] = #taken
    take_fresh(name, ready, free - #taken, taken)
    if #taken > 0 then
      hold(lease, run, taken, format('%.0f', tonumber(now) + lease_ms), free)
      for i = 1, #taken do let_go(name, taken[i]) end
      shared = shared - math.max(0, #taken - own)
    end
  end
  abandoned[k] = abandoned[k] or 0
  reply[k + 2] = taken
end
reply[kinds + 3] = abandoned
reply[2] = more
return reply
