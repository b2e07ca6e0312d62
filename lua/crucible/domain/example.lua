-- What the domain's losses read of a datum, once: the parsed answer, the target's graph, and the slots of its
-- relation lines and citations. Kept as long as the datum.
--
-- Structure comes from the answer's text; a field of the datum or of its metadata takes precedence:
--   graph_structure        { claims = { id … }, relations = { { source, target, label? } … } }
--   dialectical_structure  labels { "supports", "refutes" … }, one a relation, or their counts { supports = 3 }
--   citations              ids of the documents that count as cited
--   evidence_pool          ids of the documents that may be cited; without it metadata.pool, the documents of
--                          the prompt, or evidence_ids
local errors = require "crucible.errors"
local graph = require "crucible.domain.graph"
local parser = require "crucible.domain.parser"
local schema = require "crucible.schema"
local slots = require "crucible.domain.slots"

---@class crucible.domain.Example
---@field datum crucible.core.Datum
---@field answer crucible.domain.Answer
---@field parsed crucible.domain.Parsed
---@field graph crucible.domain.Graph  of the target
local Example = {}

local example = {}

-- ---- what is given -----------------------------------------------------------------------------

local function given(datum, name)
  if datum[name] ~= nil then return datum[name] end
  return datum.metadata and datum.metadata[name]
end

local function table_given(datum, name)
  local value = given(datum, name)
  if value ~= nil and type(value) ~= "table" then
    errors.raise("%s must be a table, got %s", name, schema.show(value))
  end
  return value
end

local function as_texts(ids)
  local list = {}
  for i, id in ipairs(ids) do list[i] = math.type(id) == "float" and ("%d"):format(id) or tostring(id) end
  return list
end

