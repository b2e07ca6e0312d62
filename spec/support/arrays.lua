-- Plain loops over shaped lists: what tensors compute, said again in Lua.
--
-- An array is { shape = {…}, values = flat list in row-major order }.
local lists = require "spec.support.lists"

local arrays = {}

local function count_of(shape)
  local count = 1
  for _, size in ipairs(shape) do count = count * size end
  return count
end
arrays.count_of = count_of

--- Uniform values in ±bound.
function arrays.uniform(seed, shape, bound)
  return { shape = shape, values = lists.uniform(seed, count_of(shape), bound) }
end

--- The array of a tensor.
function arrays.of(x)
  return { shape = { x:shape() }, values = x:rank() == 0 and { x:item() } or x:contiguous():flatten():totable() }
end

--- The tensor of an array.
function arrays.tensor(array, options)
  return require("crucible.tensor").new(array.values, options):reshape(array.shape)
end

-- Positions of element number `index` (from 0) of a shape, each from 0.
local function positions(shape, index)
  local out = {}
  for i = #shape, 1, -1 do
    out[i] = index % shape[i]
    index = index // shape[i]
  end
  return out
end

-- Number (from 0) of the element at positions that a broadcast shape has.
local function number_at(shape, place, rank)
  local number = 0
  for i = 1, #shape do
    local at = place[rank - #shape + i]
    number = number * shape[i] + (shape[i] == 1 and 0 or at)
  end
  return number
end

function arrays.broadcast_shape(...)
  local rank, out = 0, {}
  for _, array in ipairs { ... } do rank = math.max(rank, #array.shape) end
  for i = 1, rank do
    out[i] = 1
    for _, array in ipairs { ... } do
      local size = array.shape[#array.shape - rank + i] or 1
      if size ~= 1 then out[i] = size end
    end
  end
  return out
end

--- f of matching elements of arrays that broadcast.
function arrays.map(f, ...)
  local shape, inputs, values = arrays.broadcast_shape(...), { ... }, {}
  for index = 0, count_of(shape) - 1 do
    local place, arguments = positions(shape, index), {}
    for i, array in ipairs(inputs) do arguments[i] = array.values[number_at(array.shape, place, #shape) + 1] end
    values[index + 1] = f(table.unpack(arguments))
  end
  return { shape = shape, values = values }
end

--- Lists along an axis (nil: all values): calls f(list) and keeps what it returns, a number or a list.
function arrays.along(array, axis, f)
  local shape = array.shape
  if axis == nil then return { shape = {}, values = { (f(array.values)) } } end
  local before, after, kept = {}, {}, {}
  table.move(shape, 1, axis - 1, 1, before)
  table.move(shape, axis + 1, #shape, 1, after)
  table.move(after, 1, #after, #before + 1, table.move(before, 1, #before, 1, kept))
  local outer, length, inner = count_of(before), shape[axis], count_of(after)
  local out, is_list, size = {}, false, 1
  for i = 0, outer - 1 do
    for j = 0, inner - 1 do
      local list = {}
      for k = 0, length - 1 do list[k + 1] = array.values[(i * length + k) * inner + j + 1] end
      local result = f(list)
      if type(result) == "table" then
        is_list, size = true, #result
        for k = 0, size - 1 do out[(i * size + k) * inner + j + 1] = result[k + 1] end
      else
        out[i * inner + j + 1] = result
      end
    end
  end
  if is_list then table.insert(kept, axis, size) end
  return { shape = kept, values = out }
end

--- The product of matrices [m, k] and [k, n].
function arrays.matmul(a, b)
  local m, k, n = a.shape[1], a.shape[2], b.shape[2]
  local values = {}
  for i = 0, m - 1 do
    for j = 1, n do
      local sum = 0.0
      for d = 1, k do sum = sum + a.values[i * k + d] * b.values[(d - 1) * n + j] end
      values[i * n + j] = sum
    end
  end
  return { shape = { m, n }, values = values }
end

return arrays
