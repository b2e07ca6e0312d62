-- Reads text of claims and relations, and says where each part stands.
--
--     CLAIM[c1]: the hypothesis
--     CLAIM[c2] (Document 13734012): an atomic claim
--     RELATION: c2 refutes c1
--
-- Key words and labels are read without regard to case, white space around the parts is ignored, ids
-- are lower-case in the result. A line that is neither is text; one that begins as a claim or relation and
-- breaks off, or goes on otherwise, is an error entry. Nothing that a text holds raises.
--
-- Spans are { first, last }, bytes from 1 as string.sub counts, so that a tokenizer can map them to
-- positions; { n, n - 1 } is empty.
local errors = require "crucible.errors"

local parser = {}

---@alias crucible.domain.Span integer[]  { first, last }

---@class crucible.domain.Claim
---@field id string
---@field id_span crucible.domain.Span
---@field document string?                     of "(Document N)"
---@field document_span crucible.domain.Span?  of N
---@field text string
---@field text_span crucible.domain.Span
---@field line integer
---@field span crucible.domain.Span            of the line without white space around it

---@class crucible.domain.Relation
---@field source string
---@field source_span crucible.domain.Span
---@field label "supports"|"refutes"|"contrasts"
---@field label_span crucible.domain.Span
---@field target string
---@field target_span crucible.domain.Span
---@field line integer
---@field span crucible.domain.Span

---@class crucible.domain.Citation
---@field id string
---@field id_span crucible.domain.Span
---@field form "document"|"docid"|"ref"|"sentence"  Document 1, [DocID: 1], [ref: 1], [1:0]
---@field sentence integer?  of [1:0]
---@field claim integer?     which of `claims` the line is
---@field line integer

---@class crucible.domain.ParseError
---@field kind "truncated"|"malformed"  the text ends before the line is whole; or not a form that is known
---@field message string
---@field line integer
---@field span crucible.domain.Span

---@class crucible.domain.Line
---@field kind "claim"|"relation"|"text"|"error"
---@field line integer
---@field span crucible.domain.Span

---@class crucible.domain.Parsed
---@field text string
---@field claims crucible.domain.Claim[]        in the order of the text, duplicates included
---@field relations crucible.domain.Relation[]
---@field citations crucible.domain.Citation[]  in the order of the text, wherever they stand
---@field errors crucible.domain.ParseError[]
---@field lines crucible.domain.Line[]          that are not empty

--- The labels of relations, in the order in which shares and masses are listed.
parser.labels = { "supports", "refutes", "contrasts" }

local is_label = {}
for _, label in ipairs(parser.labels) do is_label[label] = true end

-- ---- patterns ------------------------------------------------------------------------------

-- Lower-case letters of a pattern as classes of both cases; classes such as %w are left alone.
local function any_case(pattern)
  return (pattern:gsub("(%%?)(%a)", function(escape, letter)
    if escape ~= "" then return escape .. letter end
    return ("[%s%s]"):format(letter:lower(), letter:upper())
  end))
end

local ID = "[%w_][%w_%.%-]*"
local WORD = "[%w_][%w_%-]*"

local CLAIM_KEY = "^" .. any_case "claim" .. "%s*%[%s*()"
local CLAIM_ID = "^(" .. ID .. ")%s*%]%s*()"
local CLAIM_DOCUMENT = "^%(%s*" .. any_case "document" .. "%s+()(%w+)%s*%)%s*()"
local RELATION_KEY = "^" .. any_case "relation" .. "%f[^%w_]%s*([:%-]?)%s*()"
local RELATION_BODY = "^()(" .. WORD .. ")%s+()(%a+)%s+()(" .. WORD .. ")[%.,;]?()$"

-- ---- lines -----------------------------------------------------------------------------------

