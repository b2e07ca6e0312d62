-- The side of this library in scripts/bench/bench_evaluate: one JSON object a line of standard input,
-- { mode, limit, max_tokens }, answered by one line { seconds, cpu, correct, predictions }. The first line
-- written holds the prompts and labels as token ids, for the others to run.
--
--   lua5.4 scripts/bench/bench_evaluate.lua MODEL THREADS LIMIT
local root = arg[0]:match("^(.*)/scripts/bench/[^/]*$") or "."
package.path = root .. "/lua/?.lua;" .. root .. "/lua/?/init.lua;" .. package.path
package.cpath = (os.getenv "CRUCIBLE_BUILD" or root .. "/build/release") .. "/lua5.4/?.so;" .. package.cpath

local crucible = require "crucible"
local json = require "crucible.json"
local lora = crucible.lora

local model, threads, limit = arg[1], math.tointeger(tonumber(arg[2])), math.tointeger(tonumber(arg[3]))
local session <close> = assert(lora.create_session {
  config = lora.config.new { base_model = model, threads = threads }, seed = 0,
})

local function answer(value)
  io.stdout:write(json.encode(value), "\n")
  io.stdout:flush()
end

local rows, info = assert(lora.dataset_integration.prepare_dataset("scifact", { split = "dev", limit = limit }))
local prompts, expected = {}, {}
for i, row in ipairs(rows) do prompts[i], expected[i] = session.tokenizer:prompt(row.input), row.output end
local labels = {}
for c, label in ipairs(info.labels) do labels[c] = session.tokenizer:answer(rows[1].input, label) end
answer { prompts = prompts, labels = labels, names = info.labels, expected = expected, eos = session.tokenizer.eos,
  kernels = session.kernels, threads = session.threads }

for line in io.lines() do
  local request = assert(json.decode(line))
  local wall, cpu = crucible.core.fs.clock(), os.clock()
  local result = assert(lora.evaluation.evaluate(session, "scifact", {
    split = "dev", limit = limit, mode = request.mode, base = true, max_tokens = request.max_tokens,
    metrics = { "accuracy" }, resamples = 0, normalise = "exact",
  }))
  local predictions = {}
  for i, prediction in ipairs(result.predictions) do predictions[i] = prediction.predicted end
  answer { seconds = crucible.core.fs.clock() - wall, cpu = os.clock() - cpu, correct = result.correct,
    predictions = predictions }
end
