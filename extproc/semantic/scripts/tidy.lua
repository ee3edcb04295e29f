-- Keeps the vector set of a frame in bounds, after a vector was added.
--
-- KEYS[1]                    the vector set
-- ARGV[1]                    the element that was added: it stays
-- ARGV[2]                    now (seconds since 1970)
-- ARGV[3]                    its life in milliseconds: the set lives at least as long
-- ARGV[4]                    how many vectors the set may hold
-- returns                    how many it holds; 0 when there is none

local held = redis.call('VCARD', KEYS[1])
if held == 0 then
  return 0
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local now, most = tonumber(ARGV[2]), tonumber(ARGV[4])
for _, element in ipairs(redis.call('VRANDMEMBER', KEYS[1], 8)) do
  if element ~= ARGV[1] then
    local attributes = redis.call('VGETATTR', KEYS[1], element)
    local ends = attributes and tonumber(string.match(attributes, '(%d+)'))
    if held > most or not ends or ends <= now then
      held = held - redis.call('VREM', KEYS[1], element)
    end
  end
end
return held
