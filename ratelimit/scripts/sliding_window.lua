-- Sliding window counter (ratelimit/algorithms/sliding_window.py): a part of decide.lua.
--
-- Keeps a string: the second in which the current window began, the previous window's hits, the current one's.

methods.sliding_window = function()
  local self = {}

  function self.look(key, now, o)
    local start = now - fmod(now, o.period)
    local stored = redis.call('GET', key)
    if not stored then return {now = now, start = start, previous = 0, current = 0} end
    local began, previous, current = string.match(stored, '^(%d+) (%d+) (%d+)$')
    began, previous, current = began * SECOND, tonumber(previous), tonumber(current)
    if start <= began then return {now = max(now, began), start = began, previous = previous, current = current} end
    return {now = now, start = start, previous = start - began == o.period and current or 0, current = 0}
  end

  function self.capacity(o)
    return o.limit
  end

  function self.in_use(state, o)
    local whole, rest = muldiv(state.previous, o.period - (state.now - state.start), o.period)
    return min(MOST, state.current + whole + (rest > 0 and 1 or 0))
  end

  function self.add(state, hits)
    state.current = min(MOST, max(0, state.current + hits))
  end

  function self.correct(state, hits, at, o)
    local start = at - fmod(at, o.period)
    if start == state.start - o.period then
      state.previous = min(MOST, max(0, state.previous + hits))
    elseif start >= state.start or hits > 0 then
      self.add(state, hits)
    end
  end

  function self.until_fits(state, hits, o)
    local room, passed = o.limit - hits, state.now - state.start
    if state.current > room then return 2 * o.period - passed - muldiv(room, o.period, state.current) end
    return o.period - passed - muldiv(room - state.current, o.period, state.previous)
  end

  function self.until_free(state, o)
    local left = o.period - (state.now - state.start)
    if state.current > 0 then return left + o.period end
    return state.previous > 0 and left or 0
  end

  function self.save(key, state, ttl)
    local stored = string.format('%.0f %.0f %.0f', state.start / SECOND, state.previous, state.current)
    redis.call('SET', key, stored, 'EX', ttl)
  end

  return self
end
