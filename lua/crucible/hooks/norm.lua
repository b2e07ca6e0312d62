-- gradient_norms: the Euclidean norm of each gradient, by name.
local hook = require "crucible.hooks.hook"

--- The hook "norm".
---@param options table?  none
---@return crucible.hooks.Hook
return function(options)
  hook.options("gradient_norm_hook", {}, options)
  return hook.new {
    run = function(info)
      local norms = {}
      for name, gradient in pairs(info.gradients) do norms[name] = gradient:norm() end
      return { gradient_norms = norms }
    end,
  }
end
