-- Lets go of unique keys whose jobs have been claimed. KEYS: held keys. ARGV: the id of the job of each.
-- Compared before it is deleted: after a takeover the key may be held by the next job.
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[i] then redis.call('DEL', key) end
end
return 0
