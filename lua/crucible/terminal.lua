-- Text for terminals: tables, bars, charts. Pure functions of their arguments; they print nothing.
local terminal = {}

--- Columns that a text takes on screen, counting characters.
---@param text string
---@return integer
function terminal.width(text) return utf8.len(text) or #text end

local function pad(text, width, left)
  local space = (" "):rep(width - terminal.width(text))
  return left and text .. space or space .. text
end

--- A table with a header, a rule and rows. Text is set left, numbers right (three decimals unless
--- whole).
---@param header string[]
---@param rows (string|number)[][]
---@return string
function terminal.table(header, rows)
  local cells, widths = {}, {}
  for c, title in ipairs(header) do widths[c] = terminal.width(title) end
  for r, row in ipairs(rows) do
    cells[r] = {}
    for c = 1, #header do
      local value = row[c]
      if math.type(value) == "float" then value = ("%.3f"):format(value) end
      cells[r][c] = value == nil and "" or tostring(value)
      widths[c] = math.max(widths[c], terminal.width(cells[r][c]))
    end
  end
  local function line(texts, is_left)
    local parts = {}
    for c = 1, #header do parts[c] = pad(texts[c], widths[c], is_left(c)) end
    return (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  local function left(c) return rows[1] == nil or type(rows[1][c]) == "string" end
  local rules = {}
  for c = 1, #header do rules[c] = ("─"):rep(widths[c]) end
  local lines = { line(header, left), table.concat(rules, "  ") }
  for r, row in ipairs(rows) do
    lines[#lines + 1] = line(cells[r], function(c) return type(row[c]) == "string" and left(c) end)
  end
  return table.concat(lines, "\n") .. "\n"
end

local eighths = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }

--- A bar of `width` columns, filled by a share from 0 to 1.
---@param share number
---@param width integer
---@return string
function terminal.bar(share, width)
  local filled = math.floor(math.max(0, math.min(1, share)) * width * 8 + 0.5)
  local text = ("█"):rep(filled // 8) .. (eighths[filled % 8] or "")
  return text .. (" "):rep(width - terminal.width(text))
end

-- Means of `count` equal pieces of a list.
local function condense(values, count)
  local pieces = {}
  for i = 1, count do
    local first, last = (i - 1) * #values // count + 1, i * #values // count
    local sum = 0
    for v = first, last do sum = sum + values[v] end
    pieces[i] = sum / (last - first + 1)
  end
  return pieces
end

local function finite(values)
  local kept = {}
  for _, value in ipairs(values) do
    if value == value and math.abs(value) ~= math.huge then kept[#kept + 1] = value end
  end
  return kept
end

local blocks = { [0] = " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" }

-- One row of the chart: what of each column's height lies between this row's floor and ceiling.
local function chart_row(heights, row)
  local cells = {}
  for i, height in ipairs(heights) do
    cells[i] = blocks[math.max(0, math.min(8, math.floor((height - (row - 1)) * 8 + 0.5)))]
  end
  return table.concat(cells)
end

--- A chart of a series, columns of blocks over an axis from 0 to the highest; a long series is
--- condensed to means.
---@param values number[]
---@param options { width: integer?, height: integer?, first: string?, last: string? }?  labels under the axis' ends
---@return string
function terminal.chart(values, options)
  options = options or {}
  local height = options.height or 8
  values = finite(values)
  if #values == 0 then return "(no values)\n" end
  local columns = condense(values, math.min(#values, options.width or 64))
  local top = math.max(table.unpack(columns))
  local heights, lines = {}, {}
  for i, value in ipairs(columns) do heights[i] = top > 0 and math.max(0, value) / top * height or 0 end
  for row = height, 1, -1 do
    local label = row == height and ("%.3g"):format(top) or row == 1 and "0" or ""
    lines[#lines + 1] = pad(label, 8) .. " │" .. chart_row(heights, row)
  end
  lines[#lines + 1] = (" "):rep(9) .. "└" .. ("─"):rep(#columns)
  local first, last = options.first or "1", options.last or tostring(#values)
  local gap = math.max(1, #columns - terminal.width(first) - terminal.width(last))
  lines[#lines + 1] = (" "):rep(10) .. first .. (" "):rep(gap) .. last
  return table.concat(lines, "\n") .. "\n"
end

--- Words in lines of at most `width` columns, each after `indent`.
---@param text string
---@param width integer  without the indent
---@param indent string?  "" if nil
---@return string
function terminal.wrap(text, width, indent)
  local lines, line = {}, ""
  for word in text:gmatch "%S+" do
    if line ~= "" and terminal.width(line) + 1 + terminal.width(word) > width then
      lines[#lines + 1], line = (indent or "") .. line, ""
    end
    line = line == "" and word or line .. " " .. word
  end
  lines[#lines + 1] = (indent or "") .. line
  return table.concat(lines, "\n")
end

--- Whether colours are wanted on a stream: it is a terminal, and neither NO_COLOR (https://no-color.org) nor
--- TERM=dumb is set.
---@param stream "stdout"|"stderr"
---@return boolean
function terminal.colours(stream)
  local off = os and os.getenv "NO_COLOR"
  if off and off ~= "" or os and os.getenv "TERM" == "dumb" then return false end
  return require("crucible.fs").is_terminal(stream)
end

--- Seconds as people say them: "42 s", "3:07", "2:05:09".
---@param seconds number
---@return string
function terminal.duration(seconds)
  local whole = math.floor(seconds + 0.5)
  if whole < 60 then return ("%d s"):format(whole) end
  if whole < 3600 then return ("%d:%02d"):format(whole // 60, whole % 60) end
  return ("%d:%02d:%02d"):format(whole // 3600, whole // 60 % 60, whole % 60)
end

return terminal
