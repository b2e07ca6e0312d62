-- A reporter for people: a progress bar that redraws itself on a terminal, plain lines elsewhere. Attach it
-- among the callbacks: `callbacks = { console.new(), … }`.
--
--     epoch 2/5  412/900 ████████▌        loss 0.8123  lr 9.30e-05  norm 0.412  604 tok/s  1.9 GB  13:20 left
--
-- The line takes the width that the terminal has at that moment; what does not fit is left out, the least
-- needed first. With NO_COLOR set (https://no-color.org) or TERM=dumb nothing but plain lines is written.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local gate_view = require "crucible.lora.gate_view"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local console = {}

local options = schema.new("callbacks.console.new", {
  { name = "stream", check = schema.any, doc = "a file to write to; default: standard error" },
  { name = "mode", default = "auto", check = schema.one_of { "auto", "bar", "plain", "quiet" },
    doc = "auto: a bar if the stream is a terminal, plain lines if not; quiet: begin, end and what fails" },
  { name = "every", default = 10, check = schema.integer { min = 1 }, doc = "steps between plain lines" },
  { name = "sample", check = schema.boolean,
    doc = "show row 1 with what is learnt of it; default: on a terminal" },
  { name = "columns", check = schema.integer { min = 1 }, doc = "width of the bar's line; default: the terminal's" },
})

local REDRAW_SECONDS = 0.1
local WIDEST_BAR = 40
local SPARE_COLUMNS = 3 -- for the "^C" that a terminal echoes: it must not wrap the line

local function environment(name)
  local value = os and os.getenv(name)
  return value ~= "" and value or nil
end

-- "stderr" or "stdout"; nil for another stream.
local function name_of(stream)
  if not io then return nil end
  return stream == io.stderr and "stderr" or stream == io.stdout and "stdout" or nil
end

local function choose_mode(given)
  if given.mode ~= "auto" then return given.mode end
  local name = name_of(given.stream)
  if not name then return "plain" end
  if environment "NO_COLOR" or environment "TERM" == "dumb" or not fs.is_terminal(name) then return "plain" end
  return "bar"
end

local function show_sample(given)
  if given.sample ~= nil then return given.sample end
  return choose_mode(given) == "bar"
end

local function speaks_utf8()
  local locale = environment "LC_ALL" or environment "LC_CTYPE" or environment "LANG" or ""
  return locale:lower():find "utf%-?8" ~= nil
end

-- ---- text ----------------------------------------------------------------------------------

local function gate_line(gate)
  return ("%d rows, %d tokens an epoch, %d supervised, longest %d"):format(gate.trained_rows, gate.tokens,
    gate.supervised, gate.longest)
end

local function skipped_text(event)
  if not event.skipped then return nil end
  return event.skipped_by and "skipped by hook " .. event.skipped_by or "skipped: not finite"
end

-- Time left by the average since this process began training.
local function time_left(self, event)
  local a_step = (fs.clock() - self.started) / math.max(1, event.step - self.first_step)
  return terminal.duration(a_step * (event.total_steps - event.step)) .. " left"
end

local function memory_text(bytes)
  return bytes < 1e9 and ("%.0f MB"):format(bytes / 1e6) or ("%.1f GB"):format(bytes / 1e9)
end

-- What is told of a step, each with a rank: the highest are left out first where there is no room.
local function parts_of(self, event, memory)
  local parts = {
    { 1, ("loss %.4f"):format(event.loss) }, { 5, ("lr %.2e"):format(event.lr) },
    { 4, event.grad_norm == event.grad_norm and ("norm %.3f"):format(event.grad_norm) or "" },
    { 3, ("%.0f tok/s"):format(event.tokens_per_s) },
    { 6, memory and memory_text(memory) or "" }, { 2, time_left(self, event) },
    { 0, skipped_text(event) or "" },
  }
  local kept = {}
  for _, part in ipairs(parts) do
    if part[2] ~= "" then kept[#kept + 1] = part end
  end
  return kept
end

local function joined(parts)
  local texts = {}
  for i, part in ipairs(parts) do texts[i] = part[2] end
  return table.concat(texts, "  ")
end

local function leave_out_one(parts)
  local worst = 1
  for i, part in ipairs(parts) do
    if part[1] > parts[worst][1] then worst = i end
  end
  table.remove(parts, worst)
end

local function head_of(self, event)
  local epochs = self.epochs and ("/%d"):format(self.epochs) or ""
  return ("epoch %d%s  %d/%d "):format(event.epoch, epochs, event.step, event.total_steps)
end

local function bar_of(self, share, width)
  if self.utf8 then return terminal.bar(share, width) end
  local filled = math.floor(share * width + 0.5)
  return ("="):rep(filled) .. ("."):rep(width - filled)
end

-- One line of at most `columns` columns.
local function bar_line(self, event, memory, columns)
  local head, parts = head_of(self, event), parts_of(self, event, memory)
  while #parts > 1 and #head + 9 + #joined(parts) > columns do leave_out_one(parts) end
  local tail = " " .. joined(parts)
  local room = columns - #head - #tail
  local bar = room >= 8 and bar_of(self, event.step / event.total_steps, math.min(room, WIDEST_BAR)) or ""
  local line = head .. bar .. tail
  local cut = utf8.offset(line, columns + 1) -- of a terminal too narrow for anything
  return cut and line:sub(1, cut - 1) or line
end

local function metrics_text(metrics)
  local names, parts = {}, {}
  for name, value in pairs(metrics) do
    if type(value) ~= "table" then names[#names + 1] = name end
  end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = metrics[name]
    parts[i] = type(value) == "number" and ("%s %.4g"):format(name, value) or ("%s %s"):format(name, tostring(value))
  end
  return table.concat(parts, ", ")
end

-- ---- drawing -------------------------------------------------------------------------------

local function columns_of(self)
  local columns = self.columns
  if not columns and self.terminal then columns = fs.terminal_size(self.terminal) end
  return columns or math.tointeger(tonumber(environment "COLUMNS" or "")) or 80
end

-- Takes the bar's line away. A terminal that became narrower since has wrapped it over several rows.
local function erase(self)
  if not self.drawn then return "" end
  local rows = (math.max(self.drawn, 1) - 1) // columns_of(self)
  self.drawn = nil
  return (rows > 0 and ("\27[%dA"):format(rows) or "") .. "\r\27[J"
end

local function say(self, text)
  self.stream:write(erase(self), text, "\n")
  self.stream:flush()
end

local function draw(self, text)
  self.stream:write(erase(self), text)
  self.stream:flush()
  self.drawn, self.drawn_at = utf8.len(text) or #text, fs.clock()
end

-- ---- events --------------------------------------------------------------------------------

local heard = {}

heard["training.start"] = function(self, measurements, metadata)
  self.started, self.first_step, self.epochs = fs.clock(), measurements.step, measurements.epochs
  local gate = metadata.gate
  if gate and self.mode ~= "quiet" then
    say(self, gate_line(gate))
    for _, warning in ipairs(gate.warnings) do say(self, "warning: " .. warning) end
  end
  if gate and self.sample then say(self, (gate_view.sample(gate, self.mode == "bar"):gsub("\n$", ""))) end
  say(self, ("%d steps, %d an epoch%s; run folder %s"):format(measurements.total_steps, measurements.steps_per_epoch,
    measurements.step > 0 and (", going on after step %d"):format(measurements.step) or "", metadata.run.run_dir))
end

heard["step.stop"] = function(self, measurements, metadata)
  local event = metadata.event
  if self.mode == "quiet" then return end
  if self.mode == "bar" then
    local last = event.step == event.total_steps
    if self.drawn and fs.clock() - self.drawn_at < REDRAW_SECONDS and not last then return end
    return draw(self, bar_line(self, event, measurements.memory, columns_of(self) - SPARE_COLUMNS))
  end
  if event.step % self.every == 0 or event.step == event.total_steps or event.skipped then
    say(self, ("step %d/%d  epoch %d  %s"):format(event.step, event.total_steps, event.epoch,
      joined(parts_of(self, event, measurements.memory))))
  end
end

heard["epoch.stop"] = function(self, measurements, metadata)
  if self.mode == "quiet" then return end
  local loss = measurements.mean_loss
  say(self, ("epoch %d: mean loss %s"):format(metadata.epoch, loss and ("%.4f"):format(loss) or "-"))
end

heard["evaluation.start"] = function(self, _, metadata)
  if self.mode == "bar" then draw(self, ("step %d: evaluating"):format(metadata.step)) end
end

heard["evaluation.stop"] = function(self, measurements, metadata)
  if self.mode == "quiet" then return end
  say(self, ("step %d evaluated in %s: %s"):format(metadata.step, terminal.duration(measurements.seconds),
    metrics_text(metadata.metrics)))
end

heard["checkpoint.saved"] = function(self, _, metadata)
  if self.mode == "quiet" then return end
  say(self, ("checkpoint %s%s"):format(metadata.path, metadata.best and " (best)" or ""))
end

heard["checkpoint.failed"] = function(self, _, metadata)
  say(self, ("checkpoint %s was not written: %s"):format(metadata.name, metadata.message))
end

heard["telemetry.failed"] = function(self, _, metadata)
  if self.complained then return end -- once is enough of a full disk
  self.complained = true
  say(self, ("telemetry cannot be written: %s"):format(metadata.message))
end

heard["training.stop"] = function(self, measurements, metadata)
  local reason = metadata.reason and (" (%s)"):format(metadata.reason) or ""
  local skipped = measurements.skipped_steps
  say(self, ("%s after %d steps in %s%s%s"):format(metadata.status, measurements.total_steps,
    terminal.duration(fs.clock() - self.started), skipped > 0 and (", %d skipped"):format(skipped) or "", reason))
end

--- A reporter that writes to a stream.
---@param given { stream: file*?, mode: string?, every: integer?, sample: boolean?, columns: integer? }?
---@return { on_event: fun(name: string, measurements: table, metadata: table) } callbacks
function console.new(given)
  local resolved = options:resolve(given)
  local stream = resolved.stream or io and io.stderr
  if not stream then errors.raise("callbacks.console.new: this host has no io.stderr; give stream") end
  if not stream.write then
    errors.raise("callbacks.console.new: stream must be a file, got %s", schema.show(resolved.stream))
  end
  resolved.stream = stream
  local self = {
    mode = choose_mode(resolved), stream = stream, every = resolved.every, sample = show_sample(resolved),
    columns = resolved.columns, drawn_at = 0, started = fs.clock(), first_step = 0, utf8 = speaks_utf8(),
    terminal = name_of(stream),
  }
  return {
    on_event = function(name, measurements, metadata)
      if heard[name] then heard[name](self, measurements, metadata) end
    end,
  }
end

return console
