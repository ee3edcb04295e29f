-- Sliding log (ratelimit/algorithms/sliding_log.py): a part of decide.lua.
--
-- Keeps a sorted set: an entry "<microsecond>:<hits>" by its microsecond, one for each microsecond, and "sum", whose
-- score is -1 - sum and so the lowest. A log whose sum is 0 is deleted.

methods.sliding_log = function()
  local PAGE, MOST_LOOKED_AT = 500, 128
  local self = {}

  local function hits_of(entry)
    return tonumber(string.match(entry, ':(-?%d+)$'))
  end

  local function newest(key)
    local last = tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2])
    return last and last >= 0 and last or nil -- not the sum
  end

  local function keep_sum(key, state)
    if state.sum > 0 and state.newest then
      redis.call('ZADD', key, text(-1 - state.sum), 'sum')
    else
      redis.call('DEL', key)
      state.sum, state.newest = 0, nil
    end
  end

  local function expire(key, state, before)
    repeat
      local entries = redis.call('ZRANGEBYSCORE', key, 0, text(before), 'LIMIT', 0, PAGE)
      for _, entry in ipairs(entries) do state.sum = max(-MOST, min(MOST, state.sum - hits_of(entry))) end
      if #entries > 0 then redis.call('ZREMRANGEBYRANK', key, 1, #entries) end
    until #entries < PAGE
    if state.newest <= before then state.newest = nil end
    keep_sum(key, state)
  end

  function self.look(key, now, o)
    local low = redis.call('ZRANGE', key, 0, 1, 'WITHSCORES') -- the sum and the oldest entry
    if #low == 0 then return {key = key, now = now, sum = 0} end
    local last = newest(key)
    local state = {key = key, now = max(now, last), sum = -1 - tonumber(low[2]), newest = last}
    if tonumber(low[4]) <= state.now - o.period then expire(key, state, state.now - o.period) end
    return state
  end

  function self.capacity(o)
    return o.limit
  end

  function self.in_use(state)
    return state.sum
  end

  local function enter(state, hits, at)
    hits = min(MOST - state.sum, hits)
    if hits == 0 then return end
    local key, before = state.key, 0
    if state.newest and at <= state.newest then
      local entry = redis.call('ZRANGEBYSCORE', key, text(at), text(at))[1]
      if entry then
        before = hits_of(entry)
        hits = min(MOST - before, max(-MOST - before, hits))
        redis.call('ZREM', key, entry)
      end
    end
    if before + hits ~= 0 then redis.call('ZADD', key, text(at), text(at) .. ':' .. text(before + hits)) end
    state.sum, state.newest = state.sum + hits, newest(key)
    keep_sum(key, state)
  end

  function self.add(state, hits)
    enter(state, hits, state.now)
  end

  function self.correct(state, hits, at, o)
    at = min(at, state.now)
    if at > state.now - o.period then
      enter(state, hits, at)
    elseif hits > 0 then
      enter(state, hits, state.now)
    end
  end

  function self.until_free(state, o)
    return state.sum > 0 and state.newest + o.period - state.now or 0
  end

  function self.until_fits(state, hits, o)
    local excess = state.sum - (o.limit - hits) -- in this order it is exact
    for _, ranks in ipairs({{1, 1}, {2, MOST_LOOKED_AT}}) do -- mostly the oldest entry is enough
      local entries = redis.call('ZRANGE', state.key, ranks[1], ranks[2], 'WITHSCORES')
      for i = 1, #entries, 2 do
        excess = excess - hits_of(entries[i])
        if excess <= 0 then return tonumber(entries[i + 1]) + o.period - state.now end
      end
    end
    return self.until_free(state, o)
  end

  function self.save(key, state, ttl)
    if state.sum > 0 then redis.call('EXPIRE', key, ttl) end
  end

  return self
end
