-- Classification, measured: accuracy, precision, recall, F1 (each class, macro, micro, weighted)
-- and the confusion matrix, as scikit-learn defines them for a given list of labels with
-- zero_division = 0. A prediction that is none of the labels is wrong and counts for no class.
local errors = require "crucible.errors"

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

-- ---- counting ------------------------------------------------------------------------------

-- The matrix is counted flat, one cell for each (expected, predicted) with a last row and column
-- for what is no label: drawing rows again a thousand times is then one addition a row.

--- Numbers of labels: { labels, index }.
---@param labels string[]
---@return { labels: string[], index: table<string, integer> }
function classification.numbering(labels)
  local index = {}
  for i, label in ipairs(labels) do index[label] = i end
  return { labels = labels, index = index }
end

local function cell_of(numbering, expected, predicted)
  local other = #numbering.labels + 1
  return ((numbering.index[expected] or other) - 1) * other + (numbering.index[predicted] or other)
end

local function zeros(count)
  local list = {}
  for i = 1, count do list[i] = 0 end
  return list
end

local function class_of(label, i, cells, side)
  local hits, support, claimed = cells[(i - 1) * side + i], 0, 0
  for j = 1, side do
    support = support + cells[(i - 1) * side + j]
    claimed = claimed + cells[(j - 1) * side + i]
  end
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

local function confusion_of(labels, cells)
  local side = #labels + 1
  local confusion = { labels = labels, counts = {}, other = {} }
  for i = 1, #labels do
    confusion.counts[i] = table.move(cells, (i - 1) * side + 1, (i - 1) * side + #labels, 1, {})
    confusion.other[i] = cells[i * side]
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

local function unit() return 1 end
local function support_of(class) return class.support end

-- The measures of cells counted over `samples` rows.
local function measure(labels, cells, samples, correct)
  local classes = {}
  for i, label in ipairs(labels) do classes[i] = class_of(label, i, cells, #labels + 1) end
  return {
    samples = samples, correct = correct, accuracy = correct / samples, classes = classes,
    macro = average(classes, unit), micro = micro_of(classes), weighted = average(classes, support_of),
    confusion = confusion_of(labels, cells),
  }
end

---@class crucible.metrics.Item
---@field cell integer
---@field correct integer  1 or 0; a value that is no label can still be right

--- One row, ready to be counted.
---@param numbering table  of classification.numbering
---@param expected string
---@param predicted string
---@return crucible.metrics.Item
function classification.item(numbering, expected, predicted)
  return { cell = cell_of(numbering, expected, predicted), correct = expected == predicted and 1 or 0 }
end

--- The measures of some items (at least one).
---@param numbering table
---@param items crucible.metrics.Item[]
---@return crucible.metrics.Classification
function classification.summarise(numbering, items)
  local side = #numbering.labels + 1
  local cells, correct = zeros(side * side), 0
  for i = 1, #items do
    local item = items[i]
    cells[item.cell], correct = cells[item.cell] + 1, correct + item.correct
  end
  return measure(numbering.labels, cells, #items, correct)
end

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
  local numbering, items = classification.numbering(labels or classification.labels_in(expected)), {}
  for i = 1, #expected do items[i] = classification.item(numbering, expected[i], predicted[i]) end
  return classification.summarise(numbering, items)
end

-- ---- metrics by name -----------------------------------------------------------------------

--- Single numbers by name, out of a comparison. precision, recall and f1 without a suffix are
--- macro averages.
classification.metrics = { accuracy = function(c) return c.accuracy end }
for _, name in ipairs { "precision", "recall", "f1" } do
  classification.metrics[name] = function(c) return c.macro[name] end
  for _, kind in ipairs { "macro", "micro", "weighted" } do
    classification.metrics[name .. "_" .. kind] = function(c) return c[kind][name] end
  end
end

local function item_of(prediction, context)
  return classification.item(context.numbering, prediction.expected_label or prediction.expected,
    prediction.predicted_label or prediction.predicted)
end

--- How metrics of this kind come about; see crucible.metrics.
---@type crucible.metrics.Family
classification.family = {
  name = "classification", observe = item_of,
  summarise = function(items, context) return classification.summarise(context.numbering, items) end,
}

--- The measures of predictions (at least one) over the labels that context.numbering numbers.
---@param predictions table[]
---@param context { numbering: table }
---@return crucible.metrics.Classification
function classification.of_predictions(predictions, context)
  local items = {}
  for i, prediction in ipairs(predictions) do items[i] = item_of(prediction, context) end
  return classification.summarise(context.numbering, items)
end

return classification
