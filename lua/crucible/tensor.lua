-- Dense tensors of f32 or f64 with reverse-mode differentiation, for losses and statistics.
--
--     local tensor = require "crucible.tensor"
--     local w = tensor.new({ { 1, 2 }, { 3, 4 } }, { requires_grad = true })
--     local loss = (w:matmul(tensor.new { 1, -1 }) ^ 2):mean()
--     loss:backward()
--     print(loss:item(), w.grad)
--
-- Values live in C, in f64 unless asked otherwise. Shapes broadcast as NumPy's do; f32 and f64 meet
-- in f64, a Lua number takes the type of the tensor it meets. Axes, positions and indices count from
-- 1 (from -1 backwards), ranges include their last value, positions are f64 tensors. Every method is
-- a function of the module too: tensor.exp(x) is x:exp().
--
-- Gradients gather in `grad` of the tensors whose requires_grad was set. Where a function has no
-- derivative it is: 0 for abs, sign, relu and norms at 0; one half each for equal operands of
-- maximum and minimum; all at the first place for max and min; 1 at both ends of clamp. Comparisons,
-- positions and conditions have no gradient. There are no gradients of gradients.
--
-- What reshape, slice, permute and the like return is a view: it shares the memory of what it was made
-- of. Methods that end in _ write in place; a gradient that needs a value which was overwritten
-- since raises. Memory goes with the collector, or at once by close() and <close>.
local errors = require "crucible.errors"
local graph = require "crucible.tensor.graph"
local shape = require "crucible.tensor.shape"
local suggest = require "crucible.suggest"
require "crucible.tensor.elementwise"
require "crucible.tensor.reduce"
require "crucible.tensor.index"
require "crucible.tensor.show"

local array, made = graph.array, graph.made

---@class crucible.tensor
local tensor = {}

--- Whether a value is a tensor.
---@param value any
---@return boolean
function tensor.is(value) return graph.is(value) end

--- A tensor around an array of crucible.core.tensor, which must be given to no other.
---@param values crucible.core.Array
---@return crucible.Tensor
function tensor.wrap(values) return graph.wrap(values) end

-- ---- options ------------------------------------------------------------------------------------

---@class crucible.tensor.Options
---@field dtype string?           "f64" (default) or "f32"
---@field requires_grad boolean?
---@field seed integer?           of rand and randn; by default drawn from math.random

local known = { "dtype", "requires_grad", "seed", dtype = true, requires_grad = true, seed = true }

local function check_names(what, options)
  for key in pairs(options) do
    local name = tostring(key)
    if not known[name] then errors.raise('%s: unknown option "%s"%s', what, name, suggest.phrase(name, known)) end
  end
end

-- Options as a table; a string alone is the dtype.
local function read_options(what, options)
  if options == nil then return { dtype = "f64" } end
  if type(options) == "string" then options = { dtype = options } end
  if type(options) ~= "table" then
    errors.raise("%s: expected options as a table, got %s", what, graph.show(options))
  end
  check_names(what, options)
  local dtype = options.dtype or "f64"
  if dtype ~= "f32" and dtype ~= "f64" then
    errors.raise('%s: dtype must be "f32" or "f64", got %s', what, tostring(dtype))
  end
  return { dtype = dtype, requires_grad = options.requires_grad, seed = options.seed }
end

local function finish(values, options)
  local out = graph.wrap(values)
  if options.requires_grad then out.requires_grad = true end
  return out
end

-- A list of sizes; a number alone is a list of one.
local function read_shape(what, sizes)
  if math.type(sizes) == "integer" then return { sizes } end
  if type(sizes) ~= "table" or graph.is(sizes) then
    errors.raise("%s: expected a shape such as { 2, 3 }, got %s", what, graph.show(sizes))
  end
  return sizes
end

-- ---- making --------------------------------------------------------------------------------------

--- A tensor of nested lists of numbers (booleans count as 0 and 1), or of a number.
---@param values table|number
---@param options crucible.tensor.Options|string|nil
---@return crucible.Tensor
function tensor.new(values, options)
  local read = read_options("tensor", options)
  if type(values) ~= "table" and type(values) ~= "number" or graph.is(values) then
    errors.raise("tensor: expected nested lists of numbers, got %s", graph.show(values))
  end
  return finish(made(array.new(values, read.dtype)), read)
end

local function constant(what, sizes, value, options)
  local read = read_options(what, options)
  return finish(made(array.full(read_shape(what, sizes), value, read.dtype)), read)
end

--- The same value everywhere.
---@param sizes integer|integer[]
---@param value number
---@param options crucible.tensor.Options|string|nil
---@return crucible.Tensor
function tensor.full(sizes, value, options)
  if type(value) ~= "number" then errors.raise("full: expected a number, got %s", graph.show(value)) end
  return constant("full", sizes, value, options)
end

--- 0 everywhere.
---@param sizes integer|integer[]
---@param options crucible.tensor.Options|string|nil
---@return crucible.Tensor
function tensor.zeros(sizes, options) return constant("zeros", sizes, 0, options) end

--- 1 everywhere.
---@param sizes integer|integer[]
---@param options crucible.tensor.Options|string|nil
---@return crucible.Tensor
function tensor.ones(sizes, options) return constant("ones", sizes, 1, options) end

--- first, first + step, ... up to and including last, as Lua's for: arange(n) is 1 to n.
---@param first number
---@param last number?
---@param step number?
---@param options crucible.tensor.Options|string|nil
---@return crucible.Tensor
function tensor.arange(first, last, step, options)
  if last == nil then first, last = 1, first end
  step = step or 1
  for _, value in ipairs { first, last, step } do
    if type(value) ~= "number" or value ~= value or math.abs(value) == math.huge then
      errors.raise("arange: expected finite numbers, got %s", graph.show(value))
    end
  end
  if step == 0 then errors.raise("arange: a step of 0 never arrives") end
  local read = read_options("arange", options)
  local count = math.max(0, math.floor((last - first) / step * (1 + 1e-15)) + 1)
  return finish(made(array.range(first, step, count, read.dtype)), read)
end

local function random(what, distribution, sizes, options)
  local read = read_options(what, options)
  local seed = read.seed or math.random(0)
  if math.type(seed) ~= "integer" then
    errors.raise("%s: expected an integer as seed, got %s", what, graph.show(seed))
  end
  return finish(made(array.random(read_shape(what, sizes), distribution, seed, read.dtype)), read)
end

--- Uniform in [0, 1).
---@param sizes integer|integer[]
---@param options crucible.tensor.Options|string|nil
---@return crucible.Tensor
function tensor.rand(sizes, options) return random("rand", "uniform", sizes, options) end

--- Normal, mean 0, deviation 1.
---@param sizes integer|integer[]
---@param options crucible.tensor.Options|string|nil
---@return crucible.Tensor
function tensor.randn(sizes, options) return random("randn", "normal", sizes, options) end

-- ---- differentiation ---------------------------------------------------------------------------------

tensor.no_grad = graph.no_grad
tensor.gradients = graph.gradients
tensor.custom = graph.custom
tensor.concat = shape.concat
tensor.stack = shape.stack

for name, method in pairs(graph.Tensor) do
  if type(method) == "function" and name:sub(1, 2) ~= "__" then tensor[name] = method end
end

return setmetatable(tensor, { __call = function(_, values, options) return tensor.new(values, options) end })
