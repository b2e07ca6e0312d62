-- Classification, measured: accuracy, precision, recall, F1 (each class, macro, micro, weighted)
-- and the confusion matrix, as scikit-learn defines them for a given list of labels with
-- zero_division = 0. A prediction that is none of the labels is wrong and counts for no class.
local errors = require "crucible.errors"
local suggest = require "crucible.suggest"

local classification = {}

local function ratio(part, whole) return whole > 0 and part / whole or 0 end

local function f1(precision, recall) return ratio(2 * precision * recall, precision + recall) end

--- Labels that occur in a list, sorted.
---@param values string[]
---@return string[]
function classification.labels_in(values)
  local seen, labels = {}, {}
  for _, value in ipairs(values) do
    if not seen[value] then
      seen[value] = true
      labels[#labels + 1] = value
    end
  end
  table.sort(labels)
  return labels
end

local OTHER = {} -- column of predictions that are no label

-- counts[expected][predicted]
local function tally(expected, predicted, labels)
  local known, counts = {}, {}
  for _, label in ipairs(labels) do known[label], counts[label] = true, {} end
  for i, label in ipairs(expected) do
    local row = counts[label] or {} -- an expected value that is no label counts for accuracy alone
    local column = known[predicted[i]] and predicted[i] or OTHER
    row[column] = (row[column] or 0) + 1
    counts[label] = row
  end
  return counts
end

local function class_of(label, counts)
  local hits, support, claimed = counts[label][label] or 0, 0, 0
  for _, count in pairs(counts[label]) do support = support + count end
  for _, row in pairs(counts) do claimed = claimed + (row[label] or 0) end
  local precision, recall = ratio(hits, claimed), ratio(hits, support)
  return { label = label, precision = precision, recall = recall, f1 = f1(precision, recall), support = support,
    predicted = claimed, hits = hits }
end

local function average(classes, weigh)
  local total, mean = 0, { precision = 0, recall = 0, f1 = 0 }
  for _, class in ipairs(classes) do
    local weight = weigh(class)
    total = total + weight
    for name in pairs(mean) do mean[name] = mean[name] + weight * class[name] end
  end
  for name, value in pairs(mean) do mean[name] = ratio(value, total) end
  return mean
end

local function micro_of(classes)
  local hits, claimed, support = 0, 0, 0
  for _, class in ipairs(classes) do
    hits, claimed, support = hits + class.hits, claimed + class.predicted, support + class.support
  end
  local precision, recall = ratio(hits, claimed), ratio(hits, support)
  return { precision = precision, recall = recall, f1 = f1(precision, recall) }
end

local function confusion_of(labels, counts)
  local confusion = { labels = labels, counts = {}, other = {} }
  for i, expected in ipairs(labels) do
    confusion.counts[i] = {}
    for j, predicted in ipairs(labels) do confusion.counts[i][j] = counts[expected][predicted] or 0 end
    confusion.other[i] = counts[expected][OTHER] or 0
  end
  return confusion
end

---@class crucible.metrics.Class
---@field label string
---@field precision number
---@field recall number
---@field f1 number
---@field support integer    times expected
---@field predicted integer  times predicted
---@field hits integer       both

---@class crucible.metrics.Confusion
---@field labels string[]
---@field counts integer[][]  rows expected, columns predicted
---@field other integer[]     predictions that are no label, by what was expected

---@class crucible.metrics.Classification
---@field samples integer
---@field correct integer
---@field accuracy number
---@field classes crucible.metrics.Class[]
---@field macro { precision: number, recall: number, f1: number }
---@field micro { precision: number, recall: number, f1: number }
---@field weighted { precision: number, recall: number, f1: number }
---@field confusion crucible.metrics.Confusion

--- Compares predictions with what was expected, item by item. Raises on empty lists and on lists
--- of different lengths: there is no measure of nothing.
---@param expected string[]
---@param predicted string[]
---@param labels string[]?  default: those in `expected`
---@return crucible.metrics.Classification
function classification.compare(expected, predicted, labels)
  if #expected == 0 or #expected ~= #predicted then
    errors.raise("metrics.classification: expected as many predictions as labels and at least one, got %d and %d",
      #predicted, #expected)
  end
  labels = labels or classification.labels_in(expected)
  local counts, correct, classes = tally(expected, predicted, labels), 0, {}
  for i, label in ipairs(expected) do correct = correct + (label == predicted[i] and 1 or 0) end
  for i, label in ipairs(labels) do classes[i] = class_of(label, counts) end
  return {
    samples = #expected, correct = correct, accuracy = correct / #expected, classes = classes,
    macro = average(classes, function() return 1 end), micro = micro_of(classes),
    weighted = average(classes, function(class) return class.support end),
    confusion = confusion_of(labels, counts),
  }
end

--- Single numbers by name, out of a comparison. precision, recall and f1 without a suffix are
--- macro averages.
classification.metrics = {
  accuracy = function(c) return c.accuracy end,
  exact_match = function(c) return c.accuracy end,
}
for _, name in ipairs { "precision", "recall", "f1" } do
  classification.metrics[name] = function(c) return c.macro[name] end
  for _, kind in ipairs { "macro", "micro", "weighted" } do
    classification.metrics[name .. "_" .. kind] = function(c) return c[kind][name] end
  end
end

--- Names of the metrics, sorted.
---@return string[]
function classification.names()
  local names = {}
  for name in pairs(classification.metrics) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Raises when a name is no metric, with the nearest.
---@param names string[]
function classification.check_names(names)
  for _, name in ipairs(names) do
    if not classification.metrics[name] then
      errors.raise('unknown metric "%s"%s', tostring(name), suggest.phrase(tostring(name), classification.names()))
    end
  end
end

return classification
