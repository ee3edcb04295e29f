-- Gives the lock back, if it is still the leader's.
--
-- KEYS[1]                    the lock
-- ARGV[1]                    the leader's token
-- returns                    1, or 0 when it was lost already

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
