-- gradient_updates: how far the optimiser moved each matrix, beside how long it was; update_ratio: the
-- same for all of them as one vector.
local hook = require "crucible.hooks.hook"

local function run(info)
  local updates = info.gradient_updates or info.session:updates()
  local change, before = 0, 0
  for _, update in pairs(updates) do
    change, before = change + update.change ^ 2, before + update.before ^ 2
  end
  return { gradient_updates = updates, update_ratio = before > 0 and math.sqrt(change / before) or nil }
end

--- The hook "updates".
---@param options table?  none
---@return crucible.hooks.Hook
return function(options)
  hook.options("gradient_updates_hook", {}, options)
  return hook.new { run = run, points = { "after_update" }, watch = { "updates" } }
end
