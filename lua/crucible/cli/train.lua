-- crucible train: a run of the training loop from the shell, its options those of lora.config and training_loop.run.
local config = require "crucible.lora.config"
local console = require "crucible.callbacks.console"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local lora = require "crucible.lora"
local program = require "crucible.program"
local schema = require "crucible.schema"
local training_loop = require "crucible.lora.training_loop"

local command = {
  summary = "trains a lora on a data set",
  usage = "[options] DATASET | RUNFILE",
  description = [[
DATASET is a name or a file of rows; RUNFILE ends in .lua and returns a table of these options, or is such a table as
JSON. What is written here counts more than what stands there. Ctrl-C ends the run after its step, with a checkpoint.

  crucible train scifact --model smollm2-135m-instruct --max-steps 36
  crucible train run.lua --learning-rate 1e-4
]],
  explicit = true,
  main = { "model", "epochs", "max_steps", "batch_size", "learning_rate", "lora_rank", "evaluate", "experiment_id",
    "resume" },
}

-- ---- options -------------------------------------------------------------------------------------

local own_entries = {
  { name = "dataset", positional = true, required = true, check = schema.nonempty_string,
    doc = "a data set's name, a file of rows, or a run file" },
  { name = "model", check = schema.nonempty_string, doc = "name or path of the base model: base_model" },
  { name = "evaluate", check = schema.nonempty_string, doc = "split to evaluate on" },
  { name = "metrics", check = schema.list(schema.string), doc = "measured there, besides the loss" },
  { name = "loss_fn", default = "cross_entropy", check = schema.list(schema.nonempty_string),
    doc = "name of a loss; several make a composite" },
  { name = "loss_weights", check = schema.list(schema.number()), doc = "one a loss; default: those it ships with" },
  { name = "gradient_hooks", check = schema.list(schema.nonempty_string),
    doc = "looks at gradients: norm, flow, health, distribution, updates …" },
  { name = "experiment_id", check = schema.nonempty_string, doc = "names the run folder; default: a new id" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder of run folders" },
  { name = "seed", check = schema.integer(), doc = "of everything random; default: the config's, 0" },
  { name = "quiet", default = false, check = schema.boolean, doc = "only the results" },
  { name = "json", default = false, check = schema.boolean, doc = "the results as JSON" },
}

-- What only Lua can say, what this program decides, and what it says in its own way.
local without = { config = true, callbacks = true, transform = true, filter = true, signals = true, experiment = true,
  enable_gradient_hooks = true }
for _, entry in ipairs(own_entries) do without[entry.name] = true end

local function entries()
  local list = table.move(own_entries, 1, #own_entries, 1, {})
  for _, source in ipairs { config.options.entries, training_loop.options.entries } do
    for _, entry in ipairs(program.sayable(source, without)) do
      without[entry.name] = true
      list[#list + 1] = entry
    end
  end
  return list
end

command.options = schema.new("crucible train", entries())

-- ---- run files -----------------------------------------------------------------------------------

-- All that a run file may say: the options above, those of Lua alone, and the config as a table.
local function file_schema()
  local list, taken = {}, {}
  local function add(entry)
    if taken[entry.name] then return end
    taken[entry.name] = true
    list[#list + 1] = { name = entry.name, check = entry.check, doc = entry.doc }
  end
  add { name = "dataset", check = schema.either(schema.nonempty_string, schema.table), doc = "as of training_loop.run" }
  for _, entry in ipairs(training_loop.options.entries) do add(entry) end
  for _, entry in ipairs(config.options.entries) do add(entry) end
  for _, entry in ipairs(own_entries) do add(entry) end
  return schema.new("a run file", list)
end

local function read_lua(path)
  local chunk, message = loadfile(path, "t")
  if not chunk then return errors.failure("format", "%s: %s", path, message) end
  local ok, found = pcall(chunk)
  if not ok then return errors.failure("format", "%s: %s", path, tostring(found)) end
  return found
end

local function read_json(path)
  local text, message, code = fs.read_file(path)
  if not text then return nil, message, code end
  local found
  found, message, code = json.decode(text)
  if code then return errors.failure(code, "%s: %s", path, message) end
  return found
end

-- The table of a run file; false when the word is a data set.
local function read_file(word)
  if not word:find "%.lua$" and not word:find "%.json$" then return false end
  local found, message, code
  if word:find "%.lua$" then
    found, message, code = read_lua(word)
  else
    found, message, code = read_json(word)
    if type(found) == "table" and #found > 0 then return false end -- an array of rows
  end
  if code then return nil, message, code end
  if type(found) ~= "table" or found.dataset == nil then
    return errors.failure("format", "%s: expected a table of options with `dataset`, got %s", word, schema.show(found))
  end
  local ok, checked = pcall(file_schema().resolve, file_schema(), found)
  if not ok then return errors.failure("argument", "%s: %s", word, (tostring(checked):gsub("^.-a run file: ", ""))) end
  return checked
end

-- What was written over what stands in the file.
local function merged(given)
  local file, message, code = read_file(given.dataset)
  if file == nil then return nil, message, code end
  if not file then return given end
  for name, value in pairs(given) do
    if name ~= "dataset" then file[name] = value end
  end
  return file
end

-- ---- the run -------------------------------------------------------------------------------------

local registrations = { topological = "register_topological_loss", chirality = "register_chirality_loss",
  citation_validity = "register_citation_loss" }

local function loss_of(options)
  local loss = options.loss_fn
  if type(loss) == "string" then loss = { loss } end
  if type(loss) ~= "table" or type(loss[1]) ~= "string" or type(loss[2]) == "table" then return loss end
  for _, name in ipairs(loss) do
    if registrations[name] then lora.loss_functions[registrations[name]]() end
  end
  if #loss == 1 then return loss[1] end
  return lora.loss_functions.composite(loss, options.loss_weights)
end

local function config_of(options)
  local settings = schema.copy(options.config or {})
  for _, name in ipairs(config.options.names) do
    if options[name] ~= nil then settings[name] = options[name] end
  end
  settings.base_model = options.model or settings.base_model
  return lora.config.new(settings)
end

local function evaluation_of(options)
  if type(options.evaluate) ~= "string" then return options.evaluate end
  return { split = options.evaluate, metrics = options.metrics }
end

local function run_options(options, streams)
  local chosen = training_loop.options:pick(options)
  chosen.config, chosen.loss_fn, chosen.evaluate = nil, loss_of(options), evaluation_of(options)
  if options.gradient_hooks then chosen.enable_gradient_hooks = true end
  chosen.signals = true
  local reporter = options.quiet and {} or console.new { stream = streams.err }
  chosen.callbacks = { reporter, options.callbacks }
  return chosen
end

local function tell(streams, results, as_json)
  if not as_json then return streams.out:write(tostring(results), "\n") end
  local plain = {}
  for key, value in pairs(results) do
    if key ~= "gate" then plain[key] = value end
  end
  streams.out:write(json.encode_pretty(plain))
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return integer? exit_code, string? message, string? code
function command.run(given, streams)
  local options, message, code = merged(given)
  if not options then return nil, message, code end
  local session
  session, message, code = lora.create_session {
    config = config_of(options), seed = options.seed, experiment_id = options.experiment_id, runs = options.runs,
  }
  if not session then return nil, message, code end
  local guard <close> = session
  local results
  results, message, code = training_loop.run(guard, options.dataset, run_options(options, streams))
  if not results then return nil, message, code end
  tell(streams, results, options.json)
  if results.status == "interrupted" then
    streams.err:write(("go on with the same options and --experiment-id %s --resume\n"):format(session.experiment_id))
  end
  return results.exit_code
end

return command
