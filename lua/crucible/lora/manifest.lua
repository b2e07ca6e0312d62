-- manifest.json: what a run was, so that it can be told from another and made again.
local config = require "crucible.lora.config"
local experiment = require "crucible.lora.experiment"
local json = require "crucible.json"

local manifest = {}

local function plain_options(options)
  local copy = {}
  for key, value in pairs(options) do
    local kind = type(value)
    if kind == "function" then copy[key] = "a function" end
    if kind == "string" or kind == "number" or kind == "boolean" then copy[key] = value end
  end
  return copy
end

local function experiment_of(record)
  return { id = record.id, name = record.name, description = record.description, tags = json.array(record.tags or {}) }
end

--- The manifest of a run about to start.
---@param run crucible.lora.Run
---@return table? manifest, string? message, string? code
function manifest.of(run)
  local session, plan = run.session, run.plan
  local engine, message, code = session:describe()
  if not engine then return nil, message, code end
  return {
    experiment_id = session.experiment_id, adapter_name = session.adapter_name, status = "running",
    started_at = experiment.now(), resumed_at_step = run.state.step > 0 and run.state.step or nil, seed = session.seed,
    config = config.plain(plan.config), options = plain_options(run.options), engine = engine,
    experiment = run.options.experiment and experiment_of(run.options.experiment),
    gradient_hooks = run.points and run.points.hooks:names(),
    dataset = {
      name = plan.dataset.name, source = plan.dataset.source, split = plan.dataset.split, sha256 = plan.digest,
      gate = plan.gate,
    },
    plan = {
      epochs = plan.epochs, steps_per_epoch = plan.steps_per_epoch, total_steps = plan.total_steps,
      loss = plan.loss.name, order_seed = plan.seed, batch_size = plan.batch_size,
      batch_tokens = plan.batch_tokens, batching = plan.batching, grad_accumulation = plan.config.grad_accumulation,
    },
    versions = { crucible = require("crucible")._VERSION, lua = _VERSION },
  }
end

return manifest
