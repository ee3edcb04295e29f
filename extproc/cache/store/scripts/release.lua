-- Gives the lock back, if it is still the leader's. When its answer cannot be shared, all who want one go alone for a
-- while: else each process would find that out in turn.
--
-- KEYS[1]                    the lock
-- ARGV[1]                    the leader's token
-- ARGV[2]                    for how many milliseconds all go alone, or 0
-- returns                    1, or 0 when it was lost already

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], 'alone', 'PX', ARGV[2])
else
  redis.call('DEL', KEYS[1])
end
return 1
