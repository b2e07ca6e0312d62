-- crucible merge: base and adapter in one model.
local export = require "crucible.cli.export"
local schema = require "crucible.schema"

return {
  summary = "merges an adapter into its base: a .gguf file or a Hugging Face folder",
  usage = "ADAPTER OUT [options]",
  description = [[
ADAPTER is a run folder, a checkpoint, a PEFT folder or a GGUF adapter. OUT becomes a GGUF file where its name ends in
.gguf, else a folder. The same as `crucible export` with a merged format.

  crucible merge runs/0123456789abcdef merged.gguf --type q8_0
  crucible merge runs/0123456789abcdef merged-model]],
  options = schema.new("crucible merge", export.shared),
  run = function(given, streams)
    local file = given.out:lower():find "%.gguf$"
    return export.write(given, file and "merged-gguf" or "merged-safetensors", streams)
  end,
}
