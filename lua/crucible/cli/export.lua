-- crucible export: an adapter in another form, or merged into its base.
local export = require "crucible.lora.export"
local schema = require "crucible.schema"

local command = {
  summary = "writes an adapter for other programs, or merged into its base",
  usage = "ADAPTER OUT [options]",
  description = [[
ADAPTER is a run folder, a checkpoint, a PEFT folder or a GGUF adapter. Of a merged model the largest difference of
its logits to those of base and adapter is printed, and stored in its metadata.

  crucible export runs/0123456789abcdef adapter.gguf --format gguf
  crucible export runs/0123456789abcdef m --format merged-safetensors --type f16
  crucible export peft-folder m.gguf --format merged-gguf --model base.gguf]],
}

-- Entries that `crucible merge` has too.
command.shared = {
  { name = "adapter", positional = true, required = true, check = schema.nonempty_string,
    doc = "run folder, checkpoint, PEFT folder or GGUF adapter" },
  { name = "out", positional = true, required = true, check = schema.nonempty_string, doc = "file or folder to write" },
  { name = "model", check = schema.nonempty_string, doc = "name or path of the base model; default: the adapter's" },
  { name = "checkpoint", default = "best", check = schema.nonempty_string,
    doc = 'of a run folder: a name, "best" or "latest"' },
  { name = "type", check = schema.one_of(export.types),
    doc = "of the values written: " .. table.concat(export.types, ", ") },
  { name = "shard_bytes", check = schema.integer { min = 1 }, doc = "merged-safetensors: most bytes a file" },
  { name = "overwrite", default = false, check = schema.boolean, doc = "replace a merged model that is there" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
}

local entries = table.move(command.shared, 1, #command.shared, 1, {})
table.insert(entries, 3, { name = "format", default = "peft", check = schema.one_of(export.formats),
  doc = table.concat(export.formats, ", ") })
command.options = schema.new("crucible export", entries)

--- Opens the adapter and writes it.
---@param given table
---@param format string
---@param streams crucible.cli.Streams
function command.write(given, format, streams)
  local path, report, code = export.convert(given.adapter, given.out, {
    format = format, type = given.type, shard_bytes = given.shard_bytes, overwrite = given.overwrite,
  }, { model = given.model, checkpoint = given.checkpoint, threads = given.threads })
  if not path then return nil, report, code end
  streams.out:write(export.text(report))
end

function command.run(given, streams) return command.write(given, given.format, streams) end

return command
