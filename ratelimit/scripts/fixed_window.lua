-- Applies the operations of one decision to their counters, together.
--
-- KEYS[i]                    the counter of operation i (all in one slot)
-- ARGV[4i-3 .. 4i]           action ("add" | "reserve" | "stop" | "watch" | "adjust"), hits, limit, ttl in seconds
-- returns                    for every operation: the counter after it, and 1 if it is over its limit, else 0
--
-- If any operation but a watch is over its limit, no reserve counts, and no stop that is not over itself; an add and a
-- watch always do. A counter lives for the ttl of the operation that made it, never falls below 0 and stops at 2^53 - 1,
-- where Lua's numbers stop being exact. One that somebody else left without a ttl gets one, at the latest 16 hits later.

local MOST = 9007199254740991

-- The shorter way, for decisions that count whatever they find: the counter after it says all.
local plain = true
for i = 1, #KEYS do
  local action = ARGV[4 * i - 3]
  if (action ~= 'add' and action ~= 'watch') or ARGV[4 * i - 2] == '0' then
    plain = false
    break
  end
end
if plain then
  local replies = {}
  for i, key in ipairs(KEYS) do
    local hits, after = tonumber(ARGV[4 * i - 2]), redis.call('INCRBY', key, ARGV[4 * i - 2])
    if after == hits then
      redis.call('EXPIRE', key, ARGV[4 * i])
    elseif after > MOST then
      redis.call('SET', key, string.format('%.0f', MOST), 'PX', math.max(1, redis.call('PTTL', key)))
    elseif after % 16 == 0 and redis.call('TTL', key) == -1 then -- somebody left it without a ttl
      redis.call('EXPIRE', key, ARGV[4 * i])
    end
    replies[2 * i - 1] = math.min(MOST, after)
    replies[2 * i] = after > tonumber(ARGV[4 * i - 1]) and 1 or 0
  end
  return replies
end

local values, asked, overs, denied = {}, {}, {}, false

for i, key in ipairs(KEYS) do
  values[key] = values[key] or tonumber(redis.call('GET', key) or '0')
  overs[i] = 0
  local action = ARGV[4 * i - 3]
  if action ~= 'adjust' then
    asked[key] = (asked[key] or 0) + tonumber(ARGV[4 * i - 2])
    if values[key] + asked[key] > tonumber(ARGV[4 * i - 1]) then
      overs[i] = 1
      denied = denied or action ~= 'watch'
    end
  end
end

local replies = {}
for i, key in ipairs(KEYS) do
  local action = ARGV[4 * i - 3]
  if not (denied and (action == 'reserve' or (action == 'stop' and overs[i] == 0))) then
    local before = values[key]
    local after = math.min(MOST, math.max(0, before + tonumber(ARGV[4 * i - 2])))
    if after ~= before then
      local lives = redis.call('TTL', key) -- -2: no such key, -1: a key that somebody left without a ttl
      if lives == -2 then
        redis.call('SET', key, string.format('%.0f', after), 'EX', ARGV[4 * i])
      else
        redis.call('INCRBY', key, string.format('%.0f', after - before))
        if lives == -1 then redis.call('EXPIRE', key, ARGV[4 * i]) end
      end
      values[key] = after
    end
  end
  replies[2 * i - 1] = values[key]
  replies[2 * i] = overs[i]
end
return replies
