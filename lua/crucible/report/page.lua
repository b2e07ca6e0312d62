-- The page of a report: one HTML file that asks for nothing beyond itself. Its style and script are
-- page.css and page.js beside this file; a content security policy lets that script run and nothing else
-- load, so that whatever a run holds stays text.
local cells = require "crucible.report.cells"
local charts = require "crucible.report.charts"
local configuration = require "crucible.report.configuration"
local errors = require "crucible.errors"
local evaluation_tables = require "crucible.report.evaluation_tables"
local fs = require "crucible.fs"
local h = require "crucible.report.html"
local json = require "crucible.json"
local overview = require "crucible.report.overview"
local paths = require "crucible.paths"
local sample_list = require "crucible.report.sample_list"
local text = require "crucible.report.text"

local page = {}

-- ---- parts ---------------------------------------------------------------------------------

-- Where this module lies, and with it the files beside it.
local function folder_of_module()
  local found = package and package.searchpath("crucible.report.page", package.path)
  return found and paths.dirname(found)
end

local function part(name)
  local folder = folder_of_module()
  if not folder then return errors.failure("not_found", "%s: the library's folder is not in package.path", name) end
  return fs.read_file(paths.join(folder, name))
end

local base64_letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64_of_hex(hex)
  local bytes, parts = hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end), {}
  for first = 1, #bytes, 3 do
    local a, b, c = bytes:byte(first, first + 2)
    local word = a << 16 | (b or 0) << 8 | (c or 0)
    for i = 0, 3 do
      local at = (word >> (18 - 6 * i)) & 63
      parts[#parts + 1] = (i == 2 and not b or i == 3 and not c) and "=" or base64_letters:sub(at + 1, at + 1)
    end
  end
  return table.concat(parts)
end

-- JSON that cannot end the element it stands in.
local function embedded(value)
  return (json.encode(value):gsub("[<>&]", { ["<"] = "\\u003c", [">"] = "\\u003e", ["&"] = "\\u0026" }))
end

-- ---- sections ------------------------------------------------------------------------------

local function section(list, id, title, ...)
  local nodes = {}
  for i = 1, select("#", ...) do
    local node = select(i, ...)
    if node then nodes[#nodes + 1] = node end
  end
  if #nodes == 0 then return end
  list[#list + 1] = { id = id, title = title,
    node = h.section({ id = id }, h.h2({}, title), nodes) }
end

local function chart_node(chart)
  return h.figure({ class = chart.wide and "chart wide" or "chart", ["data-chart"] = chart.id },
    h.figcaption({}, h.h3({}, chart.title), chart.unit ~= "" and h.span({ class = "unit" }, chart.unit) or nil))
end

local function chart_grid(data, group)
  local nodes = {}
  for _, chart in ipairs(data.charts) do
    if chart.group == group then nodes[#nodes + 1] = chart_node(chart) end
  end
  if #nodes > 0 then return h.div({ class = "charts" }, nodes) end
end

-- A part for each run, folded away under its name; of one run alone, that part.
local function for_each_run(runs, make)
  local nodes = {}
  for i, run in ipairs(runs) do
    local node = make(run, i)
    if node and #runs == 1 then return node end
    if node then
      nodes[#nodes + 1] = h.details({ class = "run-block" },
        h.summary({}, h.span({ class = "run-name" }, cells.run_name(run, i))), node)
    end
  end
  if #nodes > 0 then return h.div({}, nodes) end
end

local map_titles = {
  { "norms", "Gradient norm by layer", "L2 of the lora gradients of a layer, colour on a logarithmic scale" },
  { "ratios", "Update beside weights by layer", "‖ΔW‖ / ‖W‖, colour on a logarithmic scale" },
  { "magnitudes", "Magnitudes of all gradients",
    "share of values by power of two; zeros, and what is rarer than 1 in 100,000, left out" },
}

local function map_nodes(data, index)
  local maps, nodes = data.runs[index].maps, {}
  local pieces = maps.size > 1 and ("; a column is the mean of %d steps"):format(maps.size) or ""
  for _, entry in ipairs(map_titles) do
    local key, title, unit = table.unpack(entry)
    if maps[key] then
      nodes[#nodes + 1] = h.figure({ class = "map wide", ["data-map"] = key, ["data-run"] = index - 1 },
        h.figcaption({}, h.h3({}, title), h.span({ class = "unit" }, unit, pieces)))
    end
  end
  return nodes
end

local function issue_rows(run)
  local rows = {}
  for i, issue in ipairs(run.issues) do
    rows[i] = h.tr({}, cells.row_name(issue.layer), h.td({}, text.label(issue.status)),
      cells.number(text.count(issue.count)), cells.number(text.count(issue.first)),
      cells.number(text.count(issue.last)))
  end
  return rows
end

local function issue_table(run)
  if #run.issues == 0 then return nil end
  local header = { cells.head("layer"), cells.head("found") }
  for i, name in ipairs { "times", "first step", "last step" } do header[i + 2] = cells.number_head(name) end
  return h.div({ class = "block" }, h.h3({}, "Gradient health"),
    cells.framed(header, h.tbody({}, issue_rows(run)), { frame = "scroll tall" }))
end

local function action_list(run)
  if #run.actions == 0 then return nil end
  local items = {}
  for i, action in ipairs(run.actions) do
    items[i] = h.li({}, ("step %s: %s by %s, %s"):format(text.count(action.step), text.label(action.action),
      text.label(action.hook), (text.label(action.point):gsub("_", " "))))
  end
  return h.div({ class = "block" }, h.h3({}, "What hooks did"), h.ul({ class = "plain" }, items))
end

local function gradients_of(data, run, index)
  local maps, issues, actions = map_nodes(data, index), issue_table(run), action_list(run)
  if #maps == 0 and not issues and not actions then return nil end
  return h.div({}, h.div({ class = "charts" }, maps), issues, actions)
end

local function checkpoint_table(run)
  if #run.checkpoints == 0 then return nil end
  local rows = {}
  for i, checkpoint in ipairs(run.checkpoints) do
    rows[i] = h.tr({ class = checkpoint.best and "best-row" }, cells.row_head(text.label(checkpoint.name)),
      cells.number(text.count(checkpoint.step)), cells.number(text.score(checkpoint.mean_loss)),
      h.td({}, checkpoint.best and h.span({ class = "badge good" }, "best") or nil,
        i == #run.checkpoints and h.span({ class = "badge" }, "last") or nil))
  end
  local header = { cells.head("checkpoint"), cells.number_head("step"),
    cells.number_head("mean loss since the one before"), h.td({}) }
  return cells.framed(header, h.tbody({}, rows), { frame = "scroll tall" })
end

-- What is wrong with a run's folder, and why the run ended when it did not reach its end.
local function problems_of(run)
  local list = table.move(run.problems, 1, #run.problems, 1, {})
  local reason = type(run.manifest.results) == "table" and run.manifest.results.reason
  if not reason then return list end
  list[#list + 1] = ("the run was %s: %s"):format(text.label(run.manifest.status), text.value(reason))
  return list
end

local function problem_list(runs)
  local items = {}
  for _, run in ipairs(runs) do
    local whose = #runs > 1 and h.b({}, h.bdi({}, text.label(run.title)), ": ") or nil
    for _, problem in ipairs(problems_of(run)) do items[#items + 1] = h.li({}, whose or "", h.bdi({}, problem)) end
  end
  if #items > 0 then return h.div({ class = "problems", role = "note" }, h.ul({}, items)) end
end

-- What was done to long series, said where they are shown.
local function resolution_note(data)
  local parts = {}
  for _, run in ipairs(data.runs) do
    if run.size > 1 then
      local whose = #data.runs > 1 and run.name .. ": " or ""
      parts[#parts + 1] = ("%s%s steps are drawn as %s points, each the mean of %d steps; the band around a line "
        .. "spans the least and the largest of them."):format(whose,
        text.count(run.count), text.count(#run.from), run.size)
    end
  end
  if #parts == 0 then return nil end
  return h.p({ class = "note" }, table.concat(parts, " "))
end

local CONTROLS = h.raw [[
<div class="controls">
<label>Smoothing <input id="smoothing" type="range" min="0" max="0.98" step="0.02" value="0">
<output for="smoothing">off</output></label>
<button type="button" id="reset" disabled>Whole run</button>
<span class="note">Drag over a chart to zoom, double-click to go back. Keys: ← → move, + − zoom, 0 whole run.</span>
</div>
<noscript><p class="problems">The curves and maps are drawn by a script; tables and texts do without.</p></noscript>]]

local function sections_of(runs, data)
  local list = {}
  section(list, "overview", "Overview", problem_list(runs),
    #runs > 1 and overview.comparison(runs) or overview.cards(runs[1]))
  if #data.charts > 0 then
    section(list, "training", "Training", CONTROLS, resolution_note(data), chart_grid(data, "training"),
      chart_grid(data, "reported"), chart_grid(data, "optimiser"))
  end
  section(list, "evaluation", "Evaluation", chart_grid(data, "evaluation"),
    #runs > 1 and evaluation_tables.comparison(runs), for_each_run(runs, evaluation_tables.of))
  section(list, "samples", "Generations", sample_list.of(runs))
  section(list, "gradients", "Gradients", chart_grid(data, "gradients"),
    for_each_run(runs, function(run, i) return gradients_of(data, run, i) end))
  section(list, "checkpoints", "Checkpoints", for_each_run(runs, checkpoint_table))
  section(list, "data", "Data", for_each_run(runs, overview.data))
  section(list, "configuration", "Configuration", configuration.of(runs))
  return list
end

-- ---- the whole -----------------------------------------------------------------------------

local function navigation(sections)
  local links = {}
  for i, entry in ipairs(sections) do links[i] = h.a({ href = "#" .. entry.id }, entry.title) end
  return h.nav({ ["aria-label"] = "sections" }, links,
    h.button({ type = "button", id = "theme", title = "light, dark or as the system" }, "◐ auto"))
end

local function header(runs)
  if #runs == 1 then
    return h.header({}, h.p({ class = "kicker" }, "crucible training report"),
      h.h1({}, h.bdi({}, runs[1].name), " ", overview.status(runs[1])), overview.line(runs[1]))
  end
  return h.header({}, h.p({ class = "kicker" }, "crucible training report"),
    h.h1({}, ("%d runs compared"):format(#runs)))
end

local function footer(options)
  return h.footer({}, h.p({}, "Made by ", require("crucible")._VERSION, " at ", options.made_at,
    ". This file is complete in itself and loads nothing."))
end

-- Runs of the same name are told apart by their paths.
local function title_runs(runs)
  local count = {}
  for _, run in ipairs(runs) do count[run.name] = (count[run.name] or 0) + 1 end
  for _, run in ipairs(runs) do run.title = count[run.name] > 1 and run.path or run.name end
end

--- The page of one run or of several.
---@param runs crucible.report.Run[]
---@param options { made_at: string }
---@return string? html, string? message, string? code
function page.of(runs, options)
  local style, message, code = part "page.css"
  if not style then return nil, message, code end
  local script
  script, message, code = part "page.js"
  if not script then return nil, message, code end
  title_runs(runs)
  local data = charts.of(runs)
  local sections, nodes = sections_of(runs, data), {}
  for i, entry in ipairs(sections) do nodes[i] = entry.node end
  local policy = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
    .. ("script-src 'sha256-%s'"):format(base64_of_hex(fs.sha256(script)))
  local title = #runs == 1 and runs[1].name or ("%d runs compared"):format(#runs)
  return "<!DOCTYPE html>\n" .. tostring(h.html({ lang = "en" },
    h.head({}, h.meta { charset = "utf-8" }, h.meta { ["http-equiv"] = "Content-Security-Policy", content = policy },
      h.meta { name = "viewport", content = "width=device-width, initial-scale=1" },
      h.meta { name = "color-scheme", content = "light dark" }, h.title({}, title, " – crucible"),
      h.raw("<style>\n" .. style .. "</style>")),
    h.body({}, navigation(sections), h.main({}, header(runs), nodes), footer(options),
      h.raw('<script type="application/json" id="report-data">' .. embedded(data) .. "</script>\n"),
      h.raw("<script>" .. script .. "</script>")))) .. "\n"
end

return page
