-- A run of the tiny model that something kills, and what is checked of it. As a program it trains:
--
--     lua5.4 spec/support/interrupted_run.lua FOLDER THREADS
--
-- with dropout, accumulation, packed rows, a cosine schedule, pruning, an evaluation and a hook whose state
-- decides the update; from the latest checkpoint in FOLDER, or from the start. CRUCIBLE_KILL = "rename:3:after"
-- kills it at its third fs.rename, before or after it is done.
local interrupted = {}

interrupted.steps = 12

local function rows(count)
  local list = {}
  for i = 1, count do
    list[i] = { input = ("claim %d is %d:"):format(i, i * 7), output = (i % 3 == 0 and "no " or "yes "):rep(i % 4 + 1) }
  end
  return list
end

-- Scales each update by what it remembers of the steps before.
local function remembering_hook()
  local sum = 0
  return setmetatable({
    state = function() return { sum = sum } end,
    restore = function(kept) sum = kept.sum end,
  }, { __call = function(_, info)
    sum = sum + info.loss
    return { action = { scale = 1 / (1 + sum % 1) } }
  end })
end

local function kill_myself() io.popen("kill -9 $PPID"):close() end

-- Wraps one function of crucible.fs so that its n-th call is the last thing this process does.
local function arm(order)
  local fs = require "crucible.fs"
  local name, number, moment = order:match "^(%w+_?%w*):(%d+):(%w+)$"
  local inner, calls = fs[name], 0
  fs[name] = function(...) -- luacheck: ignore
    calls = calls + 1
    local here = calls == tonumber(number)
    if here and moment == "before" then kill_myself() end
    local results = table.pack(inner(...))
    if here then kill_myself() end
    return table.unpack(results, 1, results.n)
  end
end

--- Trains; returns the results.
---@param folder string
---@param threads integer
---@return table results
function interrupted.train(folder, threads)
  local crucible = require "crucible"
  local tiny_model = require "spec.support.tiny_model"
  local session <close> = assert(crucible.lora.create_session {
    config = { base_model = tiny_model.path, lora_rank = 4, lora_dropout = 0.1, learning_rate = 5e-3, warmup_steps = 3,
      schedule = "cosine", grad_accumulation = 2, threads = threads },
    seed = 11, experiment_id = "killed", runs = folder,
  })
  return assert(crucible.lora.training_loop.run(session, rows(16), {
    batch_size = 2, epochs = 3, checkpoint_every = 1, keep_last = 2, resume = "auto", evaluate_every = 4,
    evaluate = { dataset = rows(5) }, enable_gradient_hooks = true,
    gradient_hooks = { { "remembering", remembering_hook() }, "health" },
  }))
end

local function bytes_of(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read "a"
  file:close()
  return bytes
end

--- The bytes of a run's last checkpoint: adapter and optimiser.
---@param folder string
---@return string
function interrupted.final_bytes(folder)
  local path = ("%s/killed/checkpoints/step_%06d/"):format(folder, interrupted.steps)
  return bytes_of(path .. "adapter_model.safetensors") .. bytes_of(path .. "optimizer.safetensors")
end

--- Every checkpoint that a reader would find is whole; returns how many there are.
---@param folder string
---@return integer
function interrupted.check_whole(folder)
  local checkpoints = require "crucible.lora.checkpoints"
  local list = assert(checkpoints.list(folder .. "/killed/checkpoints"))
  for _, checkpoint in ipairs(list) do
    assert(checkpoints.verify(checkpoint.path, assert(checkpoints.read(checkpoint.path))))
  end
  return #list
end

--- The command that trains in a process of its own.
---@param folder string
---@param threads integer
---@return string
function interrupted.command(folder, threads)
  return ("lua5.4 spec/support/interrupted_run.lua %s %d"):format(folder, threads)
end

if arg and arg[0] and arg[0]:find "interrupted_run%.lua$" then
  local order = os.getenv "CRUCIBLE_KILL"
  if order and order ~= "" then arm(order) end
  local results = interrupted.train(arg[1], assert(math.tointeger(tonumber(arg[2]))))
  print(results.total_steps)
end

return interrupted
