-- Arguments of calls, by place and by name, laid out as a function's parameters.
local fault = require "crucible.jinja.fault"

local arguments = {}

---@class crucible.jinja.Arguments
---@field n integer
---@field names string[]           of arguments by name, in their order
---@field named table<string, any>

---@param list any[]?
---@return crucible.jinja.Arguments
function arguments.new(list)
  list = list or {}
  list.n, list.names, list.named = #list, {}, {}
  return list
end

local function fill(given, parameters, most)
  local filled = {}
  for i = 1, given.n do filled[i] = given[i] end
  for i = given.n + 1, most do filled[i] = given.named[parameters[i]] end
  return filled
end

local function position(list, name)
  for i, other in ipairs(list) do
    if other == name then return i end
  end
end

--- The arguments in the order of `parameters`; nil where one is not given. Raises a fault for one too many, an
--- unknown name, one given twice, or fewer than `required`.
---@param what string  the function, for messages
---@param given crucible.jinja.Arguments
---@param parameters string[]
---@param required integer
---@return any ...
function arguments.unpack(what, given, parameters, required)
  if given.n > #parameters then
    fault.raise("format", nil, "%s takes at most %d arguments, got %d", what, #parameters, given.n)
  end
  for _, name in ipairs(given.names) do
    local at = position(parameters, name)
    if not at then fault.raise("format", nil, "%s takes no argument '%s'", what, fault.show(name)) end
    if at <= given.n then fault.raise("format", nil, "%s got its argument '%s' twice", what, name) end
  end
  local filled = fill(given, parameters, #parameters)
  for i = 1, required do
    if filled[i] == nil then fault.raise("format", nil, "%s needs its argument '%s'", what, parameters[i]) end
  end
  return table.unpack(filled, 1, #parameters)
end

--- The arguments from the `first` on, as another call's.
---@param given crucible.jinja.Arguments
---@param first integer
---@return crucible.jinja.Arguments
function arguments.rest(given, first)
  local list = { n = math.max(0, given.n - first + 1), names = given.names, named = given.named }
  return table.move(given, first, given.n, 1, list)
end

return arguments
