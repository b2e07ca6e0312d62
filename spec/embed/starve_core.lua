-- What spec/c/starve_test.c starves, on the engine alone: a session's creation, a step, a save, a close.
local path, folder = ...
local core = require "crucible.core"

local CONFIG = { rank = 2, alpha = 4, dropout = 0.1, targets = { "q_proj", "down_proj" }, threads = 2 }
local batch = { { tokens = { 1, 2, 3, 4, 5 } }, { tokens = { 6, 7, 8 }, weights = { 0, 1 } } }

local function open()
  local model <close> = assert(core.open_model(path))
  return assert(model:session(CONFIG))
end

local function close(session)
  session:close()
  return true
end

local function created()
  local model <close> = assert(core.open_model(path))
  local session <close> = assert(model:session(CONFIG))
  return tostring(session) ~= "" and #model:tokenizer():encode "text" > 0
end

local function step(session)
  session:zero_gradients()
  local result = assert(session:forward_backward(batch, { logprobs = true }))
  assert(#session:parameters() == 12 and session:norm("layers.0.self_attn.q_proj.lora_A", "gradient") >= 0)
  return result.loss == result.loss and assert(session:optim_step { lr = 1e-3 }).step > 0
end

local function save(session)
  return session:save_lora(folder .. "/lora") and session:save_optimizer(folder .. "/optimizer")
    and session:load_lora(folder .. "/lora") and session:load_optimizer(folder .. "/optimizer")
end

local function sample(session)
  local params = { max_tokens = 2, temperature = 1, seed = 1 }
  local generation <close> = assert(session:generate({ { 1, 2, 3 }, { 4 } }, params))
  local count = 0
  for events in generation.step, generation do count = count + #events end
  return count > 0 and assert(session:score({ { 1, 2 } }, { { { 3 }, { 4, 5 } } }))[1][2] < 0
end

local function look()
  local value = assert(core.decode_json [[{"a": [1, {"b": "\u00e4"}, null, 2.5e3], "c": true}]])
  return value.c and core.fs.sha256 "x" and core.fs.random_bytes(300) ~= nil
end

local function nothing() return true end

return {
  { name = "creation", prepare = nothing, call = created, finish = nothing },
  { name = "step", prepare = open, call = step, finish = close },
  { name = "save", prepare = open, call = save, finish = close },
  { name = "sample", prepare = open, call = sample, finish = close },
  { name = "values", prepare = nothing, call = look, finish = nothing },
  { name = "close", prepare = open, call = close, finish = nothing },
}
