-- Metrics over predictions, how sure they are, and whether two sets of predictions differ.
--
-- Intervals are percentile bootstraps over rows (Efron and Tibshirani 1993, chapter 13); the test
-- between two systems on the same rows is approximate randomisation (Noreen 1989; Riezler and
-- Maxwell 2005): which of the two gave an answer is shuffled row by row.
local errors = require "crucible.errors"
local metrics = require "crucible.metrics"
local random = require "crucible.random"

local measure = {}

-- ---- looking at rows -----------------------------------------------------------------------

-- Runs f; nil and what went wrong, with where, when it raised.
local function attempt(f, ...)
  local result = table.pack(xpcall(f, errors.traceback, ...))
  if result[1] then return result[2] end
  return nil, tostring(result[2])
end

-- The observations of a family, at the rows' own places; false where a row is left out.
local function observe_all(family, predictions, context)
  local items = {}
  for i, prediction in ipairs(predictions) do
    local item, problem = attempt(family.observe, prediction, context)
    if problem then return nil, ("at row %d: %s"):format(i, problem) end
    if item == nil then item = false end
    items[i] = item
  end
  return items
end

local function without_gaps(items)
  local list = {}
  for i = 1, #items do
    if items[i] then list[#list + 1] = items[i] end
  end
  return list
end

-- A number out of a summary, or nil and why it is none.
local function value_of(metric, summary, context)
  local value, problem = attempt(metric.value, summary, context)
  if problem then return nil, problem end
  if value ~= nil and type(value) ~= "number" then
    return nil, ("returned a %s, expected a number"):format(type(value))
  end
  return value
end

local function look(family, predictions, context)
  local items, problem = observe_all(family, predictions, context)
  if not items then return { problem = problem } end
  local list = without_gaps(items)
  if #list == 0 then return { items = items, list = list } end
  local summary
  summary, problem = attempt(family.summarise, list, context)
  return { items = items, list = list, summary = summary, problem = problem }
end

---@class crucible.metrics.Measured
---@field values table<string, number>      a metric that no row could tell is left out
---@field failures table<string, string>    metrics that raised or returned no number, and why
---@field families table<crucible.metrics.Family, table>  items by row, list without gaps, summary

--- The values of metrics over predictions (at least one).
---@param predictions table[]
---@param names string[]
---@param context table  labels, numbering
---@return crucible.metrics.Measured
function measure.values(predictions, names, context)
  local found = { values = {}, failures = {}, families = {} }
  for _, name in ipairs(names) do
    local metric = metrics.find(name)
    local seen = found.families[metric.family] or look(metric.family, predictions, context)
    found.families[metric.family] = seen
    local problem = seen.problem
    if seen.summary ~= nil then found.values[name], problem = value_of(metric, seen.summary, context) end
    found.failures[name] = problem
  end
  return found
end

-- ---- intervals -----------------------------------------------------------------------------

-- Metrics of each family that have a value.
local function by_family(measured, names)
  local groups, order = {}, {}
  for _, name in ipairs(names) do
    if measured.values[name] then
      local metric = metrics.find(name)
      if not groups[metric.family] then
        groups[metric.family] = {}
        order[#order + 1] = metric.family
      end
      table.insert(groups[metric.family], metric)
    end
  end
  return groups, order
end

-- Linear between neighbours, as NumPy's quantile.
local function quantile(sorted, share)
  local place = 1 + share * (#sorted - 1)
  local low = math.floor(place)
  local high = math.min(low + 1, #sorted)
  return sorted[low] + (place - low) * (sorted[high] - sorted[low])
end

local function interval_of(samples, confidence)
  if not samples then return nil end
  table.sort(samples)
  return { low = quantile(samples, (1 - confidence) / 2), high = quantile(samples, (1 + confidence) / 2) }
end

-- Fills `chosen` with numbers of rows drawn with repetition: the same for the same seed and count.
local function draw_rows(chosen, count, seed, round)
  local draw = random.generator(seed, round)
  for i = 1, count do chosen[i] = draw(count) end
end

local function pick(list, chosen, into)
  for i = 1, #chosen do into[i] = list[chosen[i]] end
  return into
end

-- Values of a family's metrics on rows drawn again and again: a list for each metric, false for one
-- that failed on some draw.
local function resampled(family, group, list, context, options)
  local samples, chosen, drawn = {}, {}, {}
  for m = 1, #group do samples[m] = {} end
  for round = 1, options.resamples do
    draw_rows(chosen, #list, options.seed, round)
    local ok, summary = pcall(family.summarise, pick(list, chosen, drawn), context)
    for m, metric in ipairs(group) do
      local value = ok and value_of(metric, summary, context)
      if not value or value ~= value then samples[m] = false end
      if samples[m] then samples[m][round] = value end
    end
  end
  return samples
end

---@class crucible.metrics.Interval
---@field low number
---@field high number

--- Bootstrap intervals of the metrics that have a value.
---@param measured crucible.metrics.Measured
---@param names string[]
---@param context table
---@param options { resamples: integer, confidence: number, seed: integer }
---@return table<string, crucible.metrics.Interval>
function measure.intervals(measured, names, context, options)
  local intervals = {}
  if options.resamples == 0 then return intervals end
  local groups, order = by_family(measured, names)
  for _, family in ipairs(order) do
    local samples = resampled(family, groups[family], measured.families[family].list, context, options)
    for m, metric in ipairs(groups[family]) do
      intervals[metric.name] = interval_of(samples[m], options.confidence)
    end
  end
  return intervals
end

-- ---- two systems ---------------------------------------------------------------------------

-- Observations of the rows that both systems have.
local function paired(a, b)
  local left, right = {}, {}
  for i = 1, #a do
    if a[i] and b[i] then left[#left + 1], right[#right + 1] = a[i], b[i] end
  end
  return left, right
end

local function difference(family, metric, left, right, context)
  return metric.value(family.summarise(right, context), context) -
    metric.value(family.summarise(left, context), context)
end

-- Shuffles, row by row, which system an observation came from.
local function swap_rows(left, right, a, b, seed, round)
  local draw = random.generator(seed, -round)
  for i = 1, #left do
    if draw(2) == 1 then
      a[i], b[i] = left[i], right[i]
    else
      a[i], b[i] = right[i], left[i]
    end
  end
end

local TIE = 1e-12 -- sums in another order differ by this much and no more

local function randomisation(family, metric, left, right, context, options)
  local observed, extreme = math.abs(difference(family, metric, left, right, context)), 0
  local a, b = {}, {}
  for round = 1, options.resamples do
    swap_rows(left, right, a, b, options.seed, round)
    if math.abs(difference(family, metric, a, b, context)) >= observed - TIE then extreme = extreme + 1 end
  end
  return (extreme + 1) / (options.resamples + 1)
end

local function difference_interval(family, metric, left, right, context, options)
  local samples, chosen, a, b = {}, {}, {}, {}
  for round = 1, options.resamples do
    draw_rows(chosen, #left, options.seed, round)
    samples[round] = difference(family, metric, pick(left, chosen, a), pick(right, chosen, b), context)
  end
  return interval_of(samples, options.confidence)
end

---@class crucible.metrics.Difference
---@field a number
---@field b number
---@field difference number  b − a
---@field low number
---@field high number
---@field p number           of a difference this large when the two systems are alike
---@field rows integer       that both could be measured on

--- How one metric differs between two measured sets of predictions of the same rows.
---@param name string
---@param a crucible.metrics.Measured
---@param b crucible.metrics.Measured
---@param context table
---@param options { resamples: integer, confidence: number, seed: integer }
---@return crucible.metrics.Difference?
function measure.compare(name, a, b, context, options)
  if not a.values[name] or not b.values[name] then return nil end
  local metric = metrics.find(name)
  local family = metric.family
  local left, right = paired(a.families[family].items, b.families[family].items)
  if #left == 0 then return nil end
  local interval = difference_interval(family, metric, left, right, context, options)
  return {
    a = a.values[name], b = b.values[name], difference = difference(family, metric, left, right, context),
    low = interval.low, high = interval.high, rows = #left,
    p = randomisation(family, metric, left, right, context, options),
  }
end

return measure
