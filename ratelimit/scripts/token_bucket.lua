-- Token bucket (ratelimit/algorithms/token_bucket.py): a part of decide.lua.
--
-- Keeps a string: the microsecond of the last refill, the hits in use, and the part of one more as a share of the period.

methods.token_bucket = function()
  local self = {}

  function self.look(key, now, o)
    local stored = redis.call('GET', key)
    if not stored then return {now = now, used = 0, part = 0} end
    local time, used, part = string.match(stored, '^(%d+) (%d+) (%d+)$')
    time, used, part = tonumber(time), tonumber(used), tonumber(part)
    if now <= time then return {now = time, used = used, part = part} end
    local whole, rest = muldiv(o.limit, now - time, o.period)
    used, part = used - whole, part - rest
    if part < 0 then
      used, part = used - 1, part + o.period
    end
    if used < 0 then return {now = now, used = 0, part = 0} end
    return {now = now, used = used, part = part}
  end

  function self.capacity(o)
    return o.limit > 0 and o.size or min(0, o.size)
  end

  function self.in_use(state)
    return min(MOST, state.used + (state.part > 0 and 1 or 0))
  end

  function self.add(state, hits)
    state.used = min(MOST, state.used + hits)
    if state.used < 0 then
      state.used, state.part = 0, 0
    end
  end

  function self.correct(state, hits)
    self.add(state, hits)
  end

  local function until_used(state, used, o)
    if o.limit == 0 then return MOST end
    local whole, rest = muldiv(state.used - used, o.period, o.limit)
    return min(MOST, whole + sum_up(rest, state.part, o.limit))
  end

  function self.until_fits(state, hits, o)
    return until_used(state, o.size - hits, o)
  end

  function self.until_free(state, o)
    return (state.used > 0 or state.part > 0) and until_used(state, 0, o) or 0
  end

  function self.save(key, state, ttl)
    redis.call('SET', key, string.format('%.0f %.0f %.0f', state.now, state.used, state.part), 'EX', ttl)
  end

  return self
end
