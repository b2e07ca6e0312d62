-- The tensor as Lua holds it, and the reverse walk over what made it.
--
-- A tensor is a table around an array of crucible.core.tensor. One that was computed from tensors
-- that require a gradient carries a node: its inputs and a function from the slope of the result to
-- the slopes of the inputs, as arrays. backward() visits the nodes from the newest to the oldest,
-- which is a topological order because a node is younger than its inputs. C makes the values, the
-- walk is this file, so functions written in Lua take part in it like any other.
local array = require("crucible.core").tensor
local errors = require "crucible.errors"

local graph = { array = array }

---@class crucible.Tensor
---@field grad crucible.Tensor?       what backward() has added up so far
---@field requires_grad boolean       whether gradients reach it; settable where nothing computed it
---@field array crucible.core.Array   the values
---@operator add(crucible.Tensor|number): crucible.Tensor
---@operator sub(crucible.Tensor|number): crucible.Tensor
---@operator mul(crucible.Tensor|number): crucible.Tensor
---@operator div(crucible.Tensor|number): crucible.Tensor
---@operator pow(crucible.Tensor|number): crucible.Tensor
---@operator unm: crucible.Tensor
local Tensor = { __name = "crucible.tensor" }
graph.Tensor = Tensor

-- ---- making and checking ------------------------------------------------------------------

--- What a function of crucible.core.tensor gave; raises at the caller's line when it failed.
local function made(...)
  if (...) == nil then errors.raise("%s", (select(2, ...))) end
  return ...
end
graph.made = made

--- A tensor of its own around an array.
---@return crucible.Tensor
local function wrap(values) return setmetatable({ array = values, tracked = false, node = false }, Tensor) end
graph.wrap = wrap

function graph.is(value) return getmetatable(value) == Tensor end

local function show(value)
  if type(value) == "number" or type(value) == "boolean" or value == nil then return tostring(value) end
  return "a " .. type(value)
end
graph.show = show

--- The tensor, or an error that names the function.
function graph.check(what, value)
  if getmetatable(value) ~= Tensor then errors.raise("%s: expected a tensor, got %s", what, show(value)) end
  return value
end

--- A tensor or a number, as core.tensor takes it.
function graph.operand(what, value)
  if getmetatable(value) == Tensor then return value.array end
  if type(value) == "number" then return value end
  return errors.raise("%s: expected a tensor or a number, got %s", what, show(value))
end

-- ---- recording ------------------------------------------------------------------------------

local scopes = 0 -- of no_grad, in all coroutines
local silent = setmetatable({}, { __mode = "k" }) -- by coroutine: how many scopes it is in
local born = 0 -- nodes so far

local function recording() return scopes == 0 or not silent[(coroutine.running())] end
graph.recording = recording

-- Changes when any array that the node was made with is written to.
local function stamp(node)
  local sum = made(array.version(node.array))
  for _, input in ipairs(node.inputs) do
    if input ~= false then sum = sum + made(array.version(input.array)) end
  end
  return sum
end

local function any_tracked(inputs)
  for i = 1, #inputs do
    if inputs[i] and inputs[i].tracked then return true end
  end
  return false
end

--- The tensor around `values`, which `name` computed from `inputs` (tensors, or false for what has
--- no gradient). `backward(slope)` returns a slope for each input, or nil; each is summed over the axes along which its
--- input was broadcast.
---@param name string
---@param values crucible.core.Array
---@param inputs (crucible.Tensor|false)[]
---@param backward fun(slope: crucible.core.Array): crucible.core.Array?, crucible.core.Array?
---@param kept boolean?  the slopes are seen by others than the walk
---@return crucible.Tensor
function graph.derive(name, values, inputs, backward, kept)
  local out = wrap(values)
  if not recording() or not any_tracked(inputs) then return out end
  born = born + 1
  local node = { name = name, array = values, inputs = inputs, backward = backward, kept = kept, born = born }
  node.stamp = stamp(node)
  out.tracked = true
  out.node = node
  return out
end

local function leave(thread)
  scopes = scopes - 1
  local depth = silent[thread] - 1
  silent[thread] = depth > 0 and depth or nil
end

local function leave_with(thread, ok, ...)
  leave(thread)
  if not ok then error((...), 0) end
  return ...
end

--- Calls f(...) without recording what it computes; returns what it returns.
---@param f fun(...): ...
---@param ... any
---@return any ...
function graph.no_grad(f, ...)
  local thread = coroutine.running()
  scopes = scopes + 1
  silent[thread] = (silent[thread] or 0) + 1
  return leave_with(thread, pcall(f, ...))
