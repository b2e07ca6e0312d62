-- The two small random Llama models of spec/fixtures/tiny, made by scripts/make_golden.py.
local core = require "crucible.core"

local tiny_model = {}

local folder = debug.getinfo(1, "S").source:match("^@(.*)support/tiny_model%.lua$") .. "fixtures/tiny/"

--- Every tensor type that the reader knows, tied head, two key heads for four: 3 layers, d = 64.
tiny_model.path = folder .. "tiny.gguf"
--- F16, a head of its own, one key head, sizes that no vector length divides: 2 layers, d = 42.
tiny_model.untied_path = folder .. "tiny_untied.gguf"

--- Opens "tiny" (the default) or "tiny_untied".
---@param name string?
---@return crucible.core.Model
function tiny_model.open(name) return assert(core.open_model(folder .. (name or "tiny") .. ".gguf")) end

--- A session over one of them: rank 4, alpha 8, no dropout, q,k,v,o, seed 0, one thread, unless given.
---@param options table?
---@param name string?
---@return crucible.core.Session
function tiny_model.session(options, name)
  local config = {
    rank = 4, alpha = 8, dropout = 0, seed = 0, threads = 1,
    targets = { "q_proj", "k_proj", "v_proj", "o_proj" },
  }
  for key, value in pairs(options or {}) do config[key] = value end
  local model <close> = tiny_model.open(name)
  return assert(model:session(config))
end

return tiny_model
