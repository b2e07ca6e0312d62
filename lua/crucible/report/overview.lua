-- The upper part of a report: what ran, how it ended, its main figures; and the data it was trained on.
local cells = require "crucible.report.cells"
local h = require "crucible.report.html"
local series = require "crucible.report.series"
local terminal = require "crucible.terminal"
local text = require "crucible.report.text"

local overview = {}

local finite = series.finite

local function fields(value) return type(value) == "table" and value or {} end

local function name_of_model(run)
  local model = fields(fields(run.manifest.engine).model)
  return text.label(fields(run.manifest.config).base_model or model.name)
end

local function sum(run, name)
  local total = 0
  for _, record in ipairs(run.steps) do total = total + (record[name] or 0) end
  return total
end

local function last_value(run, name)
  for i = #run.steps, 1, -1 do
    if run.steps[i][name] then return run.steps[i][name] end
  end
end

local function least_loss(run)
  local least, step
  for _, record in ipairs(run.steps) do
    if record.loss and (not least or record.loss < least) then least, step = record.loss, record.step end
  end
  return least, step
end

local function best_checkpoint(run)
  for _, checkpoint in ipairs(run.checkpoints) do
    if checkpoint.best then return checkpoint end
  end
end

local words = { finished = "good", stopped = "warn", failed = "bad", running = "warn" }

--- How a run ended, as a badge.
---@param run crucible.report.Run
---@return crucible.report.Node
function overview.status(run)
  local status = run.manifest.status
  if type(status) ~= "string" then status = "unknown end" end
  local shown = status == "running" and "not ended" or status
  return h.span({ class = "badge " .. (words[status] or "warn") }, text.label(shown))
end

local function card(label, value, note)
  return h.div({ class = "card" }, h.dt({}, label), h.dd({}, value, note and h.small({}, note) or nil))
end

local function loss_cards(run)
  local first, final = run.steps[1] and run.steps[1].loss, last_value(run, "loss")
  local least, at = least_loss(run)
  return {
    card("Loss at the last step", text.score(final), first and ("%s at the first"):format(text.score(first))),
    card("Lowest loss", text.score(least), at and ("step %d"):format(at)),
  }
end

local function skipped_note(run)
  local count = 0
  for _, record in ipairs(run.steps) do count = count + (record.skipped and 1 or 0) end
  return count > 0 and ("%d skipped"):format(count)
end

