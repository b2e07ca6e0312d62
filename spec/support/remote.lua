-- Sessions of the remote engine on a server of the specs, and the same runs on the local one.
local crucible = require "crucible"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora
local remote = {}

--- What means the same on every server: alpha 32 at rank 4, all projections, no dropout, no clipping.
---@param changes table?
---@return table
function remote.config(changes)
  local config = {
    base_model = tiny_model.path, lora_rank = 4, lora_alpha = 32, lora_dropout = 0,
    target_modules = lora.config.targets,
    max_grad_norm = 0, learning_rate = 5e-3, warmup_steps = 0, weight_decay = 0.01, adam_epsilon = 1e-8, threads = 1,
  }
  for name, value in pairs(changes or {}) do config[name] = value end
  return config
end

--- A session at an address, impatient enough for a spec; nil, message, code as lora.create_session.
---@param url string
---@param options table?
function remote.session(url, options)
  local given = {
    adapter = "tinker", base_url = url, remote_model = "tiny", config = remote.config(), seed = 3, reduction = "sum",
    repeats = "deduplicated", backoff = 0.005, patience = 5, connect_timeout = 2, timeout = 2, poll_timeout = 2,
    max_bytes = 1 << 20,
  }
  for name, value in pairs(options or {}) do given[name] = value end
  return lora.create_session(given)
end

--- Rows with as many supervised targets each, so that the mean over tokens is the mean over rows.
---@param count integer
---@param seed integer?
---@param length integer?  12
---@return crucible.core.Datum[]
function remote.batch(count, seed, length)
  local state, batch = (seed or 1) * 7919 + 1, {}
  local function draw()
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return 3 + (state >> 16) % 250
  end
  for i = 1, count do
    local datum = { tokens = {}, weights = {} }
    for t = 1, length or 12 do datum.tokens[t] = draw() end
    for t = 1, #datum.tokens - 1 do datum.weights[t] = t > #datum.tokens // 2 and 1 or 0 end
    batch[i] = datum
  end
  return batch
end

--- Steps of cross-entropy; their losses, or nil, message, code.
---@param session table
---@param steps integer
---@param first integer?  seed of the first batch
---@return number[]? losses, string? message, string? code
function remote.train(session, steps, first)
  local losses = {}
  for i = 1, steps do
    local found, message, code = session:forward_backward(remote.batch(2, (first or 1) + i))
    if not found then return nil, message, code end
    local stepped
    stepped, message, code = session:optim_step()
    if not stepped then return nil, message, code end
    losses[i] = found.loss
  end
  return losses
end

return remote
