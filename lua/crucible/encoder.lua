-- Encoders: BERT's and RoBERTa's family in the same engine, for likeness of texts and entailment.
--
--     local encoder <close> = assert(crucible.encoder "all-minilm-l6-v2")
--     print(encoder:similarity("a man eats", "someone is eating"))
--
--     local judge <close> = assert(crucible.encoder "path/to/nli-cross-encoder")
--     print(judge:entailment { { premise, hypothesis } }[1])
--
-- Any Hugging Face folder with config.json, model.safetensors and tokenizer.json (or BERT's vocab.txt). A
-- sentence-transformers folder says itself how positions become one vector; without that it is their mean,
-- scaled to length 1.
local errors = require "crucible.errors"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

---@class crucible.Encoder
---@field path string
---@field info table  of crucible.core.Encoder:info: family, width, context, labels, …
local Encoder = { __name = "crucible.encoder" }
Encoder.__index = Encoder

local encoder = {}

local known = { ["all-minilm-l6-v2"] = "all-minilm-l6-v2" } -- name to folder under the cache's models

local function known_names()
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The folder of an encoder given by name or path. Fails with "not_found".
---@param name_or_path string
---@return string? path, string? message, string? code
function encoder.resolve(name_or_path)
  if type(name_or_path) ~= "string" or name_or_path == "" then
    errors.raise("encoder.resolve: expected an encoder's name or the path of a folder, got %s", type(name_or_path))
  end
  local folder = known[name_or_path:lower()]
  if folder then
    local path = paths.join(paths.cache(), "models", folder)
    if paths.is_file(paths.join(path, "config.json")) then return path end
    return errors.failure("not_found", "%s is not at %s; run: scripts/fetch_encoder %s", folder, path, folder)
  end
  if paths.is_file(paths.join(name_or_path, "config.json")) then return name_or_path end
  if name_or_path:find("/", 1, true) then
    return errors.failure("not_found", "%s: no folder with a config.json", name_or_path)
  end
  return errors.failure("not_found", 'unknown encoder "%s"%s (the path of a Hugging Face folder works too)',
    name_or_path, suggest.phrase(name_or_path, known_names()))
end

local open_options = schema.new("encoder.open", {
  { name = "threads", default = 0, check = schema.integer { min = 0, max = 1024 }, doc = "0: as many as allowed" },
})

--- Opens an encoder by name or folder. `crucible.encoder(name)` is the same.
---@param name_or_path string
---@param options { threads: integer? }?
---@return crucible.Encoder? encoder, string? message, string? code
function encoder.open(name_or_path, options)
  local given = open_options:resolve(options)
  local path, message, code = encoder.resolve(name_or_path)
  if not path then return nil, message, code end
  local core
  core, message, code = require("crucible.core").open_encoder(path, { threads = given.threads })
  if not core then return nil, message, code end
  return setmetatable({ path = path, core = core, info = core:info() }, Encoder)
end

local function handle(self)
  if self.closed then errors.raise("%s is closed", tostring(self)) end
  return self.core
end

--- A vector of `info.width` numbers for each text; longer texts than `info.context` tokens are cut at their
--- end. (Reimers and Gurevych 2019.)
---@param texts string|string[]
---@return number[][]? vectors, string? message, string? code
function Encoder:embed(texts)
  if type(texts) == "string" then texts = { texts } end
  return handle(self):embed(texts)
end

local function cosine(a, b)
  local dot, aa, bb = 0.0, 0.0, 0.0
  for i, x in ipairs(a) do dot, aa, bb = dot + x * b[i], aa + x * x, bb + b[i] * b[i] end
  if aa == 0 or bb == 0 then return 0.0 end
  return dot / math.sqrt(aa * bb)
end

-- Each text once, whatever how often it occurs.
local function embed_all(self, ...)
  local texts, number = {}, {}
  for _, list in ipairs { ... } do
    for _, text in ipairs(list) do
      if not number[text] then
        texts[#texts + 1] = text
        number[text] = #texts
      end
    end
  end
  local vectors, message, code = self:embed(texts)
  if not vectors then return nil, message, code end
  return function(text) return vectors[number[text]] end
end

--- Cosine of the vectors of two texts, −1 to 1; of two lists of texts of one length: of each pair.
---@param a string|string[]
---@param b string|string[]
---@return number|number[]|nil similarity, string? message, string? code
function Encoder:similarity(a, b)
  local single = type(a) == "string" and type(b) == "string"
  if single then a, b = { a }, { b } end
  if type(a) ~= "table" or type(b) ~= "table" or #a ~= #b then
    errors.raise("encoder:similarity: expected two strings or two lists of strings of the same length")
  end
  local vector, message, code = embed_all(self, a, b)
  if not vector then return nil, message, code end
  local out = {}
  for i in ipairs(a) do out[i] = cosine(vector(a[i]), vector(b[i])) end
  return single and out[1] or out
end

local function softmax(logits)
  local largest, total, out = math.max(table.unpack(logits)), 0.0, {}
  for i, logit in ipairs(logits) do
    out[i] = math.exp(logit - largest)
    total = total + out[i]
  end
  for i in ipairs(out) do out[i] = out[i] / total end
  return out
end

---@class crucible.Classification
---@field label string                         the likeliest
---@field probabilities table<string, number>  by label
---@field logits number[]                      in the order of info.labels

--- Labels of pairs of texts (or of single texts) by a model with a classifier. Of a long pair the longer
--- text is cut first.
---@param pairs_of_texts (string|string[])[]
---@return crucible.Classification[]? classifications, string? message, string? code
function Encoder:classify(pairs_of_texts)
  local all, message, code = handle(self):classify(pairs_of_texts)
  if not all then return nil, message, code end
  for n, logits in ipairs(all) do
    local shares, best, by_label = softmax(logits), 1, {}
    for i, share in ipairs(shares) do
      by_label[self.info.labels[i]] = share
      if share > shares[best] then best = i end
    end
    all[n] = { label = self.info.labels[best], probabilities = by_label, logits = logits }
  end
  return all
end

-- The label that means "follows from it", such as "entailment" or "ENTAILMENT".
local function entailment_label(self)
  for _, label in ipairs(self.info.labels) do
    local lower = label:lower()
    if lower:find("entail", 1, true) and not lower:find("not", 1, true) then return label end
  end
end

--- Probability, for each { premise, hypothesis }, that the hypothesis follows: the share of the model's label
--- "entailment". Fails with "argument" where the model has no such label.
---@param pairs_of_texts string[][]
---@return number[]? probabilities, string? message, string? code
function Encoder:entailment(pairs_of_texts)
  local label = entailment_label(self)
  if not label then
    return errors.failure("argument", "%s has no label for entailment; it has: %s", self.path,
      #self.info.labels > 0 and table.concat(self.info.labels, ", ") or "none")
  end
  local all, message, code = self:classify(pairs_of_texts)
  if not all then return nil, message, code end
  local out = {}
  for i, found in ipairs(all) do out[i] = found.probabilities[label] end
  return out
end

--- Ids that the network sees of a text (or a pair), and how many tokens were cut.
---@param text string
---@param second string?
---@return integer[]? ids, integer|string cut, string? code
function Encoder:tokens(text, second) return handle(self):tokens(text, second) end

--- Releases the encoder. Safe to call twice.
function Encoder:close()
  if self.closed then return end
  self.closed = true
  self.core:close()
end

Encoder.__gc = Encoder.close
Encoder.__close = Encoder.close

function Encoder:__tostring()
  return ("crucible.encoder(%s: %s, %d layers, width %d%s)"):format(paths.basename(self.path), self.info.family,
    self.info.layers, self.info.width, self.closed and ", closed" or "")
end

return setmetatable(encoder, {
  __call = function(_, name_or_path, options) return encoder.open(name_or_path, options) end,
})