local function planned(run)
  local total = finite(fields(run.manifest.plan).total_steps)
  local last = run.steps[#run.steps]
  if not total or not last then return nil end
  return total ~= last.step and ("of %s planned"):format(text.count(total)) or nil
end

local function progress_cards(run)
  local last, seconds, tokens = run.steps[#run.steps], sum(run, "seconds"), sum(run, "tokens")
  local best = best_checkpoint(run)
  return {
    card("Steps", last and text.count(last.step) or "–", skipped_note(run) or planned(run)),
    card("Tokens", text.count(tokens), ("%s supervised"):format(text.count(sum(run, "supervised")))),
    card("Time in steps", terminal.duration(seconds),
      seconds > 0 and ("%s tokens/s"):format(text.count(math.floor(tokens / seconds + 0.5)))),
    card("Best checkpoint", h.span({ class = "word" }, best and text.label(best.name) or "–"),
      best and best.mean_loss and ("mean loss %s"):format(text.score(best.mean_loss))),
  }
end

--- The main figures of one run.
---@param run crucible.report.Run
---@return crucible.report.Node
function overview.cards(run) return h.dl({ class = "cards" }, loss_cards(run), progress_cards(run)) end

--- One line under the title: model, data, when.
---@param run crucible.report.Run
---@return crucible.report.Node
function overview.line(run)
  local dataset = fields(run.manifest.dataset)
  local rank = fields(run.manifest.config).lora_rank
  return h.p({ class = "lead" },
    h.b({}, name_of_model(run)), rank and (" · LoRA rank %s"):format(text.value(rank)) or "",
    dataset.name and (" · %s, %s"):format(text.value(dataset.name), text.value(dataset.split)) or "",
    " · started ", text.time(run.manifest.started_at))
end

-- ---- comparison ----------------------------------------------------------------------------

local function comparison_row(run, index)
  local last, seconds, tokens = run.steps[#run.steps], sum(run, "seconds"), sum(run, "tokens")
  local least, best = least_loss(run), best_checkpoint(run)
  local function n(value) return cells.number(value) end
  return h.tr({},
    cells.row_head(cells.run_name(run, index)),
    h.td({}, overview.status(run)), h.td({}, h.bdi({}, name_of_model(run))),
    n(last and text.count(last.step) or "–"), n(text.score(run.steps[1] and run.steps[1].loss)),
    n(text.score(last_value(run, "loss"))), n(text.score(least)), h.td({}, best and text.label(best.name) or "–"),
    n(seconds > 0 and text.count(math.floor(tokens / seconds + 0.5)) or "–"), n(terminal.duration(seconds)))
end

--- The main figures of several runs, a row each.
---@param runs crucible.report.Run[]
---@return crucible.report.Node
function overview.comparison(runs)
  local rows = {}
  for i, run in ipairs(runs) do rows[i] = comparison_row(run, i) end
  local header = {}
  for i, name in ipairs { "Run", "End", "Model", "Steps", "First loss", "Last loss", "Lowest", "Best checkpoint",
    "Tokens/s", "Time in steps" } do
    local is_number = (i >= 4 and i <= 7) or i >= 9
    header[i] = h.th({ scope = "col", class = is_number and "n" }, name)
  end
  return cells.framed(header, h.tbody({}, rows))
end

-- ---- data ----------------------------------------------------------------------------------

-- "1%: 98, 50%: 131, 99%: 402": how long rows are.
local function lengths_text(gate)
  local parts = {}
  for _, quantile in ipairs(fields(gate.lengths)) do
    local share, tokens = finite(fields(quantile).share), finite(fields(quantile).tokens)
    if share and tokens then parts[#parts + 1] = ("%g%%: %s"):format(100 * share, text.count(tokens)) end
  end
  if #parts == 0 then return nil end
  return h.p({ class = "note" }, "Tokens a row, by quantile: ", table.concat(parts, " · "))
end

local function repeated_card(gate)
  if not finite(gate.duplicates) then return nil end
  return card("Repeated rows", text.count(gate.duplicates), finite(gate.overlap)
    and ("%s among the evaluation rows"):format(text.count(gate.overlap)) or "evaluation rows not compared")
end

local function gate_cards(gate)
  local cut = {}
  if finite(gate.truncated) and gate.truncated > 0 then cut[1] = text.count(gate.truncated) .. " prompts cut" end
  if finite(gate.dropped) and gate.dropped > 0 then cut[#cut + 1] = text.count(gate.dropped) .. " rows dropped" end
  local share = finite(gate.supervised) and finite(gate.tokens) and gate.tokens > 0
    and ("%.1f%% of all"):format(100 * gate.supervised / gate.tokens)
  return h.dl({ class = "cards" },
    card("Rows", text.count(gate.trained_rows), #cut > 0 and table.concat(cut, ", ") or "none cut, none dropped"),
    card("Tokens an epoch", text.count(gate.tokens), finite(gate.mean_length)
      and ("%.1f a row, longest %s"):format(gate.mean_length, text.count(gate.longest))),
    card("Supervised tokens", text.count(gate.supervised), share), repeated_card(gate))
end

local function warnings_of(gate)
  local items = {}
  for i, warning in ipairs(fields(gate.warnings)) do items[i] = h.li({}, h.bdi({}, text.value(warning))) end
  if #items > 0 then return h.div({ class = "problems" }, h.ul({}, items)) end
end

-- The row cut where its weights change, trained stretches marked; nil without such a cut.
local function masked_pieces(sample)
  local nodes = {}
  for i, piece in ipairs(fields(sample.pieces)) do
    if type(fields(piece).text) ~= "string" then return nil end
    nodes[i] = finite(piece.weight) and piece.weight ~= 0 and h.mark({}, piece.text) or piece.text
  end
  return #nodes > 0 and nodes or nil
end

local function sample_of(gate)
  local sample = fields(gate.sample)
  local pieces = masked_pieces(sample)
  if not pieces and (type(sample.prompt) ~= "string" or type(sample.answer) ~= "string") then return nil end
  return h.figure({ class = "mask" },
    h.figcaption({}, "Row 1 as the model sees it: the prompt, and ", h.mark({}, "what it is trained to write"), "."),
    h.pre({ dir = "auto" }, pieces or { sample.prompt, h.mark({}, sample.answer) }))
end

--- The data of a run: what its gate found before the first step.
---@param run crucible.report.Run
---@return crucible.report.Node?
function overview.data(run)
  local dataset = fields(run.manifest.dataset)
  if next(dataset) == nil then return nil end
  local gate = fields(dataset.gate)
  local facts = h.p({ class = "note" }, h.bdi({}, text.value(dataset.name)), ", split ", text.value(dataset.split),
    type(dataset.sha256) == "string" and (" · SHA-256 of the rows %s…"):format(dataset.sha256:sub(1, 16)) or "")
  if next(gate) == nil then return h.div({}, facts, h.p({ class = "note" }, "The data gate was off.")) end
  return h.div({}, facts, warnings_of(gate), gate_cards(gate), lengths_text(gate), sample_of(gate))
end

return overview
