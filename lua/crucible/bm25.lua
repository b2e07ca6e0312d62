-- Okapi BM25 (Robertson, Walker, Jones, Hancock-Beaulieu, Gatford 1994) over a list of texts, with the
-- inverse document frequency of Lucene, ln(1 + (N − n + ½) / (n + ½)), which is never negative.
--
-- Words are runs of ASCII letters and digits and of bytes above 127, in lower case.
local bm25 = {}

local K1, B = 1.2, 0.75

---@class crucible.bm25.Index
---@field size integer  texts
local Index = {}
Index.__index = Index

local function words(text) return text:lower():gmatch "[%w\x80-\xFF]+" end

--- An index of texts.
---@param texts string[]
---@return crucible.bm25.Index
function bm25.index(texts)
  local self = setmetatable({ size = #texts, lengths = {}, postings = {} }, Index)
  local total = 0
  for number, text in ipairs(texts) do
    local length = 0
    for word in words(text) do
      length = length + 1
      local posting = self.postings[word]
      if not posting then
        posting = { numbers = {}, counts = {} }
        self.postings[word] = posting
      end
      local last = #posting.numbers
      if posting.numbers[last] == number then
        posting.counts[last] = posting.counts[last] + 1
      else
        posting.numbers[last + 1], posting.counts[last + 1] = number, 1
      end
    end
    self.lengths[number] = length
    total = total + length
  end
  self.mean_length = total / math.max(1, #texts)
  return self
end

--- Scores by number of the texts that share a word with the query. A word counts once.
---@param query string
---@return table<integer, number>
function Index:scores(query)
  local scores, seen = {}, {}
  for word in words(query) do
    local posting = not seen[word] and self.postings[word]
    seen[word] = true
    if posting then
      local found = #posting.numbers
      local idf = math.log(1 + (self.size - found + 0.5) / (found + 0.5))
      for at, number in ipairs(posting.numbers) do
        local count = posting.counts[at]
        local norm = K1 * (1 - B + B * self.lengths[number] / self.mean_length)
        scores[number] = (scores[number] or 0) + idf * count * (K1 + 1) / (count + norm)
      end
    end
  end
  return scores
end

-- Puts a number into a list of the best, best first, that keeps `count` at most.
local function insert(ranked, number, score, scores, count)
  local at = #ranked + 1
  while at > 1 do
    local other = ranked[at - 1]
    if scores[other] > score or (scores[other] == score and other < number) then break end
    at = at - 1
  end
  if at > count then return end
  table.insert(ranked, at, number)
  ranked[count + 1] = nil
end

--- Numbers of the best texts for a query, best first (ties: the first in the list), of those that
--- `allowed` accepts.
---@param query string
---@param count integer  at most
---@param allowed (fun(number: integer): boolean)?
---@return integer[]
function Index:best(query, count, allowed)
  local scores, ranked = self:scores(query), {}
  for number, score in pairs(scores) do
    local last = ranked[count]
    if (not last or score >= scores[last]) and (not allowed or allowed(number)) then
      insert(ranked, number, score, scores, count)
    end
  end
  return ranked
end

return bm25
