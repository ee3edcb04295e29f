-- The meter: finds the provider's usage in the response and puts it into dynamic metadata. `keeper.lua` stands in front.
--
-- Runs inside Envoy, so a streamed token costs no Python. Reads copies and withholds nothing, with one
-- exception: when we asked for the usage chunk and the client did not (metadata headgate.usage.strip), that one
-- event is taken out of the stream; for this an unfinished `data: {` line waits for its end, which no client
-- could have used before.
--
-- A stream of chat chunks that the provider ends before its end (no [DONE], no finish_reason) gets an error event, which
-- SDKs raise: half an answer must not look like a whole one. A connection that breaks cannot be told of in this way: Envoy
-- then cuts the client's, too.
--
-- in:  metadata headgate.usage {total: the estimate, strip: whether to take the usage event out, chunks: whether a
--      stream is one of chat chunks,
--      limits: what the limits say, where ext_proc has decided them}
-- out: metadata headgate.usage {total (where Envoy calls the rate-limit service to settle it),
--      detail: "total prompt completion cached", each a number or -}
--
-- Usage is cumulative, and may come in pieces (Anthropic: prompt first, completion last): of each number the largest of a
-- response counts, and an echoed object cannot lower it. In a WebSocket there are many answers: theirs are added up.

local BATCH = 4096         -- bytes searched at once
local LARGE = 1048576      -- bytes
local SMALL = 256          -- shorter pieces are joined, so that the last few hold a stream's end
local KEEP = 8             -- bytes carried over: a `"usage"` cut in two
local MAX_OBJECT = 8192    -- an unfinished usage object is carried no further
local MAX_WASTED = 65536   -- bytes of unfinished objects that one search looks at
local MAX_LINE = 262144    -- an unfinished line is held no longer
local MAX_TOTAL = 1000000000
local OVERHEAD = false     -- whether answers tell our own time (`overhead_header`)
local SETTLED = false      -- whether the access log settles what was reserved (`limits.settle: log`)

-- What a usage object may say.
local NUMBERS = { total_tokens = true, prompt_tokens = true, completion_tokens = true, cached_tokens = true,
  input_tokens = true, output_tokens = true, cache_read_input_tokens = true, cache_creation_input_tokens = true }
local LONGEST = 27   -- bytes of such a name

-- Where the string whose first byte is at `i` ends: at its quote. nil when `s` ends first.
local function string_end(s, i)
  local c = byte(s, i)
  while c ~= 34 do
    if not c then return nil end
    i = i + (c == 92 and 2 or 1)
    c = byte(s, i)
  end
  return i
end

-- The first byte from `i` on that is no white space, and where it is.
local function skip(s, i)
  local c = byte(s, i)
  while c and c <= 32 do
    i = i + 1
    c = byte(s, i)
  end
  return c, i
end

-- Where the JSON object that opens at `i` ends, and the first number behind each of its NUMBERS, wherever in it; nil when
-- `s` ends first. Byte by byte, which LuaJIT compiles, as it does no pattern.
local function read_object(s, i)
  local numbers, depth, name = {}, 0, ""
  local c = byte(s, i)
  while c do
    if c == 34 then
      local last = string_end(s, i + 1)
      if not last then return nil end
      name = last - i <= LONGEST + 1 and sub(s, i + 1, last - 1) or ""
      i = last
    elseif c == 58 and NUMBERS[name] and not numbers[name] then
      c, i = skip(s, i + 1)
      local value
      while c and c >= 48 and c <= 57 do
        value = (value or 0) * 10 + c - 48
        i = i + 1
        c = byte(s, i)
      end
      numbers[name] = value
      i = i - 1
    elseif c == 123 then
      depth = depth + 1
    elseif c == 125 then
      depth = depth - 1
      if depth == 0 then return i, numbers end
    end
    i = i + 1
    c = byte(s, i)
  end
end

local function larger(a, b)
  return (not a or b and b > a) and b or a
end

local function sum(a, b)
  return b and (a or 0) + b or a
end

local function record(meter, found)
  local total = found.total_tokens
  local prompt = found.prompt_tokens or found.input_tokens
  local completion = found.completion_tokens or found.output_tokens
  local cached = found.cached_tokens
  if not total and prompt then   -- Anthropic: no total, and what came from its cache is counted apart
    local read, written = found.cache_read_input_tokens, found.cache_creation_input_tokens
    prompt, cached = prompt + (read or 0) + (written or 0), cached or read
  end
  local join = meter.join
  meter.prompt, meter.completion = join(meter.prompt, prompt), join(meter.completion, completion)
  meter.cached = join(meter.cached, cached)
  if not total and (prompt or completion) then
    total = join == sum and (prompt or 0) + (completion or 0) or (meter.prompt or 0) + (meter.completion or 0)
  end
  if total then meter.total, meter.changed = join(meter.total, total), true end
