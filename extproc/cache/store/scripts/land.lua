-- Writes a leader's value and gives its lock back, unless another has led since.
--
-- KEYS[1]                    the value
-- KEYS[2]                    the lock
-- KEYS[3]                    the fence (see acquire.lua)
-- ARGV[1]                    the leader's token
-- ARGV[2]                    the value
-- ARGV[3]                    its life in milliseconds
-- returns                    1, or 0 when nothing was written

if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return 1
