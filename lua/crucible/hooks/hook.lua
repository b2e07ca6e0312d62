-- What the gradient hooks that come with the library are made of: a callable table that also says at
-- which points of a step it runs and what the engine should watch for it.
local schema = require "crucible.schema"

local hook = {}

---@class crucible.hooks.Hook
---@field points string[]       "after_backward", "after_clipping", "after_update"
---@field watch string[]        of session:watch
---@field distribution boolean  quantiles and histograms are wanted
---@field state (fun(): table)?        plain data for a checkpoint
---@field restore (fun(data: table))?  the same, given back to a run that is resumed
---@operator call(table): table?
local Hook = { __name = "crucible.hook" }
Hook.__call = function(self, info) return self.run(info) end

--- A hook out of `run(info)`.
---@param fields table  run(info), points, watch, distribution, state(), restore(data)
---@return crucible.hooks.Hook
function hook.new(fields)
  fields.points = fields.points or { "after_backward" }
  fields.watch = fields.watch or {}
  fields.distribution = fields.distribution or false
  return setmetatable(fields, Hook)
end

--- Options of a hook, checked.
---@param owner string
---@param entries crucible.schema.Entry[]
---@param given table?
---@return table
function hook.options(owner, entries, given) return schema.new(owner, entries):resolve(given) end

return hook
