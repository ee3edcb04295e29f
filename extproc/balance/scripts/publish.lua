-- Writes down until when targets are to be left out, by Redis' own clock.
--
-- KEYS[1]                    the hash of all notices
-- ARGV[1]                    who publishes
-- ARGV[3i-1 .. 3i+1]         field (kind and subject), milliseconds from now, reason
-- returns                    how many were written
--
-- A value is `<end in unix milliseconds> <who> <reason>`. One that ends later stays. The hash lives as long as the
-- longest of its notices.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local written, longest = 0, 0

for i = 2, #ARGV, 3 do
  local ends = now + tonumber(ARGV[i + 1])
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  if not known or ends > (tonumber(string.match(known, '^%d+')) or 0) then
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%.0f %s %s', ends, ARGV[1], ARGV[i + 2]))
    written = written + 1
    longest = math.max(longest, ends - now)
  end
end
if longest > redis.call('PTTL', KEYS[1]) then -- below 0 when it has none
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', longest))
end
return written
