-- A picture of a run's gradients as one SVG: norms by layer and step, updates beside weights by layer and
-- step, magnitudes of all gradients by step. It needs nothing but a browser.
local gradient_picture = {}

local WIDTH, LEFT, RIGHT, TOP, GAP = 960, 64, 132, 56, 64
local MOST_COLUMNS = 160

-- Viridis (Smith and van der Walt 2015) at eight places.
local anchors = {
  { 68, 1, 84 }, { 70, 50, 127 }, { 54, 92, 141 }, { 39, 127, 142 }, { 31, 161, 135 }, { 74, 194, 109 },
  { 159, 218, 58 }, { 253, 231, 37 },
}

local function colour(share)
  local at = math.max(0, math.min(1, share)) * (#anchors - 1)
  local below = math.min(math.floor(at), #anchors - 2)
  local low, high, rest = anchors[below + 1], anchors[below + 2], at - below
  local parts = {}
  for i = 1, 3 do parts[i] = math.floor(low[i] + (high[i] - low[i]) * rest + 0.5) end
  return ("#%02x%02x%02x"):format(table.unpack(parts))
end

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }
local function escape(text) return (tostring(text):gsub('[&<>"]', escapes)) end

local function text(x, y, content, attributes)
  return ('<text x="%.1f" y="%.1f" %s>%s</text>'):format(x, y, attributes or "", escape(content))
end

-- Steps that get a column: all, or as many as fit, evenly.
local function chosen_steps(count)
  local list, shown = {}, math.min(count, MOST_COLUMNS)
  for i = 1, shown do list[i] = (i * count + shown - 1) // shown end
  return list
end

local function is_finite(value) return value and value == value and math.abs(value) ~= math.huge end

-- What of a value a colour shows: its decimal logarithm, or the value.
local function shown_value(value, logarithmic)
  if not is_finite(value) then return nil end
  if not logarithmic then return value end
  return value > 0 and math.log(value, 10) or nil
end

local function range_of(map)
  local least, most
  for _, row in ipairs(map.values) do
    for _, value in ipairs(row) do
      local shown = shown_value(value, map.logarithmic)
      if shown then least, most = math.min(least or shown, shown), math.max(most or shown, shown) end
    end
  end
  return least, most
end

-- Rows of a small map are tall enough to be seen.
local function row_height(map) return #map.rows <= 8 and 18 or 10 end

local function cells(parts, map, top, least, most)
  local height = row_height(map)
  local columns = chosen_steps(#map.steps)
  local width = (WIDTH - LEFT - RIGHT) / math.max(1, #columns)
  for r, row in ipairs(map.values) do
    for c, s in ipairs(columns) do
      local shown = shown_value(row[s], map.logarithmic)
      if shown then
        local share = most > least and (shown - least) / (most - least) or 0.5
        parts[#parts + 1] = ('<rect x="%.2f" y="%d" width="%.2f" height="%d" fill="%s"/>'):format(
          LEFT + (c - 1) * width, top + (r - 1) * height, width + 0.05, height, colour(share))
      end
    end
  end
end

local function row_labels(parts, map, top)
  local every, height = math.max(1, (#map.rows + 14) // 15), row_height(map)
  for r, label in ipairs(map.rows) do
    if (r - 1) % every == 0 then
      parts[#parts + 1] = text(LEFT - 6, top + (r - 0.5) * height + 4, label, 'text-anchor="end"')
    end
  end
end

local function number_text(value, logarithmic) return ("%.2g"):format(logarithmic and 10 ^ value or value) end

local function legend(parts, map, top, least, most)
  local x, height = WIDTH - RIGHT + 24, math.max(40, math.min(120, #map.rows * row_height(map)))
  local slices = 24
  for i = 0, slices - 1 do
    parts[#parts + 1] = ('<rect x="%d" y="%.2f" width="12" height="%.2f" fill="%s"/>'):format(x,
      top + height * (slices - 1 - i) / slices, height / slices + 0.3, colour(i / (slices - 1)))
  end
  parts[#parts + 1] = text(x + 18, top + 9, number_text(most, map.logarithmic))
  parts[#parts + 1] = text(x + 18, top + height, number_text(least, map.logarithmic))
end

local function axis(parts, map, bottom)
  local first, last = map.steps[1], map.steps[#map.steps]
  parts[#parts + 1] = text(LEFT, bottom + 14, "step " .. tostring(first))
  if #map.steps > 1 then
    parts[#parts + 1] = text(WIDTH - RIGHT, bottom + 14, "step " .. tostring(last), 'text-anchor="end"')
  end
end

-- Draws a map whose upper edge is `top`; returns where the next one begins.
local function draw(parts, map, top)
  local least, most = range_of(map)
  parts[#parts + 1] = text(LEFT, top - 10, map.title, 'class="title"')
  if not least then
    parts[#parts + 1] = text(LEFT, top + 10, "nothing was measured")
    return top + GAP
  end
  local height = #map.rows * row_height(map)
  parts[#parts + 1] = ('<rect x="%d" y="%d" width="%d" height="%d" fill="#eee"/>'):format(LEFT, top,
    WIDTH - LEFT - RIGHT, height)
  cells(parts, map, top, least, most)
  row_labels(parts, map, top)
  legend(parts, map, top, least, most)
  axis(parts, map, top + height)
  return top + height + GAP
end

local function layer_map(data, field, title)
  return { title = title, rows = data.layers, values = data[field], steps = data.steps, logarithmic = true }
end

local function exponent_range(histograms)
  local least, most
  for _, histogram in ipairs(histograms) do
    if histogram and histogram.least then
      least = math.min(least or histogram.least, histogram.least)
      most = math.max(most or histogram.least, histogram.least + #histogram.counts - 1)
    end
  end
  return least, most
end

-- Powers of two from the largest down; a cell is the share of all values of the step.
local function magnitude_map(data)
  local least, most = exponent_range(data.histograms)
  local map = { title = "Magnitudes of all gradients (share of values by power of two)", rows = {}, values = {},
    steps = data.steps, logarithmic = true }
  for exponent = most or -1, least or 0, -1 do
    local row = {}
    for s, histogram in ipairs(data.histograms) do
      local total = 0
      for _, count in ipairs(histogram and histogram.counts or {}) do total = total + count end
      local count = histogram and histogram.least and histogram.counts[exponent - histogram.least + 1] or 0
      row[s] = count > 0 and count / total or false
    end
    map.rows[#map.rows + 1], map.values[#map.values + 1] = ("2^%d"):format(exponent), row
  end
  return map
end

--- The picture of a report's data.
---@param data crucible.lora.GradientData
---@param options { title: string? }?
---@return string svg
function gradient_picture.svg(data, options)
  local parts, top = {}, TOP + 24
  parts[1] = text(LEFT, 30, options and options.title or "Gradients", 'class="head"')
  top = draw(parts, layer_map(data, "norms", "Norm by layer (first layer on top)"), top)
  top = draw(parts, layer_map(data, "ratios", "Update beside weights by layer"), top)
  top = draw(parts, magnitude_map(data), top)
  local size = ('width="%d" height="%d"'):format(WIDTH, top)
  return table.concat({
    ('<svg xmlns="http://www.w3.org/2000/svg" %s viewBox="0 0 %d %d">'):format(size, WIDTH, top),
    "<style>text{font:11px sans-serif;fill:#222}.title{font-weight:bold;font-size:13px}.head{font-size:18px}</style>",
    ("<rect %s fill=\"#fff\"/>"):format(size), table.concat(parts, "\n"), "</svg>", "",
  }, "\n")
end

return gradient_picture