local function span_of(first, text) return { first, first + #text - 1 } end

local Reader = {}
Reader.__index = Reader

function Reader:fault(message, ...)
  local at = self.at
  local list, kind = self.parsed.errors, at.is_last and "truncated" or "malformed"
  list[#list + 1] = { kind = kind, message = message:format(...), line = at.line, span = at.span }
  return "error"
end

-- The claim whose "CLAIM[" ends before `after`, or an error entry.
function Reader:claim(content, first, after)
  local id, next_place = content:match(CLAIM_ID, after)
  if not id then return self:fault "a claim without an id in brackets" end
  local claim = { id = id:lower(), id_span = span_of(first + after - 1, id), line = self.at.line, span = self.at.span }
  local place, document, behind = content:match(CLAIM_DOCUMENT, next_place)
  if document then
    claim.document, claim.document_span, next_place = document, span_of(first + place - 1, document), behind
  end
  local text_at = content:match("^:%s*()", next_place)
  if not text_at then return self:fault("no colon after CLAIM[%s]", id) end
  if text_at > #content then return self:fault("CLAIM[%s] has no text", id) end
  claim.text, claim.text_span = content:sub(text_at), { first + text_at - 1, first + #content - 1 }
  self.parsed.claims[#self.parsed.claims + 1] = claim
  return "claim"
end

-- Whether a line that begins with the word "relation" means to be one: prose does not go on with a
-- colon, a dash, nothing, or a word that holds a digit.
local function means_relation(separator, rest)
  return separator ~= "" or rest == "" or rest:match("^[%w_]*%d[%w_]*") ~= nil
end

-- The relation whose key word ends before `after`, or an error entry, or text.
function Reader:relation(content, first, separator, after)
  local source_at, source, label_at, label, target_at, target = content:match(RELATION_BODY, after)
  if source and is_label[label:lower()] then
    local relations = self.parsed.relations
    relations[#relations + 1] = {
      source = source:lower(), source_span = span_of(first + source_at - 1, source), label = label:lower(),
      label_span = span_of(first + label_at - 1, label), target = target:lower(),
      target_span = span_of(first + target_at - 1, target), line = self.at.line, span = self.at.span,
    }
    return "relation"
  end
  if not means_relation(separator, content:sub(after)) then return "text" end
  return self:fault "a relation reads: source supports|refutes|contrasts target"
end

function Reader:content(content, first)
  local after = content:match(CLAIM_KEY)
  if after then return self:claim(content, first, after) end
  local separator
  separator, after = content:match(RELATION_KEY)
  if after then return self:relation(content, first, separator, after) end
  if content:lower() == "claim" then return self:fault "a claim without an id in brackets" end
  return "text"
end

-- ---- citations -------------------------------------------------------------------------------

local CITATIONS = {
  { form = "document", pattern = "%f[%w]" .. any_case "document" .. "%s+()(%d+)%f[^%w]()" },
  { form = "docid", pattern = "%[%s*" .. any_case "docid" .. "%s*:%s*()(" .. ID .. ")%s*%]()" },
  { form = "ref", pattern = "%[%s*" .. any_case "ref" .. "%s*:%s*()(" .. ID .. ")%s*%]()" },
  { form = "sentence", pattern = "%[%s*()(%d+)%s*:%s*%d+%s*%]()", sentence = ":%s*(%d+)" },
}

local function citations_of_form(content, first, entry, found)
  local start = 1
  while true do
    local from, _, place, id, after = content:find(entry.pattern, start)
    if not from then return end
    local citation = { id = id, id_span = span_of(first + place - 1, id), form = entry.form }
    if entry.sentence then citation.sentence = math.tointeger(tonumber(content:match(entry.sentence, place))) end
    found[#found + 1] = citation
    start = after
  end
end

function Reader:citations(content, first, claim)
  local found = {}
  for _, entry in ipairs(CITATIONS) do citations_of_form(content, first, entry, found) end
  table.sort(found, function(a, b) return a.id_span[1] < b.id_span[1] end)
  for _, citation in ipairs(found) do
    citation.claim, citation.line = claim, self.at.line
    self.parsed.citations[#self.parsed.citations + 1] = citation
  end
end

-- ---- the text --------------------------------------------------------------------------------

function Reader:line(line, number, offset, is_last)
  local before, content = line:match("^(%s*)(.-)%s*$")
  if content == "" then return end
  local first = offset + #before
  self.at = { line = number, span = { first, first + #content - 1 }, is_last = is_last }
  local kind = self:content(content, first)
  self.parsed.lines[#self.parsed.lines + 1] = { kind = kind, line = number, span = self.at.span }
  self:citations(content, first, kind == "claim" and #self.parsed.claims or nil)
end

--- Claims, relations and citations of a text, with their byte spans.
---@param text string
---@return crucible.domain.Parsed
function parser.parse(text)
  if type(text) ~= "string" then errors.raise("domain.parser.parse: expected a string, got a %s", type(text)) end
  local parsed = { text = text, claims = {}, relations = {}, citations = {}, errors = {}, lines = {} }
  local reader = setmetatable({ parsed = parsed }, Reader)
  local last = text:find("%s*$") - 1 -- byte after which nothing is written
  local number = 0
  for offset, line, after in text:gmatch("()([^\n]*)()") do
    number = number + 1
    reader:line(line, number, offset, after > last)
  end
  return parsed
end

--- The documents that a prompt offers: ids of the lines "Document N: …", in order, each once.
---@param prompt string
---@return string[]
function parser.documents(prompt)
  local ids, seen = {}, {}
  for line in prompt:gmatch "[^\n]+" do
    local id = line:match("^%s*" .. any_case "document" .. "%s+(%w+)%s*:")
    if id and not seen[id] then
      seen[id] = true
      ids[#ids + 1] = id
    end
  end
  return ids
end

return parser
