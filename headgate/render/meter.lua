-- The meter: finds the provider's usage in the response and puts it into dynamic metadata.
--
-- Runs inside Envoy, so a streamed token costs no Python. Reads copies and withholds nothing, with one
-- exception: when we asked for the usage chunk and the client did not (metadata headgate.usage.strip), that one
-- event is taken out of the stream; for this an unfinished `data: {` line waits for its end, which no client
-- could have used before.
--
-- in:  metadata headgate.usage {total: the estimate, strip: whether to take the usage event out}
-- out: metadata headgate.usage {total, detail: {prompt, completion, cached}}
-- The largest total of a response counts: usage is cumulative, and an echoed object cannot lower it.

local find, match, sub, byte, concat = string.find, string.match, string.sub, string.byte, table.concat
local BATCH = 4096         -- bytes searched at once
local KEEP = 8             -- bytes carried over: a `"usage"` cut in two
local MAX_OBJECT = 8192    -- an unfinished usage object is carried no further
local MAX_LINE = 65536     -- an unfinished line is held no longer
local MAX_TOTAL = 1000000000
local OVERHEAD = false     -- whether answers tell our own time (`overhead_header`)

-- Where the JSON object that opens at `from` ends, strings respected; nil when `s` ends first.
local function object_end(s, from)
  local depth, i = 0, from
  while true do
    local at = find(s, '["{}]', i)
    if not at then return nil end
    local c = byte(s, at)
    i = at + 1
    if c == 123 then
      depth = depth + 1
    elseif c == 125 then
      depth = depth - 1
      if depth == 0 then return at end
    else
      while true do
        local q = find(s, '["\\]', i)
        if not q then return nil end
        if byte(s, q) == 34 then i = q + 1; break end
        i = q + 2
      end
    end
  end
end

local function number(object, a, b)
  return tonumber(match(object, '"' .. a .. '"%s*:%s*(%d+)') or (b and match(object, '"' .. b .. '"%s*:%s*(%d+)')))
end

local function record(meter, object)
  local prompt = number(object, "prompt_tokens", "input_tokens")
  local completion = number(object, "completion_tokens", "output_tokens")
  local total = number(object, "total_tokens")
  if not total and (prompt or completion) then total = (prompt or 0) + (completion or 0) end
  if not total or (meter.total and total < meter.total) then return end
  meter.total, meter.prompt, meter.completion = total, prompt, completion
  meter.cached = number(object, "cached_tokens")
  meter.changed = true
end

-- Searches `s` for usage objects. Returns whether one was complete, and what the next search must begin with.
local function scan(meter, s)
  local i, found, unfinished = 1, false, nil
  while true do
    local a, b = find(s, 'usage"', i, true)
    if not a then break end
    i = b + 1
    if a > 1 and byte(s, a - 1) == 34 and byte(s, a - 2) ~= 92 then
      local _, brace = find(s, '^%s*:%s*{', i)
      if brace then
        local last = object_end(s, brace)
        if last then
          record(meter, sub(s, brace, last))
          found, i = true, last + 1
        else
          unfinished = a - 1
        end
      elseif find(s, '^%s*:?%s*$', i) then
        unfinished = a - 1
      end
    end
  end
  if unfinished and #s - unfinished < MAX_OBJECT then return found, sub(s, unfinished) end
  return found, sub(s, -KEEP)
end

local function publish(handle, meter)
  if not meter.changed then return end
  meter.changed = false
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("headgate.usage", "total", math.min(meter.total, MAX_TOTAL))
  local detail = { prompt = meter.prompt, completion = meter.completion, cached = meter.cached }
  metadata:set("headgate.usage", "detail", detail)
end

local function watch(handle)
  local meter = {}
  local parts, n, size = {}, 0, 0
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      n = n + 1
      parts[n] = chunk:getBytes(0, length)
      size = size + length
      if size >= BATCH then
        local _, carry = scan(meter, concat(parts, "", 1, n))
        publish(handle, meter)
        parts[1], n, size = carry, 1, 0
      end
    end
  end
  if n > 0 then
    scan(meter, concat(parts, "", 1, n))
    publish(handle, meter)
  end
end

-- Whether an unfinished line may still become a `data: {` line.
local function may_be_event(tail)
  return find(tail, '^data:%s*{') or find(tail, '^data:%s*$') or sub("data:", 1, #tail) == tail
end

-- The event that carries only usage: no choice in it.
local function is_usage_line(line)
  return find(line, '^data:%s*{') and find(line, '"choices"%s*:%s*%[%s*%]') and find(line, '"usage"%s*:%s*{')
end

-- `text` (whole lines) without the usage event and the empty line behind it. `state.swallow`: that line is still to come.
local function without_usage(state, text)
  local kept, n = {}, 0
  for line in string.gmatch(text, '[^\n]*\n') do
    if state.swallow and find(line, '^\r?\n$') then
      state.swallow = false
    elseif is_usage_line(line) then
      state.swallow = true
    else
      state.swallow = false
      n = n + 1
      kept[n] = line
    end
  end
  return concat(kept, "", 1, n)
end

local function strip(handle)
  local meter, state, held = {}, { swallow = false }, ""
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local s = chunk:getBytes(0, length)
      local changed = held ~= ""
      if changed then s = held .. s; held = "" end
      if byte(s, #s) ~= 10 then
        local start = match(s, '.*\n()') or 1
        local tail = sub(s, start)
        if #tail < MAX_LINE and may_be_event(tail) then
          held, s, changed = tail, sub(s, 1, start - 1), true
        end
      end
      if state.swallow or scan(meter, s) then
        publish(handle, meter)
        local whole = match(s, '.*\n()') or 1
        s, changed = without_usage(state, sub(s, 1, whole - 1)) .. sub(s, whole), true
      end
      if changed then chunk:setBytes(s) end
    end
  end
  if held ~= "" then
    scan(meter, held)
    publish(handle, meter)
  end
end

-- Our own time for this request, in microseconds: what ext_proc and the rate-limit service say they took.
local function tell_overhead(handle, metadata)
  local decision = metadata:get("headgate") or {}
  local limit = metadata:get("envoy.filters.http.ratelimit") or {}
  local sum = (decision.decision_us or 0) + (limit.decision_us or 0)
  handle:headers():replace("x-headgate-overhead-us", string.format("%d", sum))
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  if OVERHEAD then tell_overhead(handle, metadata) end
  local usage = metadata:get("headgate.usage")
  if not usage then return end
  local headers = handle:headers()
  if tonumber(headers:get(":status")) >= 400 then
    metadata:set("headgate.usage", "total", 0)
    return
  end
  if usage.strip and find(headers:get("content-type") or "", "text/event-stream", 1, true) then
    headers:remove("content-length")
    strip(handle)
  else
    watch(handle)
  end
end
