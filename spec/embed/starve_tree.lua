-- What spec/c/starve_test.c starves, on the library in Lua: a session's creation, a step, a checkpoint, a close.
local lua_files, path, folder = ...
package.path = lua_files .. "/?.lua;" .. lua_files .. "/?/init.lua"
local lora = require("crucible").lora

local CONFIG = { base_model = path, lora_rank = 2, target_modules = { "q_proj" }, threads = 1 }
local batch = { { tokens = { 1, 2, 3, 4, 5 } }, { tokens = { 6, 7, 8 }, weights = { 0, 1 } } }

local function open() return assert(lora.create_session { config = CONFIG, seed = 0, runs = folder }) end

local function close(session)
  session:close()
  return true
end

local function created()
  local session <close> = open()
  return tostring(session) ~= ""
end

local function step(session)
  session:zero_gradients()
  local result, message = session:forward_backward(batch)
  if not result then return nil, message end
  return session:optim_step()
end

local function custom_step(session)
  session:zero_gradients()
  local result, message = session:forward_backward(batch, "focal")
  if not result then return nil, message end
  return session:optim_step()
end

local function save(session) return session:save_checkpoint("one", { folder = folder .. "/checkpoints" }) end

local function sample(session) return session:sample({ "text" }, { max_tokens = 2 }) end

local function nothing() return true end

-- Once with memory: modules load when they are first needed.
do
  local session <close> = open()
  assert(step(session) and custom_step(session) and save(session) and sample(session))
end

return {
  { name = "creation", prepare = nothing, call = created, finish = nothing },
  { name = "step", prepare = open, call = step, finish = close },
  { name = "step of a loss in Lua", prepare = open, call = custom_step, finish = close },
  { name = "checkpoint", prepare = open, call = save, finish = close },
  { name = "sample", prepare = open, call = sample, finish = close },
  { name = "close", prepare = open, call = close, finish = nothing },
}
