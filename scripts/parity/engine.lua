-- Our side of scripts/check_parity: one job, described by a JSON file, whose results go to files.
--   lua5.4 scripts/parity/engine.lua JOB
-- JOB: { model, adapter, targets, rank, alpha, options, rows, steps, adam, gradients, final, losses }, the last
-- three being paths to write: PEFT's layout for matrices, JSON for numbers.
local cjson = require "cjson"
local core = require "crucible.core"
local golden = require "support.golden"

local function read_job(path)
  local handle = assert(io.open(path, "rb"))
  local job = cjson.decode(handle:read("a"))
  handle:close()
  return job
end

local function write_gradients(session, path, head_size)
  local tensors = {}
  for i, p in ipairs(session:parameters()) do
    tensors[i] = {
      name = golden.peft_name(p.name), rows = p.rows, columns = p.columns,
      values = golden.read(session, p, "gradient", head_size),
    }
  end
  golden.write_safetensors(path, tensors)
end

local function main(path)
  local job = read_job(path)
  local model <close> = assert(core.open_model(job.model))
  local config = { rank = job.rank, alpha = job.alpha, dropout = 0, targets = job.targets, seed = 0 }
  for name, value in pairs(job.options) do config[name] = value end
  local session <close> = assert(model:session(config))
  assert(session:load_lora(job.adapter))
  local losses, norms = {}, {}
  for step = 1, job.steps do
    losses[step] = assert(session:forward_backward(job.rows)).loss
    if step == 1 then write_gradients(session, job.gradients, model:info().head_size) end
    norms[step] = assert(session:optim_step(job.adam)).grad_norm
  end
  assert(session:save_lora(job.final))
  local out = assert(io.open(job.losses, "wb"))
  out:write(cjson.encode { losses = losses, grad_norms = norms, kernel = core.kernel_name() })
  out:close()
end

main(assert(arg[1], "expected the path of a job"))
