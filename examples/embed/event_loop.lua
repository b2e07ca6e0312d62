-- Training inside a host's event loop: each run is a coroutine that gives the processor back after every step.
--
--     lua5.4 examples/embed/event_loop.lua MODEL.gguf [RUNS_FOLDER]
--
-- Two runs share one open model and take turns with the host's own work (here: a clock that ticks). The first is
-- an iterator of steps, the second yields from a callback of `run`; both reach the bytes that they reach
-- alone. A third is dropped half-way: closing its coroutine saves its last checkpoint.
--
-- You will see the steps of both runs and the ticks between them.
local crucible = require "crucible"
local lora = crucible.lora

local path, runs = ...
if not path then error("usage: lua5.4 examples/embed/event_loop.lua MODEL.gguf [RUNS_FOLDER]", 0) end

local rows = {}
for i = 1, 8 do rows[i] = { input = ("%d plus 1 is"):format(i), output = ("%d"):format(i + 1) } end

local model <close> = assert(crucible.model(path))
local function new_session(seed)
  return assert(model:session {
    config = { base_model = path, lora_rank = 4, learning_rate = 1e-3, threads = 1 }, seed = seed,
    runs = runs or "runs",
  })
end

local OPTIONS = { batch_size = 2, epochs = 1, checkpoint_every = 0 }
local function with(changes)
  local options = {}
  for name, value in pairs(OPTIONS) do options[name] = value end
  for name, value in pairs(changes) do options[name] = value end
  return options
end

local tasks = {
  { name = "steps", body = function()
    local session <close> = new_session(1)
    for step in lora.training_loop.steps(session, rows, OPTIONS) do
      print(("steps     step %d  loss %.4f"):format(step.step, step.loss))
      coroutine.yield()
    end
  end },
  { name = "callback", body = function()
    local session <close> = new_session(2)
    assert(lora.training_loop.run(session, rows, with { callbacks = { on_step_end = function(step)
      print(("callback  step %d  loss %.4f"):format(step.step, step.loss))
      coroutine.yield()
    end } }))
  end },
  { name = "dropped", most = 2, body = function()
    local session <close> = new_session(3)
    for step in lora.training_loop.steps(session, rows, OPTIONS) do
      print(("dropped   step %d  loss %.4f"):format(step.step, step.loss))
      coroutine.yield(session.run_dir)
    end
  end },
}

for _, task in ipairs(tasks) do task.thread, task.turns = coroutine.create(task.body), 0 end

local function turn(task)
  local ok, found = coroutine.resume(task.thread)
  if not ok then error(("%s: %s"):format(task.name, found), 0) end
  task.turns, task.found = task.turns + 1, found or task.found
  if task.turns ~= task.most then return end
  assert(coroutine.close(task.thread))
  local saved = require("crucible.lora.checkpoints").latest(task.found .. "/checkpoints")
  print(("dropped   after %d turns; its checkpoint is of step %d"):format(task.turns, saved.step))
end

-- The host: whoever is not done gets a turn, then the rest of its work.
local ticks = 0
repeat
  local busy = false
  for _, task in ipairs(tasks) do
    if coroutine.status(task.thread) == "suspended" then
      turn(task)
      busy = true
    end
  end
  ticks = ticks + 1
  print(("host      tick %d"):format(ticks))
until not busy
