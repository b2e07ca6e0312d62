-- SciFact (Wadden et al. 2020) as claim and relation extraction: the abstracts that hold a claim's
-- evidence, and what to extract from them. A row is a claim that has evidence:
--
--     { id, claim, documents = { { id, title, abstract } … }, evidence = { { document, text, label } … },
--       evidence_ids = { document id … }, label }
--
-- One piece of evidence is one rationale: its sentences, trimmed, joined by a space. Documents and
-- evidence stand in the order of the claim's cited_doc_ids, which is that of the released files.
-- 505 rows train, 188 dev.
--
-- With `distractors = k` a prompt holds k abstracts more: half of them (rounded up) the nearest to the
-- claim by BM25 that are no evidence for it, the others drawn from the rest; all documents are then in
-- an order drawn per claim, so that their place tells nothing. Both are a function of (seed, claim id)
-- and the corpus.
local bm25 = require "crucible.bm25"
local errors = require "crucible.errors"
local jsonl = require "crucible.jsonl"
local paths = require "crucible.paths"
local random = require "crucible.random"
local scifact = require "crucible.datasets.scifact"

local scifact_cns = {
  name = "scifact_cns",
  folder = "scifact",
  formatter = "scifact_cns",
  splits = { "train", "dev" },
  fallback = { test = "dev" },
  options = { "distractors", "distractors_seed" },
  files = scifact.files,
  source = scifact.source,
  licence = scifact.licence,
  citation = scifact.citation,
}

local function trim(text) return text:match("^%s*(.-)%s*$") end

local function trimmed(sentences)
  local list = {}
  for i, sentence in ipairs(sentences) do list[i] = trim(sentence) end
  return list
end

---@class crucible.datasets.Corpus
---@field list table[]               documents as in the file
---@field by_id table<integer, table>

local function new_corpus(list)
  local corpus = { list = list, by_id = {} }
  for _, document in ipairs(list) do corpus.by_id[document.doc_id] = document end
  return corpus
end

local function shown_document(document)
  return { id = document.doc_id, title = trim(document.title),
    abstract = table.concat(trimmed(document.abstract), " ") }
end

-- ---- distractors -----------------------------------------------------------------------------

local function index_of(corpus)
  if not corpus.index then
    local texts = {}
    for i, document in ipairs(corpus.list) do
      texts[i] = document.title .. " " .. table.concat(document.abstract, " ")
    end
    corpus.index = bm25.index(texts)
  end
  return corpus.index
end

local function count_keys(object)
  local count = 0
  for _ in pairs(object) do count = count + 1 end
  return count
end

