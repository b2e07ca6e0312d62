-- What a loss sees and what it gives back: the protocol between losses and engines.
--
-- A loss is a table:
--
--     {
--       name = "unlikelihood",
--       outputs = { "logprobs", "candidates" },     what compute reads of `predictions`
--       count = function(datum) return units end,   units of a datum, known from the data alone
--       request = function(datum) return { candidates = …, spans = … } end,
--       compute = function(predictions, targets) return { loss = scalar, … } end,
--       positions = "supervised",                   or "all"
--       scope = "datum",                            or "batch"
--       metric_only = false,
--     }
--
-- compute is called with some datums of a step at a time (a micro-batch: whatever fits in memory, never
-- cutting a `metadata.group`; all datums of the call when scope is "batch") and returns the SUM over their
-- units. The engine divides by the number of units in the whole optimiser step, so that accumulation
-- changes nothing. It is not called for datums that have no units between them: the loss is 0 there.
--
-- `targets[i]` tells of datum i (crucible.lora.Target). `predictions` has one list for each name in
-- `outputs`, with an entry for each datum; T is the datum's number of targets, position t (from 1) reads
-- tokens 1 to t and predicts target t:
--
--     logprobs[i]         [T]     log p(target t). Where the weight is 0 nothing is computed and it reads 0,
--                                 unless positions = "all".
--     entropy[i]          [T]     −Σ p log p of the distribution at t, in nats; 0 where the weight is 0 likewise
--     candidates[i]       groups  log p over the full vocabulary of what request asked for: candidates[i][group][p]
--                                 is [k], the k candidates at the group's p-th position; #candidates[i][group]
--                                 counts positions; candidates[i][group].values is all of them in a row, [K]
--     hidden[i]           [S, d]  mean over each of the S spans of request of the final hidden state, after
--                                 the final norm
--     likeliest[i]        [T]     log p of the likeliest token at t, a constant; 0 where the weight is 0
--     mean_logprobs[i]    [T]     mean over the vocabulary of log p at t: label smoothing; 0 where the weight is 0
--     comparisons[k][i]   [T]     how far position t is from a teacher's, for the k-th of the loss' `comparisons`; 0
--                                 where the weight is 0
--     base_logprobs[i], base_candidates[i]
--                                 the same under the base model (lora left out): constants
--
-- All are f64 tensors (crucible.tensor), and all but the base's are leaves that take a gradient. They
-- are the engine's memory and end with the call of forward_backward that made them; used later they
-- raise "tensor is gone". `x:detach():copy()` keeps values. compute must be a function of predictions
-- and targets alone: it may be called any number of times with the same ones.
--
-- request(datum) returns what "candidates" and "hidden" are to be computed of:
--
--     {
--       candidates = {
--         verdict = { positions = { 17, 23 }, strings = { " supports", " refutes" } },   the same at each
--         id = { positions = { 9 }, ids = { { 33, 34, 35 } } },                          a list for each
--       },
--       spans = { { 3, 9 }, { 12, 20 } },    first and last position, both included, 1 to T
--     }
--
-- `comparisons` of a loss is a list of { kind, temperature = 1, teacher = session }, for the output "comparisons": kind
-- is "forward_kl" (Σ p log(p / q), p the teacher's), "reverse_kl", "jensen_shannon", "logit_square" (mean over the
-- vocabulary of squared differences of logits) or "hidden_square" (mean over d of those of final hidden
-- states). The teacher is another session over the same vocabulary, or, left out, this model without its lora.
--
-- `ids` are token ids, `strings` are texts of exactly one token each; either one list for all positions or a
-- list for each. A group may be empty (positions = {}).
--
-- compute returns { loss = scalar, … }. `loss` is a crucible.tensor of one value that was computed from
-- predictions; other fields are reported beside it: numbers (or tensors of one value), means over this call's
-- units, which are averaged over calls by units; or { sum = x, count = n }, which are added up and
-- divided at the end. Instead of a tensor, `loss` may be a number and `slopes` its derivative:
--
--     slopes = { logprobs = { [i] = [T] }, entropy = { [i] = [T] }, hidden = { [i] = [S, d] },
--                candidates = { [i] = { group = [K] } } }        tensors or lists; what is missing is 0
--
-- A composite is a loss with `terms = { { loss = loss, weight = number, name = name? }, … }` in place of
-- outputs, count, request and compute; the weight may be a function of the step (from 1). Composites nest.
-- Each term is divided by its own count; a term's name (by default its loss') is what counts and components
-- are listed under and must be the only one of its kind.
--
-- Faults of a loss (it raises, returns nil or NaN, a scalar without a path to its predictions, a shape
-- that does not fit) raise with the loss' name and the step; gradients added so far are dropped and
-- the session goes on. A term with units whose loss is above 0 and whose slopes are all 0 for three steps
-- running raises too, unless metric_only.
local array = require("crucible.tensor.graph").array
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local tensor = require "crucible.tensor"

