-- BLEU (Papineni et al. 2002) as sacreBLEU computes it by default (Post 2018): corpus level, up to
-- 4-grams, tokenizer 13a, exponential smoothing, one reference, case kept, 0 to 100.
local text = require "crucible.metrics.text"

local bleu = {}

local ORDER = 4

--- The tokens of mteval-v13a.
---@param line string
---@return string[]
function bleu.tokens(line)
  line = line:gsub("<skipped>", ""):gsub("%-\n", ""):gsub("\n", " ")
  line = line:gsub("&quot;", '"'):gsub("&amp;", "&"):gsub("&lt;", "<"):gsub("&gt;", ">")
  line = " " .. line .. " "
  line = line:gsub("[{-~[-` -&(-+:-@/]", " %0 ")
  line = line:gsub("([^0-9])([%.,])", "%1 %2 "):gsub("([%.,])([^0-9])", " %1 %2"):gsub("([0-9])(%-)", "%1 %2 ")
  return text.words(line)
end

local function count_ngrams(tokens)
  local counts = {}
  for n = 1, ORDER do
    for i = 1, #tokens - n + 1 do
      local gram = table.concat(tokens, " ", i, i + n - 1)
      counts[gram] = (counts[gram] or 0) + 1
    end
  end
  return counts
end

local function order_of(gram)
  local _, spaces = gram:gsub(" ", "")
  return spaces + 1
end

---@class crucible.metrics.BleuItem
---@field correct integer[]  n-grams of the prediction that the reference has, by n
---@field total integer[]    n-grams of the prediction, by n
---@field predicted integer  tokens
---@field expected integer   tokens

--- What one row adds to the corpus.
---@param expected string
---@param predicted string
---@return crucible.metrics.BleuItem
function bleu.item(expected, predicted)
  local right, found = bleu.tokens(expected), bleu.tokens(predicted)
  local item = { correct = {}, total = {}, predicted = #found, expected = #right }
  for n = 1, ORDER do item.correct[n], item.total[n] = 0, math.max(0, #found - n + 1) end
  local known = count_ngrams(right)
  for gram, count in pairs(count_ngrams(found)) do
    local n = order_of(gram)
    item.correct[n] = item.correct[n] + math.min(count, known[gram] or 0)
  end
  return item
end

local function add_up(items)
  local sum = { correct = { 0, 0, 0, 0 }, total = { 0, 0, 0, 0 }, predicted = 0, expected = 0 }
  for _, item in ipairs(items) do
    for n = 1, ORDER do
      sum.correct[n], sum.total[n] = sum.correct[n] + item.correct[n], sum.total[n] + item.total[n]
    end
    sum.predicted, sum.expected = sum.predicted + item.predicted, sum.expected + item.expected
  end
  return sum
end

-- log of each precision; an order without matches gets half of what the order before it without
-- matches got (Chen and Cherry 2014, smoothing 3).
local function log_precisions(sum)
  local logs, halving = 0, 1
  for n = 1, ORDER do
    if sum.total[n] == 0 then return nil end
    if sum.correct[n] == 0 then
      halving = halving * 2
      logs = logs + math.log(1 / (halving * sum.total[n]))
    else
      logs = logs + math.log(sum.correct[n] / sum.total[n])
    end
  end
  return logs
end

--- BLEU of a corpus.
---@param items crucible.metrics.BleuItem[]
---@return number  0 to 100
function bleu.score(items)
  local sum = add_up(items)
  if sum.correct[1] == 0 then return 0 end
  local logs = log_precisions(sum)
  if not logs then return 0 end
  local brevity = sum.predicted < sum.expected and math.exp(1 - sum.expected / sum.predicted) or 1
  return 100 * brevity * math.exp(logs / ORDER)
end

return bleu
