-- A base model: opened once, shared by any number of sessions.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local models = require "crucible.models"
local paths = require "crucible.paths"
local tokenizer = require "crucible.tokenizer"

---@class crucible.Model
---@field name string  as it was asked for
---@field path string
---@field tokenizer crucible.Tokenizer
---@field core crucible.core.Model
local Model = { __name = "crucible.model" }
Model.__index = Model

local model = {}

--- Opens a model by name or by the path of a .gguf file; the weights stay memory-mapped and
--- quantised. `crucible.model(name)` is the same.
---@param name_or_path string
---@return crucible.Model? model, string? message, string? code
function model.open(name_or_path)
  local path, message, code = models.resolve(name_or_path)
  if not path then return nil, message, code end
  local core
  core, message, code = require("crucible.core").open_model(path)
  if not core then return nil, message, code end
  local info = core:info()
  return setmetatable({
    name = name_or_path, path = path, core = core, info = info,
    tokenizer = tokenizer.wrap(core:tokenizer(), info.chat_template),
  }, Model)
end

--- True for an object made by model.open.
---@param value any
---@return boolean
function model.is(value) return getmetatable(value) == Model end

-- Tensors, values and bytes of each type, the largest share first.
local function types_of(tensors)
  local by_name, list = {}, {}
  for _, tensor in ipairs(tensors) do
    local entry = by_name[tensor.type]
    if not entry then
      entry = { type = tensor.type, tensors = 0, values = 0, bytes = 0 }
      by_name[tensor.type], list[#list + 1] = entry, entry
    end
    local values = 1
    for _, size in ipairs(tensor.shape) do values = values * size end
    entry.tensors, entry.values, entry.bytes = entry.tensors + 1, entry.values + values, entry.bytes + tensor.bytes
  end
  table.sort(list, function(a, b)
    if a.bytes ~= b.bytes then return a.bytes > b.bytes end
    return a.type < b.type
  end)
  return list
end

-- Values of a lora of rank 1 on every projection: in + out of each.
local function lora_values(info)
  local width, query = info.width, info.heads * info.head_size
  local key, ffn = info.kv_heads * info.head_size, info.ffn_width
  return info.layers * ((width + query) * 2 + (width + key) * 2 + (width + ffn) * 3)
end

local Description = { __name = "crucible.model.description" }

local function megabytes(bytes) return ("%.1f MB"):format(bytes / 1e6) end

local function type_lines(types)
  local parts = {}
  for i, entry in ipairs(types) do
    parts[i] = ("%s %s in %d tensors"):format(entry.type, megabytes(entry.bytes), entry.tensors)
  end
  return table.concat(parts, ", ")
end

local function template_line(text)
  if text == "" then return "none" end
  local first = text:match "^%s*([^\n]*)"
  return ("%d bytes: %s%s"):format(#text, first:sub(1, 60), #first < #text and " …" or "")
end

function Description:__tostring()
  local of, types = self.tokenizer, type_lines(self.types)
  local rows = {
    { "model", self.name ~= "" and self.name or paths.basename(self.path) },
    { "file", self.path },
    { "family", self.family },
    { "layers", ("%d of width %d, feed-forward %d"):format(self.layers, self.width, self.ffn_width) },
    { "attention", ("%d heads of %d, %d for keys and values"):format(self.heads, self.head_size, self.kv_heads) },
    { "vocabulary", ("%d, head %s"):format(self.vocabulary,
      self.tied_head and "tied to the embedding" or "of its own") },
    { "context", ("%d tokens"):format(self.context) },
    { "parameters", ("%.1f M"):format(self.parameters / 1e6) },
    { "types", types },
    { "memory", ("%s mapped; a lora of rank 16 on all projections, with gradients and moments, %s"):format(
      megabytes(self.memory.weights_mapped), megabytes(16 * self.memory.lora_rank_1)) },
    { "tokenizer", ("%s, %s, %d tokens%s"):format(of.model, of.pretokenizer, of.size,
      of.add_bos and ", begins with BOS" or "") },
    { "template", template_line(self.chat_template) },
    { "targets", table.concat(self.targets, ", ") },
  }
  for i, row in ipairs(rows) do rows[i] = ("  %-11s %s"):format(row[1], row[2]) end
  return table.concat(rows, "\n")
end

--- Shape and origin: family, name, quantisation, layers, width, heads, kv_heads, head_size, ffn_width, vocabulary,
--- context (tokens), rope_base, norm_epsilon, tied_head, parameters, file_bytes, path, chat_template; types (tensors,
--- values and bytes of each element type), memory (bytes: weights_mapped, and lora_rank_1 with gradients and moments on
--- all projections), tokenizer (model, pretokenizer, size, bos, eos, …) and targets (projections that can carry a lora).
--- tostring shows it as a table.
---@return table
function Model:describe()
  local described = { path = self.path }
  for key, value in pairs(self.info) do described[key] = value end
  described.types = types_of(self:handle():tensors())
  described.memory = { weights_mapped = self.info.file_bytes, lora_rank_1 = 16 * lora_values(self.info) }
  described.tokenizer = self.tokenizer:info()
  described.targets = require("crucible.core").targets()
  return setmetatable(described, Description)
end

--- How PEFT would name the base model: its name on the hub, else the file's.
---@return string
function Model:hub_name()
  local entry = models.find(self.name)
  if entry then return entry.hub end
  return self.info.name ~= "" and self.info.name or paths.basename(self.path)
end

-- What decides a folder's model: its weights, configuration and tokenizer.
local function is_part(name)
  return name:find "%.safetensors$" or name:find "^model.*%.index%.json$" or name == "config.json"
    or name == "tokenizer.json" or name == "tokenizer_config.json" or name == "chat_template.jinja"
end

local function digest_of(path)
  local names = fs.list(path)
  if not names then return fs.sha256 { file = path } end
  local parts = {}
  for _, name in ipairs(names) do
    if is_part(name) then
      local digest, message, code = fs.sha256 { file = paths.join(path, name) }
      if not digest then return nil, message, code end
      parts[#parts + 1] = digest .. "  " .. name
    end
  end
  return fs.sha256(table.concat(parts, "\n"))
end

--- SHA-256 of the file, in hexadecimal, or over the digests of a folder's files; read once and kept.
---@return string? digest, string? message, string? code
function Model:digest()
  if not self.known_digest then
    local digest, message, code = digest_of(self.path)
    if not digest then return nil, message, code end
    self.known_digest = digest
  end
  return self.known_digest
end

--- A session on this model: lora.create_session with `model` given. Sessions of one model
--- share its weights; each has its own lora, optimiser and random numbers.
---@param options table?  of lora.create_session
---@return crucible.Session? session, string? message, string? code
function Model:session(options)
  local given = { model = self }
  for key, value in pairs(options or {}) do given[key] = value end
  return require("crucible.lora").create_session(given)
end

--- Releases the model; sessions made from it go on. Safe to call twice.
function Model:close()
  if self.closed then return end
  self.closed = true
  self.core:close()
end

--- The open core model; raises after close.
---@return crucible.core.Model
function Model:handle()
  if self.closed then errors.raise("%s is closed", tostring(self)) end
  return self.core
end

Model.__gc = Model.close
Model.__close = Model.close

function Model:__tostring()
  local info = self.info
  return ("crucible.model(%s: %s %s, %d layers, width %d, %.4g M parameters%s)"):format(
    self.name, info.family, info.quantisation, info.layers, info.width, info.parameters / 1e6,
    self.closed and ", closed" or "")
end

return setmetatable(model, { __call = function(_, name_or_path) return model.open(name_or_path) end })
