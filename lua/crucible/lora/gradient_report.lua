-- What gradient hooks found over a run, made small: a history by layer and step, a table for the
-- terminal, and the data that pages and pictures are drawn from.
local json = require "crucible.json"
local order = require "crucible.hooks.order"
local terminal = require "crucible.terminal"

local gradient_report = {}

--- Steps that a history holds at most; a longer run is thinned to every second, fourth, … step.
gradient_report.most_steps = 1024

---@class crucible.lora.GradientHistory
local History = {}
History.__index = History

-- ---- one step ------------------------------------------------------------------------------

-- Norms by name, from whichever hook measured them.
local function norms_of(record)
  if record.gradient_norms then return record.gradient_norms end
  local norms = {}
  for name, stats in pairs(record.gradient_stats or {}) do norms[name] = stats.norm end
  if next(norms) then return norms end
  for _, entry in ipairs(record.gradient_flow or {}) do norms[entry.layer] = entry.magnitude end
  return norms
end

local function place_of(self, name)
  local place = self.places[name]
  if not place then
    place = order.place(name)
    self.places[name] = place
  end
  return place
end

-- Lengths by key of `value(entry)` squared and summed.
local function lengths(self, by_name, key, value)
  local squares = {}
  for name, entry in pairs(by_name) do
    local at = place_of(self, name)[key]
    squares[at] = (squares[at] or 0) + value(entry) ^ 2
  end
  for at, sum in pairs(squares) do squares[at] = math.sqrt(sum) end
  return squares
end

local function ratios_of(self, updates)
  local ratios = lengths(self, updates, "depth", function(update) return update.change end)
  local before = lengths(self, updates, "depth", function(update) return update.before end)
  for depth, change in pairs(ratios) do ratios[depth] = before[depth] > 0 and change / before[depth] or nil end
  return ratios
end

local function zero_shares(self, stats)
  local zeros, counts = {}, {}
  for name, entry in pairs(stats) do
    local depth = place_of(self, name).depth
    zeros[depth] = (zeros[depth] or 0) + entry.sparsity * entry.count
    counts[depth] = (counts[depth] or 0) + entry.count
  end
  for depth, count in pairs(counts) do zeros[depth] = zeros[depth] / count end
  return zeros
end

local function itself(value) return value end

local function row_of(self, record)
  local norms = norms_of(record)
  return {
    step = record.step, loss = record.loss, grad_norm = record.grad_norm, noise_scale = record.gradient_noise_scale,
    cosine = record.gradient_cosine, clipped_share = record.clipped_share, histogram = record.gradient_histogram,
    layers = lengths(self, norms, "depth", itself), targets = lengths(self, norms, "target", itself),
    ratios = ratios_of(self, record.gradient_updates or {}), zeros = zero_shares(self, record.gradient_stats or {}),
  }
end

-- ---- the history ---------------------------------------------------------------------------

local function new_totals() return { issues = {}, by_key = {}, actions = {}, errors = {} } end

--- An empty history.
---@return crucible.lora.GradientHistory
function gradient_report.history()
  return setmetatable({ rows = {}, stride = 1, number = 0, places = {}, totals = new_totals() }, History)
end

