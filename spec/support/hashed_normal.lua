-- Numbers that Lua and numpy compute alike: the mirror of scripts/parity/hashed.py.
-- Every value is a function of (name, index) alone, so a fixture can name a matrix of any size
-- instead of storing it: splitmix64's finaliser over FNV-1a of the name, normals by Box-Muller.
local hashed = {}

local GOLDEN = 0x9E3779B97F4A7C15
local SKETCH_SIZE = 64

local function name_key(name)
  local key = 0xCBF29CE484222325
  for i = 1, #name do key = (key ~ name:byte(i)) * 0x100000001B3 end
  return key
end

-- 64 random bits of index i, counted from 0.
local function bits(key, i)
  local z = key + (i + 1) * GOLDEN
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return z ~ (z >> 31)
end

local function uniform(key, i) return (bits(key, i) >> 11) * 2.0 ^ -53 end

local function round_to_float(x) return (string.unpack("<f", string.pack("<f", x))) end

--- Uniform values in ±bound, rounded to f32.
---@param name string
---@param count integer
---@param bound number
---@return number[]
function hashed.uniform(name, count, bound)
  local key, out = name_key(name), {}
  for i = 0, count - 1 do out[i + 1] = round_to_float((2.0 * uniform(key, i) - 1.0) * bound) end
  return out
end

--- Normal values of standard deviation sigma, rounded to f32.
---@param name string
---@param count integer
---@param sigma number
---@return number[]
function hashed.normal(name, count, sigma)
  local key, out = name_key(name), {}
  for i = 0, count - 1 do
    local radius = math.sqrt(-2.0 * math.log(1.0 - uniform(key, 2 * i)))
    out[i + 1] = round_to_float(sigma * (radius * math.cos(2.0 * math.pi * uniform(key, 2 * i + 1))))
  end
  return out
end

--- A LoRA matrix by its name, in Hugging Face row order: A uniform in ±1/sqrt(in), B normal.
---@param parameter { name: string, rows: integer, columns: integer }
---@return number[]
function hashed.lora_values(parameter)
  local count = parameter.rows * parameter.columns
  if parameter.name:find("lora_A$") then
    return hashed.uniform(parameter.name, count, 1.0 / math.sqrt(parameter.columns))
  end
  return hashed.normal(parameter.name, count, 0.02)
end

--- DoRA's magnitudes: the norms they start as, each changed by up to a fifth.
---@param name string
---@param norms number[]
---@return number[]
function hashed.magnitudes(name, norms)
  local out = hashed.uniform(name, #norms, 0.2)
  for i, change in ipairs(out) do out[i] = round_to_float(norms[i] * round_to_float(1 + change)) end
  return out
end

--- A count sketch: each element is added, with a random sign, to one of 64 sums. Its squared norm
--- estimates that of the vector without bias, with relative standard deviation sqrt(2/64) = 18%;
--- sketches subtract as their vectors do, so a difference can be measured from sketches alone.
---@param name string
---@param values number[]
---@return number[]
function hashed.sketch(name, values)
  local key, out = name_key(name .. "/sketch"), {}
  for b = 1, SKETCH_SIZE do out[b] = 0.0 end
  for i = 1, #values do
    local h = bits(key, i - 1)
    local bucket = (h & (SKETCH_SIZE - 1)) + 1
    out[bucket] = h < 0 and out[bucket] - values[i] or out[bucket] + values[i]
  end
  return out
end

return hashed
