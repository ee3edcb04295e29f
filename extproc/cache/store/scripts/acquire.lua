-- Makes the caller the leader of a key, unless it has a value or a leader already.
--
-- KEYS[1]                    the value
-- KEYS[2]                    the lock: the token of who leads, or `alone` (see release.lua)
-- KEYS[3]                    the fence: the token that was given out last
-- ARGV[1]                    the lock's life in milliseconds
-- ARGV[2]                    the fence's life in milliseconds, much longer
-- returns                    -1: there is a value; -2: all go alone; 0: another leads; else the caller's token
--
-- Tokens grow, even when the fence was lost: they are Redis' time in microseconds, or one more than the last.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return -1
end
local leads = redis.call('GET', KEYS[2])
if leads then
  return leads == 'alone' and -2 or 0
end
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[3]) or '0')
local token = math.max(time[1] * 1000000 + time[2], last + 1)
redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[1])
redis.call('SET', KEYS[3], string.format('%.0f', token), 'PX', ARGV[2])
return token
