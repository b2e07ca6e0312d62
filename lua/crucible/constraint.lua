-- What generated text must become: a choice among texts, a regular expression, or the lines of claims and
-- relations. All are patterns of crucible.core (Tokenizer:constraint): the sampler lets only tokens follow
-- from which the text can still be completed, and the end token only where it is complete.
--
--     session:sample(prompts, { constraint = { choices = { "SUPPORT", "CONTRADICT" } } })
--     session:sample(prompts, { constraint = { regex = "[0-9]{4}-[0-9]{2}-[0-9]{2}" } })
--     session:sample(prompts, { constraint = { grammar = "claims", documents = { "13734012" } } })
--
-- One space may stand before the text, as models begin words with one; leading_space = false forbids it.
local errors = require "crucible.errors"
local schema = require "crucible.schema"

local constraint = {}

--- A text as a pattern that means it alone.
---@param text string
---@return string
function constraint.escape(text)
  return (text:gsub("[%[%]{}()%.*+?|^$\\]", "\\%0"):gsub("[\n\r\t\f\v]", {
    ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\f"] = "\\f", ["\v"] = "\\x0B",
  }))
end

local function any_of(patterns) return "(?:" .. table.concat(patterns, "|") .. ")" end

--- The pattern of one of several texts.
---@param texts string[]
---@return string
function constraint.choice_pattern(texts)
  local patterns = {}
  for i, text in ipairs(texts) do patterns[i] = constraint.escape(text) end
  return any_of(patterns)
end

-- ---- claims and relations ------------------------------------------------------------------

local TEXT = "[^\\x00-\\x20\\x7F][^\\x00-\\x1F\\x7F]*" -- of one line, not beginning with a space
local LABELS = { "supports", "refutes", "contrasts" }

local function document_pattern(documents)
  local id = documents and constraint.choice_pattern(documents) or "[0-9]{1,10}"
  return " \\(Document " .. id .. "\\)"
end

local function claim_pattern(n, document) return ("CLAIM\\[c%d\\]%s: %s"):format(n, document, TEXT) end

-- A relation between two different ones of the first n claims.
local function relation_pattern(n)
  local patterns = {}
  for source = 1, n do
    local targets = {}
    for target = 1, n do
      if target ~= source then targets[#targets + 1] = "c" .. target end
    end
    patterns[source] = ("c%d %s %s"):format(source, any_of(LABELS), any_of(targets))
  end
  return "\\nRELATION: " .. any_of(patterns)
end

--- The pattern of lines of claims and relations: claim c1 first, then claims c2, c3, … in order and, between
--- and after them, relations between claims that stand above. Whatever it means parses by crucible.domain, its
--- ids are unique and its relations refer to claims.
---@param most_claims integer    1 to 30
---@param documents string[]?    ids that may be cited; nil: any number of up to ten digits
---@param cited boolean?         claims from c2 on must cite
---@return string
function constraint.claims_pattern(most_claims, documents, cited)
  local document = document_pattern(documents)
  if documents and #documents == 0 then document = "" end
  if document ~= "" and not cited then document = "(?:" .. document .. ")?" end
  local tail = ""
  for n = most_claims, 2, -1 do
    tail = ("(?:\\n%s(?:%s)*%s)?"):format(claim_pattern(n, document), relation_pattern(n), tail)
  end
  return claim_pattern(1, "") .. tail
end

-- ---- options -------------------------------------------------------------------------------

local options = schema.new("constraint", {
  { name = "choices", check = schema.list(schema.nonempty_string), doc = "the text is one of these" },
  { name = "regex", check = schema.nonempty_string, doc = "the text is one that this pattern means as a whole" },
  { name = "grammar", check = schema.one_of { "claims" }, doc = "the text is lines of claims and relations" },
  { name = "leading_space", default = true, check = schema.boolean, doc = "one space may stand before the text" },
  { name = "most_claims", default = 8, check = schema.integer { min = 1, max = 30 }, doc = "of the grammar" },
  { name = "documents", check = schema.list(schema.nonempty_string),
    doc = "ids that claims may cite; default: any number" },
  { name = "cited", default = false, check = schema.boolean, doc = "claims from c2 on must cite a document" },
})

local function check_one_kind(given)
  local kinds = 0
  for _, name in ipairs { "choices", "regex", "grammar" } do kinds = kinds + (given[name] and 1 or 0) end
  if kinds ~= 1 then errors.raise("constraint: expected one of choices, regex and grammar, got %d of them", kinds) end
  if given.choices and #given.choices == 0 then
    errors.raise("constraint: choices is empty, expected at least one text")
  end
end

--- The pattern that options mean. Raises on misuse.
---@param given table  see constraint.help
---@return string
function constraint.pattern(given)
  given = options:resolve(given)
  check_one_kind(given)
  local pattern = given.choices and constraint.choice_pattern(given.choices) or given.regex
    or constraint.claims_pattern(given.most_claims, given.documents, given.cited)
  return (given.leading_space and " ?" or "") .. "(?:" .. pattern .. ")"
end

--- The options, as text.
---@return string
function constraint.help() return options:help() end

return constraint
