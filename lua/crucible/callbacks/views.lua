-- The views of a run that the training loop's options ask for, as reporters for its callbacks: TensorBoard
-- event files while it trains, CSV and report.html when it ends.
local schema = require "crucible.schema"
local telemetry = require "crucible.telemetry"

local views = {}

--- Options of the training loop.
---@type crucible.schema.Entry[]
views.entries = {
  { name = "tensorboard", default = false, check = schema.boolean,
    doc = "event files for TensorBoard in the run folder" },
  { name = "csv", default = false, check = schema.boolean, doc = "telemetry.csv in the run folder at the end" },
  { name = "report", default = false, check = schema.boolean, doc = "report.html in the run folder at the end" },
}

-- Writes something once training has stopped; a failure is told, and does not become the run's.
local function at_the_end(write)
  return {
    on_event = function(name, _, metadata)
      if name ~= "training.stop" then return end
      local ok, message, code = write(metadata.run.run_dir)
      if ok then return end
      telemetry.emit("telemetry.failed", {}, { message = message, code = code, run = metadata.run })
    end,
  }
end

--- Reporters for the options.
---@param options { tensorboard: boolean, csv: boolean, report: boolean }
---@return { on_event: fun(name: string, measurements: table, metadata: table) }[]
function views.reporters(options)
  local list = {}
  if options.tensorboard then list[#list + 1] = require("crucible.callbacks.tensorboard").new() end
  if options.csv then list[#list + 1] = at_the_end(require("crucible.lora.telemetry_csv").write) end
  if options.report then list[#list + 1] = at_the_end(require("crucible.report").write) end
  return list
end

return views
