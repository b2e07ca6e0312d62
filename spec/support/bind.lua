-- What the binding's specs start from: small handles on the tiny model, and rows for them.
local tiny_model = require "spec.support.tiny_model"

local bind = { path = tiny_model.path }

--- Opens the model.
---@return crucible.core.Model
function bind.model() return tiny_model.open() end

--- A session's config: rank 4 on q and v without dropout, with `changes` on top.
---@param changes table?
---@return crucible.core.SessionConfig
function bind.config(changes)
  local config = { rank = 4, alpha = 8, dropout = 0, targets = { "q_proj", "v_proj" }, seed = 7, threads = 1 }
  for name, value in pairs(changes or {}) do config[name] = value end
  return config
end

--- A session on a model of its own, which only the session keeps alive.
---@param changes table?
---@return crucible.core.Session
function bind.session(changes) return tiny_model.session(bind.config(changes)) end

--- `count` rows of `length` tokens.
---@param count integer
---@param length integer
---@return crucible.core.Datum[]
function bind.batch(count, length)
  local batch = {}
  for row = 1, count do
    local tokens = {}
    for i = 1, length do tokens[i] = (37 * i + 11 * row) % 300 end
    batch[row] = { tokens = tokens }
  end
  return batch
end

return bind
