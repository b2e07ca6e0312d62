-- Durable files, folders, digests, the clock: crucible.core.fs, loaded when it is first used.
---@type crucible.core.fs
return setmetatable({}, {
  __index = function(self, name)
    local found = require("crucible.core").fs[name]
    rawset(self, name, found)
    return found
  end,
})
