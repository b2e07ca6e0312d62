-- Texts that a run writes for the same prompts before it begins, at its evaluations, and at its end: of the last
-- and the best state. They go into samples.jsonl of the run folder and to whoever listens to "samples.stop".
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local run_records = require "crucible.lora.run_records"
local schema = require "crucible.schema"

local run_samples = {}

local MOST_TOKENS = 96

local entries = {
  { name = "prompts", check = schema.list(schema.nonempty_string, { nonempty = true }),
    doc = "texts; default: the prompts of the first rows" },
  { name = "count", default = 3, check = schema.integer { min = 1 }, doc = "rows whose prompts are taken" },
}
for _, entry in ipairs(experiment.sampling_options.entries) do
  entries[#entries + 1] = { name = entry.name, check = entry.check, doc = entry.doc }
end
local options = schema.new("training_loop.run: samples", entries)

-- Prompts as ids and as text: those given, or what stands before the answers of the first rows.
local function prompts_of(given, session, datums)
  local ids, texts = {}, {}
  if given.prompts then
    for i, text in ipairs(given.prompts) do ids[i], texts[i] = session.tokenizer:prompt_ids(text), text end
    return ids, texts
  end
  for i = 1, math.min(given.count, #datums) do
    ids[i] = datums[i].ids or table.move(datums[i].tokens, 1, datums[i].prompt_length, 1, {})
    texts[i] = session.tokenizer:decode(ids[i])
  end
  return ids, texts
end

---@class crucible.lora.RunSamples
local Samples = {}
Samples.__index = Samples

--- What a run samples; nil when nothing is asked for. Raises on unknown options.
---@param asked boolean|integer|table
---@param session crucible.Session
---@param datums table[]  the run's
---@return crucible.lora.RunSamples?
function run_samples.new(asked, session, datums)
  if not asked then return nil end
  if asked == true then asked = {} end
  if type(asked) == "number" then asked = { count = asked } end
  local given = options:resolve(asked)
  local params = experiment.sampling_options:pick(given)
  params.temperature = params.temperature or 0
  params.max_tokens = params.max_tokens or math.min(MOST_TOKENS, session.context // 2)
  local ids, texts = prompts_of(given, session, datums)
  for i, prompt in ipairs(ids) do
    if #prompt + params.max_tokens > session.context then
      errors.raise("training_loop.run: samples: prompt %d is %d tokens; with max_tokens %d that is over the context "
        .. "of %d", i, #prompt, params.max_tokens, session.context)
    end
  end
  return setmetatable({ ids = ids, texts = texts, params = experiment.sampling_params(params) }, Samples)
end

--- Samples with a session and writes what came into the run's records. Returns the entry and the seconds it
--- took.
---@param session crucible.Session
---@param run_dir string
---@param at { step: integer, epoch: integer?, moment: string }
---@return table? entry, string|number message_or_seconds, string? code
function Samples:take(session, run_dir, at)
  local started = fs.clock()
  local completions, message, code = session:sample(self.ids, self.params)
  if not completions then return nil, message, code end
  local entry = { step = at.step, epoch = at.epoch, moment = at.moment, samples = {} }
  for i, completion in ipairs(completions) do
    entry.samples[i] = { prompt = self.texts[i], text = completion.text, finish = completion.finish }
  end
  local seconds = fs.clock() - started
  local ok
  ok, message, code = run_records.add_samples(run_dir, entry)
  if not ok then return nil, message, code end
  return entry, seconds
end

return run_samples
