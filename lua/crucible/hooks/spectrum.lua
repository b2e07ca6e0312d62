-- lora_spectra: singular values of scale · B A of each branch, with its effective and stable rank, every
-- so many steps; by the branch's name.
local hook = require "crucible.hooks.hook"
local order = require "crucible.hooks.order"
local schema = require "crucible.schema"

local entries = {
  { name = "every", default = 10, check = schema.integer { min = 1 }, doc = "steps between two looks" },
}

--- The hook "spectrum".
---@param options { every: integer? }?
---@return crucible.hooks.Hook
return function(options)
  local every = hook.options("lora_spectrum_hook", entries, options).every
  local function run(info)
    if info.step % every ~= 0 then return nil end
    local spectra = {}
    for name in pairs(info.gradients) do
      local place = order.place(name)
      if place.matrix == "A" then spectra[place.branch] = info.session:spectrum(name) end
    end
    return { lora_spectra = spectra }
  end
  return hook.new { run = run, points = { "after_update" } }
end
