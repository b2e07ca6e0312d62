-- What a run will do, settled before step 1: the config, the loss, the rows as datums, and which
-- of them each step takes. Nothing here changes while the run goes on.
--
-- An epoch is an order of all rows, a pure function of (seed, epoch). A step takes
-- batch_size × grad_accumulation rows of it, in batches of batch_size; the last step of an epoch
-- takes what is left.
local config = require "crucible.lora.config"
local dataset_integration = require "crucible.lora.dataset_integration"
local datums = require "crucible.lora.datums"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local gate = require "crucible.lora.gate"
local loss_functions = require "crucible.lora.loss_functions"
local random = require "crucible.random"

---@class crucible.lora.Plan
---@field config crucible.lora.Config
---@field loss crucible.lora.Loss
---@field datums table[]
---@field gate crucible.lora.gate.Report?
---@field dataset crucible.lora.DatasetInfo
---@field digest string  SHA-256 of all tokens and weights
---@field seed integer   of the order of rows
---@field batch_size integer
---@field rows_per_step integer
---@field steps_per_epoch integer
---@field epochs integer
---@field total_steps integer
local Plan = {}
Plan.__index = Plan

local plan = {}

local function run_config(session, given)
  local chosen = config.for_run(session.config, given)
  local names = config.model_differences(session.config, chosen)
  if #names == 0 then return chosen end
  local name = names[1]
  local function show(value) return type(value) == "table" and table.concat(value, ", ") or tostring(value) end
  return errors.raise("training_loop.run: config.%s is %s, but the session was made with %s; it cannot change in a run",
    name, show(chosen[name]), show(session.config[name]))
end

local function digest_of(list)
  local parts = {}
  for i, datum in ipairs(list) do
    parts[i] = table.concat(datum.tokens, " ") .. ":" .. table.concat(datum.weights, " ")
  end
  return fs.sha256(table.concat(parts, "\n"))
end

local function count_steps(self, options)
  self.steps_per_epoch = (#self.datums + self.rows_per_step - 1) // self.rows_per_step
  self.epochs = options.epochs
  if not self.epochs then
    self.epochs = options.max_steps and (options.max_steps + self.steps_per_epoch - 1) // self.steps_per_epoch or 1
  end
  self.total_steps = math.min(self.epochs * self.steps_per_epoch, options.max_steps or math.maxinteger)
end

local function load_datums(self, session, dataset, options)
  local rows, info, code = dataset_integration.prepare_dataset(dataset, dataset_integration.row_options:pick(options))
  if not rows then return nil, info, code end
  local formatted = require("crucible.lora").format_training_data(rows)
  for i, row in ipairs(rows) do formatted[i].metadata = row.metadata end
  local limit = math.min(self.config.max_length or session.context, session.context)
  local list, counts
  list, counts, code = datums.build(session.tokenizer, formatted, {
    max_length = limit, truncation = self.config.truncation,
  })
  if not list then return nil, counts, code end
  self.datums, self.dataset = list, info
  if options.gate or #list == 0 then
    self.gate, counts, code = gate.check(list, counts, session.tokenizer)
    if not self.gate then return nil, counts, code end
  end
  return true
end

--- The plan of a run. Raises on misuse; a data set that cannot be read or trained on gives nil,
--- message, code.
---@param session crucible.Session
---@param dataset string|table[]
---@param options table  resolved options of training_loop.run
---@return crucible.lora.Plan? plan, string? message, string? code
function plan.make(session, dataset, options)
  local self = setmetatable({
    config = run_config(session, options.config), loss = loss_functions.resolve(options.loss_fn),
    seed = options.seed or session.seed, shuffle = options.shuffle, batch_size = options.batch_size,
  }, Plan)
  self.rows_per_step = self.batch_size * self.config.grad_accumulation
  local ok, message, code = load_datums(self, session, dataset, options)
  if not ok then return nil, message, code end
  count_steps(self, options)
  self.digest = digest_of(self.datums)
  return self
end

--- The order of rows in an epoch.
---@param epoch integer  from 1
---@return integer[]
function Plan:order(epoch)
  if self.known_epoch ~= epoch then
    self.known_epoch = epoch
    self.known_order = {}
    if self.shuffle then
      self.known_order = random.permutation(#self.datums, self.seed, epoch)
    else
      for i = 1, #self.datums do self.known_order[i] = i end
    end
  end
  return self.known_order
end

--- The batches of a step, and the units of the loss in all of them.
---@param epoch integer  from 1
---@param index integer  step within the epoch, from 1
---@return table[][] batches, table<string, integer> counts
function Plan:step(epoch, index)
  local order, rows = self:order(epoch), {}
  for position = (index - 1) * self.rows_per_step + 1, math.min(index * self.rows_per_step, #order) do
    rows[#rows + 1] = self.datums[order[position]]
  end
  return experiment.batch_dataset(rows, self.batch_size), loss_functions.counts(self.loss, rows)
end

--- What must be the same for a run to go on from a checkpoint and reach the same bytes.
---@return table<string, any>
function Plan:identity()
  return {
    rows = #self.datums, data_sha256 = self.digest, seed = self.seed, shuffle = self.shuffle,
    batch_size = self.batch_size, grad_accumulation = self.config.grad_accumulation, loss = self.loss.name,
  }
end

--- The first difference between this plan and a checkpoint's identity, in words; nil if none.
---@param identity table<string, any>
---@return string?
function Plan:difference(identity)
  local own, names = self:identity(), {}
  for name in pairs(own) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    if own[name] ~= identity[name] then
      return ("%s was %s, now it is %s"):format(name, tostring(identity[name]), tostring(own[name]))
    end
  end
end

return plan
