-- What a text of claims and relations is worth, in stages: form, citations, entailment by what is
-- cited, similarity to the expected hypothesis; and the shape of its graph.
--
-- Citations are a gate: a text that cites nothing, a document that the prompt does not offer, or not all
-- of the expected ones gets 0 in the stages after it, and these zeros enter the means.
local chirality = require "crucible.metrics.chirality"
local graph = require "crucible.domain.graph"
local parser = require "crucible.domain.parser"

local claims = {}

--- From these scores on a stage is passed.
claims.thresholds = { entailment = 0.75, similarity = 0.70 }

local ROOT = "c1"

-- ---- form ----------------------------------------------------------------------------------

local function claims_by_id(parsed)
  local by_id, twice = {}, nil
  for _, claim in ipairs(parsed.claims) do
    if by_id[claim.id] then twice = twice or claim.id end
    by_id[claim.id] = by_id[claim.id] or claim
  end
  return by_id, twice
end

local function bad_line(parsed)
  if parsed.errors[1] then return ("line %d: %s"):format(parsed.errors[1].line, parsed.errors[1].message) end
  for _, line in ipairs(parsed.lines) do
    if line.kind == "text" then return ("line %d is neither a claim nor a relation"):format(line.line) end
  end
end

local function dangling(parsed, by_id)
  for _, relation in ipairs(parsed.relations) do
    for _, id in ipairs { relation.source, relation.target } do
      if not by_id[id] then return ("line %d: a relation to %s, which is no claim"):format(relation.line, id) end
    end
  end
end

--- What is wrong with the form of a text: nil where every line that is not empty is a claim or a
--- relation, ids are unique, relations join claims, and c1 is there.
---@param parsed crucible.domain.Parsed
---@return string? problem
function claims.schema_problem(parsed)
  local by_id, twice = claims_by_id(parsed)
  if #parsed.lines == 0 then return "the text is empty" end
  local problem = bad_line(parsed)
  if problem then return problem end
  if twice then return ("the id %s is used twice"):format(twice) end
  if not by_id[ROOT] then return "there is no claim c1" end
  return dangling(parsed, by_id)
end

--- The verdict of a text: the label of its first relation to c1, or nil.
---@param parsed crucible.domain.Parsed
---@return string?
function claims.verdict(parsed)
  for _, relation in ipairs(parsed.relations) do
    if relation.target == ROOT then return relation.label end
  end
end

-- ---- citations -----------------------------------------------------------------------------

local function set_of(list)
  local set = {}
  for _, member in ipairs(list) do set[tostring(member)] = true end
  return set
end

