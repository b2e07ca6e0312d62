-- crucible model: what a base model is, and which are known.
local errors = require "crucible.errors"
local json = require "crucible.json"
local model = require "crucible.model"
local models = require "crucible.models"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local command = {
  summary = "describes a base model, or lists the known ones",
  usage = "describe [options] MODEL | list",
  description = [[
describe opens MODEL (a name, a .gguf file or a folder of the hub) and shows its shape, its tokenizer and what a session
on it takes. list names the known models and says which are here.

  crucible model describe smollm2-135m-instruct
]],
}

command.options = schema.new("crucible model", {
  { name = "action", positional = true, required = true, check = schema.one_of { "describe", "list" },
    doc = "what to do" },
  { name = "model", positional = true, check = schema.nonempty_string, doc = "name or path of the base model" },
  { name = "rank", default = 16, check = schema.integer { min = 1 }, doc = "of the lora whose size is told" },
  { name = "digest", default = false, check = schema.boolean, doc = "read the whole file for its SHA-256" },
  { name = "json", default = false, check = schema.boolean, doc = "as JSON" },
})

local function list(streams)
  local rows = {}
  for i, name in ipairs(models.names()) do
    local entry = models.find(name)
    rows[i] = { name, entry.bytes and ("%.1f GB"):format(entry.bytes / 1e9) or "-",
      paths.is_file(models.cached_path(entry)) and "here" or "-", entry.licence or "-" }
  end
  streams.out:write(terminal.table({ "model", "size", "", "licence" }, rows))
  return true
end

-- Values of the matrices of a lora on every projection of every layer.
local function lora_values(info, rank)
  local d, kv, ffn = info.width, info.kv_heads * info.head_size, info.ffn_width
  local q = info.heads * info.head_size
  local attention = (d + q) + 2 * (d + kv) + (q + d)
  return info.layers * rank * attention, info.layers * rank * (attention + 3 * (d + ffn))
end

local function description_of(opened, given)
  local about, tok = opened:describe(), opened.tokenizer
  about.tokenizer = { model = tok.model, size = tok.size, bos = tok.bos, eos = tok.eos, add_bos = tok.add_bos }
  about.chat_template = about.chat_template ~= "" and about.chat_template or nil
  about.known_as = models.find(given.model) and models.find(given.model).hub or nil
  about.lora_rank = given.rank
  about.lora_parameters_attention, about.lora_parameters_all = lora_values(about, given.rank)
  return about
end

local function token_text(tok, id)
  return id and ("%d %s"):format(id, tok:decode { id }) or "none"
end

local function text_of(about, opened)
  local tok = opened.tokenizer
  local rows = {
    { "file", about.path }, { "known as", about.known_as or "-" },
    { "family", ("%s, %s"):format(about.family, about.quantisation) },
    { "parameters", ("%.1f M, %.1f MB on disk"):format(about.parameters / 1e6, about.file_bytes / 1e6) },
    { "shape", ("%d layers, width %d, feed-forward %d, %d heads of %d (%d for keys and values)"):format(about.layers,
      about.width, about.ffn_width, about.heads, about.head_size, about.kv_heads) },
    { "context", ("%d tokens"):format(about.context) },
    { "vocabulary", ("%d tokens, %s; begins with %s, ends with %s"):format(about.vocabulary, about.tokenizer.model,
      tok.add_bos and token_text(tok, tok.bos) or "nothing", token_text(tok, tok.eos)) },
    { "head", about.tied_head and "shares the embedding" or "its own" },
    { "chat template", about.chat_template and ("%d bytes"):format(#about.chat_template) or "none" },
    { "lora", ("rank %d: %.2f M values on q, k, v and o, %.2f M on all projections"):format(about.lora_rank,
      about.lora_parameters_attention / 1e6, about.lora_parameters_all / 1e6) },
  }
  if about.sha256 then rows[#rows + 1] = { "sha-256", about.sha256 } end
  return terminal.table({ "model", opened.name }, rows)
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return true? ok, string? message, string? code
function command.run(given, streams)
  if given.action == "list" then return list(streams) end
  if not given.model then return errors.failure("argument", "describe what? Give a model's name or a path") end
  local opened, message, code = model.open(given.model)
  if not opened then return nil, message, code end
  local guard <close> = opened
  local about = description_of(guard, given)
  if given.digest then
    about.sha256, message, code = guard:digest()
    if not about.sha256 then return nil, message, code end
  end
  streams.out:write(given.json and json.encode_pretty(about) or text_of(about, guard))
  return true
end

return command