end

-- ---- the walk -----------------------------------------------------------------------------------

-- All nodes that gradients of `root` pass through, newest first.
local function nodes_below(root)
  local found, waiting, seen = {}, { root }, { [root] = true }
  while #waiting > 0 do
    local node = table.remove(waiting)
    found[#found + 1] = node
    for _, input in ipairs(node.inputs) do
      local next_node = input and input.node
      if next_node and not seen[next_node] then
        seen[next_node] = true
        waiting[#waiting + 1] = next_node
      end
    end
  end
  table.sort(found, function(a, b) return a.born > b.born end)
  return found
end

-- Adds a slope to what a node or leaf has so far. What is pending belongs to the walk alone.
local function add_pending(pending, key, slope)
  local before = pending[key]
  if not before then
    pending[key] = slope
    return
  end
  pending[key] = made(array.binary.add(before, slope))
  array.close(before)
  array.close(slope)
end

local function visit(node, pending, slope)
  if stamp(node) ~= node.stamp then
    errors.raise("backward: a value that %s was computed with has been changed in place since", node.name)
  end
  local slopes = table.pack(node.backward(slope))
  for i, input in ipairs(node.inputs) do
    if slopes[i] and input and input.tracked then
      add_pending(pending, input.node or input, made(array.sum_to(slopes[i], input.array)))
    end
  end
  for i = 1, node.kept and 0 or slopes.n do
    if slopes[i] and slopes[i] ~= slope then array.close(slopes[i]) end
  end
end

-- Walks back from `root` with its slope; `wanted[key]` says which nodes' slopes are given to
-- sink(key, slope), leaves' always are. The slopes are closed afterwards.
local function walk(root, slope, wanted, sink)
  local pending = { [root.node or root] = slope }
  for _, node in ipairs(root.node and nodes_below(root.node) or {}) do
    local own = pending[node]
    pending[node] = nil
    if own then
      if wanted[node] then sink(wanted[node], own) end
      visit(node, pending, own)
      if not node.kept then array.close(own) end
    end
  end
  for leaf, own in pairs(pending) do
    sink(leaf, own)
    array.close(own)
  end
end

-- The slope to begin with: 1 for a single value, else the one given.
local function first_slope(what, root, slope)
  if not root.tracked then
    errors.raise("%s: nothing that this tensor was computed from requires a gradient", what)
  end
  if slope == nil then
    local type_name, _, count = made(array.info(root.array))
    if count ~= 1 then
      errors.raise("%s: shape %s is not a single value: give the slope to begin with", what, root:shape_text())
    end
    return made(array.full(made(array.shape(root.array)), 1, type_name))
  end
  local given = graph.check(what, slope)
  if given:shape_text() ~= root:shape_text() then
    errors.raise("%s: a slope of shape %s for a tensor of shape %s", what, given:shape_text(), root:shape_text())
  end
  return made(array.sum_to(given.array, root.array))
end

local function accumulate(leaf, slope)
  local gradient = rawget(leaf, "gradient")
  if gradient then
    made(array.add(gradient.array, slope, 1))
  else
    rawset(leaf, "gradient", wrap(made(array.copy(slope, (made(array.info(slope)))))))
  end
end

--- Adds to `grad` of every tensor that requires one the slope of this tensor with respect to it,
--- times `slope` (1 for a single value).
---@param slope crucible.Tensor?
function Tensor:backward(slope)
  graph.check("backward", self)
  local first = first_slope("backward", self, slope)
  local wanted = {}
  if self.node then
    for _, node in ipairs(nodes_below(self.node)) do wanted[node] = node.keeper end
  end
  walk(self, first, wanted, accumulate)
end

--- Gradients of `output` with respect to each of `inputs`, which may be computed themselves; nil
--- stands for one that it does not depend on. `grad` fields stay as they are.
---@param output crucible.Tensor
---@param inputs crucible.Tensor[]
---@param slope crucible.Tensor?
---@return (crucible.Tensor?)[]
function graph.gradients(output, inputs, slope)
  graph.check("gradients", output)
  local first = first_slope("gradients", output, slope)
  local wanted, found = {}, {}
  for _, input in ipairs(inputs) do
    local node = graph.check("gradients", input).node
    if node then wanted[node] = input end
  end
  walk(output, first, wanted, function(tensor, own)
    found[tensor] = wrap(made(array.copy(own, (made(array.info(own))))))
  end)
  local list = {}
  for i, input in ipairs(inputs) do list[i] = found[input] end
  return list
end

--- Makes backward() fill `grad` of this tensor although it was computed.
---@return crucible.Tensor self
function Tensor:retain_grad()
  graph.check("retain_grad", self)
  if self.node then self.node.keeper = self end
  return self
end

--- Forgets the gradient.
function Tensor:zero_grad() rawset(graph.check("zero_grad", self), "gradient", nil) end

--- The same values without a past: no gradient reaches what they were computed from.
---@return crucible.Tensor
function Tensor:detach() return wrap(made(array.view(graph.check("detach", self).array))) end

--- Releases the array at once instead of when it is collected. Views of it stay usable.
function Tensor:close() array.close(graph.check("close", self).array) end
Tensor.__close = Tensor.close

-- ---- fields ------------------------------------------------------------------------------------------

local readers = {
  grad = function(self) return rawget(self, "gradient") end,
  requires_grad = function(self) return self.tracked end,
}

function Tensor.__index(self, key)
  local method = Tensor[key]
  if method ~= nil then return method end
  if readers[key] then return readers[key](self) end
  if math.type(key) == "integer" then return Tensor.select(self, 1, key) end
  return nil
end

local writers = {}

function writers.grad(self, value)
  if value ~= nil and graph.check("grad", value):shape_text() ~= self:shape_text() then
    errors.raise("grad: expected shape %s, got %s", self:shape_text(), value:shape_text())
  end
  rawset(self, "gradient", value)
end

function writers.requires_grad(self, value)
  if type(value) ~= "boolean" then errors.raise("requires_grad: expected a boolean, got %s", show(value)) end
  if self.node then errors.raise("requires_grad: this tensor was computed by %s; detach() it first", self.node.name) end
  self.tracked = value
end

function Tensor.__newindex(self, key, value)
  if writers[key] then return writers[key](self, value) end
  if math.type(key) == "integer" then
    errors.raise("a tensor is not written by index: use x[%d]:assign_(value) or tensor.where", key)
  end
  errors.raise("a tensor has no field %s that can be set; there are grad and requires_grad", tostring(key))
end

-- ---- custom functions ------------------------------------------------------------------------------------

-- Arrays of the slopes that a custom function returned.
local function custom_slopes(name, arguments, given)
  local slopes = {}
  for i, argument in ipairs(arguments) do
    local slope = given[i]
    if slope ~= nil and argument then
      if type(slope) == "number" then slope = wrap(made(array.full({}, slope, "f64"))):expand(argument:shape()) end
      graph.check(("backward of %s, result %d"):format(name, i), slope)
      if slope:shape_text() ~= argument:shape_text() then
        errors.raise("backward of %s: result %d has shape %s, its argument %s", name, i, slope:shape_text(),
          argument:shape_text())
      end
      slopes[i] = slope.array
    end
  end
  return table.unpack(slopes, 1, #arguments)
end

local function check_custom(definition)
  local ok = type(definition) == "table" and type(definition.forward) == "function"
    and type(definition.backward) == "function"
  if not ok then errors.raise("tensor.custom: expected { forward = function, backward = function, name = string? }") end
  return definition.name or "a custom function"
end

-- Tensors among the arguments as inputs of a node, and the arguments as forward sees them.
local function split_arguments(arguments)
  local inputs, plain = {}, { n = arguments.n }
  for i = 1, arguments.n do
    local is_tensor = graph.is(arguments[i])
    inputs[i] = is_tensor and arguments[i]
    plain[i] = is_tensor and arguments[i]:detach() or arguments[i]
  end
  return inputs, plain
end

--- A differentiable function in Lua: forward(context, ...) returns a tensor (and perhaps more, which carries no
--- gradient); backward(context, slope) returns a slope for each argument: a tensor of its shape, a
--- number, or nil. Both run without recording; `context` is a table of the call's own.
---@param definition { forward: function, backward: function, name: string? }
---@return fun(...): crucible.Tensor, ...
function graph.custom(definition)
  local name = check_custom(definition)
  return function(...)
    local inputs, plain = split_arguments(table.pack(...))
    local context = {}
    local results = table.pack(graph.no_grad(definition.forward, context, table.unpack(plain, 1, plain.n)))
    local out = graph.check("forward of " .. name, results[1])
    local values = made(array.view(out.array))
    results[1] = graph.derive(name, values, inputs, function(slope)
      return custom_slopes(name, inputs, table.pack(graph.no_grad(definition.backward, context, wrap(slope))))
    end, true)
    return table.unpack(results, 1, results.n)
  end
end

return graph
