-- Many values to one: sums, means, extremes, norms, log-sum-exp; softmax beside them.
--
-- `axis` counts from 1, or back from -1; nil means all axes; a list of axes is taken as one. With
-- `keepdims` the reduced axes stay, with size 1.
local errors = require "crucible.errors"
local graph = require "crucible.tensor.graph"

local Tensor, array = graph.Tensor, graph.array
local made, check, derive = graph.made, graph.check, graph.derive
local binary = array.binary

-- ---- shapes ------------------------------------------------------------------------------------

-- The shape with the reduced axis 1, so that what was reduced broadcasts back.
local function kept_shape(shape, axis)
  local kept = table.move(shape, 1, #shape, 1, {})
  for i = 1, #shape do
    if axis == nil or i == axis or i == axis + #shape + 1 then kept[i] = 1 end
  end
  return kept
end

-- A slope of the result spread over the shape of the operand.
local function spread(slope, shape, axis)
  return made(array.expand(made(array.reshape(slope, kept_shape(shape, axis))), shape))
end

-- Number of an axis from 1 on.
local function number_axis(what, axis, rank)
  local number = math.type(axis) == "integer" and (axis < 0 and axis + rank + 1 or axis)
  if not number or number < 1 or number > rank then
    errors.raise("%s: expected axes from 1 to %d (or -%d to -1), got %s", what, rank, rank, graph.show(axis))
  end
  return number
end

-- The tensor with the listed axes merged into the last one, and the shape with them kept as 1.
local function merge_axes(what, x, list)
  local shape, chosen = { x:shape() }, {}
  for _, axis in ipairs(list) do chosen[number_axis(what, axis, #shape)] = true end
  local order, sizes, kept, merged = {}, {}, {}, 1
  for axis, size in ipairs(shape) do
    kept[axis] = chosen[axis] and 1 or size
    if chosen[axis] then
      merged = merged * size
    else
      order[#order + 1] = axis
      sizes[#sizes + 1] = size
    end
  end
  for axis in ipairs(shape) do
    if chosen[axis] then order[#order + 1] = axis end
  end
  sizes[#sizes + 1] = merged
  return x:permute(order):reshape(sizes), kept
end

-- Makes a method of a function of one axis: resolves lists of axes.
local function along_lists(what, one_axis)
  return function(self, axis, keepdims)
    check(what, self)
    if type(axis) ~= "table" then return one_axis(self, axis, keepdims) end
    local merged, kept = merge_axes(what, self, axis)
    local values, positions = one_axis(merged, -1, false)
    if not keepdims then return values, positions end
    return values:reshape(kept), positions and positions:reshape(kept)
  end
end

-- ---- sums, means, products -------------------------------------------------------------------------

local slopes = {} -- of reductions, from (slope, x, values, axis, shape of x)

function slopes.sum(slope, _, _, axis, shape) return spread(slope, shape, axis) end

function slopes.mean(slope, _, values, axis, shape)
  local _, _, count = made(array.info(values))
  local total = 1
  for _, size in ipairs(shape) do total = total * size end
  return made(binary.mul(spread(slope, shape, axis), count / total))
end

function slopes.prod(slope, x, _, axis) return made(array.prod_slope(slope, x, axis)) end

function slopes.norm1(slope, x, _, axis, shape)
  return made(binary.mul(spread(slope, shape, axis), made(array.unary.sign(x))))
end

-- x / |x|, and 0 where the norm is 0.
function slopes.norm2(slope, x, values, axis, shape)
  local zero = made(array.full({}, 0, (made(array.info(values)))))
  local ratio = made(array.where(values, made(binary.div(slope, values)), zero))
  return made(binary.mul(spread(ratio, shape, axis), x))
end

local reduced = {}
for name, slope_of in pairs(slopes) do
  local forward = array.reduce[name]
  reduced[name] = along_lists(name, function(x, axis, keepdims)
    local values = made(forward(x.array, axis, keepdims))
    return derive(name, values, { x }, function(slope)
      return slope_of(slope, x.array, values, axis, made(array.shape(x.array)))
    end)
  end)
end

--- Sum, made in double.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:sum(axis, keepdims) return reduced.sum(self, axis, keepdims) end

--- Mean; NaN of nothing.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:mean(axis, keepdims) return reduced.mean(self, axis, keepdims) end

--- Product; its gradient holds for zeros too.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:prod(axis, keepdims) return reduced.prod(self, axis, keepdims) end

--- Variance. correction (1) is taken from the count that divides.
---@param axis integer|integer[]|nil
---@param options { keepdims: boolean?, correction: number? }?
---@return crucible.Tensor
function Tensor:var(axis, options)
  check("var", self)
  options = options or {}
  local mean = self:mean(axis, true)
  local squares = ((self - mean) ^ 2):sum(axis, options.keepdims)
  return squares / (self:count() / math.max(1, mean:count()) - (options.correction or 1))
end

--- Standard deviation: the root of var.
---@param axis integer|integer[]|nil
---@param options { keepdims: boolean?, correction: number? }?
---@return crucible.Tensor
function Tensor:std(axis, options) return self:var(axis, options):sqrt() end

-- ---- norms -------------------------------------------------------------------------------------------

--- Norm of order p: 2 (default), 1, or math.huge for the largest absolute value.
---@param p number?
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:norm(p, axis, keepdims)
  check("norm", self)
  if p == nil or p == 2 then return reduced.norm2(self, axis, keepdims) end
  if p == 1 then return reduced.norm1(self, axis, keepdims) end
  if p == math.huge then return (self:abs():max(axis, keepdims)) end
  return errors.raise("norm: expected 1, 2 or math.huge as order, got %s", graph.show(p))
end

-- ---- extremes -------------------------------------------------------------------------------------------

-- The slope at the places of the extremes, 0 elsewhere.
local function at_places(slope, x, places, axis)
  local shape = made(array.shape(x))
  local zeros = made(array.full(shape, 0, (made(array.info(x)))))
  local kept = kept_shape(shape, axis)
  return made(array.scatter_add(zeros, axis, made(array.reshape(places, kept)), made(array.reshape(slope, kept))))
end

-- Of all values: the place is looked for when the gradient is.
local function extreme_of_all(name, x, keepdims)
  local values = made(array.reduce[name](x.array, nil, keepdims))
  return derive(name, values, { x }, function(slope)
    local _, _, count = made(array.info(x.array))
    local flat = made(array.reshape(x.array, { count }))
    local _, place = made(array.extreme(flat, name, 1, true))
    return made(array.reshape(at_places(slope, flat, place, 1), made(array.shape(x.array))))
  end)
end

local function extreme(name)
  return along_lists(name, function(x, axis, keepdims)
    if axis == nil then return extreme_of_all(name, x, keepdims) end
    local values, places = made(array.extreme(x.array, name, axis, keepdims))
    return derive(name, values, { x }, function(slope) return at_places(slope, x.array, places, axis) end),
      graph.wrap(places)
  end)
end

local max, min = extreme "max", extreme "min"

--- Largest value; along an axis also where the first of them stands (from 1), which is where its
--- gradient goes. NaN wins.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor values, crucible.Tensor? positions
function Tensor:max(axis, keepdims) return max(self, axis, keepdims) end

--- Smallest value; otherwise as max.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor values, crucible.Tensor? positions
function Tensor:min(axis, keepdims) return min(self, axis, keepdims) end

local function position_of(name, x, axis, keepdims)
  check("arg" .. name, x)
  return graph.wrap(select(2, made(array.extreme(x.array, name, axis, keepdims))))
end

--- Position (from 1) of the first largest value along an axis, or of all in row-major order.
---@param axis integer?
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:argmax(axis, keepdims) return position_of("max", self, axis, keepdims) end

--- Position of the first smallest value; otherwise as argmax.
---@param axis integer?
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:argmin(axis, keepdims) return position_of("min", self, axis, keepdims) end

--- 1 where any value is not 0, else 0. Without a gradient.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:any(axis, keepdims) return Tensor.ne(self, 0):sum(axis, keepdims):gt(0) end

--- 1 where all values are not 0, else 0. Without a gradient.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:all(axis, keepdims) return Tensor.eq(self, 0):sum(axis, keepdims):eq(0) end

-- ---- softmax ------------------------------------------------------------------------------------------------

local function softmax(name)
  return function(x, axis)
    local values = made(array.softmax[name](x.array, axis))
    return derive(name, values, { x }, function(slope)
      return made(array.softmax_slope[name](slope, x.array, values, axis))
    end)
  end
end

local soft, log_soft, log_sum = softmax "softmax", softmax "log_softmax", softmax "logsumexp"

--- e^x over its sum along the axis (default: the last).
---@param axis integer?
---@return crucible.Tensor
function Tensor:softmax(axis) return soft(check("softmax", self), axis or -1) end

--- The logarithm of softmax, without the detour.
---@param axis integer?
---@return crucible.Tensor
function Tensor:log_softmax(axis) return log_soft(check("log_softmax", self), axis or -1) end

local logsumexp = along_lists("logsumexp", function(x, axis, keepdims)
  if axis == nil then return log_sum(x:flatten(), 1):reshape(keepdims and kept_shape({ x:shape() }) or {}) end
  local kept = log_sum(x, axis)
  return keepdims and kept or kept:squeeze(axis)
end)

--- log Σ e^x.
---@param axis integer|integer[]|nil
---@param keepdims boolean?
---@return crucible.Tensor
function Tensor:logsumexp(axis, keepdims) return logsumexp(self, axis, keepdims) end

return Tensor
