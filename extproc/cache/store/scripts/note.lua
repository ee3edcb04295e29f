-- Notes in an index that a value is there, before it is written.
--
-- KEYS[1]                    the index: a sorted set of the values' keys, by the end of their lives
-- ARGV[1]                    the value's key (32 bytes)
-- ARGV[2]                    its life in milliseconds
-- returns                    how many of those whose time is over were removed
--
-- A time that is later stays. More is removed with each note than it can add. The index lives as long as the longest
-- of what it names.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = now + tonumber(ARGV[2])

local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 32)
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known or tonumber(known) < ends then
  redis.call('ZADD', KEYS[1], string.format('%.0f', ends), ARGV[1])
end
if tonumber(ARGV[2]) > redis.call('PTTL', KEYS[1]) then -- below 0 when it has none
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return #over
