-- Our side of scripts/check_merged.
--
--     lua5.4 exports.lua JOB
--
-- JOB: { do = "bases" | "export", … }, written by the script; results go to job.out as JSON.
local crucible = require "crucible"
local family_model = require "support.family_model"
local golden = require "support.golden"
local json = require "crucible.json"
local tiny_model = require "support.tiny_model"

local fs = require("crucible.core").fs

local function write(path, value) assert(fs.write_file(path, json.encode(value))) end

local function logprobs(session, rows)
  local batch = {}
  for i, tokens in ipairs(rows) do batch[i] = { tokens = tokens } end
  return assert(session:forward(batch)).logprobs
end

local actions = {}

-- Models of every family, as the specs write them.
function actions.bases(job)
  local rows, bases = {}, {}
  for i, row in ipairs(family_model.fixtures.rows) do rows[i] = row.tokens end
  for _, family in ipairs { "llama", "mistral", "qwen2", "qwen3", "gemma3" } do
    local folder = ("%s/%s"):format(job.folder, family)
    assert(fs.make_folder(folder))
    family_model.write_folder(family, folder)
    bases[family .. " folder"] = { path = folder, rows = rows }
  end
  for _, name in ipairs { "path", "untied_path" } do
    bases["tiny " .. tiny_model[name]:match "([%w_]+)%.gguf$"] = { path = tiny_model[name], rows = rows }
  end
  return bases
end

local function open(job)
  return assert(crucible.lora.create_session {
    config = {
      base_model = job.base, lora_rank = 3, lora_alpha = 6, lora_dropout = 0, threads = 2,
      target_modules = crucible.lora.config.targets, rslora = job.variant == "rslora" or nil,
      dora = job.variant == "dora" or nil,
    }, seed = 1,
  })
end

function actions.export(job)
  local session <close> = open(job)
  golden.load_hashed(session.core, job.folder .. "/hashed.safetensors")
  local ids = json.array {}
  for i, text in ipairs(job.texts) do ids[i] = json.array(session.tokenizer:encode(text)) end
  return {
    ids = ids, logprobs = logprobs(session, job.rows),
    merged = (assert(session:export(job.folder .. "/merged", { format = "merged-safetensors", type = "f32" }))),
  }
end

local job = assert(json.decode((assert(fs.read_file(arg[1])))))
write(job.out, actions[job["do"]](job))
