-- Our side of scripts/check_peft: jobs described by a JSON file.
--   lua5.4 scripts/parity/peft.lua JOBS
-- A job writes the log-probabilities of its rows to `logprobs` after one of two things:
--   { "export", model, config, folder, rows, steps }  trains a new session a little and exports it to the folder
--   { "import", model, folder, rows }                 loads the folder of PEFT's with the config that it gives
local cjson = require "cjson"
local crucible = require "crucible"

local config = crucible.lora.config

local function without_weights(rows)
  local out = {}
  for i, row in ipairs(rows) do out[i] = { tokens = row.tokens } end
  return out
end

local function open(model, options)
  return assert(model:session { config = options, runs = os.getenv "TMPDIR" or "/tmp", seed = 3 })
end

local actions = {}

function actions.export(job, model)
  local session = open(model, job.config)
  for _ = 1, job.steps do
    assert(session:forward_backward(job.rows))
    assert(session:optim_step())
  end
  assert(session:export(job.folder))
  return session
end

function actions.import(job, model)
  local session = open(model, config.plain(assert(config.from_peft(job.folder))))
  assert(session:load_checkpoint(job.folder, { weights_only = true }))
  return session
end

local function run(job)
  local model <close> = assert(crucible.model(job.model))
  local session <close> = actions[job.action](job, model)
  local logprobs = assert(session:forward(without_weights(job.rows))).logprobs
  local out = assert(io.open(job.logprobs, "wb"))
  out:write(cjson.encode(logprobs))
  out:close()
end

local handle = assert(io.open(assert(arg[1], "expected the path of jobs"), "rb"))
local jobs = cjson.decode(handle:read "a")
handle:close()
for _, job in ipairs(jobs) do run(job) end
