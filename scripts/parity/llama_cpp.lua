-- Our side of scripts/check_llama_cpp: a lora trained for a few steps, its exports, and what we make of them.
--
--     lua5.4 llama_cpp.lua JOB
--
-- JOB: { do = "export" | "margin", … }, written by the script; results go to job.out as JSON.
local crucible = require "crucible"
local json = require "crucible.json"

local fs = require("crucible.core").fs

local function write(path, value) assert(fs.write_file(path, json.encode(value))) end

-- Rows of `length` tokens from the text, `count` of them from place `first`.
local function rows_of(ids, first, count, length)
  local rows = json.array {}
  for i = 1, count do
    local from = first + (i - 1) * length
    rows[i] = json.array(table.move(ids, from, from + length - 1, 1, {}))
    assert(#rows[i] == length, "the text is too short")
  end
  return rows
end

local function train(session, ids, steps)
  for step = 1, steps do
    local row = table.move(ids, 128 * (step - 1) + 1, 128 * step, 1, {})
    assert(session:forward_backward { { tokens = row } })
    assert(session:optim_step {
      lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, max_grad_norm = 1,
    })
  end
end

local function perplexity(session, rows, base)
  local sum, count = 0.0, 0
  for _, row in ipairs(rows) do
    local logprobs = assert(session:forward({ { tokens = row } }, { base = base })).logprobs[1]
    for _, value in ipairs(logprobs) do
      sum, count = sum - value, count + 1
    end
  end
  return math.exp(sum / count)
end

local function texts(session, prompts, count)
  local list, asked = json.array {}, {}
  for i, prompt in ipairs(prompts) do asked[i] = session.tokenizer:prompt_ids(prompt) end
  local completions = assert(session:sample(asked, { temperature = 0, top_p = 1, max_tokens = count }))
  for i, completion in ipairs(completions) do
    list[i] = { prompt = json.array(asked[i]), ids = json.array(completion.tokens), ["end"] = session.tokenizer.eos }
  end
  return list
end

local function judge(session, job, rows)
  return { texts = texts(session, job.prompts, job.tokens), perplexity = perplexity(session, rows) }
end

-- A session on a merged model, whose own lora has no effect.
local function open_merged(path)
  return assert(crucible.lora.create_session { config = { base_model = path, lora_rank = 1, lora_dropout = 0 } })
end

local actions = {}

function actions.export(job)
  local session <close> = assert(crucible.lora.create_session {
    config = {
      base_model = job.model, lora_rank = 8, lora_alpha = 16, lora_dropout = 0,
      target_modules = crucible.lora.config.new().target_modules,
    }, seed = 1,
  })
  local ids = session.tokenizer:encode(job.text)
  train(session, ids, job.steps)
  local rows = rows_of(ids, 128 * job.steps + 1, job.rows, job.slice)
  assert(session:export(job.folder .. "/adapter.gguf", { format = "gguf" }))
  assert(session:export(job.folder .. "/peft", { format = "peft" }))
  local result = {
    base = session.model.path, ["end"] = session.tokenizer.eos, rows = rows, adapted = judge(session, job, rows),
    bare = perplexity(session, rows, true), merged = {},
  }
  for _, kind in ipairs(job.types) do
    local path = ("%s/merged.%s.gguf"):format(job.folder, kind)
    local _, report = assert(session:export(path, { format = "merged-gguf", type = kind }))
    local merged <close> = open_merged(path)
    result.merged[kind] = judge(merged, job, rows)
    result.merged[kind].difference = report.difference
  end
  return result
end

function actions.margin(job)
  local export = require "crucible.lora.export"
  local session <close> = job.adapter ~= json.null and job.adapter
    and assert(export.open(job.adapter, { model = job.model })) or open_merged(job.model)
  local scores = assert(session:score({ job.ids }, { { job.tokens[1] }, { job.tokens[2] } }))
  return { margin = scores[1][1] - scores[1][2] }
end

local job = assert(json.decode((assert(fs.read_file(arg[1])))))
write(job.out, actions[job["do"]](job))
