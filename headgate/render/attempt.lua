-- Attempts after the first: each is made from the original request, as its own target must get it.
--
-- Runs in the cluster of the target, inside Envoy. The first attempt is as ext_proc wrote it and passes at once.
--
-- in:  metadata headgate.attempts: `START LENGTH SIZE`, the piece of the body in which targets differ and the body's
--      whole length; then a line for every further attempt: its path, a tab, what stands there instead of the piece

local LARGE = 1048576   -- bytes

local match, gmatch = string.match, string.gmatch

-- The chunk stands at `at` in the body: the same without the piece, and with `text` where that begins.
local function replaced(chunk, n, at, start, length, text)
  local from, to = start - at, math.min(start + length - at, n)   -- the piece, seen from this chunk
  local before = from > 0 and chunk:getBytes(0, from) or ""
  local after = to < n and chunk:getBytes(to, n - to) or ""
  return before .. (from >= 0 and text or "") .. after
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = tonumber(headers:get("x-envoy-attempt-count"))
  if not attempt or attempt < 2 then return end
  local facts = handle:streamInfo():dynamicMetadata():get("headgate")
  local plan = facts and facts.attempts
  if not plan then return end
  local number, start, length, size, path, text = 1
  for line in gmatch(plan, "[^\n]+") do
    if number == 1 then
      start, length, size = match(line, "^(%d+) (%d+) (%d+)$")
    elseif number == attempt then
      path, text = match(line, "^([^\t]*)\t(.*)$")
    end
    number = number + 1
  end
  if not path then return end
  headers:replace(":path", path)
  start, length, size = tonumber(start), tonumber(length), tonumber(size)
  if size == 0 then return end
  headers:replace("content-length", string.format("%d", size - length + #text))
  local at = 0
  for chunk in handle:bodyChunks() do
    local n = chunk:length()
    if n > 0 then
      if at < start + length and start < at + n then
        local bytes = replaced(chunk, n, at, start, length, text)
        if n > LARGE then collectgarbage() end   -- by itself Lua keeps copies until it needs room again
        chunk:setBytes(bytes)
        bytes = nil
        if n > LARGE then collectgarbage() end
      end
      at = at + n
    end
  end
end
