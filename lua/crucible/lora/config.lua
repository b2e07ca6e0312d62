-- The hyperparameters of a run, as one schema: name, default, check, one line of doc.
-- The names and defaults down to quality_targets are those of the LoRA training interface; what
-- follows is added, with defaults that leave its behaviour as it is.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local paths = require "crucible.paths"
local patterns = require "crucible.lora.patterns"
local peft = require "crucible.lora.peft"
local schedule = require "crucible.lora.schedule"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local config = {}

local integer, number = schema.integer, schema.number

--- Projections that can carry a lora branch, in the order of a layer.
config.targets = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local known_target = {}
for _, name in ipairs(config.targets) do known_target[name] = true end

local function check_targets(value)
  if type(value) ~= "table" or #value == 0 then return false end
  local seen = {}
  for _, name in ipairs(value) do
    if not known_target[name] then
      local hint = type(name) == "string" and suggest.nearest(name, config.targets)
      return false, ("unknown target %s%s; known: %s"):format(schema.show(name),
        hint and ('; did you mean "%s"?'):format(hint) or "", table.concat(config.targets, ", "))
    end
    if seen[name] then return false, ('"%s" is listed twice'):format(name) end
    seen[name] = true
  end
  return true
end

local function check_quality_targets(value)
  if type(value) ~= "table" then return false end
  for name, target in pairs(value) do
    if type(name) ~= "string" or type(target) ~= "number" or target ~= target then return false end
  end
  return true
end

local function check_saved_modules(value)
  if type(value) == "table" and next(value) == nil then return true end
  local names = {}
  for i, name in ipairs(type(value) == "table" and value or { value }) do names[i] = tostring(name) end
  return false, ("whole modules are not trained here, only branches on target_modules; got %s"):format(
    table.concat(names, ", "))
end

