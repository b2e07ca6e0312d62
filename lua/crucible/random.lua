-- Orders that are a pure function of their seeds: no state, the same on every machine.
local random = {}

-- SplitMix64 (Steele, Lea, Flood 2014): one step of the generator and its output function.
local function mix(state)
  local z = state
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return z ~ (z >> 31)
end

local STEP = 0x9E3779B97F4A7C15

--- A generator of integers in 1..n, keyed by two integers.
---@param seed integer
---@param stream integer
---@return fun(n: integer): integer
function random.generator(seed, stream)
  local state = mix(mix(seed + STEP) + stream * STEP + STEP)
  return function(n)
    state = state + STEP
    return ((mix(state) >> 32) * n >> 32) + 1 -- n < 2^31: the bias is below 2^-32 n
  end
end

--- A permutation of 1..n (Fisher and Yates), the same for the same seed and stream.
---@param n integer
---@param seed integer
---@param stream integer  for instance the epoch
---@return integer[]
function random.permutation(n, seed, stream)
  local draw, order = random.generator(seed, stream), {}
  for i = 1, n do order[i] = i end
  for i = n, 2, -1 do
    local j = draw(i)
    order[i], order[j] = order[j], order[i]
  end
  return order
end

return random