end

-- Searches `s` for usage objects. Returns whether one was complete, and what the next search must begin with: an object
-- that has not ended, in which all else of `s` stands, else the last few bytes. `ends`: no more comes.
local function scan(meter, s, ends)
  local i, found, wasted = 1, false, 0
  while true do
    local a, b = find(s, 'usage"', i, true)
    if not a then break end
    i = b + 1
    if a > 1 and byte(s, a - 1) == 34 and byte(s, a - 2) ~= 92 then
      local c, at = skip(s, i)
      if c == 58 then c, at = skip(s, at + 1) end
      local last, numbers
      if c == 123 and wasted < MAX_WASTED then last, numbers = read_object(s, at) end
      if last then
        record(meter, numbers)
        found, i = true, last + 1
      elseif not c or c == 123 then   -- most say null
        if not ends and #s - a < MAX_OBJECT then return found, sub(s, a - 1) end
        wasted = wasted + #s - at
      end
    end
  end
  return found, sub(s, -KEEP)
end

local function shown(tokens)
  return tokens and math.min(tokens, MAX_TOTAL) or "-"
end

local function publish(handle, meter)
  if not meter.changed then return end
  meter.changed = false
  local metadata = handle:streamInfo():dynamicMetadata()
  local total = shown(meter.total)
  if not SETTLED then metadata:set("headgate.usage", "total", total) end
  local detail = total .. " " .. shown(meter.prompt) .. " " .. shown(meter.completion) .. " " .. shown(meter.cached)
  metadata:set("headgate.usage", "detail", detail)
end

local TRUNCATED = 'data: {"error":{"message":"The provider ended the stream before its end.","type":"upstream_error",'
  .. '"param":null,"code":"stream_truncated"}}\n\n'

-- What to add to a stream of chunks that ends behind `tail`, and `before` that; nothing when it is whole.
local function missing_end(before, tail)
  local text = before .. tail
  if text == "" or find(text, "[DONE]", 1, true) or find(text, '"finish_reason"%s*:%s*"') then return nil end
  return sub(text, -2) == "\n\n" and TRUNCATED or "\n\n" .. TRUNCATED
end

-- Whether a finish reason stands in `s`, as it is usually written: it may come long before the end. A plain search stops
-- at every byte like the first of what it looks for: of all in a chunk `_` is one of the rarest.
local function finishes(s)
  local i = 1
  while true do
    local a, b = find(s, '_reason":', i, true)
    if not a then return false end
    local c = byte(s, b + 1)
    if (c == 34 or c == 32 and byte(s, b + 2) == 34) and sub(s, a - 7, a - 1) == '"finish' then return true end
    i = b + 1
  end
end

local function watch(handle, chunks, kept)
  local meter, finished = { join = larger }, not chunks
  local parts, n, size = {}, 0, 0
  local before, total = "", 0   -- what was searched last, and how much there was
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      n = n + 1
      local s = chunk:getBytes(0, length)
      parts[n] = s
      size = size + length
      if kept then keep(kept, s) end
      if size >= BATCH then
        before = concat(parts, "", 1, n)
        finished = finished or finishes(before)
        local _, carry = scan(meter, before)
        publish(handle, meter)
        parts, n, size, total = { carry }, 1, 0, total + size
      end
    elseif not finished then   -- only the end of a stream is an empty chunk
      local text = missing_end(before, concat(parts, "", 1, n))
      if text then
        chunk:setBytes(text)
        if kept then keep(kept, text) end
      end
    end
  end
  if n > 0 then
    scan(meter, concat(parts, "", 1, n), true)
    publish(handle, meter)
  end
  if kept then hand_over(kept) end
  parts, before, kept = nil, nil, nil
  if total > LARGE then collectgarbage() end   -- by itself Lua would keep all of it until it needs room again
end

-- What a WebSocket says: each answer has a usage of its own. Published at once, since the end of one is never seen here.
local function listen(handle)
  local meter, carry = { join = sum }, ""
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local _
      _, carry = scan(meter, carry .. chunk:getBytes(0, length))
      publish(handle, meter)
    end
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

