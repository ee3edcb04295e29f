-- Keeps the lock of a leader, or takes it again when it was lost and nobody has led since.
--
-- KEYS[1]                    the lock
-- KEYS[2]                    the fence (see acquire.lua)
-- ARGV[1]                    the leader's token
-- ARGV[2]                    the lock's life in milliseconds
-- returns                    1, or 0 when another has led since

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
