-- The keeper, a part of the meter: on routes whose answers are kept (CACHE) it holds what the client gets, and hands it to
-- the access log in one piece: the bytes that the meter has in hand anyway, no more than the route's metadata `max_answer`.
--
-- in:  metadata headgate.cache {ticket}
-- out: metadata headgate.cache {answer: `LENGTH FORM BODY`: the content-length or -, `ascii` or `base64`, and so the body,
--      whole or up to a stream's last event; too_large: true instead}

local find, match, sub, byte, concat = string.find, string.match, string.sub, string.byte, table.concat
local CACHE = false        -- whether answers are to be kept: only in the script of the routes where they are
local MAX_PIECES = 512     -- pieces of an answer that are held apart: a provider may send it byte by byte
local MAX_EARLY = 4        -- times that an answer is handed over before its end

-- An answer that is to be kept; nil when it is not.
local function keeper(handle, metadata, headers, status)
  local facts = CACHE and status == 200 and metadata:get("headgate.cache")
  if not facts or not facts.ticket or facts.ticket == "" then return nil end
  local events = find(headers:get("content-type") or "", "text/event-stream", 1, true)
  return { handle = handle, max = handle:metadata():get("max_answer") or 0, events = events and "", early = 0,
           length = headers:get("content-length") or "-",   -- Envoy's own log knows what setBytes has made of it
           joined = {}, pieces = {}, n = 0, size = 0, given = -1 }
end

-- Compiled by LuaJIT this takes a nanosecond a byte; a pattern would take twenty.
local function is_ascii(s)
  for i = 1, #s do
    local c = byte(s, i)
    if c > 127 or c == 0 then return false end
  end
  return true
end

-- Metadata is text: a byte that is none would have the whole log message refused.
local function hand_over(kept)
  if not kept.pieces or kept.given == kept.size then return end
  kept.given = kept.size
  kept.joined[#kept.joined + 1] = concat(kept.pieces, "", 1, kept.n)
  kept.pieces, kept.n = {}, 0
  local body = concat(kept.joined)
  local answer = is_ascii(body) and " ascii " .. body or " base64 " .. kept.handle:base64Escape(body)
  kept.handle:streamInfo():dynamicMetadata():set("headgate.cache", "answer", kept.length .. answer)
end

-- `s` has gone to the client. Its last event may be the last that we see: clients leave when they have it.
local function keep(kept, s)
  if not kept.pieces or s == "" then return end
  kept.size = kept.size + #s
  if kept.size > kept.max then
    kept.pieces, kept.joined = nil, nil
    kept.handle:streamInfo():dynamicMetadata():set("headgate.cache", "too_large", true)
    return
  end
  kept.n = kept.n + 1
  kept.pieces[kept.n] = s
  if kept.n == MAX_PIECES then
    kept.joined[#kept.joined + 1] = concat(kept.pieces, "", 1, kept.n)
    kept.n = 0
  end
  if kept.events then
    local seen = kept.events .. s
    kept.last = kept.last or find(seen, "[DONE]", 1, true) or find(seen, '"response.completed"', 1, true)
    if kept.last and kept.early < MAX_EARLY and find(seen, '\n\r?\n$', -3) then
      kept.early = kept.early + 1
      hand_over(kept)
    end
    kept.events = sub(seen, -24)
  end
end
