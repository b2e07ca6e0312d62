-- gradient_flow: the norm of each gradient in the order of the network, first layer first, and its
-- roll-ups: gradient_layers by depth, gradient_targets by projection.
local hook = require "crucible.hooks.hook"
local order = require "crucible.hooks.order"

-- The entry of a list for a key, made at the list's end when it is new.
local function entry(list, places, key, fields)
  if not places[key] then
    places[key] = fields
    list[#list + 1] = fields
  end
  return places[key]
end

local function finish(list)
  for _, rolled in ipairs(list) do
    rolled.magnitude, rolled.squares = math.sqrt(rolled.squares), nil
  end
  return list
end

local function flow_of(gradients, names)
  local flow, layers, targets, by_layer, by_target = {}, {}, {}, {}, {}
  for i, named in ipairs(names) do
    local place, magnitude = named.place, gradients[named.name]:norm()
    flow[i] = {
      layer = named.name, magnitude = magnitude, depth = place.depth, target = place.target, matrix = place.matrix,
    }
    local layer = entry(layers, by_layer, place.depth, { depth = place.depth, squares = 0 })
    local target = entry(targets, by_target, place.target, { target = place.target, squares = 0 })
    layer.squares, target.squares = layer.squares + magnitude ^ 2, target.squares + magnitude ^ 2
  end
  return { gradient_flow = flow, gradient_layers = finish(layers), gradient_targets = finish(targets) }
end

--- The hook "flow".
---@param options table?  none
---@return crucible.hooks.Hook
return function(options)
  hook.options("gradient_flow_hook", {}, options)
  local sorted = order.remembering()
  return hook.new { run = function(info) return flow_of(info.gradients, sorted(info.gradients)) end }
end
