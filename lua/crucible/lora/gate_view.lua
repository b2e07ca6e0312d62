-- What the gate found, as text for people: counts, warnings, and a row with its mask.
local terminal = require "crucible.terminal"

local gate_view = {}

local GREEN, DIM, OFF = "\27[32m", "\27[2m", "\27[0m"

local function percent(share) return ("%.1f %%"):format(share * 100) end

local function length_text(report)
  local parts = {}
  for i, quantile in ipairs(report.lengths) do parts[i] = ("%g%%: %d"):format(quantile.share * 100, quantile.tokens) end
  return table.concat(parts, "  ")
end

--- The counts, one a line.
---@param report crucible.lora.gate.Report
---@return string
function gate_view.counts(report)
  local rows = {
    { "rows", ("%d, of which %d are trained"):format(report.rows, report.trained_rows) },
    { "tokens an epoch", ("%d, of which %d are supervised (%s)"):format(report.tokens, report.supervised,
      percent(report.supervised / report.tokens)) },
    { "tokens a row", ("mean %.1f;  %s"):format(report.mean_length, length_text(report)) },
    { "cut / left out", ("%d / %d"):format(report.truncated, report.dropped) },
    { "repeated rows", ("%d; among the evaluation rows: %s"):format(report.duplicates,
      report.overlap and tostring(report.overlap) or "not compared") },
    { "padding", ("%s if batches were padded; this engine pads none"):format(percent(report.padding)) },
  }
  return terminal.table({ "data", "" }, rows)
end

--- The warnings, one a line, or "".
---@param report crucible.lora.gate.Report
---@return string
function gate_view.warnings(report)
  local lines = {}
  for i, warning in ipairs(report.warnings) do lines[i] = "warning: " .. warning .. "\n" end
  return table.concat(lines)
end

-- Control characters would move the cursor; a newline stays one.
local function visible(text) return (text:gsub("[%z\1-\9\11-\31\127]", "?")) end

local LONGEST, KEPT = 1200, 400 -- characters of a stretch that is not trained, and at each end of a longer one

-- A long stretch without its middle.
local function shortened(text)
  local length = utf8.len(text)
  if not length or length <= LONGEST then return text end
  local head, tail = text:sub(1, utf8.offset(text, KEPT + 1) - 1), text:sub(utf8.offset(text, -KEPT))
  return ("%s\n… %d characters more …\n%s"):format(head, length - 2 * KEPT, tail)
end

--- The sample row. In colour what is trained is green and the rest dim; without, what is trained stands
--- in double angle brackets.
---@param report crucible.lora.gate.Report
---@param colour boolean
---@return string
function gate_view.sample(report, colour)
  local parts = {}
  for i, piece in ipairs(report.sample.pieces) do
    local text = visible(piece.weight ~= 0 and piece.text or shortened(piece.text))
    if colour then
      parts[i] = (piece.weight ~= 0 and GREEN or DIM) .. text .. OFF
    else
      parts[i] = piece.weight ~= 0 and "⟪" .. text .. "⟫" or text
    end
  end
  return ("row %d, trained %s:\n%s\n"):format(report.sample.row, colour and "in green" or "between ⟪ and ⟫",
    table.concat(parts))
end

--- All of it.
---@param report crucible.lora.gate.Report
---@param colour boolean
---@return string
function gate_view.text(report, colour)
  return gate_view.counts(report) .. gate_view.warnings(report) .. "\n" .. gate_view.sample(report, colour)
end

return gate_view
