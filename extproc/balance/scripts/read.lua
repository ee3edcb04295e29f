-- Reads all notices that still hold, and removes the others.
--
-- KEYS[1]                    the hash of all notices (see publish.lua)
-- returns                    for each: its field, the milliseconds that are left of it, and its value

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields, replies = redis.call('HGETALL', KEYS[1]), {}

for i = 1, #fields, 2 do
  local left = (tonumber(string.match(fields[i + 1], '^%d+ ')) or 0) - now
  if left <= 0 then
    redis.call('HDEL', KEYS[1], fields[i])
  else
    replies[#replies + 1] = fields[i]
    replies[#replies + 1] = left
    replies[#replies + 1] = fields[i + 1]
  end
end
return replies
