-- Results of evaluation as tables for a terminal.
local errors = require "crucible.errors"
local terminal = require "crucible.terminal"

local evaluation_table = {}

local default_order = { "accuracy", "f1", "precision", "recall" }

-- Names of the metrics that any of the results has: the usual ones first, the others by name.
local function names_in(rows)
  local seen, names, rest = {}, {}, {}
  for _, row in ipairs(rows) do
    for name in pairs(row.result.metrics) do seen[name] = true end
  end
  for _, name in ipairs(default_order) do
    if seen[name] then names[#names + 1], seen[name] = name, nil end
  end
  for name in pairs(seen) do rest[#rest + 1] = name end
  table.sort(rest)
  return table.move(rest, 1, #rest, #names + 1, names)
end

local function number(value)
  if value == nil then return "-" end
  if math.abs(value) >= 10 then return ("%.1f"):format(value) end
  return ("%.3f"):format(value)
end

local function with_interval(value, interval)
  if value == nil or not interval then return number(value) end
  local form = math.abs(value) >= 10 and "%s [%.1f, %.1f]" or "%s [%.2f, %.2f]"
  return form:format(number(value), interval.low, interval.high)
end

local function cell(row, name)
  return with_interval(row.result.metrics[name], row.result.intervals and row.result.intervals[name])
end

-- A line for each result.
local function by_result(rows, names)
  local header, lines = table.move(names, 1, #names, 2, { "" }), {}
  for i, row in ipairs(rows) do
    lines[i] = { row.name }
    for n, name in ipairs(names) do lines[i][n + 1] = cell(row, name) end
  end
  return terminal.table(header, lines)
end

-- A line for each metric.
local function by_metric(rows, names)
  local header, lines = { "" }, {}
  for i, row in ipairs(rows) do header[i + 1] = row.name end
  for n, name in ipairs(names) do
    lines[n] = { name }
    for i, row in ipairs(rows) do lines[n][i + 1] = cell(row, name) end
  end
  return terminal.table(header, lines)
end

local MOST_COLUMNS = 4 -- with intervals, as many as fit beside each other on a terminal

--- A table of results, { name, result } each: metrics with their intervals, in columns while they are few,
--- else a line each. The likelihood part of a result of mode "both" is a result of its own.
---@param rows { name: string, result: table }[]
---@param options { metrics: string[]? }?  which; default: all that were measured
---@return string
function evaluation_table.of_results(rows, options)
  if #rows == 0 then errors.raise("evaluation.table: expected a list of { name, result }, got none") end
  local names = options and options.metrics or names_in(rows)
  if #names > MOST_COLUMNS then return by_metric(rows, names) end
  return by_result(rows, names)
end

--- A table of what evaluation.compare found.
---@param differences table<string, crucible.metrics.Difference>
---@return string
function evaluation_table.of_differences(differences)
  local names, lines = {}, {}
  for name in pairs(differences) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local d = differences[name]
    lines[i] = { name, number(d.a), number(d.b), ("%+.3f [%+.3f, %+.3f]"):format(d.difference, d.low, d.high),
      ("%.4f"):format(d.p) }
  end
  return terminal.table({ "metric", "a", "b", "b - a", "p" }, lines)
end

return evaluation_table
