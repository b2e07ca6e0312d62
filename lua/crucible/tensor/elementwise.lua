-- One value of the result from one of each operand: functions, arithmetic, comparisons, where.
local errors = require "crucible.errors"
local graph = require "crucible.tensor.graph"
local origin = require "crucible.origin"

---@class crucible.Tensor
---@field neg fun(x: crucible.Tensor): crucible.Tensor  −x
---@field abs fun(x: crucible.Tensor): crucible.Tensor  |x|; its slope is 0 at 0
---@field sign fun(x: crucible.Tensor): crucible.Tensor  −1, 0 or 1; no slope
---@field exp fun(x: crucible.Tensor): crucible.Tensor  e to the x
---@field expm1 fun(x: crucible.Tensor): crucible.Tensor  e to the x, less 1, exact near 0
---@field log fun(x: crucible.Tensor): crucible.Tensor  natural logarithm
---@field log1p fun(x: crucible.Tensor): crucible.Tensor  log of 1 + x, exact near 0
---@field sqrt fun(x: crucible.Tensor): crucible.Tensor  square root
---@field sin fun(x: crucible.Tensor): crucible.Tensor  sine
---@field cos fun(x: crucible.Tensor): crucible.Tensor  cosine
---@field asin fun(x: crucible.Tensor): crucible.Tensor  arc sine
---@field acos fun(x: crucible.Tensor): crucible.Tensor  arc cosine
---@field tanh fun(x: crucible.Tensor): crucible.Tensor  hyperbolic tangent
---@field sigmoid fun(x: crucible.Tensor): crucible.Tensor  1 / (1 + exp(−x))
---@field relu fun(x: crucible.Tensor): crucible.Tensor  the larger of x and 0; its slope is 0 at 0
---@field softplus fun(x: crucible.Tensor): crucible.Tensor  log(1 + exp x)
---@field add fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  a + b
---@field sub fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  a − b
---@field mul fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  a · b, by element
---@field div fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  a / b, by element
---@field pow fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  a to the b, by element
---@field maximum fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  the larger of each pair; equal ones share the slope
---@field minimum fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  the smaller of each pair; equal ones share the slope
---@field eq fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  1 where a = b, else 0; no slope
---@field ne fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  1 where a ≠ b, else 0; no slope
---@field lt fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  1 where a < b, else 0; no slope
---@field le fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  1 where a ≤ b, else 0; no slope
---@field gt fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  1 where a > b, else 0; no slope
---@field ge fun(a: crucible.Tensor|number, b: crucible.Tensor|number): crucible.Tensor  1 where a ≥ b, else 0; no slope
local Tensor, array = graph.Tensor, graph.array
local made, check, operand, derive = graph.made, graph.check, graph.operand, graph.derive
local binary = array.binary

-- ---- functions of one tensor ------------------------------------------------------------------

-- neg abs sign exp expm1 log log1p sqrt sin cos asin acos tanh sigmoid relu softplus
for name, forward in pairs(array.unary) do
  local slope_of = array.unary_slope[name]
  Tensor[name] = function(x)
    local values = made(forward(check(name, x).array))
    return derive(name, values, { x }, function(slope) return made(slope_of(slope, x.array, values)) end)
  end
end

Tensor.__unm = Tensor.neg

--- x kept between `low` and `high` (either may be nil); the gradient is 0 where it was changed.
---@param low number?
---@param high number?
---@return crucible.Tensor
function Tensor:clamp(low, high)
  check("clamp", self)
  low, high = low or -math.huge, high or math.huge
  if type(low) ~= "number" or type(high) ~= "number" then
    errors.raise("clamp: expected numbers as bounds, got %s and %s", graph.show(low), graph.show(high))
  end
  local values = made(array.clamp(self.array, low, high))
  return derive("clamp", values, { self }, function(slope)
    return made(array.clamp_slope(slope, self.array, low, high))
  end)
end

-- ---- functions of two ----------------------------------------------------------------------------

-- By name: slopes of a and b from that of y; a and b are arrays or numbers, want_* says whose is asked for.
local slopes = {}

function slopes.add(slope) return slope, slope end

function slopes.sub(slope, _, _, _, _, want_b) return slope, want_b and made(array.unary.neg(slope)) end

function slopes.mul(slope, a, b, _, want_a, want_b)
  return want_a and made(binary.mul(slope, b)), want_b and made(binary.mul(slope, a))
end

function slopes.div(slope, _, b, y, want_a, want_b)
  local quotient = made(binary.div(slope, b))
  return want_a and quotient, want_b and made(array.unary.neg(made(binary.mul(quotient, y))))
end

function slopes.pow(slope, a, b, _, want_a, want_b)
  return want_a and made(binary.mul(slope, made(binary.pow_base_slope(a, b)))),
    want_b and made(binary.mul(slope, made(binary.pow_exponent_slope(a, b))))
end