--- Ids of the documents that a text cites, in order, each once.
---@param parsed crucible.domain.Parsed
---@return string[]
function claims.cited(parsed)
  local ids, seen = {}, {}
  local function add(id)
    if id and not seen[id] then ids[#ids + 1], seen[id] = id, true end
  end
  for _, citation in ipairs(parsed.citations) do add(citation.id) end
  for _, claim in ipairs(parsed.claims) do add(claim.document) end
  return ids
end

local function outside(ids, set)
  local list = {}
  for _, id in ipairs(ids) do
    if not set[tostring(id)] then list[#list + 1] = tostring(id) end
  end
  return list
end

-- What is wrong with the citations, or nil.
local function citation_problem(cited, expected)
  if #cited == 0 then return "nothing is cited" end
  local foreign, missing = outside(cited, expected.pool), outside(expected.gold, set_of(cited))
  if #foreign > 0 then return "not among the documents of the prompt: " .. table.concat(foreign, ", ") end
  if #missing > 0 then return "not cited: " .. table.concat(missing, ", ") end
end

--- Texts of the documents that a prompt offers, "Document N: …", by id.
---@param prompt string
---@return table<string, string>
function claims.documents(prompt)
  local texts, current = {}, nil
  for line in (prompt .. "\n"):gmatch "([^\n]*)\n" do
    local id, rest = line:match "^%s*[Dd][Oo][Cc][Uu][Mm][Ee][Nn][Tt]%s+(%w+)%s*:%s*(.*)$"
    if id then
      current = id
      texts[id] = rest
    elseif line:find "^Task:" then
      current = nil
    elseif current and line:find "%S" then
      texts[current] = texts[current] .. " " .. line
    end
  end
  return texts
end

--- What a row expects: documents offered, documents to cite, the parsed output.
---@param row { input: string, expected: string, metadata: table }
---@return table
function claims.expectation(row)
  local parsed, metadata = parser.parse(row.expected), row.metadata or {}
  return {
    documents = claims.documents(row.input), pool = set_of(metadata.pool or parser.documents(row.input)),
    gold = metadata.doc_ids or metadata.evidence_ids or claims.cited(parsed), parsed = parsed,
    hypothesis = (claims_by_id(parsed)[ROOT] or {}).text, shares = claims.label_shares(parsed),
  }
end

-- ---- what scorers are asked ----------------------------------------------------------------

-- Documents that a claim's own line cites and that the prompt offers.
local function sources_of(parsed, number, claim, documents)
  local ids, seen = {}, {}
  local function add(id)
    if id and documents[id] and not seen[id] then ids[#ids + 1], seen[id] = id, true end
  end
  add(claim.document)
  for _, citation in ipairs(parsed.citations) do
    if citation.claim == number then add(citation.id) end
  end
  return ids
end

-- Premise and hypothesis of every citation by a claim other than c1.
local function entailment_pairs(parsed, documents)
  local found = {}
  for number, claim in ipairs(parsed.claims) do
    if claim.id ~= ROOT then
      for _, id in ipairs(sources_of(parsed, number, claim, documents)) do
        found[#found + 1] = { premise = documents[id], hypothesis = claim.text, claim = claim.id, document = id }
      end
    end
  end
  return found
end

local function similarity_pair(parsed, expected)
  local root = claims_by_id(parsed)[ROOT]
  if root and expected.hypothesis then return { root.text, expected.hypothesis } end
end

-- ---- the graph -----------------------------------------------------------------------------

--- Shares of supports, refutes and contrasts among the relations; nil where there are none.
---@param parsed crucible.domain.Parsed
---@return number[]?
function claims.label_shares(parsed)
  if #parsed.relations == 0 then return nil end
  local shares = {}
  for i, label in ipairs(parser.labels) do
    local count = 0
    for _, relation in ipairs(parsed.relations) do count = count + (relation.label == label and 1 or 0) end
    shares[i] = count / #parsed.relations
  end
  return shares
end

local function jaccard(ids, gold)
  local cited, union, both = set_of(ids), #ids, 0
  for _, id in ipairs(gold) do
    if cited[tostring(id)] then both = both + 1 else union = union + 1 end
  end
  return union > 0 and both / union or 1
end

-- The upstream score between the labels of the text and those expected; a text without relations is
-- as far from any as can be.
local function chirality_of(assessment, expected, conflict)
  local distance = math.pi
  if assessment.shares and expected.shares then
    distance = chirality.of_distributions(assessment.shares, expected.shares)
  elseif not assessment.shares and not expected.shares then
    distance = 0
  end
  return chirality.score(distance, jaccard(assessment.cited, expected.gold), conflict)
end

local function add_graph(assessment, parsed, expected)
  local shape = graph.of(parsed)
  assessment.betti_0, assessment.betti_1 = shape:betti()
  assessment.polarity_conflicts = #shape:polarity_conflicts()
  assessment.consistency_score = shape:consistency_score()
  assessment.shares = claims.label_shares(parsed)
  assessment.chirality = chirality_of(assessment, expected, assessment.polarity_conflicts > 0)
end

-- ---- assessment ----------------------------------------------------------------------------

---@class crucible.metrics.Assessment
---@field verdict string?
---@field schema_problem string?
---@field cited string[]
---@field citation_problem string?  the gate is shut
---@field entailment number         mean over citing claims; 0 behind a shut gate
---@field entailments table[]       claim, document, score
---@field similarity number
---@field paraphrase boolean
---@field passed boolean            citations, entailment and paraphrase
---@field betti_0 integer
---@field betti_1 integer
---@field polarity_conflicts integer
---@field consistency_score number
---@field chirality number

--- The stages that need no scorer, and what to ask the scorers.
---@param text string
---@param expected table  of claims.expectation
---@return crucible.metrics.Assessment
function claims.begin(text, expected)
  local parsed = parser.parse(text)
  local assessment = {
    verdict = claims.verdict(parsed), schema_problem = claims.schema_problem(parsed), cited = claims.cited(parsed),
    entailment = 0, similarity = 0, entailments = {}, paraphrase = false, passed = false,
  }
  assessment.citation_problem = citation_problem(assessment.cited, expected)
  add_graph(assessment, parsed, expected)
  if not assessment.citation_problem then
    assessment.asks = { entailment = entailment_pairs(parsed, expected.documents),
      similarity = similarity_pair(parsed, expected) }
  end
  return assessment
end

local function mean_score(list)
  local sum = 0
  for _, entry in ipairs(list) do sum = sum + entry.score end
  return #list > 0 and sum / #list or 0
end

-- Takes the scores of what was asked.
local function finish(assessment)
  local asks = assessment.asks
  assessment.asks = nil
  if not asks then return end
  for i, ask in ipairs(asks.entailment) do
    assessment.entailments[i] = { claim = ask.claim, document = ask.document, score = ask.score }
  end
  assessment.entailment = mean_score(assessment.entailments)
  assessment.similarity = asks.similarity and asks.similarity.score or 0
  local entailed = assessment.entailment >= claims.thresholds.entailment
  assessment.paraphrase = entailed or assessment.similarity >= claims.thresholds.similarity
  assessment.passed = entailed and assessment.paraphrase
end

-- Asks a scorer about all pairs at once.
local function ask(scorer, list)
  if #list == 0 then return true end
  local scores, message, code = scorer.score(list)
  if not scores then return nil, message, code end
  for i, pair in ipairs(list) do pair.score = scores[i] end
  return true
end

--- Lets the scorers answer what the assessments ask, and closes these.
---@param assessments crucible.metrics.Assessment[]
---@param scorers { entailment: crucible.metrics.Scorer, similarity: crucible.metrics.Scorer }
---@return true? ok, string? message, string? code
function claims.complete(assessments, scorers)
  local entailments, similarities = {}, {}
  for _, assessment in ipairs(assessments) do
    local asks = assessment.asks or { entailment = {} }
    table.move(asks.entailment, 1, #asks.entailment, #entailments + 1, entailments)
    similarities[#similarities + 1] = asks.similarity
  end
  local ok, message, code = ask(scorers.entailment, entailments)
  if ok then ok, message, code = ask(scorers.similarity, similarities) end
  if not ok then return nil, message, code end
  for _, assessment in ipairs(assessments) do finish(assessment) end
  return true
end

-- ---- metrics by name -----------------------------------------------------------------------

local function share(condition)
  return function(assessment) return condition(assessment) and 1 or 0 end
end

local function field(name)
  return function(assessment) return assessment[name] end
end

--- Measures that are means over texts: name, doc, value of an assessment.
---@type { name: string, doc: string, value: (fun(assessment: crucible.metrics.Assessment): number), lower: boolean? }[]
claims.measures = {
  { name = "schema_compliance", doc = "share of texts of claims and relations that are well formed",
    value = share(function(a) return not a.schema_problem end) },
  { name = "citation_accuracy", doc = "share of texts that cite all expected documents and none that the prompt lacks",
    value = share(function(a) return not a.citation_problem end) },
  { name = "mean_entailment", doc = "how far cited documents entail the claims that cite them",
    value = field "entailment" },
  { name = "mean_similarity", doc = "of the hypothesis to the expected one", value = field "similarity" },
  { name = "paraphrase_accepted", doc = "share of texts whose entailment or similarity passes",
    value = share(field "paraphrase") },
  { name = "overall_pass_rate", doc = "share of texts whose citations, entailment and paraphrase pass",
    value = share(field "passed") },
  { name = "betti_1", doc = "independent cycles of the graph of claims, mean", value = field "betti_1", lower = true },
  { name = "polarity_conflicts", doc = "claims both supported and refuted, mean", value = field "polarity_conflicts",
    lower = true },
  { name = "consistency_score", doc = "1 / (1 + cycles and conflicts), mean", value = field "consistency_score" },
  { name = "chirality", doc = "distance of the relations' labels and citations from the expected",
    value = field "chirality", lower = true },
}

return claims
