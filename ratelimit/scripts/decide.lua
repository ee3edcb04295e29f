-- Applies the operations of one decision to their counters, together, whatever their algorithms.
--
-- The script that Redis is sent is arithmetic.lua, the algorithms' parts and this file, in one piece. Decisions of
-- fixed windows alone go to fixed_window.lua, which does less.
--
-- KEYS[i]                    the counter of operation i (all in one slot)
-- ARGV[1]                    now, in microseconds
-- ARGV[7i-5 .. 7i+1]         algorithm, action ("add" | "reserve" | "stop" | "watch" | "adjust"), hits, limit,
--                            ttl (of a fixed window) or period in seconds, burst, and when the hits that an adjust
--                            corrects were counted, in unix seconds
-- returns                    for every operation: what its counter has in use after it, 1 if it is over its limit,
--                            else 0, and the seconds to its reset (0 of a fixed window)
--
-- First every counter is looked at, then the decision is committed. If any operation but a watch is over, no
-- reserve counts and no stop that is not over itself. An algorithm other than the fixed window counts nothing of an operation that is
-- over. A counter that is changed lives until it is free, and SLACK seconds longer for clocks that differ; a fixed
-- window for the ttl of the operation that made it.

local SLACK = 5

local fixed_window = {}

function fixed_window.look(key)
  return {value = tonumber(redis.call('GET', key) or '0')}
end

function fixed_window.add(key, state, o)
  local after = min(MOST, max(0, state.value + o.hits))
  if after == state.value then return end
  local lives = redis.call('TTL', key) -- -2: no such key, -1: a key that somebody left without a ttl
  if lives == -2 then
    redis.call('SET', key, text(after), 'EX', o.seconds)
  else
    redis.call('INCRBY', key, text(after - state.value))
    if lives == -1 then redis.call('EXPIRE', key, o.seconds) end
  end
  state.value = after
end

local now = tonumber(ARGV[1])
local made, states, asked, operations, denied = {}, {}, {}, {}, false

for i, key in ipairs(KEYS) do
  local a = 7 * i - 5
  local algorithm = ARGV[a]
  local o = {
    action = ARGV[a + 1], hits = tonumber(ARGV[a + 2]), limit = tonumber(ARGV[a + 3]), seconds = ARGV[a + 4],
    period = ARGV[a + 4] * SECOND, size = tonumber(ARGV[a + 5]), at = ARGV[a + 6] * SECOND, over = 0, wait = 0,
  }
  operations[i] = o
  if algorithm ~= 'fixed_window' then
    made[algorithm] = made[algorithm] or methods[algorithm]()
    o.method = made[algorithm]
  end
  states[key] = states[key] or (o.method or fixed_window).look(key, now, o)
  if o.action ~= 'adjust' then
    local state, earlier, method = states[key], asked[key] or 0, o.method
    local wanted = earlier + o.hits
    if not method then
      if state.value + wanted > o.limit then o.over = 1 end
    elseif method.in_use(state, o) + wanted > method.capacity(o) then
      o.over = 1
      if wanted <= method.capacity(o) then
        o.wait = method.until_fits(state, wanted, o)
      else
        o.wait = max(o.period, method.until_free(state, o)) -- it never fits
      end
      wanted = earlier
    end
    asked[key] = wanted
    denied = denied or (o.over == 1 and o.action ~= 'watch')
  end
end

local replies = {}
for i, key in ipairs(KEYS) do
  local o, state = operations[i], states[key]
  local method = o.method
  local counted = o.hits ~= 0
    and not (denied and (o.action == 'reserve' or (o.action == 'stop' and o.over == 0)))
    and not (method and o.over == 1)
  if not method then
    if counted then fixed_window.add(key, state, o) end
    replies[3 * i - 2], replies[3 * i] = state.value, 0
  else
    if counted then
      if o.action == 'adjust' then method.correct(state, o.hits, o.at, o) else method.add(state, o.hits, o) end
      method.save(key, state, seconds_up(method.until_free(state, o)) + SLACK)
    end
    replies[3 * i - 2] = method.in_use(state, o)
    replies[3 * i] = seconds_up(o.over == 1 and o.wait or method.until_free(state, o))
  end
  replies[3 * i - 1] = o.over
end
return replies
