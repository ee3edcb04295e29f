-- GCRA (ratelimit/algorithms/gcra.py): a part of decide.lua.
--
-- Keeps a string: the theoretical arrival time in microseconds, and the part of one more as a share of the limit.

methods.gcra = function()
  local self = {}

  function self.look(key, now, o)
    local stored = redis.call('GET', key)
    if not stored then return {now = now, tat = now, part = 0} end
    local tat, part = string.match(stored, '^(%d+) (%d+)$')
    tat, part = tonumber(tat), tonumber(part)
    if tat < now then return {now = now, tat = now, part = 0} end
    return {now = now, tat = tat, part = min(part, max(0, o.limit - 1))}
  end

  function self.capacity(o)
    return o.limit > 0 and o.size or min(0, o.size)
  end

  function self.in_use(state, o)
    local whole, rest = muldiv(state.tat - state.now, o.limit, o.period)
    return min(MOST, whole + sum_up(rest, state.part, o.period))
  end

  function self.add(state, hits, o)
    if o.limit == 0 then return end
    if hits >= 0 then
      local whole, rest = muldiv(hits, o.period, o.limit)
      state.tat = state.tat + whole
      if rest >= o.limit - state.part then
        state.tat, state.part = state.tat + 1, rest - (o.limit - state.part)
      else
        state.part = state.part + rest
      end
    else
      local whole, rest = muldiv(-hits, o.period, o.limit)
      state.tat = state.tat - whole
      if rest > state.part then
        state.tat, state.part = state.tat - 1, state.part + (o.limit - rest)
      else
        state.part = state.part - rest
      end
    end
    if state.tat < state.now then
      state.tat, state.part = state.now, 0
    elseif state.tat >= MOST then
      state.tat, state.part = MOST, 0
    end
  end

  function self.correct(state, hits, _, o)
    self.add(state, hits, o)
  end

  function self.until_fits(state, hits, o)
    local room, rest = muldiv(o.size - hits, o.period, o.limit)
    return state.tat - state.now - room + (state.part > rest and 1 or 0)
  end

  function self.until_free(state)
    return state.tat - state.now + (state.part > 0 and 1 or 0)
  end

  function self.save(key, state, ttl)
    redis.call('SET', key, string.format('%.0f %.0f', state.tat, state.part), 'EX', ttl)
  end

  return self
end
