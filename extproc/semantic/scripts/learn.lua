-- Puts a question's vector into the set of its frame, and keeps that set in bounds.
--
-- KEYS[1]                    the vector set
-- ARGV[1]                    the vector (32-bit floats)
-- ARGV[2]                    the key of the kept answer that it points to
-- ARGV[3]                    until when (seconds since 1970)
-- ARGV[4]                    now
-- ARGV[5]                    its life in milliseconds: the set lives at least as long
-- ARGV[6]                    how many vectors the set may hold
-- returns                    how many it holds

redis.call('VADD', KEYS[1], 'FP32', ARGV[1], ARGV[2], 'NOQUANT', 'SETATTR', '{"until":' .. ARGV[3] .. '}')
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
local most, now = tonumber(ARGV[6]), tonumber(ARGV[4])
local held = redis.call('VCARD', KEYS[1])
for _, element in ipairs(redis.call('VRANDMEMBER', KEYS[1], 8)) do
  if element ~= ARGV[2] then
    local attributes = redis.call('VGETATTR', KEYS[1], element)
    local ends = attributes and tonumber(string.match(attributes, '(%d+)'))
    if held > most or not ends or ends <= now then
      held = held - redis.call('VREM', KEYS[1], element)
    end
  end
end
return held
