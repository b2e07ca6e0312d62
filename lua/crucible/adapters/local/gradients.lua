-- Views of a session's accumulated gradients. A view reads the engine's memory when it is asked;
-- once optim_step or zero_gradients has run, what it stood for is gone and using it raises.
local errors = require "crucible.errors"

---@class crucible.lora.Gradient
---@field name string    "layers.12.self_attn.q_proj.lora_A"
---@field layer integer
---@field target string  "q_proj"
local Gradient = { __name = "crucible.gradient" }
Gradient.__index = Gradient

local gradients = {}

local function live(self)
  local session = self.session
  if session.closed then errors.raise("gradient of %s: its session is closed", self.name) end
  if session.gradient_age ~= self.age then
    errors.raise("gradient of %s is gone: read it between forward_backward and optim_step", self.name)
  end
  return session.core
end

--- Rows and columns.
---@return integer rows, integer columns
function Gradient:shape() return self.rows, self.columns end

--- Euclidean norm.
---@return number
function Gradient:norm() return live(self):norm(self.name, "gradient") end

--- A copy as a flat list, row after row.
---@return number[]
function Gradient:totable() return live(self):read(self.name, "gradient") end

function Gradient:__len() return self.rows * self.columns end

function Gradient:__tostring()
  return ("crucible.gradient(%s, %d x %d)"):format(self.name, self.rows, self.columns)
end

--- Views of all gradients by name.
---@param session crucible.Session
---@return table<string, crucible.lora.Gradient>
function gradients.views(session)
  local views = {}
  for _, parameter in ipairs(session.core:parameters()) do
    views[parameter.name] = setmetatable({
      session = session, age = session.gradient_age, name = parameter.name, layer = parameter.layer,
      target = parameter.target, rows = parameter.rows, columns = parameter.columns,
    }, Gradient)
  end
  return views
end

return gradients
