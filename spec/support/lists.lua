-- Lists of numbers for specs of arithmetic: made, cut, compared.
local lists = {}

--- Uniform values in ±bound. With a bound that is a power of two they are exact in f32, so that the C
--- code and a loop in Lua start from the same numbers.
---@param seed integer
---@param count integer
---@param bound number?  1
---@return number[]
function lists.uniform(seed, count, bound)
  local out, state, scale = {}, (seed * 2 + 1) * 0x9E3779B97F4A7C15, (bound or 1) / 32768
  for i = 1, count do
    state = state ~ (state << 13)
    state = state ~ (state >> 7)
    state = state ~ (state << 17)
    out[i] = ((state >> 48) - 32768) * scale
  end
  return out
end

--- `count` times the same value.
---@return number[]
function lists.fill(count, value)
  local out = {}
  for i = 1, count do out[i] = value end
  return out
end

--- Values first..first+count-1, from 1.
---@return number[]
function lists.slice(list, first, count) return table.move(list, first, first + count - 1, 1, {}) end

--- One list after another.
---@return number[]
function lists.join(...)
  local out = {}
  for _, list in ipairs({ ... }) do table.move(list, 1, #list, #out + 1, out) end
  return out
end

function lists.map(list, f)
  local out = {}
  for i = 1, #list do out[i] = f(list[i], i) end
  return out
end

--- A table of fields with some of them replaced.
---@param fields table
---@param changes table
---@return table
function lists.with(fields, changes)
  local out = {}
  for name, value in pairs(fields) do out[name] = value end
  for name, value in pairs(changes) do out[name] = value end
  return out
end

--- x + t·y.
---@return number[]
function lists.add(x, t, y)
  return lists.map(x, function(value, i) return value + t * y[i] end)
end

---@return number
function lists.dot(x, y)
  local sum = 0.0
  for i = 1, #x do sum = sum + x[i] * y[i] end
  return sum
end

---@return number
function lists.norm(x) return math.sqrt(lists.dot(x, x)) end

--- The largest |value|.
---@return number
function lists.largest(x)
  local largest = 0.0
  for i = 1, #x do largest = math.max(largest, math.abs(x[i])) end
  return largest
end

--- |a - b| / |b|, in norms.
---@return number
function lists.relative(a, b) return lists.norm(lists.add(a, -1, b)) / lists.norm(b) end

--- The first index at which two lists are further apart than `bound` (a number, or a list of them), and
--- both values there; nil when there is none. NaN is far from everything.
---@return integer?, number?, number?
function lists.first_beyond(a, b, bound)
  assert(#a == #b, ("%d values beside %d"):format(#a, #b))
  local listed = type(bound) == "table"
  for i = 1, #a do
    local near = math.abs(a[i] - b[i]) <= (listed and bound[i] or bound)
    if not near then return i, a[i], b[i] end
  end
  return nil
end

--- The bits of a list, to compare lists that must not differ in any.
---@return string
function lists.bits(list)
  local out = {}
  for i = 1, #list, 200 do
    local last = math.min(i + 199, #list)
    out[#out + 1] = string.pack(("d"):rep(last - i + 1), table.unpack(list, i, last))
  end
  return table.concat(out)
end

--- Bits of an f32, ordered as the numbers are, so that differences count units in the last place.
---@return integer
function lists.ordinal(x)
  local bits = string.unpack("<i4", string.pack("<f", x))
  return bits >= 0 and bits or -(bits & 0x7FFFFFFF)
end

return lists
