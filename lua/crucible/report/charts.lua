-- The figures behind a report's curves and maps, as the page's script reads them.
local json = require "crucible.json"
local lists = require "crucible.lists"
local series = require "crucible.report.series"
local text = require "crucible.report.text"

local charts = {}

--- Points of a curve and columns of a map at most; longer runs are drawn in pieces of several steps.
charts.most_points, charts.most_columns = 2000, 240

-- ---- one run -------------------------------------------------------------------------------

local function column(steps, pick)
  local values = {}
  for i, record in ipairs(steps) do values[i] = pick(record) or false end
  return values
end

local function field(name) return function(record) return record[name] end end

local curve_fields = {
  "loss", "lr", "grad_norm", "update_norm", "tokens_per_s", "cosine", "noise_scale", "update_ratio",
}

local function curves_of(run, size)
  local curves = {}
  local function add(key, pick) curves[key] = series.condense(column(run.steps, pick), #run.steps, size) end
  for _, name in ipairs(curve_fields) do add(name, field(name)) end
  for _, name in ipairs(run.components) do
    add("component:" .. name, function(record) return record.components[name] end)
  end
  return curves
end

-- Values of evaluations within training, by metric: lists of { step, value }.
local function points_of(run)
  local points = {}
  for _, row in ipairs(run.evaluations) do
    local step = series.finite(row.step)
    if step and row.moment ~= "best" and row.moment ~= "last" then
      for name, value in pairs(type(row.metrics) == "table" and row.metrics or {}) do
        if series.finite(value) and type(name) == "string" then
          points[name] = points[name] or json.array {}
          table.insert(points[name], json.array { step, series.rounded(value) })
        end
      end
    end
  end
  return points
end

-- First step of each epoch after the first, while there are few enough to be told apart.
local function epoch_starts(run)
  local starts, last = json.array {}, nil
  for _, record in ipairs(run.steps) do
    if last and record.epoch and record.epoch ~= last then starts[#starts + 1] = record.step end
    last = record.epoch or last
  end
  return #starts <= 24 and starts or json.array {}
end

local function skipped_steps(run)
  local list = json.array {}
  for _, record in ipairs(run.steps) do
    if (record.skipped or not record.loss) and #list < 500 then list[#list + 1] = record.step end
  end
  return list
end

-- ---- maps ----------------------------------------------------------------------------------

local function rows_of_layers(run, name)
  local most = 0
  for _, record in ipairs(run.steps) do most = math.max(most, #(record[name] or {})) end
  local rows, labels = {}, json.array {}
  for depth = 1, most do
    labels[depth] = tostring(depth)
    rows[depth] = column(run.steps, function(record) return record[name] and record[name][depth] end)
  end
  return rows, labels
end

local function layer_map(run, name, size)
  local rows, labels = rows_of_layers(run, name)
  if #rows == 0 then return nil end
  return { rows = labels, values = series.condense_map(rows, #run.steps, size) }
end

local function exponent_range(steps)
  local least, most
  for _, record in ipairs(steps) do
    local found = record.histogram
    if found and #found.counts > 0 then
      least = math.min(least or found.least, found.least)
      most = math.max(most or found.least, found.least + #found.counts - 1)
    end
  end
  return least, most
end

local function total(counts)
  local sum = 0
  for _, count in ipairs(counts) do sum = sum + (count or 0) end
  return sum
end

-- Powers of two at either end whose share never reaches this are left out.
local RAREST = 1e-5

local function largest(values)
  local most = 0
  for _, value in ipairs(values) do most = math.max(most, value or 0) end
  return most
end

-- Without the rows at either end that hold next to nothing.
local function trimmed(rows, labels)
  local first, last = 1, #rows
  while first < last and largest(rows[first]) < RAREST do first = first + 1 end
  while last > first and largest(rows[last]) < RAREST do last = last - 1 end
  return table.move(rows, first, last, 1, {}), json.array(table.move(labels, first, last, 1, {}))
end

-- Shares of a step's values (zeros aside) of one power of two.
local function shares_of(steps, totals, exponent)
  local values = {}
  for i, record in ipairs(steps) do
    local found = record.histogram
    local count = found and found.counts[exponent - found.least + 1]
    values[i] = found and totals[i] > 0 and (count or 0) / totals[i] or false
  end
  return values
end

-- Powers of two by step, the largest on top.
local function magnitude_map(run, size)
  local least, most = exponent_range(run.steps)
  if not least then return nil end
  local totals = column(run.steps, function(record) return record.histogram and total(record.histogram.counts) end)
  local rows, labels = {}, {}
  for exponent = most, least, -1 do
    labels[#labels + 1], rows[#rows + 1] = exponent, shares_of(run.steps, totals, exponent)
  end
  rows, labels = trimmed(rows, labels)
  return { rows = labels, values = series.condense_map(rows, #run.steps, size), rarest = RAREST }
end

local function maps_of(run)
  local size = series.piece_size(#run.steps, charts.most_columns)
  local from, to = series.ends(column(run.steps, field "step"), size)
  return {
    from = from, to = to, size = size, norms = layer_map(run, "layers", size), ratios = layer_map(run, "ratios", size),
    magnitudes = magnitude_map(run, size),
  }
end

local function run_charts(run)
  local size = series.piece_size(#run.steps, charts.most_points)
  local from, to = series.ends(column(run.steps, field "step"), size)
  return {
    name = text.label(run.title or run.name), count = #run.steps, size = size, from = from, to = to,
    curves = curves_of(run, size), points = points_of(run), epochs = epoch_starts(run), skipped = skipped_steps(run),
    maps = maps_of(run),
  }
end

-- ---- charts --------------------------------------------------------------------------------

local function loss_name(runs)
  local name
  for _, run in ipairs(runs) do
    local own = type(run.manifest.plan) == "table" and run.manifest.plan.loss
    if name and own ~= name then return nil end
    name = own
  end
  return name
end

local function has_curve(data, key)
  for _, run in ipairs(data) do
    if run.curves[key] then return true end
  end
  return false
end

-- One line a run for a curve that has a single name.
local function lines_of(data, key, label)
  local lines = json.array {}
  for i, run in ipairs(data) do
    if run.curves[key] then
      lines[#lines + 1] = { run = i - 1, key = key, label = #data > 1 and run.name or label,
        colour = #data > 1 and i - 1 or 0 }
    end
  end
  return lines
end

-- Names of components that a test accepts, with their places from 0.
local function component_places(runs, accepts)
  local places, count = {}, 0
  for _, run in ipairs(runs) do
    for _, name in ipairs(run.components) do
      if not places[name] and accepts(name) then places[name], count = count, count + 1 end
    end
  end
  return places, count
end

-- Lines of the components that have a place: colours tell names, dashes runs.
local function component_lines(runs, data, places, shown)
  local lines = json.array {}
  for i, run in ipairs(runs) do
    for _, name in ipairs(run.components) do
      local key = "component:" .. name
      if places[name] and data[i].curves[key] then
        local label = text.label(shown and shown(name) or name)
        lines[#lines + 1] = { run = i - 1, key = key, colour = places[name], dash = #runs > 1 and i - 1 or 0,
          label = #runs > 1 and ("%s · %s"):format(data[i].name, label) or label }
      end
    end
  end
  return lines
end

-- Runs by rewards record what was rewarded among the components.
local REWARD = "reward"

-- What a loss reports beside its value is named "loss.field".
local function owner_of(name) return name:match "^(.-)%." end
local function field_of(name) return name:match "^.-%.(.*)$" end

local function reported_charts(runs, data, add)
  local owners = component_places(runs, owner_of)
  local names, seen = {}, {}
  for name in pairs(owners) do
    local owner = owner_of(name)
    if not seen[owner] then names[#names + 1], seen[owner] = owner, true end
  end
  table.sort(names)
  for _, owner in ipairs(names) do
    local places = component_places(runs, function(name) return owner_of(name) == owner end)
    add { group = "reported", title = text.label(owner),
      unit = owner == REWARD and "parts and figures of the reward" or "what the loss reports",
      lines = component_lines(runs, data, places, field_of) }
  end
end

local function metric_names(data)
  local points = {}
  for i, run in ipairs(data) do points[i] = run.points end
  return lists.names(points)
end

-- A metric whose values all lie in [0, 1] shares an axis with its like.
local function is_share(data, name)
  for _, run in ipairs(data) do
    for _, point in ipairs(run.points[name] or {}) do
      if type(point[2]) ~= "number" or point[2] < 0 or point[2] > 1 then return false end
    end
  end
  return true
end

local function point_lines(data, name, colour)
  local lines = json.array {}
  for i, run in ipairs(data) do
    if run.points[name] then
      lines[#lines + 1] = { run = i - 1, points = name, label = #data > 1 and run.name or text.label(name),
        colour = #data > 1 and i - 1 or colour }
    end
  end
  return lines
end

-- Held-out values that the chart of losses shows already: the loss, and a term that is all of it.
local function is_loss(data, name)
  for _, run in ipairs(data) do
    local points, losses = run.points[name], run.points.loss
    for i, point in ipairs(points or {}) do
      if not losses or not losses[i] or losses[i][1] ~= point[1] or losses[i][2] ~= point[2] then return false end
    end
  end
  return true
end

local function metric_charts(data, add)
  local shares = json.array {}
  for _, name in ipairs(metric_names(data)) do
    local share = is_share(data, name)
    if #data == 1 and share and not is_loss(data, name) then
      local lines = point_lines(data, name, #shares)
      table.move(lines, 1, #lines, #shares + 1, shares)
    elseif not is_loss(data, name) then
      add { group = "evaluation", title = text.label(name), unit = "", share = share,
        lines = point_lines(data, name, 0) }
    end
  end
  if #shares > 0 then
    add { group = "evaluation", title = "Metrics", unit = "share, 0 to 1", lines = shares, share = true }
  end
end

local single = {
  { "lr", "optimiser", "Learning rate", "per step", "learning rate" },
  { "grad_norm", "optimiser", "Gradient norm", "L2, before clipping", "gradient norm" },
  { "update_norm", "optimiser", "Update norm", "L2, all lora weights", "update norm" },
  { "tokens_per_s", "optimiser", "Throughput", "tokens/s", "throughput" },
  { "update_ratio", "gradients", "Update beside weights", "‖ΔW‖ / ‖W‖", "update / weight" },
  { "cosine", "gradients", "Cosine with the gradient before", "−1 to 1", "cosine" },
  { "noise_scale", "gradients", "Gradient noise scale", "rows", "noise scale" },
}

-- Training loss and, where evaluations measured it, the loss on held-out rows.
local function loss_lines(data)
  local lines = lines_of(data, "loss", "training")
  for i, run in ipairs(data) do
    if run.points.loss then
      lines[#lines + 1] = { run = i - 1, points = "loss", colour = #data > 1 and i - 1 or 1, dash = 1,
        label = #data > 1 and run.name .. " · held-out" or "held-out rows" }
    end
  end
  return lines
end

local function loss_charts(runs, data, add)
  local unit = loss_name(runs) == "cross_entropy" and "nats per supervised token" or "as the loss counts"
  local of_loss = loss_lines(data)
  if #of_loss > 0 then add { group = "training", title = "Loss", unit = unit, lines = of_loss, wide = true } end
  if has_curve(data, "component:" .. REWARD) then
    add { group = "training", title = "Reward", unit = "mean over the answers of a step", wide = true,
      lines = lines_of(data, "component:" .. REWARD, REWARD) }
  end
  local places, count = component_places(runs, function(name) return not owner_of(name) and name ~= REWARD end)
  if count > 1 then
    add { group = "training", title = "Loss components", unit = "each before its weight", wide = true,
      lines = component_lines(runs, data, places) }
  end
  reported_charts(runs, data, add)
end

local function single_charts(data, add)
  for _, entry in ipairs(single) do
    local key, group, title, unit, label = table.unpack(entry)
    if has_curve(data, key) then
      add { group = group, title = title, unit = unit, lines = lines_of(data, key, label) }
    end
  end
end

--- Everything that the page draws: runs with their curves and maps, and the charts by group.
---@param runs crucible.report.Run[]
---@return table data  { runs, charts = { { id, group, title, unit, lines } … } }
function charts.of(runs)
  local data, list = json.array {}, json.array {}
  for i, run in ipairs(runs) do data[i] = run_charts(run) end
  local function add(chart)
    chart.id = "chart-" .. #list + 1
    list[#list + 1] = chart
  end
  loss_charts(runs, data, add)
  single_charts(data, add)
  metric_charts(data, add)
  return { runs = data, charts = list }
end

return charts
