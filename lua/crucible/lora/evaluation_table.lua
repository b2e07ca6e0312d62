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

local function result_row(row, names)
  local cells = { row.name }
  for i, name in ipairs(names) do
    cells[i + 1] = with_interval(row.result.metrics[name], row.result.intervals and row.result.intervals[name])
  end
  return cells
end

--- A table of results: `rows` are { name, result }, columns the metrics with their intervals. A likelihood
--- part of a result of mode "both" is a result of its own.
---@param rows { name: string, result: table }[]
---@param options { metrics: string[]? }?  columns; default: all that were measured
---@return string
function evaluation_table.of_results(rows, options)
  if #rows == 0 then errors.raise("evaluation.table: expected a list of { name, result }, got none") end
  local names = options and options.metrics or names_in(rows)
  local header, lines = { "" }, {}
  for i, name in ipairs(names) do header[i + 1] = name end
  for i, row in ipairs(rows) do lines[i] = result_row(row, names) end
  return terminal.table(header, lines)
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
