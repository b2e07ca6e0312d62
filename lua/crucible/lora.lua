-- The adapter-agnostic entry: experiments, sessions and the small functions around them, and the
-- rooms of training. Each function is the current adapter's; lora.use picks another.
local errors = require "crucible.errors"
local schema = require "crucible.schema"

---@class crucible.lora
---@field config crucible.lora.config                            hyperparameters
---@field adapter crucible.lora.adapter                          the contract with an engine
---@field dataset_integration crucible.lora.dataset_integration  rows of named data sets and files
---@field datums crucible.lora.datums                            rows to tokens and weights
---@field loss_functions crucible.lora.loss_functions            names of losses
---@field gradient_hooks crucible.lora.gradient_hooks          looks at gradients within a step, and actions
---@field runs crucible.lora.runs                                the runs of a folder: list, compare, delete
---@field training_loop crucible.lora.training_loop              run(session, dataset, options)
---@field evaluation crucible.lora.evaluation                    evaluate(session, dataset, options)
---@field judge crucible.lora.judge                              a lora that judges entailment
local lora = {}

local rooms = {
  "config", "adapter", "dataset_integration", "datums", "loss_functions", "gradient_hooks", "training_loop", "runs",
  "evaluation", "judge",
}
for _, room in ipairs(rooms) do rooms[room] = "crucible.lora." .. room end

local current -- the adapter in use; the local engine until lora.use says otherwise

local function adapter()
  if not current then current = require("crucible.lora.adapter").find "local" end
  return current
end

--- Picks the adapter that the functions of this room use from now on.
---@param name_or_table string|table  "local", "tinker", or a table that keeps lora.adapter's contract
---@return table adapter
function lora.use(name_or_table)
  current = require("crucible.lora.adapter").find(name_or_table)
  return current
end

--- Sixteen lower-case hexadecimal characters from the system's random source.
---@return string
function lora.generate_id() return adapter().generate_id() end

--- A record of an experiment: id, name, description, config, tags, status "pending",
--- created_at, metrics, checkpoints. Without a name: nil, message, "argument".
---@param options { name: string, description: string?, config: table?, tags: string[]? }
---@return table? record, string? message, string? code
function lora.create_experiment(options) return adapter().create_experiment(options) end

--- The list in pieces of n, the last one short.
---@generic T
---@param list T[]
---@param n integer
---@return T[][]
function lora.batch_dataset(list, n) return adapter().batch_dataset(list, n) end

--- Rows as { input, output, weight = 1 }.
---@param batch table[]
---@param options { weight: number? }?
---@return { input: string, output: string, weight: number }[]
function lora.format_training_data(batch, options) return adapter().format_training_data(batch, options) end

--- mean_loss, loss_reduction, min_loss, max_loss, final_loss, total_steps, … of a list of steps.
---@param steps table[]
---@return table<string, number>
function lora.calculate_metrics(steps) return adapter().calculate_metrics(steps) end

--- Compares metrics with config.quality_targets: passed, assessments, summary.
---@param metrics table<string, number>
---@param config crucible.lora.Config
---@return { passed: boolean, assessments: table[], summary: string }
function lora.validate_quality(metrics, config) return adapter().validate_quality(metrics, config) end

--- Checked sampling parameters: temperature 0.7, top_p 0.95, max_tokens 512, stop_sequences {}, …
---@param options table?
---@return table
function lora.sampling_params(options) return adapter().sampling_params(options) end

--- "<id>_step_<step>_<unix time>"
---@param id string
---@param step integer
---@return string
function lora.checkpoint_name(id, step) return adapter().checkpoint_name(id, step) end

local session_entries = {
  { name = "config", default = {}, check = schema.table, doc = "a config, or options of lora.config.new" },
  { name = "adapter", check = schema.either(schema.string, schema.table), doc = "the engine; default: lora.use's" },
  { name = "seed", check = schema.integer(), doc = "of A, dropout, row order and sampling; default: the config's" },
  { name = "model", check = schema.table, doc = "an open crucible.model to share; default: opens config.base_model" },
  { name = "experiment_id", check = schema.nonempty_string, doc = "names the run folder; default: a new id" },
  { name = "adapter_name", default = "default", check = schema.nonempty_string, doc = "name of the lora" },
  { name = "loss_functions", check = schema.table,
    doc = "a registry of lora.loss_functions.new that names of losses are looked up in; default: lora.loss_functions" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder that holds the run folders" },
}
local session_options = schema.new("lora.create_session", session_entries)

-- With those that an engine takes besides.
local function options_of(engine)
  if not engine.session_options then return session_options end
  local entries = table.move(session_entries, 1, #session_entries, 1, {})
  table.move(engine.session_options, 1, #engine.session_options, #entries + 1, entries)
  return schema.new("lora.create_session", entries)
end

-- The engine that some options ask for.
local function engine_of(options)
  local asked = type(options) == "table" and options.adapter
  if type(asked) ~= "string" and type(asked) ~= "table" then return adapter() end
  return lora.adapter.find(asked)
end

---@class crucible.lora.SessionOptions
---@field config table?            a config, or options of lora.config.new
---@field adapter string|table|nil  the engine; default: lora.use's
---@field seed integer?            default: the config's
---@field model crucible.Model?    to share; default: opens config.base_model
---@field experiment_id string?    default: a new id
---@field adapter_name string?     name of the lora; "default"
---@field loss_functions crucible.lora.loss_functions?  a registry of its own; default: lora.loss_functions
---@field runs string?             folder of run folders; "runs"

--- A session: one base model, one named lora, its optimiser state and its random numbers. Raises
--- on misuse; a model that is not there or cannot be read gives nil, message, code. An engine may take options
--- besides (its session_options): base_url, api_key and others of adapters/tinker.lua.
---@param options crucible.lora.SessionOptions
---@return crucible.Session? session, string? message, string? code
function lora.create_session(options)
  local engine = engine_of(options)
  local given = options_of(engine):resolve(options)
  given.config = lora.config.new(given.config)
  given.seed = given.seed or given.config.seed
  if given.experiment_id and not given.experiment_id:find("^[%w_%-][%w_%-%.]*$") then
    errors.raise("lora.create_session: experiment_id names a folder: letters, digits, '-', '_' and '.', got %s",
      schema.show(given.experiment_id))
  end
  given.adapter = nil
  return engine.create_session(given)
end

local names = {}
for _, room in ipairs(rooms) do names[room] = rooms[room] end

return setmetatable(lora, {
  rooms = names, -- for help and completion
  __tostring = function() return "crucible.lora" end,
  __index = function(self, name)
    if not rooms[name] then return nil end
    local room = require(rooms[name])
    rawset(self, name, room)
    return room
  end,
})
