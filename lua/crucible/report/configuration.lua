-- What a run was made with: every resolved value of its manifest, one run in groups, several side by side.
local cells = require "crucible.report.cells"
local config = require "crucible.lora.config"
local h = require "crucible.report.html"
local lists = require "crucible.lists"
local text = require "crucible.report.text"

local configuration = {}

local function fields(value) return type(value) == "table" and value or {} end

local groups = {
  { title = "Hyperparameters", key = "config" },
  { title = "Options of the run", key = "options" },
  { title = "Plan", key = "plan" },
  { title = "Engine", key = "engine" },
  { title = "Versions", key = "versions" },
}

-- Large counts are grouped; a seed is shown by text.value as it would be typed.
local function grouped(value)
  local is_large = math.type(value) == "integer" and math.abs(value) >= 10000
  return is_large and text.count(value) or text.value(value)
end

-- Values by name, tables of named values one level down with a dot.
local function flat(values, shown)
  local list = {}
  shown = shown or text.value
  for name, value in pairs(fields(values)) do
    if type(value) == "table" and #value == 0 and next(value) ~= nil then
      for inner, inner_value in pairs(value) do list[("%s.%s"):format(name, inner)] = shown(inner_value) end
    else
      list[tostring(name)] = shown(value)
    end
  end
  return list
end

local function group_values(run, group)
  local values = flat(run.manifest[group.key], group.key == "engine" and grouped or nil)
  if group.key == "plan" then
    for _, name in ipairs { "seed", "adapter_name", "started_at", "finished_at", "resumed_at_step" } do
      local value = run.manifest[name]
      if value ~= nil then values[name] = text.value(value) end
    end
    local hooks = run.manifest.gradient_hooks
    if type(hooks) == "table" then values.gradient_hooks = text.value(hooks) end
  end
  return values
end

-- ---- one run -------------------------------------------------------------------------------

local function default_note(defaults, group, name, value)
  if group.key ~= "config" or defaults[name] == nil or defaults[name] == value then return nil end
  return h.small({}, "default ", defaults[name])
end

local function group_of_one(run, group, defaults)
  local values = group_values(run, group)
  local names, rows = lists.names { values }, {}
  for i, name in ipairs(names) do
    rows[i] = h.div({}, h.dt({}, name),
      h.dd({}, h.bdi({}, values[name]), default_note(defaults, group, name, values[name])))
  end
  if #rows == 0 then return nil end
  return h.div({ class = "block" }, h.h3({}, group.title), h.dl({ class = "settings" }, rows))
end

-- ---- several -------------------------------------------------------------------------------

local function differs(value_sets, name)
  for _, values in ipairs(value_sets) do
    if values[name] ~= value_sets[1][name] then return true end
  end
  return false
end

local function row_of(value_sets, name)
  local shown, different = {}, differs(value_sets, name)
  for i, values in ipairs(value_sets) do shown[i] = h.td({}, h.bdi({}, values[name] or "–")) end
  return h.tr({ class = different and "differs" or "same" },
    cells.row_head(name, different and h.span({ class = "sign", title = "differs" }, " ≠") or nil), shown), different
end

local function group_of_several(runs, group)
  local value_sets, rows, count = {}, {}, 0
  for i, run in ipairs(runs) do value_sets[i] = group_values(run, group) end
  for i, name in ipairs(lists.names(value_sets)) do
    local row, different = row_of(value_sets, name)
    rows[i], count = row, count + (different and 1 or 0)
  end
  if #rows == 0 then return nil end
  return h.tbody({}, h.tr({ class = "group" }, h.th({ scope = "rowgroup", colspan = #runs + 1 }, group.title,
    h.small({}, count == 0 and " all the same" or (" %d differ"):format(count)))), rows)
end

local function comparison(runs)
  local header, bodies = { cells.head("setting") }, {}
  for i, run in ipairs(runs) do
    header[i + 1] = cells.head(cells.run_name(run, i))
  end
  for _, group in ipairs(groups) do bodies[#bodies + 1] = group_of_several(runs, group) end
  if #bodies == 0 then return nil end
  return h.div({},
    h.label({ class = "check" }, h.input { type = "checkbox", id = "only-differences" }, " only what differs"),
    cells.framed(header, bodies, { table = "settings-table" }))
end

--- The settings of one run, or of several beside each other; nil when there are none.
---@param runs crucible.report.Run[]
---@return crucible.report.Node?
function configuration.of(runs)
  if #runs > 1 then return comparison(runs) end
  local defaults, nodes = flat(config.plain(config.defaults())), {}
  for _, group in ipairs(groups) do nodes[#nodes + 1] = group_of_one(runs[1], group, defaults) end
  if #nodes == 0 then return nil end
  return h.div({}, nodes)
end

return configuration
