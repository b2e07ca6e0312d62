-- crucible data: what a data set looks like to a model, before anything is trained on it.
local chat = require "crucible.chat"
local dataset_integration = require "crucible.lora.dataset_integration"
local errors = require "crucible.errors"
local gate = require "crucible.lora.gate"
local gate_view = require "crucible.lora.gate_view"
local inspection = require "crucible.lora.inspection"
local json = require "crucible.json"
local program = require "crucible.program"
local schema = require "crucible.schema"
local tokenizer = require "crucible.tokenizer"

local command = {
  summary = "shows a data set as a model sees it, and what is wrong with it",
  usage = "inspect [options] DATASET | list",
  description = [[
inspect reads DATASET (a name, or a file of rows), tokenises it for a model and shows what the gate finds before
step 1 of a run: rows, tokens, lengths, rows cut or repeated, and a row with what is trained of it marked. It
exits with 1 when a run would stop there. list names data sets, formatters and chat templates.

  crucible data inspect scifact
  crucible data inspect rows.jsonl --formatter alpaca --max-length 512 --row 3
]],
}

-- Row options that can be written as text.
local function entries()
  local list = {
    { name = "action", positional = true, required = true, check = schema.one_of { "inspect", "list" },
      doc = "what to do" },
    { name = "dataset", positional = true, check = schema.nonempty_string,
      doc = "a data set's name, or a file's path" },
    { name = "model", default = "smollm2-135m-instruct", check = schema.nonempty_string,
      doc = "name or path of the model whose tokenizer is used" },
    { name = "row", default = 1, check = schema.integer { min = 1 }, doc = "which row to show" },
    program.color_entry,
    { name = "json", default = false, check = schema.boolean, doc = "write the figures as JSON" },
  }
  for _, entry in ipairs(inspection.options.entries) do
    if entry.check.kind ~= "other" then list[#list + 1] = entry end
  end
  return list
end

command.options = schema.new("crucible data", entries())

local function list_names(out)
  out:write("data sets: ", table.concat(dataset_integration.datasets(), ", "), "\n")
  out:write("formatters: ", table.concat(dataset_integration.formatters(), ", "), "\n")
  out:write("chat templates: ", table.concat(chat.templates(), ", "), "\n")
  return true
end

-- The datum of a row by the row's number; nil when it was left out.
local function datum_of(list, row)
  for _, datum in ipairs(list) do
    if datum.row == row then return datum end
  end
end

local function show(out, found, tok, given)
  local datum = datum_of(found.datums, given.row)
  if not datum then
    return errors.failure("argument", "row %d: %s", given.row, given.row > #found.rows
      and ("there are %d"):format(#found.rows) or "it is left out as too long")
  end
  found.report.sample = gate.sample(datum, tok)
  if given.json then
    out:write(json.encode_pretty(found.report))
  else
    out:write(found.dataset.source, "\n\n", gate_view.text(found.report, program.colours(given.color)))
  end
  return true
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return any result, string? message, string? code
function command.run(given, streams)
  if given.action == "list" then return list_names(streams.out) end
  if not given.dataset then
    return errors.failure("argument", "inspect what? Give a data set's name or a file's path")
  end
  local tok, message, code = tokenizer.open(given.model)
  if not tok then return nil, message, code end
  local found
  found, message, code = inspection.run(tok, given.dataset, inspection.options:pick(given))
  if not found then return nil, message, code end
  return show(streams.out, found, tok, given)
end

return command