-- A line that may be the usage event and has no end yet: `hold` its pieces, `release` them in front of what follows.
local function hold(held, s)
  held.n, held.size = held.n + 1, held.size + #s
  held[held.n] = s
end

local function release(held, s)
  if held.n == 0 then return s end
  held[held.n + 1] = s
  local text = concat(held, "", 1, held.n + 1)
  held.n, held.size = 0, 0
  return text
end

-- What of `s` may go on now; an unfinished line that may be the usage event is held. Only `s` is searched for line ends:
-- what is held has none.
local function whole_lines(held, s)
  if byte(s, -1) == 10 then return release(held, s) end
  local start = match(s, '^.*\n()')
  if held.n > 0 and not start then
    if held.size + #s >= MAX_LINE then return release(held, s) end
    hold(held, s)
    return ""
  end
  start = start or 1
  local tail = sub(s, start)
  if #tail >= MAX_LINE or not may_be_event(tail) then return release(held, s) end
  s = release(held, sub(s, 1, start - 1))
  hold(held, tail)
  return s
end

local function strip(handle, kept)
  local meter, state, held, carry = { join = larger }, { swallow = false }, { n = 0, size = 0 }, ""
  local third, second, last, finished = "", "", "", false   -- what came last
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local s = chunk:getBytes(0, length)
      if #last < SMALL then last = last .. s else third, second, last = second, last, s end
      finished = finished or finishes(s)
      local got = s
      s = whole_lines(held, s)
      local found
      found, carry = scan(meter, carry .. s)
      if byte(s, -1) == 10 then carry = "" end   -- a line's usage ends with the line
      if state.swallow or found then
        publish(handle, meter)
        local whole = match(s, '^.*\n()') or 1
        s = without_usage(state, sub(s, 1, whole - 1)) .. sub(s, whole)
      end
      if s ~= got then chunk:setBytes(s) end
      if kept then keep(kept, s) end
    else
      local text = not finished and missing_end(third .. second, last)
      if text or held.n > 0 then
        local rest = release(held, "")
        scan(meter, carry .. rest, true)
        text = rest .. (text or "")
        chunk:setBytes(text)
        if kept then keep(kept, text) end
      end
    end
  end
  scan(meter, release(held, ""), true)
  publish(handle, meter)
  if kept then hand_over(kept) end
end

-- Our own time for this request, in microseconds: what ext_proc and the rate-limit service say they took.
local function tell_overhead(headers, metadata)
  local decision = metadata:get("headgate") or {}
  local limit = metadata:get("envoy.filters.http.ratelimit") or {}
  headers:replace("x-headgate-overhead-us", string.format("%d", (decision.decision_us or 0) + (limit.decision_us or 0)))
end

-- What the rate-limit service would have added to the answer: `requests 60 59 12s,tokens 1000 990 12s`.
local function tell_limits(headers, limits)
  local i = 1
  while true do
    local a = find(limits, " ", i, true)
    local b = a and find(limits, " ", a + 1, true)
    local c = b and find(limits, " ", b + 1, true)
    if not c then return end
    local comma = find(limits, ",", c + 1, true)
    local what = sub(limits, i, a - 1)
    headers:add("x-ratelimit-limit-" .. what, sub(limits, a + 1, b - 1))
    headers:add("x-ratelimit-remaining-" .. what, sub(limits, b + 1, c - 1))
    headers:add("x-ratelimit-reset-" .. what, sub(limits, c + 1, comma and comma - 1))
    if not comma then return end
    i = comma + 1
  end
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local headers = handle:headers()
  if OVERHEAD then tell_overhead(headers, metadata) end
  local usage = metadata:get("headgate.usage")
  if not usage then
    local facts = metadata:get("headgate")
    if not (facts and facts.estimate) then return end   -- no answer of a provider
  end
  if usage and usage.limits then tell_limits(headers, usage.limits) end
  local status = tonumber(headers:get(":status"))
  if status == 101 then return listen(handle) end
  if status >= 400 then
    if SETTLED then
      metadata:set("headgate.usage", "detail", "0 - - -")
    elseif usage then
      metadata:set("headgate.usage", "total", 0)
    end
    return
  end
  local chunks = usage and usage.chunks and find(headers:get("content-type") or "", "text/event-stream", 1, true)
  if chunks then headers:remove("content-length") end
  local kept = keeper(handle, metadata, headers, status)
  if chunks and usage.strip then strip(handle, kept) else watch(handle, chunks, kept) end
end
