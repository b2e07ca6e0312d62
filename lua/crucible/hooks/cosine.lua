-- gradient_cosine: cosine between the whole gradient and the one of the step before; gradient_cosines:
-- the same for each matrix, by name, where neither is zero. Near 1: steps agree; near 0: noise leads.
local hook = require "crucible.hooks.hook"

--- The hook "cosine".
---@param options table?  none
---@return crucible.hooks.Hook
return function(options)
  hook.options("gradient_cosine_hook", {}, options)
  return hook.new {
    watch = { "turns" },
    run = function(info)
      local cosines, overall = info.session:turns()
      return { gradient_cosines = cosines, gradient_cosine = overall }
    end,
  }
end
