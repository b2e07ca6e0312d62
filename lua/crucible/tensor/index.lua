-- Values by position and in order; products of matrices. Positions count from 1 and are tensors or lists.
local errors = require "crucible.errors"
local graph = require "crucible.tensor.graph"

local Tensor, array = graph.Tensor, graph.array
local made, check, derive = graph.made, graph.check, graph.derive

-- Positions as an array.
local function positions(what, value)
  if graph.is(value) then return value.array end
  if type(value) ~= "table" then
    errors.raise("%s: expected positions as a list or a tensor, got %s", what, graph.show(value))
  end
  return made(array.new(value, "f64"))
end

local function zeros_like(x) return made(array.full(made(array.shape(x)), 0, (made(array.info(x))))) end

-- ---- choosing -------------------------------------------------------------------------------------

--- out[.., j, ..] = x[.., index[.., j, ..], ..] along the axis; on the others `index` has x's sizes.
---@param axis integer
---@param index crucible.Tensor|table
---@return crucible.Tensor
function Tensor:gather(axis, index)
  check("gather", self)
  local at = positions("gather", index)
  return derive("gather", made(array.gather(self.array, axis, at)), { self }, function(slope)
    return made(array.scatter_add(zeros_like(self.array), axis, at, slope))
  end)
end

--- A copy with the values of `source` added where gather(axis, index) would read them.
---@param axis integer
---@param index crucible.Tensor|table
---@param source crucible.Tensor
---@return crucible.Tensor
function Tensor:scatter_add(axis, index, source)
  check("scatter_add", self)
  local at, other = positions("scatter_add", index), check("scatter_add", source)
  local values = made(array.scatter_add(self.array, axis, at, other.array))
  return derive("scatter_add", values, { self, other }, function(slope)
    return slope, other.tracked and made(array.gather(slope, axis, at)) or nil
  end)
end

--- The listed positions of an axis.
---@param axis integer
---@param index crucible.Tensor|integer[]
---@return crucible.Tensor
function Tensor:index_select(axis, index)
  check("index_select", self)
  local at = positions("index_select", index)
  return derive("index_select", made(array.select(self.array, axis, at)), { self }, function(slope)
    return made(array.select_add(zeros_like(self.array), axis, at, slope))
  end)
end

--- The values where the mask, which broadcasts, is not 0, as one axis in row-major order.
---@param mask crucible.Tensor
---@return crucible.Tensor
function Tensor:masked_select(mask)
  check("masked_select", self)
  local spread = made(array.expand(check("masked_select", mask).array, { self:shape() }))
  return self:flatten():index_select(1, graph.wrap(made(array.nonzero(spread))))
end

--- Positions (from 1, row-major) of the values that are not 0.
---@return crucible.Tensor
function Tensor:nonzero() return graph.wrap(made(array.nonzero(check("nonzero", self).array))) end

-- ---- order ------------------------------------------------------------------------------------------

--- Values in order along an axis (the last) and the positions they came from. Equal values keep
--- their order, NaN comes last.
---@param axis integer?
---@param descending boolean?
---@return crucible.Tensor values, crucible.Tensor positions
function Tensor:sort(axis, descending)
  check("sort", self)
  local along = axis or -1
  local values, at = made(array.sort(self.array, along, descending))
  return derive("sort", values, { self }, function(slope)
    return made(array.scatter_add(zeros_like(self.array), along, at, slope))
  end), graph.wrap(at)
end

--- The positions that sort gives.
---@param axis integer?
---@param descending boolean?
---@return crucible.Tensor
function Tensor:argsort(axis, descending)
  local values, at = made(array.sort(check("argsort", self).array, axis or -1, descending))
  array.close(values)
  return graph.wrap(at)
end

--- Sums from the start of an axis (the last) to each place.
---@param axis integer?
---@return crucible.Tensor
function Tensor:cumsum(axis)
  check("cumsum", self)
  local along = axis or -1
  return derive("cumsum", made(array.cumsum(self.array, along, false)), { self }, function(slope)
    return made(array.cumsum(slope, along, true))
  end)
end

-- ---- products of matrices -----------------------------------------------------------------------------

local function transposed(x)
  local _, rank = made(array.info(x))
  local axes = {}
  for i = 1, rank do axes[i] = i end
  axes[rank - 1], axes[rank] = rank, rank - 1
  return made(array.permute(x, axes))
end

-- A vector as a row (on the left) or a column (on the right).
local function as_matrix(x, column)
  local shape = made(array.shape(x))
  if #shape > 1 then return x end
  return made(array.reshape(x, column and { shape[1], 1 } or { 1, shape[1] }))
end

-- The slope with the axes that the product dropped.
local function with_axes(slope, a_rank, b_rank)
  local shape = made(array.shape(slope))
  if a_rank == 1 then table.insert(shape, #shape + (b_rank > 1 and 0 or 1), 1) end
  if b_rank == 1 then shape[#shape + 1] = 1 end
  return made(array.reshape(slope, shape))
end

-- A column's slope as the vector's, before it is summed over a batch.
local function without_column(slope)
  local shape = made(array.shape(slope))
  shape[#shape] = nil
  return made(array.reshape(slope, shape))
end

--- The matrix product over the last two axes; the others broadcast. A vector counts as a row on the
--- left and as a column on the right, and its axis is dropped.
---@param other crucible.Tensor
---@return crucible.Tensor
function Tensor:matmul(other)
  local a, b = check("matmul", self), check("matmul", other)
  return derive("matmul", made(array.matmul(a.array, b.array)), { a, b }, function(slope)
    local a_rank, b_rank = a:rank(), b:rank()
    local full = with_axes(slope, a_rank, b_rank)
    local da = a.tracked and made(array.matmul(full, transposed(as_matrix(b.array, true)))) or nil
    local db = b.tracked and made(array.matmul(transposed(as_matrix(a.array, false)), full)) or nil
    return da, db and b_rank == 1 and without_column(db) or db
  end)
end

return Tensor