local function count_issue(totals, issue, step)
  local key = issue.layer .. " " .. issue.status
  local known = totals.by_key[key]
  if not known then
    known = { layer = issue.layer, status = issue.status, first = step, count = 0 }
    totals.by_key[key] = known
    totals.issues[#totals.issues + 1] = known
  end
  known.count, known.last = known.count + 1, step
end

local function append(list, more, step)
  for _, entry in ipairs(more or {}) do
    local copy = { step = step }
    for key, value in pairs(entry) do copy[key] = value end
    list[#list + 1] = copy
  end
end

local function tally(totals, record)
  for _, issue in ipairs(record.gradient_issues or {}) do count_issue(totals, issue, record.step) end
  append(totals.actions, record.actions, record.step)
  append(totals.errors, record.hook_errors, record.step)
end

-- The totals with the last step, which may still grow and is counted for good when the next one comes.
local function totals_now(self)
  local totals = new_totals()
  for i, issue in ipairs(self.totals.issues) do
    local copy = { count = issue.count }
    for _, field in ipairs { "layer", "status", "first", "last" } do copy[field] = issue[field] end
    totals.issues[i], totals.by_key[issue.layer .. " " .. issue.status] = copy, copy
  end
  append(totals.actions, self.totals.actions)
  append(totals.errors, self.totals.errors)
  if self.record then tally(totals, self.record) end
  return totals
end

local function thin(self)
  for i = 1, (#self.rows + 1) // 2 do self.rows[i] = self.rows[2 * i - 1] end
  for i = #self.rows, (#self.rows + 1) // 2 + 1, -1 do self.rows[i] = nil end
  self.stride = self.stride * 2
end

--- Takes in the record of a step, or a fuller one of the same step.
---@param number integer  of the step as the hooks count them, from 1
---@param record table
function History:note(number, record)
  if self.record and number ~= self.number then tally(self.totals, self.record) end
  self.number, self.record, self.newest = number, record, row_of(self, record)
  if (number - 1) % self.stride ~= 0 then return end
  self.rows[(number - 1) // self.stride + 1] = self.newest
  if #self.rows > gradient_report.most_steps then thin(self) end
end

-- Keys of a field in all rows, sorted.
local function keys_of(rows, field, sort)
  local known, keys = {}, {}
  for _, row in ipairs(rows) do
    for key in pairs(row[field]) do
      if not known[key] then keys[#keys + 1] = key end
      known[key] = true
    end
  end
  table.sort(keys, sort)
  return keys
end

local function target_before(a, b)
  local rank = {}
  for i, name in ipairs(order.targets) do rank[name] = i end
  local first, second = rank[a] or math.huge, rank[b] or math.huge
  if first ~= second then return first < second end
  return a < b
end

-- series[i][s]: what row s has for key i; false where it has nothing.
local function series(rows, field, keys)
  local lists = {}
  for i, key in ipairs(keys) do
    lists[i] = {}
    for s, row in ipairs(rows) do lists[i][s] = row[field][key] or false end
  end
  return lists
end

local function column(rows, field)
  local list = {}
  for s, row in ipairs(rows) do list[s] = row[field] or false end
  return list
end

---@class crucible.lora.GradientData  series have one entry a step, false where nothing was measured
---@field steps integer[]
---@field loss number[]
---@field grad_norm number[]
---@field noise_scale number[]
---@field cosine number[]
---@field layers integer[]          depths, from 1
---@field norms number[][]          [layer][step]
---@field ratios number[][]         [layer][step]: update to weight
---@field zeros number[][]          [layer][step]: share of values that are 0
---@field targets string[]
---@field target_norms number[][]   [target][step]
---@field histograms table[]        [step]: { least, counts, zeros, nonfinite }
---@field issues table[]            { layer, status, first, last, count }
---@field actions table[]           { step, hook, point, action, … }
---@field errors table[]            { step, hook, point, message }

--- All of it as plain lists.
---@return crucible.lora.GradientData
function History:data()
  local rows = table.move(self.rows, 1, #self.rows, 1, {})
  if self.newest and rows[#rows] ~= self.newest then rows[#rows + 1] = self.newest end
  local totals = totals_now(self)
  local layers, targets = keys_of(rows, "layers"), keys_of(rows, "targets", target_before)
  return {
    steps = column(rows, "step"), loss = column(rows, "loss"), grad_norm = column(rows, "grad_norm"),
    noise_scale = column(rows, "noise_scale"), cosine = column(rows, "cosine"), layers = layers, targets = targets,
    norms = series(rows, "layers", layers), ratios = series(rows, "ratios", layers),
    zeros = series(rows, "zeros", layers),
    target_norms = series(rows, "targets", targets), histograms = column(rows, "histogram"),
    clipped_share = column(rows, "clipped_share"), issues = totals.issues, actions = totals.actions,
    errors = totals.errors,
  }
end

-- ---- telemetry -----------------------------------------------------------------------------

local measured = {
  "gradient_norms", "gradient_stats", "gradient_flow", "gradient_layers", "gradient_targets", "gradient_health",
  "gradient_updates", "gradient_cosines", "gradient_histogram",
}
local known_measured = {}
for _, field in ipairs(measured) do known_measured[field] = true end

-- Fields of a step that telemetry has anyway.
local recorded = {
  step = true, epoch = true, loss = true, components = true, lr = true, supervised = true, tokens = true,
  grad_norm = true, max_grad_norm = true, update_norm = true, total_steps = true,
}

local function as_list(by_depth)
  local most = 0
  for depth in pairs(by_depth) do most = math.max(most, depth) end
  local list = {}
  for depth = 1, most do list[depth] = by_depth[depth] or 0 end
  return list
end

--- What telemetry.jsonl keeps of a step: the fields that hooks added, those of single matrices rolled up
--- by layer and projection unless `full`.
---@param record table
---@param full boolean?
---@return table
function gradient_report.telemetry(record, full)
  local kept = {}
  for key, value in pairs(record) do
    local plain = type(value) ~= "function" and type(value) ~= "userdata" and type(value) ~= "thread"
    local empty = type(value) == "table" and next(value) == nil
    if plain and not empty and not recorded[key] and (full or not known_measured[key]) then kept[key] = value end
  end
  kept.gradient_issues = kept.gradient_issues or json.array {}
  if full then return kept end
  local row = row_of({ places = {} }, record)
  kept.layers, kept.ratios, kept.histogram = as_list(row.layers), as_list(row.ratios), row.histogram
  kept.targets = next(row.targets) and row.targets or nil
  return kept
end

-- ---- the terminal --------------------------------------------------------------------------

local blocks = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" }

-- The series as one character a step, or a mean of steps, from its least to its largest value.
local function sparkline(values, width)
  local known = {}
  for _, value in ipairs(values) do
    if value and value == value and value ~= math.huge then known[#known + 1] = value end
  end
  if #known == 0 then return "" end
  local least, most = math.min(table.unpack(known)), math.max(table.unpack(known))
  local cells, shown = {}, math.min(width, #known)
  for i = 1, shown do
    local value = known[(i * #known + shown - 1) // shown]
    local height = most > least and (value - least) / (most - least) or 0
    cells[i] = blocks[math.floor(height * 7 + 0.5) + 1]
  end
  return table.concat(cells)
end

local function last_of(values)
  for i = #values, 1, -1 do
    if values[i] then return values[i] end
  end
end

local function number(value)
  if not value then return "" end
  return ("%.3g"):format(value)
end

local function bar(value, most, width)
  if not value or not most or most <= 0 or value ~= value then return "" end
  return (terminal.bar(value / most, width):gsub("%s+$", ""))
end

local function largest(lists)
  local most
  for _, list in ipairs(lists) do
    local value = last_of(list)
    if value and value == value and value ~= math.huge then most = math.max(most or value, value) end
  end
  return most
end

local function layer_rows(data, width)
  local rows, norm_most, ratio_most = {}, largest(data.norms), largest(data.ratios)
  for i, depth in ipairs(data.layers) do
    local norm, ratio, zero = last_of(data.norms[i]), last_of(data.ratios[i]), last_of(data.zeros[i])
    rows[i] = {
      tostring(depth), number(norm), bar(norm, norm_most, width), sparkline(data.norms[i], width), number(ratio),
      bar(ratio, ratio_most, width // 2), zero and ("%.1f%%"):format(100 * zero) or "",
    }
  end
  return rows
end

local function target_rows(data, width)
  local rows, most = {}, largest(data.target_norms)
  for i, target in ipairs(data.targets) do
    local norm = last_of(data.target_norms[i])
    rows[i] = { target, number(norm), bar(norm, most, width), sparkline(data.target_norms[i], width) }
  end
  return rows
end

local function histogram_rows(data, width)
  local histogram, rows, most = last_of(data.histograms), {}, 0
  if not histogram or not histogram.least then return rows end
  for _, here in ipairs(histogram.counts) do most = math.max(most, here) end
  for i, here in ipairs(histogram.counts) do
    if here >= most / 1000 then
      rows[#rows + 1] = { ("2^%d"):format(histogram.least + i - 1), tostring(here), bar(here, most, width) }
    end
  end
  return rows
end

local function fact_lines(data)
  local lines = {}
  local function fact(values, format)
    local value = last_of(values)
    if value then lines[#lines + 1] = format:format(value) end
  end
  fact(data.grad_norm, "norm before clipping: %.4g")
  fact(data.cosine, "cosine with the step before: %.3f")
  fact(data.noise_scale, "gradient noise scale: %.3g rows")
  local share = last_of(data.clipped_share)
  if share then lines[#lines + 1] = ("clipped: %.0f%% of the last steps"):format(100 * share) end
  return lines
end

local function show_action(action)
  local what = action.factor and (" × %.4g"):format(action.factor) or ""
  if action.asked then what = " " .. table.concat(action.asked, ", ") end
  return ("step %s: %s by %s, %s"):format(tostring(action.step), action.action .. what, action.hook,
    (action.point:gsub("_", " ")))
end

local function event_lines(data)
  local lines = {}
  for _, issue in ipairs(data.issues) do
    local times = issue.count == 1 and "once" or ("%d times"):format(issue.count)
    lines[#lines + 1] = ("%s: %s, %s, first at step %s, last at step %s"):format(issue.layer, issue.status, times,
      tostring(issue.first), tostring(issue.last))
  end
  for _, action in ipairs(data.actions) do lines[#lines + 1] = show_action(action) end
  for _, failure in ipairs(data.errors) do
    local first_line = failure.message:match "^[^\n]*"
    lines[#lines + 1] = ("step %s: hook %s failed: %s"):format(tostring(failure.step), failure.hook, first_line)
  end
  return lines
end

-- At most 20 lines, and how many more there are.
local function shortened(lines)
  if #lines <= 20 then return lines end
  local kept = table.move(lines, 1, 20, 1, {})
  kept[21] = ("… and %d more"):format(#lines - 20)
  return kept
end

local function section(parts, title, text)
  if text ~= "" then parts[#parts + 1] = title .. "\n" .. text end
end

local function table_or_nothing(header, rows)
  if #rows == 0 then return "" end
  return terminal.table(header, rows)
end

--- The report of hooks as text.
---@param hooks crucible.lora.GradientHooks
---@param options { width: integer? }?  columns of a bar
---@return string
function gradient_report.text(hooks, options)
  local width = options and options.width or 16
  local data = hooks:data()
  if #data.steps == 0 then return "no step was seen by the gradient hooks\n" end
  local parts = {}
  local first, last = data.steps[1], data.steps[#data.steps]
  section(parts, ("Gradients by layer, step %s (over steps %s to %s)"):format(last, first, last), table_or_nothing(
    { "layer", "norm", "", "over time", "update/weight", "", "zeros" }, layer_rows(data, width)))
  section(parts, "By projection", table_or_nothing({ "projection", "norm", "", "over time" }, target_rows(data, width)))
  section(parts, "Magnitudes", table_or_nothing({ "from", "values", "" }, histogram_rows(data, 2 * width)))
  local facts, found = fact_lines(data), shortened(event_lines(data))
  section(parts, "Whole", #facts > 0 and table.concat(facts, "\n") .. "\n" or "")
  section(parts, "Found and done", #found > 0 and table.concat(found, "\n") .. "\n" or "nothing\n")
  return table.concat(parts, "\n")
end

return gradient_report
