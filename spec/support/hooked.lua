-- Sessions on the tiny model, and runs with gradient hooks on them.
local crucible = require "crucible"
local jsonl = require "crucible.jsonl"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local hooked = {}

--- Two matrices that the specs look at.
hooked.A, hooked.B = "layers.1.self_attn.v_proj.lora_A", "layers.1.self_attn.v_proj.lora_B"

local model, runs

--- For before_each and after_each.
function hooked.begin()
  model = assert(crucible.model(tiny_model.path))
  runs = temp.folder()
end

function hooked.finish()
  model:close()
  temp.clean()
end

function hooked.rows(count)
  local list = {}
  for i = 1, count do list[i] = { input = ("row %d:"):format(i), output = (" answer %d"):format(i * i % 7) } end
  return list
end

--- A session with rank 4 on q and v, no dropout, no warm-up; `changes` to its config.
---@param changes table?
---@return crucible.Session
function hooked.open(changes)
  local config = {
    lora_rank = 4, lora_dropout = 0, learning_rate = 1e-3, warmup_steps = 0, weight_decay = 0.01, threads = 1,
    target_modules = { "q_proj", "v_proj" },
  }
  for name, value in pairs(changes or {}) do config[name] = value end
  return assert(model:session { config = config, runs = runs })
end

-- Options of a run with hooks: four steps of two rows unless told otherwise.
local function options_of(specs, changes)
  local given = { batch_size = 2, enable_gradient_hooks = true, gradient_hooks = specs, checkpoint_every = 0 }
  for name, value in pairs(changes or {}) do given[name] = value end
  local rows = hooked.rows(given.rows or 8)
  given.rows = nil
  return rows, given
end

--- Trains with hooks; `changes` to training_loop.run's options, and `rows`, how many.
---@return table results
function hooked.run(session, specs, changes)
  return assert(crucible.lora.training_loop.run(session, options_of(specs, changes)))
end

--- The same where the run is expected to raise.
function hooked.try(session, specs, changes)
  return crucible.lora.training_loop.run(session, options_of(specs, changes))
end

--- The events of a run's steps.
---@return table[] events, table results
function hooked.events(session, specs, changes)
  local events = {}
  changes = changes or {}
  changes.callbacks = { on_step_end = function(event) events[event.step] = event end }
  return events, hooked.run(session, specs, changes)
end

function hooked.telemetry(results) return assert(jsonl.read(results.run_dir .. "/telemetry.jsonl")) end

--- Bytes of the last checkpoint's lora and optimiser.
function hooked.final_bytes(results)
  local path = results.checkpoints[#results.checkpoints].path
  return temp.read(path .. "/adapter_model.safetensors") .. temp.read(path .. "/optimizer.safetensors")
end

--- Gradients of one row, without a loop.
function hooked.gradients(session)
  local tokens = {}
  for i = 1, 24 do tokens[i] = 37 * i % 300 end
  assert(session:forward_backward { { tokens = tokens } })
  return session:gradients()
end

--- Gradients that only have a name and a norm: the i-th has norm i.
function hooked.bare(names)
  local gradients = {}
  for i, name in ipairs(names) do gradients[name] = { norm = function() return i end } end
  return gradients
end

--- Steps whose issues name a matrix with a status.
function hooked.steps_of(events, layer, status)
  local list = {}
  for step, event in ipairs(events) do
    for _, issue in ipairs(event.gradient_issues) do
      if issue.layer == layer and issue.status == status then list[#list + 1] = step end
    end
  end
  return list
end

return hooked
