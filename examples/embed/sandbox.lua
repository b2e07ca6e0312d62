-- crucible where there is no os, io, package or debug: in a sandboxed _ENV, or in a host that opened none
-- of these libraries.
--
--     lua5.4 examples/embed/sandbox.lua MODEL.gguf [RUNS_FOLDER]
--
-- The library's files are loaded with an environment of chosen functions and a `require` that finds them and
-- nothing else; they train, save and answer in it. The script of a stranger then gets less: text in, text
-- out, and not the library, whose crucible.core.fs can write files.
--
-- You will see the loss of three steps, the stranger's answer, and what it may not do.
local model, runs, core = ...
core = core or require "crucible.core" -- a host without `require` hands it over
if not model then error("usage: lua5.4 examples/embed/sandbox.lua MODEL.gguf [RUNS_FOLDER]", 0) end

--- An environment that holds the language, `require` for the library's own files, and nothing of the system.
---@param folder string  that holds crucible/init.lua
---@return table
local function environment(folder)
  local env = {
    assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next, pairs = pairs,
    pcall = pcall, rawequal = rawequal, rawget = rawget, rawlen = rawlen, rawset = rawset, select = select,
    setmetatable = setmetatable, tonumber = tonumber, tostring = tostring, type = type, xpcall = xpcall,
    coroutine = coroutine, math = math, string = string, table = table, utf8 = utf8,
  }
  env._G = env
  local loaded = { ["crucible.core"] = core }
  local function find(name)
    if not (name .. "."):find "^crucible%." or name:find "[^%w_%.]" then
      error(("module '%s' is not of this sandbox"):format(name), 3)
    end
    local path = folder .. "/" .. name:gsub("%.", "/")
    return loadfile(path .. ".lua", "t", env) or assert(loadfile(path .. "/init.lua", "t", env))
  end
  function env.require(name)
    if loaded[name] == nil then
      local found = find(name)(name)
      if loaded[name] == nil then loaded[name] = found == nil and true or found end
    end
    return loaded[name]
  end
  return env
end

local lua_files = "lua"
local crucible = environment(lua_files).require "crucible"
local lora = crucible.lora

local session <close> = assert(lora.create_session {
  config = { base_model = model, lora_rank = 8, learning_rate = 2e-3, target_modules = { "q_proj", "v_proj" } },
  seed = 0, runs = runs or "runs",
})
local rows = {
  { input = "The capital of France is", output = "Paris." }, { input = "The capital of Italy is", output = "Rome." },
}
local results = assert(lora.training_loop.run(session, rows, {
  max_steps = 3, batch_size = 2,
  callbacks = { on_step_end = function(step) print(("step %d  loss %.4f"):format(step.step, step.loss)) end },
}))
print("best checkpoint: " .. results.best_checkpoint)

-- ---- a stranger's script --------------------------------------------------------------------

local function ask(prompt)
  if type(prompt) ~= "string" or #prompt > 1000 then error("ask: expected a text of at most 1000 bytes", 2) end
  local completions, why = session:sample({ prompt }, { temperature = 0, max_tokens = 8 })
  if not completions then return nil, why end
  return completions[1].text
end

local stranger = [[
  return ask "The capital of France is", os == nil and io == nil and require == nil and package == nil
]]
local answer, kept_out = assert(load(stranger, "=stranger", "t", { ask = ask }))()
print("the stranger reads: " .. answer)
print("and reaches no system: " .. tostring(kept_out))
