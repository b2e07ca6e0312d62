-- What a tensor looks like, and views of it: reshape, permute, slices; joining and cutting.
-- Axes and positions count from 1, or back from -1.
local errors = require "crucible.errors"
local graph = require "crucible.tensor.graph"

local Tensor, array = graph.Tensor, graph.array
local made, check, derive = graph.made, graph.check, graph.derive

-- ---- describing ------------------------------------------------------------------------------

--- Sizes of the axes: `local rows, columns = x:shape()`.
---@return integer ...
function Tensor:shape() return table.unpack(made(array.shape(check("shape", self).array))) end

--- The shape as text: "[3, 4]".
---@return string
function Tensor:shape_text() return "[" .. table.concat(made(array.shape(check("shape", self).array)), ", ") .. "]" end

--- Size of one axis.
---@param axis integer
---@return integer
function Tensor:size(axis)
  local shape = { check("size", self):shape() }
  local size = math.type(axis) == "integer" and shape[axis < 0 and axis + #shape + 1 or axis]
  return size or errors.raise("size: shape %s has no axis %s", self:shape_text(), graph.show(axis))
end

--- Number of axes.
---@return integer
function Tensor:rank() return (select(2, made(array.info(check("rank", self).array)))) end

--- Number of values.
---@return integer
function Tensor:count() return (select(3, made(array.info(check("count", self).array)))) end

--- "f32" or "f64".
---@return string
function Tensor:dtype() return (made(array.info(check("dtype", self).array))) end

--- Whether the values lie row after row without gaps.
---@return boolean
function Tensor:is_contiguous() return (select(4, made(array.info(check("is_contiguous", self).array)))) end

--- The length of the first axis.
function Tensor:__len()
  local shape = made(array.shape(self.array))
  return shape[1] or errors.raise("a single number has no length")
end

--- The value of a tensor that has one, or the one at the given positions.
---@param ... integer
---@return number
function Tensor:item(...)
  check("item", self)
  if select("#", ...) > 0 or self:rank() == 0 then return (made(array.item(self.array, ...))) end
  if self:count() ~= 1 then
    errors.raise("item: shape %s is not a single value: give its position", self:shape_text())
  end
  return (made(array.item(made(array.reshape(self.array, {})))))
end

--- The values as nested lists; of rank 0 as a number.
---@return table|number
function Tensor:totable() return (made(array.totable(check("totable", self).array))) end

-- ---- copies ----------------------------------------------------------------------------------------

local function copy(what, x, type_name)
  return derive(what, made(array.copy(x.array, type_name)), { x }, function(slope) return slope end)
end

--- A copy of its own; gradients pass.
---@return crucible.Tensor
function Tensor:clone() return copy("clone", check("clone", self), self:dtype()) end

--- The values as "f32" or "f64"; the tensor itself where it is of that type.
---@param dtype string
---@return crucible.Tensor
function Tensor:to(dtype)
  check("to", self)
  if dtype ~= "f32" and dtype ~= "f64" then errors.raise('to: expected "f32" or "f64", got %s', graph.show(dtype)) end
  return self:dtype() == dtype and self or copy("to", self, dtype)
end

--- The same values row after row: a copy only where they do not lie so.
---@return crucible.Tensor
function Tensor:contiguous()
  check("contiguous", self)
  return self:is_contiguous() and self or copy("contiguous", self, self:dtype())
end

-- ---- views -------------------------------------------------------------------------------------------

-- Sizes or axes given as a list or one by one.
local function read_list(...)
  if type((...)) == "table" then return (...) end
  return { ... }
end

-- The shape with -1 replaced by what is left.
local function fill_in(shape, count)
  local known, unknown, out = 1, nil, {}
  for i, size in ipairs(shape) do
    out[i] = size
    if size == -1 and not unknown then
      unknown = i
    elseif math.type(size) == "integer" then
      known = known * size
    end
  end
  if unknown and known > 0 and count % known == 0 then out[unknown] = count // known end
  return out
end

local function reshape(x, shape)
  return derive("reshape", made(array.reshape(x.array, shape)), { x }, function(slope)
    return made(array.reshape(slope, made(array.shape(x.array))))
  end)
end

--- The values in another shape, in the same order; one size may be -1, which is then worked out. A
--- view where the tensor is contiguous, else a copy.
---@param ... integer|integer[]
---@return crucible.Tensor
function Tensor:reshape(...)
  check("reshape", self)
  return reshape(self, fill_in(read_list(...), self:count()))
end

--- All values as one axis.
---@return crucible.Tensor
function Tensor:flatten() return reshape(check("flatten", self), { self:count() }) end

-- The axis as a number from 1 to `most`.
local function axis_number(what, axis, most)
  local number = math.type(axis) == "integer" and (axis < 0 and axis + most + 1 or axis)
  if not number or number < 1 or number > most then
    errors.raise("%s: expected an axis from 1 to %d (or -%d to -1), got %s", what, most, most, graph.show(axis))
  end
  return number
end

--- Without the axis, which must have size 1; without an argument, without all such axes.
---@param axis integer?
---@return crucible.Tensor
function Tensor:squeeze(axis)
  check("squeeze", self)
  local shape, left = { self:shape() }, {}
  local number = axis and axis_number("squeeze", axis, #shape)
  if number and shape[number] ~= 1 then
    errors.raise("squeeze: axis %d of shape %s is not 1", axis, self:shape_text())
  end
  for i, size in ipairs(shape) do
    local dropped = size == 1 and (not number or i == number)
    if not dropped then left[#left + 1] = size end
  end
  return reshape(self, left)
end

--- With a new axis of size 1 at that place.
---@param axis integer
---@return crucible.Tensor
function Tensor:unsqueeze(axis)
  local shape = { check("unsqueeze", self):shape() }
  table.insert(shape, axis_number("unsqueeze", axis, #shape + 1), 1)
  return reshape(self, shape)
end

--- The axes in another order: axis i of the result is axes[i].
---@param ... integer|integer[]
---@return crucible.Tensor
function Tensor:permute(...)
  check("permute", self)
  local axes = read_list(...)
  local values = made(array.permute(self.array, axes))
  return derive("permute", values, { self }, function(slope)
    local inverse = {}
    for i, axis in ipairs(axes) do inverse[axis < 0 and axis + #axes + 1 or axis] = i end
    return made(array.permute(slope, inverse))
  end)
end

--- Two axes exchanged; by default the last two.
---@param first integer?
---@param second integer?
---@return crucible.Tensor
function Tensor:transpose(first, second)
  local axes, rank = {}, check("transpose", self):rank()
  if rank < 2 then errors.raise("transpose: shape %s has no two axes", self:shape_text()) end
  for i = 1, rank do axes[i] = i end
  local a, b = axis_number("transpose", first or -2, rank), axis_number("transpose", second or -1, rank)
  axes[a], axes[b] = b, a
  return self:permute(axes)
end

--- A view in which axes of size 1 are repeated to the given sizes, and new ones stand in front.
---@param ... integer|integer[]
---@return crucible.Tensor
function Tensor:expand(...)
  check("expand", self)
  return derive("expand", made(array.expand(self.array, read_list(...))), { self }, function(slope) return slope end)
end

--- A view of positions first to last of an axis, counted as string.sub does, `step` (1) apart.
---@param axis integer
---@param first integer?  1
---@param last integer?   -1
---@param step integer?
---@return crucible.Tensor
function Tensor:slice(axis, first, last, step)
  check("slice", self)
  local from, to, by = first or 1, last or -1, step or 1
  for _, value in ipairs { from, to, by } do
    if math.type(value) ~= "integer" then errors.raise("slice: expected integers, got %s", graph.show(value)) end
  end
  local values = made(array.slice(self.array, axis, from, to, by))
  return derive("slice", values, { self }, function(slope)
    local whole = made(array.full(made(array.shape(self.array)), 0, (made(array.info(slope)))))
    local part = made(array.slice(whole, axis, from, to, by))
    made(array.assign(part, slope))
    array.close(part)
    return whole
  end)
end

--- A view of one position of an axis, without the axis. x[i] is x:select(1, i).
---@param axis integer
---@param index integer
---@return crucible.Tensor
function Tensor:select(axis, index)
  local rank = check("select", self):rank()
  if rank == 0 then errors.raise("select: a single number has no position %s", graph.show(index)) end
  axis = axis_number("select", axis, rank)
  local size = self:size(axis)
  if math.type(index) ~= "integer" or index == 0 or index > size or index < -size then
    errors.raise("select: axis %d of shape %s has no position %s", axis, self:shape_text(), graph.show(index))
  end
  return self:slice(axis, index, index):squeeze(axis)
end

-- ---- joining and cutting -----------------------------------------------------------------------------------

local shape = {}

local function check_list(what, list)
  if type(list) ~= "table" or graph.is(list) or #list == 0 then
    errors.raise("%s: expected a list of at least one tensor", what)
  end
  for _, x in ipairs(list) do check(what, x) end
end

--- Tensors one after another along an axis (1), which they have.
---@param list crucible.Tensor[]
---@param axis integer?
---@return crucible.Tensor
function shape.concat(list, axis)
  check_list("concat", list)
  local along, arrays, inputs = axis or 1, {}, {}
  for i, x in ipairs(list) do arrays[i], inputs[i] = x.array, x end
  return derive("concat", made(array.concat(arrays, along)), inputs, function(slope)
    local parts, first = {}, 1
    for i, x in ipairs(inputs) do
      local last = first + x:size(along) - 1
      parts[i] = made(array.slice(slope, along, first, last, 1))
      first = last + 1
    end
    return table.unpack(parts)
  end)
end

--- Tensors of one shape side by side along a new axis (1).
---@param list crucible.Tensor[]
---@param axis integer?
---@return crucible.Tensor
function shape.stack(list, axis)
  check_list("stack", list)
  local raised = {}
  for i, x in ipairs(list) do
    if x:shape_text() ~= list[1]:shape_text() then
      errors.raise("stack: shapes %s and %s differ", list[1]:shape_text(), x:shape_text())
    end
    raised[i] = x:unsqueeze(axis or 1)
  end
  return shape.concat(raised, axis or 1)
end

-- Sizes of the pieces of an axis: as given, or equal ones and a rest.
local function piece_sizes(sizes, whole)
  if type(sizes) == "table" then return sizes end
  local list = {}
  if math.type(sizes) ~= "integer" or sizes < 1 then
    errors.raise("split: expected a size >= 1 or a list of sizes, got %s", graph.show(sizes))
  end
  for first = 1, whole, sizes do list[#list + 1] = math.min(sizes, whole - first + 1) end
  return list
end

--- Views of an axis (1) in pieces: of one size, the last perhaps smaller, or of the listed sizes.
---@param sizes integer|integer[]
---@param axis integer?
---@return crucible.Tensor[]
function Tensor:split(sizes, axis)
  axis = axis or 1
  local whole, pieces, total = check("split", self):size(axis), {}, 0
  for i, size in ipairs(piece_sizes(sizes, whole)) do
    if math.type(size) ~= "integer" or size < 0 or total + size > whole then
      errors.raise("split: size %d is %s, expected an integer of 0 to %d, what is left of the axis of %d", i,
        graph.show(size), whole - total, whole)
    end
    pieces[i] = self:slice(axis, total + 1, total + size)
    total = total + size
  end
  if total ~= whole then errors.raise("split: the sizes add up to %d, the axis has %d", total, whole) end
  return pieces
end

return shape
