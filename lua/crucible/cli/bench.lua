-- crucible bench: how fast this machine trains and writes with a model.
local fs = require "crucible.fs"
local json = require "crucible.json"
local program = require "crucible.program"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local command = {
  summary = "measures training and generation on this machine",
  usage = "[options]",
  description = [[
Steps over random tokens, all supervised, after one step that is not counted; then a greedy text. Figures are the best
of their kind: what else runs on the machine makes them worse, never better.

  crucible bench --model smollm2-135m-instruct --batch-size 4 --length 256
]],
}

local own_entries = {
  { name = "batch_size", default = 4, check = schema.integer { min = 1 }, doc = "rows a step" },
  { name = "length", default = 256, check = schema.integer { min = 2 }, doc = "tokens a row" },
  { name = "steps", default = 3, check = schema.integer { min = 1 }, doc = "steps that are counted" },
  { name = "new_tokens", default = 64, check = schema.integer { min = 1 }, doc = "of the text that is written" },
  { name = "json", default = false, check = schema.boolean, doc = "as JSON" },
}
table.move(program.model_entries, 1, #program.model_entries, 1 + #own_entries, own_entries)

command.options = schema.new("crucible bench", own_entries)

local DEFAULT = "smollm2-135m-instruct"

local function batch_of(session, given)
  local batch, state = {}, 1
  for row = 1, given.batch_size do
    local tokens = {}
    for i = 1, given.length do
      state = (state * 1103515245 + 12345) % 2147483648
      tokens[i] = state // 65536 % session.tokenizer.size
    end
    batch[row] = { tokens = tokens }
  end
  return batch
end

local function timed(f)
  local started = fs.clock()
  local found, message, code = f()
  if not found then return nil, message, code end
  return fs.clock() - started
end

-- Seconds of the best step and of its update.
local function measure_steps(session, given)
  local batch, best, update = batch_of(session, given), math.huge, math.huge
  for step = 0, given.steps do
    local seconds, message, code = timed(function() return session:forward_backward(batch) end)
    if not seconds then return nil, message, code end
    local tail
    tail, message, code = timed(function() return session:optim_step() end)
    if not tail then return nil, message, code end
    if step > 0 then best, update = math.min(best, seconds + tail), math.min(update, tail) end
  end
  return { seconds = best, update_seconds = update, tokens_per_s = given.batch_size * (given.length - 1) / best }
end

-- Seconds to the first token and between the others, of a prompt of `length` tokens.
local function measure_writing(session, given)
  local prompt, times, started = batch_of(session, given)[1].tokens, {}, fs.clock()
  local room = math.max(1, session.context - given.new_tokens)
  prompt = table.move(prompt, 1, math.min(#prompt, room), 1, {})
  local done, message, code = session:sample({ prompt }, {
    temperature = 0, max_tokens = given.new_tokens, stop_ids = { session.tokenizer.size - 1 },
  }, function() times[#times + 1] = fs.clock() - started end)
  if not done then return nil, message, code end
  local span = #times > 1 and times[#times] - times[1] or 0
  return { prompt_tokens_per_s = #prompt / times[1], tokens_per_s = span > 0 and (#times - 1) / span or 0 }
end

local function text_of(found)
  local rows = {
    { "machine", ("%s kernels, %d threads"):format(found.kernels, found.threads) },
    { "model", found.model },
    { "training", ("%.0f tokens/s; a step of %d × %d takes %.3f s, its update %.4f s"):format(
      found.training.tokens_per_s, found.batch_size, found.length, found.training.seconds,
      found.training.update_seconds) },
    { "reading", ("%.0f tokens/s of a prompt"):format(found.writing.prompt_tokens_per_s) },
    { "writing", ("%.1f tokens/s, one text"):format(found.writing.tokens_per_s) },
    { "peak memory", ("%.2f GB"):format(found.peak_memory / 1e9) },
  }
  return terminal.table({ "bench", "" }, rows)
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return true? ok, string? message, string? code
function command.run(given, streams)
  local session, message, code = program.open_session(given, DEFAULT)
  if not session then return nil, message, code end
  local guard <close> = session
  local found = { kernels = guard.kernels, threads = guard.threads, model = tostring(guard.model),
    batch_size = given.batch_size, length = given.length }
  found.training, message, code = measure_steps(guard, given)
  if not found.training then return nil, message, code end
  found.writing, message, code = measure_writing(guard, given)
  if not found.writing then return nil, message, code end
  found.peak_memory = fs.peak_memory()
  streams.out:write(given.json and json.encode_pretty(found) or text_of(found))
  return true
end

return command
