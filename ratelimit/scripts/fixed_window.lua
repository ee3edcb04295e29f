-- Applies the operations of one decision to their counters, together.
--
-- KEYS[i]                    the counter of operation i (all in one slot)
-- ARGV[4i-3 .. 4i]           action ("add" | "reserve" | "adjust"), hits, limit, ttl in seconds
-- returns                    for every operation: the counter after it, and 1 if its reserve was refused, else 0
--
-- If any reserve would pass its limit, none of them counts. A counter lives for the ttl of the operation that
-- made it, and never falls below 0.

local n = #KEYS
local values, refusals, refused, pending = {}, {}, false, {}

for i = 1, n do
  local key = KEYS[i]
  values[key] = values[key] or tonumber(redis.call('GET', key) or '0')
  refusals[i] = 0
  if ARGV[4 * i - 3] == 'reserve' then
    pending[key] = (pending[key] or 0) + tonumber(ARGV[4 * i - 2])
    if values[key] + pending[key] > tonumber(ARGV[4 * i - 1]) then
      refusals[i] = 1
      refused = true
    end
  end
end

local replies = {}
for i = 1, n do
  local key, action, hits = KEYS[i], ARGV[4 * i - 3], tonumber(ARGV[4 * i - 2])
  if hits ~= 0 and not (action == 'reserve' and refused) then
    local before = values[key]
    local after = math.max(0, before + hits)
    if redis.call('EXISTS', key) == 1 then
      if after ~= before then redis.call('INCRBY', key, string.format('%.0f', after - before)) end
    else
      redis.call('SET', key, string.format('%.0f', after), 'EX', ARGV[4 * i])
    end
    values[key] = after
  end
  replies[2 * i - 1] = values[key]
  replies[2 * i] = refusals[i]
end
return replies