-- scope "model": fixed when the session is made; a run cannot change it.
local entries = {
  { name = "base_model", default = "llama-3-8b", check = schema.nonempty_string, scope = "model",
    doc = "name of the base model, or the path of a .gguf file" },
  { name = "lora_rank", default = 16, check = integer { min = 1, max = 65536 }, scope = "model",
    doc = "rank of the lora matrices A [rank, in] and B [out, rank]" },
  { name = "lora_alpha", default = 32, check = number { above = 0 }, scope = "model",
    doc = "the branch is multiplied by alpha / rank" },
  { name = "lora_dropout", default = 0.05, check = number { min = 0, below = 1 }, scope = "model",
    doc = "share of the branch's inputs dropped in training" },
  { name = "target_modules", default = { "q_proj", "v_proj", "k_proj", "o_proj" }, scope = "model",
    check = schema.test("a list of projections (" .. table.concat(config.targets, ", ") .. ")", check_targets),
    doc = "projections that carry a lora branch" },

  { name = "learning_rate", default = 1.0e-4, check = number { above = 0 },
    doc = "peak learning rate" },
  { name = "weight_decay", default = 0.01, check = number { min = 0 },
    doc = "decoupled decay of AdamW: pulls the lora, and so the model, back to the base" },
  { name = "warmup_steps", default = 100, check = integer { min = 0 },
    doc = "steps over which the rate rises: (step + 1) / warmup_steps, counted from 0" },
  { name = "max_grad_norm", default = 1.0, check = number { min = 0 },
    doc = "gradients are scaled down to this norm over all matrices; 0 = never" },

  { name = "adam_beta1", default = 0.9, check = number { min = 0, below = 1 },
    doc = "decay of the first moment" },
  { name = "adam_beta2", default = 0.999, check = number { min = 0, below = 1 },
    doc = "decay of the second moment" },
  { name = "adam_epsilon", default = 1.0e-8, check = number { above = 0 },
    doc = "added to the root of the second moment" },

  { name = "quality_targets", check = schema.test("a table of metric names and numbers", check_quality_targets),
    default = { schema_compliance = 0.95, citation_accuracy = 0.95, mean_entailment = 0.50, overall_pass_rate = 0.45 },
    doc = "least value of each metric for validate_quality; a given table replaces this one" },

  { name = "schedule", default = "constant", check = schema.one_of(schedule.names),
    doc = "the rate after warm-up; all but constant and inverse_sqrt end near 0 at the last step" },
  { name = "schedule_cycles", default = 1, check = integer { min = 1 }, doc = "falls of cosine_with_restarts" },
  { name = "schedule_power", default = 1.0, check = number { above = 0 }, doc = "exponent of polynomial" },
  { name = "min_lr_ratio", default = 0.0, check = number { min = 0, below = 1 },
    doc = "share of the peak rate that cosine ends at" },
  { name = "grad_accumulation", default = 1, check = integer { min = 1 },
    doc = "batches whose gradients make one optimiser step" },
  { name = "rslora", default = false, check = schema.boolean, scope = "model",
    doc = "multiply the branch by alpha / sqrt(rank) instead" },
  { name = "dora", default = false, check = schema.boolean, scope = "model",
    doc = "train a magnitude for each row of a weight beside its direction" },
  { name = "rank_pattern", check = patterns.check(integer { min = 1, max = 65536 }), scope = "model",
    doc = "ranks of single modules, by regular expressions for the end of their names" },
  { name = "alpha_pattern", check = patterns.check(number { above = 0 }), scope = "model",
    doc = "alphas of single modules, likewise" },
  { name = "modules_to_save", check = schema.test("left out", check_saved_modules), scope = "model",
    doc = "PEFT's list of modules that are trained whole; not supported" },
  { name = "loraplus_lr_ratio", check = number { above = 0 },
    doc = "LoRA+: the learning rate of B over that of A; default: 1, or what a resumed checkpoint had" },
  { name = "precision", default = "f32", check = schema.one_of { "f32" }, scope = "model",
    doc = "arithmetic of the matrix products" },
  { name = "seed", default = 0, check = integer(),
    doc = "of the start values of A, of dropout and of the order of rows, unless a session or run is given another" },
  { name = "recompute", default = "none", check = schema.one_of { "none", "layer" }, scope = "model",
    doc = "layer: keep each layer's input alone and run it again in backward; less memory, more time" },
  { name = "threads", default = 0, check = integer { min = 0, max = 1024 }, scope = "model",
    doc = "threads of the engine; 0 = as many as affinity and quota allow" },
  { name = "micro_batch_tokens", default = 2048, check = integer { min = 1 }, scope = "model",
    doc = "activations are kept for about this many tokens at a time; longer batches run in pieces" },
  { name = "max_length", check = integer { min = 2 },
    doc = "longest row in tokens; default: the model's context" },
  { name = "truncation", default = "left", check = schema.one_of { "left", "drop" },
    doc = "of rows over max_length: cut the prompt from its left, or drop the row; answers are never cut" },
}

local options = schema.new("lora.config.new", entries)

--- The fields, for programs that offer them as their own.
config.options = options

---@class crucible.lora.Config
---@field base_model string
---@field lora_rank integer
---@field lora_alpha number
---@field lora_dropout number
---@field target_modules string[]
---@field learning_rate number
---@field weight_decay number
---@field warmup_steps integer
---@field max_grad_norm number
---@field adam_beta1 number
---@field adam_beta2 number
---@field adam_epsilon number
---@field quality_targets table<string, number>
---@field schedule "constant"|"linear"|"cosine"|"cosine_with_restarts"|"polynomial"|"inverse_sqrt"
---@field schedule_cycles integer
---@field schedule_power number
---@field min_lr_ratio number
---@field grad_accumulation integer
---@field rslora boolean
---@field dora boolean
---@field rank_pattern crucible.lora.Pattern?
---@field alpha_pattern crucible.lora.Pattern?
---@field loraplus_lr_ratio number?
---@field precision "f32"
---@field seed integer
---@field recompute "none"|"layer"
---@field threads integer
---@field micro_batch_tokens integer
---@field max_length integer?
---@field truncation "left"|"drop"
local Config = { __name = "crucible.lora.config" }

--- How a field's value reads: a list as it is, the members of a table by name.
---@param value any
---@return string
function config.text_of(value)
  if type(value) ~= "table" then return value == nil and "-" or tostring(value) end
  local parts = {}
  if type(value[1]) == "string" then return table.concat(value, ", ") end
  for i, pair in ipairs(patterns.list(value)) do parts[i] = ("%s %s"):format(pair[1], pair[2]) end
  return table.concat(parts, ", ")
end

