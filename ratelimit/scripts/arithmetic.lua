-- Exact whole numbers in doubles: the first part of decide.lua, see there.
--
-- No number here is above MOST but a quotient that does not fit; it is then rounded, never to below 2^53.

local MOST = 9007199254740991 -- 2^53 - 1
local SECOND = 1000000 -- microseconds
local fmod, floor, min, max = math.fmod, math.floor, math.min, math.max

-- floor(a * b / c) and its remainder, of the whole product: 0 <= a, b <= MOST and 1 <= c <= MOST.
-- When the product does not fit, b is taken by digits, as in long multiplication, each as large as c leaves room for.
local function muldiv(a, b, c)
  local product = a * b
  if product <= MOST then
    local rest = fmod(product, c)
    return (product - rest) / c, rest
  end
  local part = fmod(a, c)
  local whole = (a - part) / c * b
  local _, bits = math.frexp(c)
  local quotient, rest = 0, 0
  if bits <= 51 then
    local radix, scale = 2 ^ (52 - bits), 1
    while scale * radix <= b do scale = scale * radix end
    while scale >= 1 do
      local digit = floor(b / scale)
      b = b - digit * scale
      local sum = rest * radix + part * digit -- below 2 * c * radix <= 2^53
      rest = fmod(sum, c)
      quotient = quotient * radix + (sum - rest) / c
      scale = scale / radix
    end
    return whole + quotient, rest
  end
  for bit = 52, 0, -1 do -- doubled and added modulo c, without ever being above c
    quotient = quotient * 2
    if rest >= c - rest then
      rest = rest - (c - rest)
      quotient = quotient + 1
    else
      rest = rest + rest
    end
    if b >= 2 ^ bit then
      b = b - 2 ^ bit
      if part > 0 and rest >= c - part then
        rest = rest - (c - part)
        quotient = quotient + 1
      else
        rest = rest + part
      end
    end
  end
  return whole + quotient, rest
end

-- ceil((a + b) / c), of 0 <= a < c and 0 <= b <= MOST
local function sum_up(a, b, c)
  local rest = fmod(b, c)
  local whole = (b - rest) / c
  if a + rest == 0 then return whole end
  return whole + (a <= c - rest and 1 or 2)
end

local function seconds_up(time)
  return sum_up(0, time, SECOND)
end

local function text(number)
  return string.format('%.0f', number)
end

local methods = {} -- by the algorithm's name: what makes its functions, so that a decision makes only those it uses
