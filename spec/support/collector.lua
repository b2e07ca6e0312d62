-- busted helper: CRUCIBLE_GC runs the whole suite under another collector.
--   generational   Lua's generational mode
--   frantic        a step of work at every chance, so that a missing anchor shows
local modes = {
  generational = function() collectgarbage("generational") end,
  frantic = function() collectgarbage("incremental", 1, 1000, 1) end,
}

local mode = os.getenv("CRUCIBLE_GC")
if mode and mode ~= "" then
  local set = modes[mode] or error("CRUCIBLE_GC: expected generational or frantic, got " .. mode)
  set()
end

require("spec.support.errors_seen").listen()
