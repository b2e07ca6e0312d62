-- Evaluations in a report: metrics by moment, targets, classes, confusion matrices, and the answers before
-- and after training side by side.
local cells = require "crucible.report.cells"
local h = require "crucible.report.html"
local selection = require "crucible.lora.selection"
local series = require "crucible.report.series"
local text = require "crucible.report.text"

local evaluation_tables = {}

local finite = series.finite

local function fields(value) return type(value) == "table" and value or {} end

local first_metrics = { "accuracy", "f1", "precision", "recall" }

-- ---- what was evaluated --------------------------------------------------------------------

local function moment_name(row)
  local step = finite(row.step) and ("step %s"):format(text.count(row.step))
  if row.moment == "before" or row.base then return "base model" end
  if row.moment == "best" then return step and "best checkpoint, " .. step or "best checkpoint" end
  if row.moment == "last" then return step and "after training, " .. step or "after training" end
  return step or "–"
end

-- An evaluation that asked both ways is two: as written and by likelihood.
local function views_of(row)
  local views = { { row = row, found = row, way = row.mode == "likelihood" and "by likelihood" or "as written" } }
  if type(row.likelihood) == "table" then
    views[2] = { row = row, found = row.likelihood, way = "by likelihood" }
  end
  return views
end

local function all_views(run)
  local list = {}
  for _, row in ipairs(run.evaluations) do
    for _, view in ipairs(views_of(row)) do
      view.metrics, view.run = fields(view.found.metrics), run
      list[#list + 1] = view
    end
  end
  return list
end

local function metric_names(views)
  local known, names, rest = {}, {}, {}
  for _, view in ipairs(views) do
    for name, value in pairs(view.metrics) do
      if type(name) == "string" and finite(value) then known[name] = true end
    end
  end
  for _, name in ipairs(first_metrics) do
    if known[name] then names[#names + 1], known[name] = name, nil end
  end
  for name in pairs(known) do rest[#rest + 1] = name end
  table.sort(rest)
  return table.move(rest, 1, #rest, #names + 1, names)
end

-- ---- the table of metrics ------------------------------------------------------------------

-- A loss on held-out rows goes by the name of its term in training.
local function direction_of(run, name)
  for _, component in ipairs(run.components) do
    if component == name and name ~= "reward" then return "min" end
  end
  return selection.direction(name)
end

-- The best value of a metric among views of one way; nil when all are alike.
local function best_of(views, way, name)
  local best, first, differ
  for _, view in ipairs(views) do
    local value = view.way == way and finite(view.metrics[name])
    if value then
      first, differ = first or value, differ or (first and value ~= first)
      if selection.better(value, best, direction_of(view.run, name)) then best = value end
    end
  end
  return differ and best or nil
end

local function interval_text(view, name)
  local interval = fields(fields(view.found.intervals)[name])
  local low, high = finite(interval.low), finite(interval.high)
  return low and high and h.small({ class = "interval" }, ("%s–%s"):format(text.score(low), text.score(high))) or nil
end

local function metric_cell(views, view, base, name)
  local value = finite(view.metrics[name])
  if not value then return cells.number("–") end
  local is_best = value == best_of(views, view.way, name)
  local before = base and base ~= view and finite(base.metrics[name])
  return h.td({ class = is_best and "n best" or "n" }, text.score(value), interval_text(view, name),
    before and h.small({}, text.change(value - before)) or nil)
end

local function base_of(views, way)
  for _, view in ipairs(views) do
    if view.way == way and (view.row.moment == "before" or view.row.base) then return view end
  end
end

local function metric_rows(views, names, way, head_of)
  local rows, base = {}, not head_of and base_of(views, way)
  for _, view in ipairs(views) do
    if view.way == way then
      local values = {}
      for i, name in ipairs(names) do values[i] = metric_cell(views, view, base, name) end
      rows[#rows + 1] = h.tr({}, cells.row_head(head_of and head_of(view) or moment_name(view.row)), values,
        cells.number(text.count(view.row.samples)))
    end
  end
  return rows
end

-- What the expected outputs score themselves: no model can be asked for more.
local function ceiling_row(views, names)
  for i = #views, 1, -1 do
    local ceiling = fields(fields(views[i].row.ceiling).metrics)
    if next(ceiling) ~= nil then
      local values = {}
      for c, name in ipairs(names) do values[c] = cells.number(text.score(finite(ceiling[name]))) end
      return h.tbody({}, h.tr({}, cells.row_head("ceiling: the expected outputs"), values, h.td({})))
    end
  end
end

local function metric_table(views, names, head_of)
  local header, bodies = { cells.head(head_of and "Run" or "State of the model") }, {}
  for i, name in ipairs(names) do header[i + 1] = cells.number_head(text.label(name)) end
  header[#header + 1] = cells.number_head("rows")
  for _, way in ipairs { "as written", "by likelihood" } do
    local rows = metric_rows(views, names, way, head_of)
    if #rows > 0 then
      bodies[#bodies + 1] = h.tbody({},
        h.tr({ class = "group" }, h.th({ scope = "rowgroup", colspan = #names + 2 }, "Answers " .. way)), rows)
    end
  end
  if not head_of then bodies[#bodies + 1] = ceiling_row(views, names) end
  return cells.framed(header, bodies)
end

-- ---- quality targets -----------------------------------------------------------------------

local function sorted_keys(by_name)
  local names = {}
  for name in pairs(by_name) do
    if type(name) == "string" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

-- The evaluation that speaks for the trained model: the last one that is not the base's.
local function final_view(views)
  for i = #views, 1, -1 do
    local row = views[i].row
    if row.moment ~= "before" and not row.base and views[i].found == row then return views[i] end
  end
end

local function target_row(name, target, actual)
  local passed = actual and actual >= target
  local verdict = not actual and "not measured" or passed and "met" or "missed"
  return h.tr({}, cells.row_head(text.label(name)), cells.number(text.score(target)),
    cells.number(text.score(actual)), cells.number(actual and text.change(actual - target) or "–"),
    h.td({}, h.span({ class = "badge " .. (passed and "good" or actual and "bad" or "warn") }, verdict)))
end

local function target_table(run, views)
  local targets, view = fields(fields(run.manifest.config).quality_targets), final_view(views)
  local rows = {}
  for _, name in ipairs(sorted_keys(targets)) do
    local target = finite(targets[name])
    if target then rows[#rows + 1] = target_row(name, target, finite(view.metrics[name])) end
  end
  if #rows == 0 then return nil end
  return h.div({ class = "block" }, h.h4({}, "Quality targets, ", moment_name(view.row)),
    cells.framed({ cells.head("metric"), cells.number_head("target"), cells.number_head("measured"),
      cells.number_head("difference"), cells.head("verdict") }, h.tbody({}, rows)))
end

-- ---- confusion matrix and classes ----------------------------------------------------------

local function row_total(confusion, i)
  local total = finite(fields(confusion.other)[i]) or 0
  for j = 1, #confusion.labels do total = total + (finite(fields(confusion.counts[i])[j]) or 0) end
  return total
end

local function share_cell(count, total, class)
  local share = total > 0 and count / total or 0
  return h.td({ class = class, style = ("--share:%.3f"):format(share) }, text.count(count),
    h.small({}, ("%.0f%%"):format(100 * share)))
end

local function is_confusion(confusion)
  if type(confusion) ~= "table" then return false end
  if type(confusion.labels) ~= "table" or type(confusion.counts) ~= "table" then return false end
  return #confusion.labels > 0 and #confusion.labels <= 24
end

local function confusion_rows(confusion)
  local rows = {}
  for i, label in ipairs(confusion.labels) do
    local shares, total = {}, row_total(confusion, i)
    for j = 1, #confusion.labels do
      local count = finite(fields(confusion.counts[i])[j]) or 0
      shares[j] = share_cell(count, total, i == j and "heat right" or "heat wrong")
    end
    shares[#shares + 1] = share_cell(finite(fields(confusion.other)[i]) or 0, total, "heat wrong")
    rows[i] = h.tr({}, cells.row_name(label), shares, cells.number(text.count(total)))
  end
  return rows
end

local function confusion_table(view)
  local confusion = view.found.confusion
  if not is_confusion(confusion) then return nil end
  local header = { h.td({}) }
  for j, label in ipairs(confusion.labels) do header[j + 1] = cells.number_head(h.bdi({}, text.label(label))) end
  header[#header + 1] = cells.number_head("no label")
  header[#header + 1] = cells.number_head("rows")
  return h.figure({ class = "confusion" },
    h.figcaption({}, h.b({}, moment_name(view.row)), ", ", view.way, h.small({}, "rows: expected · columns: answered")),
    cells.framed(header, h.tbody({}, confusion_rows(confusion))))
end

local function class_table(view)
  local classes = view.found.classes
  if type(classes) ~= "table" or #classes == 0 or #classes > 24 then return nil end
  local rows = {}
  for i, class in ipairs(classes) do
    class = fields(class)
    rows[i] = h.tr({}, cells.row_name(class.label), cells.number(text.score(class.precision)),
      cells.number(text.score(class.recall)), cells.number(text.score(class.f1)),
      cells.number(text.count(class.support)))
  end
  local header = { cells.head("class") }
  for i, name in ipairs { "precision", "recall", "F1", "rows" } do header[i + 1] = cells.number_head(name) end
  return h.figure({ class = "confusion" },
    h.figcaption({}, h.b({}, "By class"), h.small({}, moment_name(view.row) .. ", " .. view.way)),
    cells.framed(header, h.tbody({}, rows)))
end

-- The first and the last view of a way that have a confusion matrix.
local function ends_of(views, way)
  local first, last
  for _, view in ipairs(views) do
    if view.way == way and is_confusion(view.found.confusion) then first, last = first or view, view end
  end
  if first == last then return { first } end
  return { first, last }
end

local function matrices(views)
  local blocks, classes = {}, {}
  for _, way in ipairs { "as written", "by likelihood" } do
    local ends, nodes = ends_of(views, way), {}
    for _, view in ipairs(ends) do nodes[#nodes + 1] = confusion_table(view) end
    if #ends > 0 then classes[#classes + 1] = class_table(ends[#ends]) end
    if #nodes > 0 then blocks[#blocks + 1] = h.div({ class = "row" }, nodes) end
  end
  if #blocks == 0 then return nil end
  return h.div({ class = "block" }, h.h4({}, "Confusion matrices"), blocks, h.div({ class = "row" }, classes))
end

-- ---- issues --------------------------------------------------------------------------------

local function count_issues(issues)
  local by_name, list = {}, {}
  for _, entry in ipairs(issues) do
    local name, severity = text.label(fields(entry).issue), text.label(fields(entry).severity)
    local known = by_name[name .. "\0" .. severity]
    if not known then
      known = { name = name, severity = severity, count = 0 }
      by_name[name .. "\0" .. severity], list[#list + 1] = known, known
    end
    known.count = known.count + 1
  end
  table.sort(list, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.name .. a.severity < b.name .. b.severity
  end)
  return list
end

-- What was wrong with claims and relations in the last evaluation that looked.
local function issue_table(views)
  for i = #views, 1, -1 do
    local row = views[i].row
    if type(row.issues) == "table" and #row.issues > 0 then
      local rows = {}
      for r, entry in ipairs(count_issues(row.issues)) do
        rows[r] = h.tr({}, cells.row_head(entry.name), h.td({}, entry.severity), cells.number(text.count(entry.count)))
      end
      local header = { cells.head("issue"), cells.head("severity"), cells.number_head("times") }
      return h.div({ class = "block" }, h.h4({}, "Issues found, ", moment_name(row)),
        cells.framed(header, h.tbody({}, rows), { frame = "scroll tall" }))
    end
  end
end

--- The evaluations of a run: nil when it has none.
---@param run crucible.report.Run
---@return crucible.report.Node?
function evaluation_tables.of(run)
  local views = all_views(run)
  if #views == 0 then return nil end
  return h.div({}, metric_table(views, metric_names(views)),
    h.p({ class = "note" }, "Bold: the best of its kind. Small: a bootstrap interval, where there is one, and the "
      .. "difference from the base model."),
    final_view(views) and target_table(run, views) or nil, matrices(views), issue_table(views))
end

-- The last evaluation of a run, in the ways it asked.
local function last_views(run)
  local views, last = all_views(run), {}
  local final = final_view(views)
  for _, view in ipairs(views) do
    if final and view.row == final.row then last[#last + 1] = view end
  end
  return last
end

--- The last evaluation of each of several runs beside each other; nil when none has one.
---@param runs crucible.report.Run[]
---@return crucible.report.Node?
function evaluation_tables.comparison(runs)
  local views, place = {}, {}
  for i, run in ipairs(runs) do
    place[run] = i
    for _, view in ipairs(last_views(run)) do views[#views + 1] = view end
  end
  if #views == 0 then return nil end
  return h.div({ class = "block" }, h.h3({}, "The last evaluation of each run"),
    metric_table(views, metric_names(views), function(view)
      return { cells.run_name(view.run, place[view.run]), h.small({}, " ", moment_name(view.row)) }
    end))
end

return evaluation_tables