local predictions = {}

---@class crucible.lora.Target
---@field tokens integer[]          of the datum
---@field ids integer[]             [T] the targets
---@field weights crucible.Tensor   [T], f64, a constant
---@field length integer            T
---@field metadata table?
---@field datum crucible.core.Datum the datum itself, with whatever other fields it has

---@class crucible.lora.CandidateGroup
---@field positions integer[]
---@field strings string[]|string[][]|nil
---@field ids integer[]|integer[][]|nil

---@class crucible.lora.Request
---@field candidates table<string, crucible.lora.CandidateGroup>?
---@field spans integer[][]?

---@class crucible.lora.Predictions
---@field logprobs crucible.Tensor[]
---@field entropy crucible.Tensor[]
---@field candidates table<string, crucible.lora.Candidates>[]
---@field hidden crucible.Tensor[]
---@field likeliest crucible.Tensor[]
---@field mean_logprobs crucible.Tensor[]
---@field comparisons crucible.Tensor[][]
---@field base_logprobs crucible.Tensor[]
---@field base_candidates table<string, crucible.lora.Candidates>[]

---@class crucible.lora.Candidates
---@field values crucible.Tensor    [K]
---@field positions integer[]
---@field ids integer[][]           token ids at each position
---@field [integer] crucible.Tensor [k] at the position of that number

--- Names that `outputs` may hold.
predictions.outputs = {
  "logprobs", "entropy", "candidates", "hidden", "likeliest", "mean_logprobs", "comparisons", "base_logprobs",
  "base_candidates",
}

local known_output = {}
for _, name in ipairs(predictions.outputs) do known_output[name] = true end

local function made(...)
  if (...) == nil then errors.raise("%s", (select(2, ...))) end
  return ...
end

-- ---- losses --------------------------------------------------------------------------------

local function check_outputs(loss)
  if type(loss.outputs) ~= "table" or #loss.outputs == 0 then
    errors.raise('loss "%s": outputs must name what compute reads of its predictions: %s', loss.name,
      table.concat(predictions.outputs, ", "))
  end
  for _, output in ipairs(loss.outputs) do
    if not known_output[output] then
      errors.raise('loss "%s": there is no output "%s"%s', loss.name, tostring(output),
        suggest.phrase(tostring(output), predictions.outputs))
    end
  end
end

local function check_function(loss, field, optional)
  local value = loss[field]
  if value == nil and optional then return end
  if not schema.callable.read(value) then
    errors.raise('loss "%s": %s must be a function, got %s', loss.name, field, schema.show(value))
  end
end

local function check_word(loss, field, words)
  local value = loss[field]
  if value == nil then return end
  for _, word in ipairs(words) do
    if value == word then return end
  end
  errors.raise('loss "%s": %s must be "%s", got %s', loss.name, field, table.concat(words, '" or "'),
    schema.show(value))
end

--- Raises, naming the loss, unless it is a table that the protocol above describes.
---@param loss table
---@return table loss
function predictions.check(loss)
  if type(loss) ~= "table" then errors.raise("a loss is a table, got %s", schema.show(loss)) end
  if type(loss.name) ~= "string" or loss.name == "" then
    errors.raise("a loss needs a name, got %s", schema.show(loss.name))
  end
  if loss.terms then return loss end
  check_outputs(loss)
  check_function(loss, "compute")
  check_function(loss, "count")
  check_function(loss, "request", true)
  check_word(loss, "positions", { "supervised", "all" })
  check_word(loss, "scope", { "datum", "batch" })
  return loss
end

local function weight_of(term, name, step)
  local weight = term.weight
  if weight == nil then return 1 end
  if schema.callable.read(weight) then weight = weight(step) end
  if not schema.number().read(weight) then
    errors.raise('loss "%s": its weight at step %d must be a number, got %s', name, step, schema.show(weight))
  end
  return weight
end