-- Numbers in the corpus of k documents that are no evidence for the claim; fewer in a small corpus.
local function choose_distractors(claim, corpus, count, draw)
  local taken = {}
  local function allowed(number)
    return not taken[number] and not claim.evidence[tostring(corpus.list[number].doc_id)]
  end
  count = math.min(count, #corpus.list - count_keys(claim.evidence))
  local chosen = index_of(corpus):best(claim.claim, (count + 1) // 2, allowed)
  for _, number in ipairs(chosen) do taken[number] = true end
  while #chosen < count do
    local number = draw(#corpus.list)
    if allowed(number) then
      taken[number] = true
      chosen[#chosen + 1] = number
    end
  end
  return chosen
end

local function add_distractors(row, claim, corpus, options)
  local draw = random.generator(options.distractors_seed or 0, claim.id)
  for _, number in ipairs(choose_distractors(claim, corpus, options.distractors, draw)) do
    row.documents[#row.documents + 1] = shown_document(corpus.list[number])
  end
  for i = #row.documents, 2, -1 do
    local j = draw(i)
    row.documents[i], row.documents[j] = row.documents[j], row.documents[i]
  end
end

-- ---- rows ------------------------------------------------------------------------------------

-- Ids of the documents with evidence in the order of the released files. Their evidence is a JSON
-- object, whose order a reader does not keep; cited_doc_ids has the same order.
local function evidence_order(claim)
  local ids, evidence = {}, claim.evidence or {}
  for _, id in ipairs(claim.cited_doc_ids or {}) do
    if evidence[tostring(id)] then ids[#ids + 1] = id end
  end
  local listed = {}
  for _, id in ipairs(ids) do listed[id] = true end
  local others = {}
  for key in pairs(evidence) do
    local id = math.tointeger(tonumber(key))
    if not listed[id] then others[#others + 1] = id end
  end
  table.sort(others)
  return table.move(others, 1, #others, #ids + 1, ids)
end

local function rationale_text(claim, document, rationale)
  local parts = {}
  for i, number in ipairs(rationale.sentences) do
    local sentence = document.abstract[number + 1]
    if not sentence then
      return errors.failure("format", "claim %s: document %s has no sentence %s", claim.id, document.doc_id, number)
    end
    parts[i] = trim(sentence)
  end
  return table.concat(parts, " ")
end

local function add_evidence(row, claim, document)
  for _, rationale in ipairs(claim.evidence[tostring(document.doc_id)]) do
    local text, message, code = rationale_text(claim, document, rationale)
    if not text then return nil, message, code end
    row.evidence[#row.evidence + 1] = { document = document.doc_id, text = text, label = rationale.label }
  end
  return true
end

--- The extraction row of a claim, or nil when it has no evidence. Fails with "format" when the
--- corpus lacks a document or a sentence.
---@param claim table  a row of claims_*.jsonl
---@param corpus crucible.datasets.Corpus
---@param options { distractors: integer?, distractors_seed: integer? }
---@return table? row, string? message, string? code
function scifact_cns.row(claim, corpus, options)
  local ids = evidence_order(claim)
  if #ids == 0 then return nil end
  local row = { id = claim.id, claim = trim(claim.claim), documents = {}, evidence = {}, evidence_ids = ids }
  for i, id in ipairs(ids) do
    local document = corpus.by_id[id]
    if not document then return errors.failure("format", "claim %s: document %d is not in the corpus", claim.id, id) end
    row.documents[i] = shown_document(document)
    local ok, message, code = add_evidence(row, claim, document)
    if not ok then return nil, message, code end
  end
  row.label = row.evidence[1].label
  if (options.distractors or 0) > 0 then add_distractors(row, claim, corpus, options) end
  return row
end

-- ---- files -----------------------------------------------------------------------------------

--- Extraction rows out of claims_<split>.jsonl and a corpus.
---@param claims_path string
---@param corpus_file string
---@param options { distractors: integer?, distractors_seed: integer? }?
---@return table[]? rows, string? message, string? code
function scifact_cns.from_release(claims_path, corpus_file, options)
  local claims, message, code = jsonl.read(claims_path)
  if not claims then return nil, message, code end
  local documents
  documents, message, code = jsonl.read(corpus_file)
  if not documents then return nil, message, code end
  local corpus, rows = new_corpus(documents), {}
  for _, claim in ipairs(claims) do
    local row
    row, message, code = scifact_cns.row(claim, corpus, options or {})
    if code then return nil, message, code end
    rows[#rows + 1] = row
  end
  return rows
end

--- A reader of the rows of a split in a folder that holds claims_<split>.jsonl and corpus.jsonl (or
--- abstracts.jsonl, the documents with evidence alone), and the file it reads; nil when it does not.
---@param folder string
---@param split string
---@param options { distractors: integer?, distractors_seed: integer? }?
---@return function? next_row, string? path_or_message, string? code
function scifact_cns.open(folder, split, options)
  local claims, corpus = paths.join(folder, "claims_" .. split .. ".jsonl"), scifact.corpus_in(folder)
  if not (paths.is_file(claims) and corpus) then return nil end
  local rows, message, code = scifact_cns.from_release(claims, corpus, options)
  if not rows then return nil, message, code end
  local index = 0
  return function()
    index = index + 1
    if rows[index] then return rows[index], index end
  end, claims
end

--- What to do when no folder has it.
---@param split string
---@return string
function scifact_cns.advice(split)
  return ("put claims_%s.jsonl and corpus.jsonl of %s into the folder scifact there"):format(split, scifact_cns.source)
end

return scifact_cns
