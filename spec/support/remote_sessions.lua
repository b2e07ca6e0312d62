-- Sessions of the remote engine on the stand-in server, and local ones like them.
local lora = require("crucible").lora
local tiny_model = require "spec.support.tiny_model"

local remote = {}

--- Quick failures: a spec does not wait for minutes.
remote.impatience = { backoff = 0.02, patience = 20, poll_timeout = 5, timeout = 5 }

--- A config that local engine and stand-in read alike.
---@param options table?
---@return table
function remote.config(options)
  local config = {
    base_model = tiny_model.path, lora_rank = 4, lora_alpha = 32, lora_dropout = 0, threads = 1, warmup_steps = 0,
    learning_rate = 1e-2, weight_decay = 0.01, max_grad_norm = 1,
  }
  for key, value in pairs(options or {}) do config[key] = value end
  return config
end

--- A session on a server.
---@param server { url: string, base_model: string, key: string? }
---@param options table?  of lora.create_session; config is laid over remote.config
---@return crucible.RemoteSession? session, string? message, string? code
function remote.session(server, options)
  local given = { adapter = "tinker", base_url = server.url, api_key = server.key, remote_model = server.base_model }
  for key, value in pairs(remote.impatience) do given[key] = value end
  for key, value in pairs(options or {}) do given[key] = value end
  given.config = remote.config(given.config)
  return lora.create_session(given)
end

--- A local session with the same config.
---@param options table?
---@return crucible.Session
function remote.twin(options)
  local given = {}
  for key, value in pairs(options or {}) do given[key] = value end
  given.config = remote.config(given.config)
  return assert(lora.create_session(given))
end

--- A datum of a text's bytes, supervised from a place on.
---@param text string
---@param prompt integer
---@return table
function remote.datum(text, prompt)
  local tokens, weights = { text:byte(1, -1) }, {}
  for i = 1, #tokens - 1 do weights[i] = i >= prompt and 1 or 0 end
  return { tokens = tokens, weights = weights }
end

return remote