local function add_terms(list, loss, name, weight, step)
  if not loss.terms then
    list[#list + 1] = { name = name, weight = weight, loss = loss }
    return
  end
  for i, term in ipairs(loss.terms) do
    if type(term) ~= "table" or type(term.loss) ~= "table" then
      errors.raise('loss "%s": term %d must be { loss = …, weight = … }', loss.name, i)
    end
    local own = term.name or term.loss.name
    add_terms(list, term.loss, own, weight * weight_of(term, own, step), step)
  end
end

---@class crucible.lora.Term
---@field name string
---@field weight number
---@field loss table     not a composite

--- The terms that a loss is the weighted sum of, composites within composites laid flat: itself with weight
--- 1 when it is none.
---@param loss table
---@param step integer?  from 1, for weights that are functions; default: 1
---@return crucible.lora.Term[]
function predictions.terms(loss, step)
  local list, seen = {}, {}
  add_terms(list, loss, loss.name, 1, step or 1)
  for _, term in ipairs(list) do
    if seen[term.name] then
      errors.raise('loss "%s": two of its terms are called "%s": give one a name of its own', loss.name, term.name)
    end
    seen[term.name] = true
  end
  return list
end

--- The units of each term in some datums, by the name of the term.
---@param loss table
---@param batch crucible.core.Datum[]
---@return table<string, number>
function predictions.counts(loss, batch)
  local counts = {}
  for _, term in ipairs(predictions.terms(loss)) do
    local units = 0
    for i, datum in ipairs(batch) do
      local count = term.loss.count(datum)
      if type(count) ~= "number" or count ~= count or count < 0 or count == math.huge then
        errors.raise('loss "%s": count(datum %d) must be a number of at least 0, got %s', term.name, i,
          schema.show(count))
      end
      units = units + count
    end
    counts[term.name] = units
  end
  return counts
end

-- ---- targets -------------------------------------------------------------------------------

--- T of a datum.
---@param datum crucible.core.Datum
---@return integer
function predictions.length(datum) return datum.targets and #datum.targets or #datum.tokens - 1 end

local target_fields = {}

function target_fields.ids(self)
  local datum = self.datum
  if datum.targets then return datum.targets end
  return table.move(datum.tokens, 2, #datum.tokens, 1, {})
end

function target_fields.weights(self)
  if self.datum.weights then return tensor.new(self.datum.weights) end
  return tensor.ones(self.length)
end

local Target = {}
function Target.__index(self, key)
  local make = target_fields[key]
  if not make then return nil end
  local value = make(self)
  rawset(self, key, value)
  return value
end

--- What compute is told of datums; ids and weights are made when they are first read.
---@param datums crucible.core.Datum[]
---@return crucible.lora.Target[]
function predictions.targets(datums)
  local list = {}
  for i, datum in ipairs(datums) do
    list[i] = setmetatable({
      tokens = datum.tokens, length = predictions.length(datum), metadata = datum.metadata, datum = datum,
    }, Target)
  end
  return list
end

-- ---- questions -----------------------------------------------------------------------------

-- What all terms ask about one datum, as the engine takes it: positions, counts and ids in a row. Each
-- term's own part of it is a list of groups.
local function new_question() return { positions = {}, counts = {}, ids = {}, spans = {} } end

local function token_of(what, text, tokenizer)
  local ids = tokenizer:encode(text)
  if #ids ~= 1 then errors.raise("%s: %s is %d tokens, expected one", what, schema.show(text), #ids) end
  return ids[1]
end

-- Ids at one position, of a list of ids or texts.
local function read_ids(what, list, texts, tokenizer)
  local ids = {}
  for k, value in ipairs(list) do
    if texts and type(value) ~= "string" or not texts and math.type(value) ~= "integer" then
      errors.raise("%s: expected %s, got %s", what, texts and "texts" or "token ids", schema.show(value))
    end
    ids[k] = texts and token_of(what, value, tokenizer) or value
  end
  return ids
end

local function ids_of(what, group, tokenizer)
  local given, texts = group.ids or group.strings, group.ids == nil
  if type(given) ~= "table" then
    errors.raise("%s: expected ids or strings as a list, got %s", what, schema.show(given))
  end
  local lists = {}
  if type(given[1]) ~= "table" then
    local same = read_ids(what, given, texts, tokenizer)
    for p = 1, #group.positions do lists[p] = same end
    return lists
  end
  if #given ~= #group.positions then
    errors.raise("%s: %d positions and %d lists of candidates", what, #group.positions, #given)
  end
  for p, list in ipairs(given) do lists[p] = read_ids(what, list, texts, tokenizer) end
  return lists
end

local function check_positions(what, positions, length)
  if type(positions) ~= "table" then
    errors.raise("%s: positions must be a list, got %s", what, schema.show(positions))
  end
  for _, position in ipairs(positions) do
    if math.type(position) ~= "integer" or position < 1 or position > length then
      errors.raise("%s: expected positions from 1 to %d, got %s", what, length, schema.show(position))
    end
  end
end

local function add_group(question, what, name, group, length, tokenizer)
  if type(group) ~= "table" then errors.raise("%s: expected a table, got %s", what, schema.show(group)) end
  check_positions(what, group.positions, length)
  local ids = ids_of(what, group, tokenizer)
  local added = { name = name, first = #question.ids, positions = group.positions, ids = ids }
  for p, list in ipairs(ids) do
    table.insert(question.positions, group.positions[p])
    table.insert(question.counts, #list)
    table.move(list, 1, #list, #question.ids + 1, question.ids)
  end
  added.count = #question.ids - added.first
  return added
end

local function add_candidates(question, what, candidates, length, tokenizer)
  if type(candidates) ~= "table" then
    errors.raise('%s: an output "candidates" needs request(datum) to return { candidates = { name = group } }', what)
  end
  local names, groups = {}, {}
  for name in pairs(candidates) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for i, name in ipairs(names) do
    groups[i] = add_group(question, ("%s, candidates %s"):format(what, tostring(name)), name, candidates[name], length,
      tokenizer)
  end
  return groups
end

local function add_spans(question, what, spans, length)
  if type(spans) ~= "table" then
    errors.raise('%s: an output "hidden" needs request(datum) to return { spans = { { first, last }, … } }', what)
  end
  for s, span in ipairs(spans) do
    check_positions(("%s, span %d"):format(what, s), span, length)
    if #span ~= 2 or span[2] < span[1] then
      errors.raise("%s, span %d: expected { first, last } with first <= last", what, s)
    end
    table.move(span, 1, 2, #question.spans + 1, question.spans)
  end
  return #spans
end

local function wants(loss, ...)
  for _, output in ipairs(loss.outputs) do
    for _, name in ipairs { ... } do
      if output == name then return true end
    end
  end
  return false
end

-- The comparisons of a term, added to those of all terms; how many there were before.
local function compare(request, term)
  local first = #request.comparisons
  if not wants(term.loss, "comparisons") then return first end
  if type(term.loss.comparisons) ~= "table" or #term.loss.comparisons == 0 then
    errors.raise('loss "%s": an output "comparisons" needs comparisons = { { kind = … }, … }', term.name)
  end
  for _, asked in ipairs(term.loss.comparisons) do
    local teacher = asked.teacher
    if teacher ~= nil and (type(teacher) ~= "table" or not teacher.core) then
      errors.raise('loss "%s": a teacher must be a session of this engine, got %s', term.name, schema.show(teacher))
    end
    if teacher and teacher.closed then errors.raise('loss "%s": its teacher is closed', term.name) end
    table.insert(request.comparisons, {
      kind = asked.kind, temperature = asked.temperature, teacher = teacher and teacher.core,
    })
  end
  return first
end

-- What a term asks about a datum, added to the question of all terms.
local function ask(question, term, datum, index, tokenizer)
  local loss, asked = term.loss, { first_span = #question.spans // 2, spans = 0, groups = {} }
  local candidates, hidden = wants(loss, "candidates", "base_candidates"), wants(loss, "hidden")
  if not candidates and not hidden then return asked end
  local what = ('loss "%s": request(datum %d)'):format(term.name, index)
  local request = loss.request and loss.request(datum)
  if type(request) ~= "table" then errors.raise("%s must return a table, got %s", what, schema.show(request)) end
  local length = predictions.length(datum)
  if candidates then asked.groups = add_candidates(question, what, request.candidates, length, tokenizer) end
  if hidden then asked.spans = add_spans(question, what, request.spans, length) end
  return asked
end

--- What terms ask of the engine about datums: the outputs of all of them, whether unsupervised positions are
--- wanted, a question for each datum (nil when nobody asks), and asked[term][datum].
---@param terms crucible.lora.Term[]
---@param datums crucible.core.Datum[]
---@param tokenizer crucible.Tokenizer
---@return table request, table<crucible.lora.Term, table[]> asked
function predictions.request(terms, datums, tokenizer)
  local named, request, asked = { comparisons = true }, { outputs = {}, comparisons = {}, every_position = false }, {}
  local questions, any = {}, false
  for i = 1, #datums do questions[i] = new_question() end
  for _, term in ipairs(terms) do
    for _, output in ipairs(term.loss.outputs) do
      if not named[output] then table.insert(request.outputs, output) end
      named[output] = true
    end
    request.every_position = request.every_position or term.loss.positions == "all"
    asked[term] = { first_comparison = compare(request, term) }
    for i, datum in ipairs(datums) do asked[term][i] = ask(questions[i], term, datum, i, tokenizer) end
    any = any or wants(term.loss, "candidates", "base_candidates", "hidden")
  end
  request.questions = any and questions or nil
  return request, asked
end

-- ---- predictions ---------------------------------------------------------------------------

-- Where tensors come from: all values of a prediction in one array, and the leaves that were made of
-- it, whose gradients the engine collects.
---@class crucible.lora.Source
---@field values crucible.core.Array  [count]
---@field answers table[]             where each datum's outputs begin
---@field width integer               d
---@field datums crucible.core.Datum[]
---@field every_position boolean
---@field leaves table[]?             { tensor, first, last, output, datum } each; nil: constants

local function is_constant(output) return output == "likeliest" or output:find("^base_") ~= nil end

local function piece(source, output, index, first, count, shape)
  local values = made(array.slice(source.values, 1, first, first + count - 1, 1))
  if shape then values = made(array.reshape(values, shape)) end
  local leaf = tensor.wrap(values)
  if source.leaves and not is_constant(output) then
    leaf.requires_grad = true
    table.insert(source.leaves, { tensor = leaf, first = first, count = count, output = output, datum = index })
  end
  return leaf
end

-- One tensor for each datum, shared by all terms.
local function shared_list(source, output)
  source.shared = source.shared or {}
  local list = source.shared[output]
  if not list then
    list = {}
    for i, answer in ipairs(source.answers) do
      list[i] = piece(source, output, i, answer[output], answer.length)
    end
    source.shared[output] = list
  end
  return list
end

-- The same where the weight is 0 as if nothing had been computed there, which another term asked for.
local function masked_list(source, output)
  local list = {}
  for i, whole in ipairs(shared_list(source, output)) do
    local weights = source.datums[i].weights
    list[i] = weights and whole * tensor.new(weights):ne(0) or whole
  end
  return list
end

local Candidates = {}

function Candidates.__index(self, key)
  if math.type(key) ~= "integer" or key < 1 or key > #self.positions then return nil end
  local first = self.source_first
  for p = 1, key - 1 do first = first + #self.ids[p] end
  local one = piece(self.source, self.output, self.datum, first, #self.ids[key])
  rawset(self, key, one)
  return one
end

function Candidates.__len(self) return #self.positions end

local function groups_of(self, output)
  local list, source = {}, self.source
  for i, answer in ipairs(source.answers) do
    list[i] = {}
    for _, group in ipairs(self.asked[i].groups) do
      local first = answer[output] + group.first
      list[i][group.name] = setmetatable({
        source = source, source_first = first, output = output, datum = i, positions = group.positions,
        ids = group.ids, values = piece(source, output, i, first, group.count),
      }, Candidates)
    end
  end
  return list
end

local function hidden_of(self)
  local list, source = {}, self.source
  for i, answer in ipairs(source.answers) do
    local asked = self.asked[i]
    local first = answer.hidden + asked.first_span * source.width
    list[i] = piece(source, "hidden", i, first, asked.spans * source.width, { asked.spans, source.width })
  end
  return list
end

-- A list of tensors for each comparison of the term.
local function comparisons_of(self)
  local lists, all = {}, self.term.loss.positions == "all"
  for k = 1, #self.term.loss.comparisons do
    lists[k] = {}
    for i, answer in ipairs(self.source.answers) do
      local first = answer.comparisons + (self.asked.first_comparison + k - 1) * answer.length
      local whole, weights = piece(self.source, "comparisons", i, first, answer.length), self.source.datums[i].weights
      local masked = self.source.every_position and not all and weights
      lists[k][i] = masked and whole * tensor.new(weights):ne(0) or whole
    end
  end
  return lists
end

local function make_output(self, output)
  if output == "hidden" then return hidden_of(self) end
  if output:find("candidates$") then return groups_of(self, output) end
  if output == "comparisons" then return comparisons_of(self) end
  if self.source.every_position and self.term.loss.positions ~= "all" then return masked_list(self.source, output) end
  return shared_list(self.source, output)
end

local Predictions = {}

function Predictions.__index(self, key)
  if not known_output[key] then
    errors.raise("predictions have no %s%s", tostring(key), suggest.phrase(tostring(key), predictions.outputs))
  end
  if not wants(self.term.loss, key) then
    errors.raise('loss "%s" reads predictions.%s: name it in outputs', self.term.name, key)
  end
  local list = make_output(self, key)
  rawset(self, key, list)
  return list
end

--- What one term sees of a prediction.
---@param source crucible.lora.Source
---@param term crucible.lora.Term
---@param asked table[]  of the term, from `request`
---@return crucible.lora.Predictions
function predictions.view(source, term, asked)
  return setmetatable({ source = source, term = term, asked = asked, count = #source.datums }, Predictions)
end

return predictions
