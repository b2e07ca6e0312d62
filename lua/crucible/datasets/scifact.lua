-- SciFact (Wadden et al. 2020): scientific claims and the abstracts that support or contradict
-- them. A verification row is a claim that has evidence, with the evidence's sentences:
--
--     { id, claim, evidence = { sentence, … }, evidence_ids = { document id, … }, label }
--
-- evidence is the union of all rationales' sentences in document order, document ids ascending,
-- each sentence trimmed; label is SUPPORT or CONTRADICT. 505 rows train, 188 dev.
--
-- With `labels = "all"` every claim is a row: those without evidence have the label NOT_ENOUGH_INFO and
-- empty lists. 809 rows train, 300 dev; and test, whose 300 rows have no label.
local errors = require "crucible.errors"
local jsonl = require "crucible.jsonl"
local paths = require "crucible.paths"

local ARCHIVE = {
  name = "data.tar.gz", url = "https://scifact.s3-us-west-2.amazonaws.com/release/latest/data.tar.gz", size = 3115079,
  sha256 = "11c621288d41ac144d29b13b0f8503b3820b7d6e8b1f6ff24dff335c196d76be",
  members = {
    ["data/claims_train.jsonl"] = "claims_train.jsonl", ["data/claims_dev.jsonl"] = "claims_dev.jsonl",
    ["data/claims_test.jsonl"] = "claims_test.jsonl", ["data/corpus.jsonl"] = "corpus.jsonl",
  },
}

local scifact = {
  name = "scifact",
  formatter = "scifact",
  splits = { "train", "dev" },
  unlabelled = { "test" },
  -- The published test split has no labels; evaluation that asks for it gets dev and says so.
  fallback = { test = "dev" },
  options = { "labels" },
  files = { train = { ARCHIVE }, dev = { ARCHIVE }, test = { ARCHIVE } },
  source = "https://github.com/allenai/scifact",
  licence = "claims CC BY 4.0 (allenai/scifact); abstracts ODC-By 1.0 (S2ORC)",
  citation = "Wadden et al. 2020, Fact or Fiction: Verifying Scientific Claims, EMNLP",
}

--- What outputs can be.
---@param options { labels: string? }
---@return string[]
function scifact.labels(options)
  if options.labels == "all" then return { "SUPPORT", "CONTRADICT", "NOT_ENOUGH_INFO" } end
  return { "SUPPORT", "CONTRADICT" }
end

local function trim(text) return text:match("^%s*(.-)%s*$") end

local function sorted_documents(evidence)
  local ids = {}
  for id in pairs(evidence) do ids[#ids + 1] = math.tointeger(tonumber(id)) end
  table.sort(ids)
  return ids
end

-- Sentence numbers (from 0) of all rationales of one document, each once, ascending.
local function sentence_numbers(rationales)
  local seen, numbers = {}, {}
  for _, rationale in ipairs(rationales) do
    for _, number in ipairs(rationale.sentences) do
      if not seen[number] then
        seen[number] = true
        numbers[#numbers + 1] = number
      end
    end
  end
  table.sort(numbers)
  return numbers
end

-- A claim of the test split has no field evidence, and so no label.
local function row_without_evidence(claim)
  return {
    id = claim.id, claim = claim.claim, evidence = {}, evidence_ids = {},
    label = claim.evidence and "NOT_ENOUGH_INFO" or nil,
  }
end

--- The verification row of a claim; without evidence nil, or a row too with labels = "all". Fails
--- with "format" when the corpus lacks a document or a sentence.
---@param claim table   a row of claims_*.jsonl
---@param corpus table<integer, string[]>  document id → sentences of its abstract
---@param options { labels: string? }?
---@return table? row, string? message, string? code
function scifact.verification_row(claim, corpus, options)
  local ids = sorted_documents(claim.evidence or {})
  if #ids == 0 then return options and options.labels == "all" and row_without_evidence(claim) or nil end
  local row = { id = claim.id, claim = claim.claim, evidence = {}, evidence_ids = ids }
  for _, id in ipairs(ids) do
    local rationales = claim.evidence[tostring(id)]
    local abstract = corpus[id]
    if not abstract then return errors.failure("format", "claim %s: document %d is not in the corpus", claim.id, id) end
    for _, number in ipairs(sentence_numbers(rationales)) do
      local sentence = abstract[number + 1]
      if not sentence then
        return errors.failure("format", "claim %s: document %d has no sentence %d", claim.id, id, number)
      end
      row.evidence[#row.evidence + 1] = trim(sentence)
    end
    row.label = row.label or rationales[1].label
  end
  return row
end

local function read_corpus(path)
  local documents, message, code = jsonl.read(path)
  if not documents then return nil, message, code end
  local corpus = {}
  for _, document in ipairs(documents) do corpus[document.doc_id] = document.abstract end
  return corpus
end

--- Verification rows out of the released files: claims_<split>.jsonl and corpus.jsonl.
---@param claims_path string
---@param corpus_path string
---@param options { labels: string? }?
---@return table[]? rows, string? message, string? code
function scifact.from_release(claims_path, corpus_path, options)
  local claims, message, code = jsonl.read(claims_path)
  if not claims then return nil, message, code end
  local corpus
  corpus, message, code = read_corpus(corpus_path)
  if not corpus then return nil, message, code end
  local rows = {}
  for _, claim in ipairs(claims) do
    local row
    row, message, code = scifact.verification_row(claim, corpus, options)
    if code then return nil, message, code end
    rows[#rows + 1] = row
  end
  return rows
end

--- The corpus of a folder: the released one, or the abstracts with evidence alone, which suffice.
---@param folder string
---@return string? path
function scifact.corpus_in(folder)
  for _, name in ipairs { "corpus.jsonl", "abstracts.jsonl" } do
    local path = paths.join(folder, name)
    if paths.is_file(path) then return path end
  end
end

local function open_release(folder, split, options)
  local claims, corpus = paths.join(folder, "claims_" .. split .. ".jsonl"), scifact.corpus_in(folder)
  if not (paths.is_file(claims) and corpus) then return nil end
  local rows, message, code = scifact.from_release(claims, corpus, options)
  if not rows then return nil, message, code end
  local index = 0
  return function()
    index = index + 1
    if rows[index] then return rows[index], index end
  end, claims
end

--- Where a folder holds a split: a reader of rows (as jsonl.reader gives) and the file it reads,
--- or nil when the folder has none. Both the derived rows (verification_<split>.jsonl, those with
--- evidence) and the released files are understood.
---@param folder string
---@param split string
---@param options { labels: string? }?
---@return function? next_row, string? path_or_message, string? code
function scifact.open(folder, split, options)
  local derived = paths.join(folder, "verification_" .. split .. ".jsonl")
  local all = options and options.labels == "all"
  if all or not paths.is_file(derived) then return open_release(folder, split, options) end
  local next_row, message, code = jsonl.reader(derived)
  return next_row, next_row and derived or message, code
end

--- What to do when no folder has it.
---@param split string
---@return string
function scifact.advice(split)
  return ("put verification_%s.jsonl, or claims_%s.jsonl and corpus.jsonl of %s, into the folder scifact there")
    :format(split, split, ARCHIVE.url)
end

return scifact
