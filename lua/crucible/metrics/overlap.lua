-- How much of an expected text a predicted one has: exact match, containment, token F1 as SQuAD's
-- script has it, ROUGE as rouge_score has it (without its stemmer). Each is a number from 0 to 1 a
-- row, and the metric is the mean.
local text = require "crucible.metrics.text"

local overlap = {}

local function f_measure(common, predicted, expected)
  if common == 0 then return 0 end
  local precision, recall = common / predicted, common / expected
  return 2 * precision * recall / (precision + recall)
end

-- How many members two lists share, each as often as in both.
local function shared(a, b)
  local counts, common = {}, 0
  for _, member in ipairs(a) do counts[member] = (counts[member] or 0) + 1 end
  for _, member in ipairs(b) do
    local left = counts[member] or 0
    if left > 0 then counts[member], common = left - 1, common + 1 end
  end
  return common
end

--- 1 where the texts are the same, white space at their ends aside.
---@param expected string
---@param predicted string
---@return number
function overlap.exact_match(expected, predicted)
  return text.trim(expected) == text.trim(predicted) and 1 or 0
end

--- 1 where the expected text occurs in the predicted one.
---@param expected string
---@param predicted string
---@return number
function overlap.contains(expected, predicted)
  return predicted:find(text.trim(expected), 1, true) and 1 or 0
end

--- F1 over the words of both, in SQuAD's normal form (Rajpurkar et al. 2016); 1 where both have
--- no word left.
---@param expected string
---@param predicted string
---@return number
function overlap.token_f1(expected, predicted)
  local right, found = text.words(text.squad(expected)), text.words(text.squad(predicted))
  if #right == 0 or #found == 0 then return #right == #found and 1 or 0 end
  return f_measure(shared(right, found), #found, #right)
end

-- Length of the longest common subsequence, row by row.
local function longest_common(a, b)
  local above, row = {}, {}
  for j = 0, #b do above[j] = 0 end
  for i = 1, #a do
    row[0] = 0
    for j = 1, #b do
      if a[i] == b[j] then
        row[j] = above[j - 1] + 1
      else
        row[j] = above[j] >= row[j - 1] and above[j] or row[j - 1]
      end
    end
    above, row = row, above
  end
  return above[#b]
end

--- ROUGE-L (Lin 2004): F1 of the longest common subsequence.
---@param expected string
---@param predicted string
---@return number
function overlap.rouge_l(expected, predicted)
  local right, found = text.rouge_tokens(expected), text.rouge_tokens(predicted)
  if #right == 0 or #found == 0 then return 0 end
  return f_measure(longest_common(right, found), #found, #right)
end

local function ngrams(tokens, n)
  local list = {}
  for i = 1, #tokens - n + 1 do list[i] = table.concat(tokens, " ", i, i + n - 1) end
  return list
end

--- ROUGE-N (Lin 2004): F1 of the n-grams.
---@param expected string
---@param predicted string
---@param n integer
---@return number
function overlap.rouge_n(expected, predicted, n)
  local right, found = ngrams(text.rouge_tokens(expected), n), ngrams(text.rouge_tokens(predicted), n)
  if #right == 0 or #found == 0 then return 0 end
  return f_measure(shared(right, found), #found, #right)
end

--- Share of the words of both texts that both have (Jaccard), in lower case.
---@param a string
---@param b string
---@return number
function overlap.jaccard(a, b)
  local seen, union, both = {}, 0, 0
  for _, word in ipairs(text.words(text.lower(a))) do
    if not seen[word] then seen[word], union = 1, union + 1 end
  end
  for _, word in ipairs(text.words(text.lower(b))) do
    if not seen[word] then
      seen[word], union = 2, union + 1
    elseif seen[word] == 1 then
      seen[word], both = 2, both + 1
    end
  end
  return union > 0 and both / union or 0
end

return overlap
