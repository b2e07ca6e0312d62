-- The local engine: this library's C core behind lora.adapter's contract.
local config = require "crucible.lora.config"
local core = require "crucible.core"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local model = require "crucible.model"
local schema = require "crucible.schema"
local session = require "crucible.adapters.local.session"

local adapter = experiment.adapter()

local function check_shared(given)
  if not model.is(given.model) then
    errors.raise("lora.create_session: model must be a crucible.model, got %s", schema.show(given.model))
  end
  if config.names_no_model(given.config) or given.config.base_model == given.model.name then return end
  errors.raise('lora.create_session: config.base_model is "%s" but the given model is "%s"', given.config.base_model,
    given.model.name)
end

local function base_model(given)
  if given.model then return given.model end
  return model.open(given.config.base_model)
end

--- A session on config.base_model, or on the model given. `given` is what lora.create_session has
--- checked.
---@param given table
---@return crucible.Session? session, string? message, string? code
function adapter.create_session(given)
  if given.model then check_shared(given) end
  local base, message, code = base_model(given)
  if not base then return nil, message, code end
  local made
  made, message, code = session.new(base, given)
  if not made then
    if not given.model then base:close() end
    return nil, message, code
  end
  made.owns_model = not given.model
  made.kernels = core.kernel_name()
  made.threads = given.config.threads > 0 and given.config.threads or core.available_threads()
  return made
end

return adapter