local function unique(ids)
  local list, seen = {}, {}
  for _, id in ipairs(ids) do
    if not seen[id] then
      seen[id] = true
      list[#list + 1] = id
    end
  end
  return list
end

-- ---- made when first read ------------------------------------------------------------------------

local made = {}

function made.answer(self) return slots.answer(self.datum) end

function made.parsed(self) return parser.parse(self.answer.text) end

function made.graph(self)
  local structure = table_given(self.datum, "graph_structure")
  if not structure then return graph.of(self.parsed) end
  return graph.new(structure.claims or {}, structure.relations or {})
end

-- The text of each claim id as the answer spells it, by id.
function made.spelling(self)
  local spelling = {}
  for _, claim in ipairs(self.parsed.claims) do
    local span = claim.id_span
    spelling[claim.id] = spelling[claim.id] or self.answer.text:sub(span[1], span[2])
  end
  return spelling
end

--- Relation lines whose both ends are claims: { relation, source, target (places among the claims), slot,
--- candidates (the claim that each candidate of the slot is) }; `unplaced` counts lines without a slot.
function made.destinations(self)
  local lines, claims = { unplaced = 0 }, self.graph.claims
  for _, relation in ipairs(self.parsed.relations) do
    local source, target = self.graph.index[relation.source], self.graph.index[relation.target]
    if source and target then
      local texts = {}
      for j, id in ipairs(claims) do texts[j] = self.spelling[id] or id end
      texts[target] = self.answer.text:sub(relation.target_span[1], relation.target_span[2])
      local slot = slots.new(self.answer, relation.target_span, texts, target)
      if slot then
        lines[#lines + 1] = { relation = relation, source = source, target = target, slot = slot }
      else
        lines.unplaced = lines.unplaced + 1
      end
    end
  end
  return lines
end

local place_of_label = {}
for k, label in ipairs(parser.labels) do place_of_label[label] = k end
example.place_of_label = place_of_label

-- A label in the case of the target's.
local function in_case_of(label, written)
  if written == written:upper() then return label:upper() end
  if written:find "^%u" then return label:sub(1, 1):upper() .. label:sub(2) end
  return label
end

--- All relation lines: { relation, label (its place among parser.labels), slot }.
function made.labels(self)
  local lines = { unplaced = 0 }
  for _, relation in ipairs(self.parsed.relations) do
    local own = place_of_label[relation.label]
    local written = self.answer.text:sub(relation.label_span[1], relation.label_span[2])
    local texts = {}
    for k, label in ipairs(parser.labels) do texts[k] = k == own and written or in_case_of(label, written) end
    local slot = slots.new(self.answer, relation.label_span, texts, own)
    if slot then
      lines[#lines + 1] = { relation = relation, label = own, slot = slot }
    else
      lines.unplaced = lines.unplaced + 1
    end
  end
  return lines
end

local function prompt_text(self)
  local tokens, tokenizer = {}, self.datum.tokenizer
  for p = 1, self.answer.before do tokens[p] = self.datum.tokens[p] end
  return tokenizer:decode(tokens)
end

--- Ids of the documents that may be cited, each once.
function made.pool(self)
  local datum = self.datum
  local ids = table_given(datum, "evidence_pool") or table_given(datum, "pool")
  if not ids then
    ids = parser.documents(prompt_text(self))
    if #ids == 0 then ids = table_given(datum, "evidence_ids") or {} end
  end
  return unique(as_texts(ids))
end

--- Citations of the answer, or those of the documents that the caller lists.
function made.cited(self)
  local listed = table_given(self.datum, "citations")
  if not listed then return self.parsed.citations end
  local wanted, list = {}, {}
  for _, id in ipairs(as_texts(listed)) do wanted[id] = true end
  for _, citation in ipairs(self.parsed.citations) do
    if wanted[citation.id] then list[#list + 1] = citation end
  end
  return list
end

--- Citations with their slot and trie: { citation, slot, trie, gold (in the pool), pool (its size) }. The
--- candidates of the slot are the pool, and behind it the cited document when the pool lacks it.
function made.citations(self)
  local lines, pool = { unplaced = 0 }, self.pool
  for _, citation in ipairs(#pool > 0 and self.cited or {}) do
    local texts, own, members = table.move(pool, 1, #pool, 1, {}), nil, {}
    for j, id in ipairs(pool) do
      members[j] = j
      if id == citation.id then own = j end
    end
    texts[own or #texts + 1] = citation.id
    local slot = slots.new(self.answer, citation.id_span, texts, own or #texts)
    if slot then
      lines[#lines + 1] = { citation = citation, slot = slot, trie = slots.trie(self.answer, slot, members),
        gold = own ~= nil, pool = #pool }
    else
      lines.unplaced = lines.unplaced + 1
    end
  end
  return lines
end

--- Positions of the tokens that spell each cited document's id, wherever it is cited: { { t … } … }.
function made.cited_positions(self)
  local list, of = {}, {}
  for _, citation in ipairs(self.cited) do
    local first, last = slots.positions(self.answer, citation.id_span)
    if not of[citation.id] then
      of[citation.id] = {}
      list[#list + 1] = of[citation.id]
    end
    for p = math.max(first, 2), last do table.insert(of[citation.id], p - 1) end
  end
  return list
end

--- How often each label of parser.labels stands in the target, as shares that sum to 1; nil without relations.
function made.label_shares(self)
  local structure, counts, total = table_given(self.datum, "dialectical_structure"), { 0, 0, 0 }, 0
  if structure and #structure == 0 then
    for k, label in ipairs(parser.labels) do counts[k] = structure[label] or 0 end
  else
    local labels = structure or {}
    for i, relation in ipairs(structure and {} or self.parsed.relations) do labels[i] = relation.label end
    for _, label in ipairs(labels) do
      local k = place_of_label[label] or errors.raise("dialectical_structure: there is no label %s; known: %s",
        schema.show(label), table.concat(parser.labels, ", "))
      counts[k] = counts[k] + 1
    end
  end
  for k = 1, #counts do total = total + counts[k] end
  if total == 0 then return false end
  for k = 1, #counts do counts[k] = counts[k] / total end
  return counts
end

function Example.__index(self, key)
  local make = made[key]
  if not make then return nil end
  local value = make(self)
  rawset(self, key, value)
  return value
end

local known = setmetatable({}, { __mode = "k" }) -- by datum

--- What is read of a datum; the same table for the same datum.
---@param datum crucible.core.Datum
---@return crucible.domain.Example
function example.of(datum)
  local found = known[datum]
  if not found then
    found = setmetatable({ datum = datum }, Example)
    known[datum] = found
  end
  return found
end

-- ---- what a loss requires --------------------------------------------------------------------------

local requirement = {}

function requirement.graph_structure(datum)
  return given(datum, "graph_structure") ~= nil or #example.of(datum).parsed.claims > 0
end

function requirement.dialectical_structure(datum)
  return given(datum, "dialectical_structure") ~= nil or #example.of(datum).parsed.relations > 0
end

function requirement.citations(datum)
  return given(datum, "citations") ~= nil or #example.of(datum).parsed.citations > 0
end

function requirement.evidence_pool(datum) return #example.of(datum).pool > 0 end

--- Whether a datum provides what a loss requires under that name; nil for a name that is not of the domain.
---@param datum crucible.core.Datum
---@param name string
---@return boolean?
function example.provides(datum, name)
  local test = requirement[name]
  if test then return test(datum) end
end

return example
