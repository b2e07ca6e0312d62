-- Slopes by finite differences, beside which the engine's gradients are held.
local lists = require "spec.support.lists"

local gradient = {}

--- d f(x + t·direction) / dt at t = 0 from four points; its error is of order step⁴.
---@param f fun(x: number[]): number
---@param x number[]
---@param direction number[]
---@param step number
---@return number
function gradient.along(f, x, direction, step)
  local function slope(t) return (f(lists.add(x, t, direction)) - f(lists.add(x, -t, direction))) / (2 * t) end
  return (4 * slope(step) - slope(2 * step)) / 3
end

--- d f / d x[index].
---@param f fun(x: number[]): number
---@param x number[]
---@param index integer
---@param step number
---@return number
function gradient.entry(f, x, index, step)
  local direction = lists.fill(#x, 0)
  direction[index] = 1
  return gradient.along(f, x, direction, step)
end

--- The loss of a session as a function of one of its matrices, which keeps what was written last.
---@param session crucible.core.Session
---@param name string
---@param loss fun(): number
---@return fun(values: number[]): number
function gradient.of_matrix(session, name, loss)
  return function(values)
    session:write(name, values)
    return loss()
  end
end

return gradient
