-- Abstracts to the claims and relations they hold, in the wording of the CNS claim extractor
-- (North-Shore-AI, crucible_framework, MIT).
local fields = require "crucible.formatters.fields"

local PROMPT = table.concat({
  "You are extracting atomic claims and their logical relations from scientific abstracts.",
  "",
  "Passage:",
  "%s",
  "",
  "Task:",
  "1. Restate the passage's central hypothesis verbatim (or with minimal edits) as CLAIM[c1].",
  "2. Continue listing distinct factual claims as CLAIM[c#] (Document <doc_id>): <text> using precise language from "
    .. "the passage.",
  "3. Use RELATION: <source_id> <supports|refutes> <target_id> to link evidence claims to the main hypothesis.",
  "",
  "",
}, "\n")

local verbs = { SUPPORT = "supports", CONTRADICT = "refutes" }

local function passage(documents)
  local parts = {}
  for i, document in ipairs(documents) do
    parts[i] = ("Document %s: %s\n\n%s"):format(document.id, fields.string(document, "title"),
      fields.string(document, "abstract"))
  end
  return table.concat(parts, "\n\n")
end

local function verb_of(piece)
  local verb = verbs[piece.label]
  if not verb then error(('"label" of a piece of evidence is %s, expected "SUPPORT" or "CONTRADICT"'):format(
    tostring(piece.label)), 0) end
  return verb
end

local function completion(claim, evidence)
  local lines = { "CLAIM[c1]: " .. claim }
  for i, piece in ipairs(evidence) do
    lines[#lines + 1] = ("CLAIM[c%d] (Document %s): %s"):format(i + 1, piece.document, fields.string(piece, "text"))
    lines[#lines + 1] = ("RELATION: c%d %s c1"):format(i + 1, verb_of(piece))
  end
  return table.concat(lines, "\n")
end

local function texts(ids)
  local list = {}
  for i, id in ipairs(ids) do list[i] = tostring(id) end
  return list
end

local function pool(documents)
  local ids = {}
  for i, document in ipairs(documents) do ids[i] = tostring(document.id) end
  return ids
end

--- A row of the data set scifact_cns to the prompt with its passages and the CLAIM and RELATION lines;
--- a row { prompt, completion, metadata } of a file in the same wording is taken as it is. Metadata:
--- claim_id, doc_ids (documents with evidence, as text), evidence_ids (the same as numbers), pool (all
--- documents of the prompt, as text), label, source, license.
---@param example table
---@return { input: string, output: string, metadata: table }
return function(example)
  if example.prompt ~= nil then
    return { input = fields.string(example, "prompt"), output = fields.string(example, "completion"),
      metadata = example.metadata }
  end
  local documents, evidence = fields.table(example, "documents"), fields.table(example, "evidence")
  local ids = fields.table(example, "evidence_ids")
  return {
    input = PROMPT:format(passage(documents)),
    output = completion(fields.string(example, "claim"), evidence),
    metadata = {
      claim_id = example.id, doc_ids = texts(ids), evidence_ids = ids, pool = pool(documents), label = example.label,
      source = "SciFact", license = "CC-BY-4.0",
    },
  }
end