function Config:__tostring()
  local lines = {}
  for i, entry in ipairs(entries) do
    lines[i] = ("  %-19s %s"):format(entry.name, config.text_of(self[entry.name]))
  end
  return Config.__name .. "\n" .. table.concat(lines, "\n")
end

--- A checked config with defaults filled in. Raises on an unknown option (naming the nearest)
--- and on a value out of range.
---@param given table?
---@return crucible.lora.Config
function config.new(given) return setmetatable(options:resolve(given), Config) end

--- The config with which a session can load and go on training a PEFT folder: rank, alpha, dropout, targets,
--- patterns and variants are those of its adapter_config.json. `given` adds other options and overrules. What the
--- folder needs and this library does not have is refused by name ("unsupported").
---@param folder string
---@param given table?
---@return crucible.lora.Config? config, string? message, string? code
function config.from_peft(folder, given)
  local file = paths.join(folder, peft.config_file)
  local bytes, message, code = fs.read_file(file)
  if not bytes then return nil, message, code end
  local found
  found, message, code = peft.options(bytes)
  if not found then return errors.failure(code, "%s: %s", file, message) end
  for key, value in pairs(given or {}) do found[key] = value end
  return config.new(found)
end

--- The config that a run of a session uses: one made by config.new as it is; a plain table of
--- options over the session's own config; nil for that config itself.
---@param session_config crucible.lora.Config
---@param given table?
---@return crucible.lora.Config
function config.for_run(session_config, given)
  if given == nil then return session_config end
  if getmetatable(given) == Config then return given end
  local merged = config.plain(session_config)
  for key, value in pairs(given) do merged[key] = value end
  return config.new(merged)
end

--- Every field's default.
---@return table
function config.defaults() return options:defaults() end

--- The fields with defaults and docs, as text.
---@return string
function config.help() return options:help() end

--- AdamW's parameters as optim_step takes them: lr, beta1, beta2, eps, weight_decay, max_grad_norm; and
--- loraplus_lr_ratio where it is given (Hayou et al., "LoRA+", 2024): B and DoRA's magnitudes learn at so many
--- times lr, as PEFT's create_loraplus_optimizer groups them.
---@param self crucible.lora.Config
---@return { lr: number, beta1: number, beta2: number, eps: number, weight_decay: number, max_grad_norm: number, loraplus_lr_ratio: number? }
function config.adam_params(self)
  return {
    lr = self.learning_rate, beta1 = self.adam_beta1, beta2 = self.adam_beta2, eps = self.adam_epsilon,
    weight_decay = self.weight_decay, max_grad_norm = self.max_grad_norm, loraplus_lr_ratio = self.loraplus_lr_ratio,
  }
end

-- Names in any order; patterns by their pairs. A pattern without any is none.
local function same(a, b)
  if type(a or b) ~= "table" then return a == b end
  local function sides(value)
    if type(value) == "table" and type(value[1]) == "string" then
      local names = table.move(value, 1, #value, 1, {})
      table.sort(names)
      return table.concat(names, "\n")
    end
    local parts = {}
    for i, pair in ipairs(patterns.list(value)) do parts[i] = ("%s=%.17g"):format(pair[1], pair[2]) end
    return table.concat(parts, "\n")
  end
  return sides(a) == sides(b)
end

--- True when base_model was left at its default, which says nothing about a model at hand.
---@param self crucible.lora.Config
---@return boolean
function config.names_no_model(self) return self.base_model == options.by_name.base_model.default end

--- Names of the fields of a session's model and lora in which a run's config differs from the
--- session's. A base_model left at its default does not differ.
---@param session_config crucible.lora.Config
---@param run_config crucible.lora.Config
---@return string[]
function config.model_differences(session_config, run_config)
  local names = {}
  for _, entry in ipairs(entries) do
    local unnamed = entry.name == "base_model" and config.names_no_model(run_config)
    if entry.scope == "model" and not unnamed and not same(session_config[entry.name], run_config[entry.name]) then
      names[#names + 1] = entry.name
    end
  end
  return names
end

--- A plain copy, for manifests and checkpoints.
---@param self crucible.lora.Config
---@return table
function config.plain(self)
  local copy = {}
  for _, entry in ipairs(entries) do copy[entry.name] = schema.copy(self[entry.name]) end
  return copy
end

return config