-- Each operand's share is 1 where it was chosen, 1/2 where both are equal.
local function by_share(wins, ties)
  return function(slope, a, b)
    local share = made(binary.mul(made(binary.add(made(wins(a, b)), made(ties(a, b)))), 0.5))
    return made(binary.mul(slope, share)), made(binary.mul(slope, made(binary.sub(1, share))))
  end
end

slopes.maximum = by_share(binary.gt, binary.ge)
slopes.minimum = by_share(binary.lt, binary.le)

local function is_tracked(value) return graph.is(value) and value.tracked end

for name, slopes_of in pairs(slopes) do
  local forward = binary[name]
  Tensor[name] = function(a, b)
    local left, right = operand(name, a), operand(name, b)
    if left == a and right == b then errors.raise("%s: expected a tensor, got two numbers", name) end
    local values = made(forward(left, right))
    return derive(name, values, { graph.is(a) and a, graph.is(b) and b }, function(slope)
      local da, db = slopes_of(slope, left, right, values, is_tracked(a), is_tracked(b))
      return da or nil, db or nil
    end)
  end
end

Tensor.__add, Tensor.__sub, Tensor.__mul, Tensor.__div, Tensor.__pow =
  Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.pow

-- ---- comparisons -------------------------------------------------------------------------------------

-- eq ne lt le gt ge: 1 where they hold, else 0; without a gradient.
for _, name in ipairs { "eq", "ne", "lt", "le", "gt", "ge" } do
  Tensor[name] = function(a, b)
    local left, right = operand(name, a), operand(name, b)
    if left == a and right == b then errors.raise("%s: expected a tensor, got two numbers", name) end
    return graph.wrap(made(binary[name](left, right)))
  end
end

-- Lua makes a boolean of what these return.
local function refuse_order()
  errors.raise("tensors are compared by a:lt(b), a:le(b), a:gt(b), a:ge(b), which give tensors of 0 and 1")
end
Tensor.__lt, Tensor.__le = refuse_order, refuse_order

-- A number as a tensor that does not widen the type of what it meets.
local function as_tensor(what, value, other)
  if type(value) ~= "number" then return check(what, value) end
  local type_name = graph.is(other) and made(array.info(other.array)) or "f64"
  return graph.wrap(made(array.full({}, value, type_name)))
end

--- a where the condition is not 0, else b; either may be a number. No gradient passes where the
--- other was taken.
---@param condition crucible.Tensor
---@param a crucible.Tensor|number
---@param b crucible.Tensor|number
---@return crucible.Tensor
function Tensor.where(condition, a, b)
  check("where", condition)
  a, b = as_tensor("where", a, b), as_tensor("where", b, a)
  local values = made(array.where(condition.array, a.array, b.array))
  return derive("where", values, { a, b }, function(slope)
    local zero = made(array.full({}, 0, (made(array.info(slope)))))
    return a.tracked and made(array.where(condition.array, slope, zero)) or nil,
      b.tracked and made(array.where(condition.array, zero, slope)) or nil
  end)
end

-- ---- in place --------------------------------------------------------------------------------------------

-- Writing under the eyes of the graph would make gradients of what went before.
local function writable(what, x)
  check(what, x)
  if x.node then
    errors.raise("%s: this tensor was computed by %s and gradients depend on its values; clone() it", what, x.node.name)
  end
  if x.tracked and graph.recording() then
    errors.raise("%s: a tensor that requires a gradient is written inside tensor.no_grad alone", what)
  end
  return x.array
end

--- Sets every value.
---@param value number
---@return crucible.Tensor self
function Tensor:fill_(value)
  if type(value) ~= "number" then errors.raise("fill_: expected a number, got %s", graph.show(value)) end
  made(array.fill(writable("fill_", self), value))
  return self
end

--- Sets every value to 0.
---@return crucible.Tensor self
function Tensor:zero_() return self:fill_(0) end

--- Takes over the values of a tensor, which broadcasts, or a number.
---@param source crucible.Tensor|number
---@return crucible.Tensor self
function Tensor:assign_(source)
  if type(source) == "number" then return self:fill_(source) end
  made(array.assign(writable("assign_", self), check("assign_", source).array))
  return self
end

--- Adds factor (1) times a tensor, which broadcasts, or a number.
---@param source crucible.Tensor|number
---@param factor number?
---@return crucible.Tensor self
function Tensor:add_(source, factor)
  factor = factor or 1
  if type(factor) ~= "number" then errors.raise("add_: expected a number as factor, got %s", graph.show(factor)) end
  local other = as_tensor("add_", source, self)
  made(array.add(writable("add_", self), other.array, factor))
  return self
end

--- Multiplies every value.
---@param factor number
---@return crucible.Tensor self
function Tensor:scale_(factor)
  if type(factor) ~= "number" then errors.raise("scale_: expected a number, got %s", graph.show(factor)) end
  made(array.scale(writable("scale_", self), factor))
  return self
end

for _, class in ipairs { array.unary, slopes, { eq = true, ne = true, lt = true, le = true, gt = true, ge = true } } do
  for name in pairs(class) do origin[Tensor[name]] = "crucible.tensor.elementwise#" .. name end
end

return Tensor
