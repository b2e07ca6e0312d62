-- A reporter for training_loop's callbacks: a bar that redraws itself on a terminal, plain lines
-- elsewhere. Attach it among the callbacks: `callbacks = { console.new(), … }`.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local console = {}

local options = schema.new("callbacks.console.new", {
  { name = "stream", check = schema.any, doc = "a file to write to; default: standard error" },
  { name = "mode", default = "auto", check = schema.one_of { "auto", "bar", "plain" },
    doc = "auto: a bar if the stream is a terminal, plain lines if not" },
  { name = "every", default = 10, check = schema.integer { min = 1 }, doc = "steps between plain lines" },
  { name = "sample", default = false, check = schema.boolean, doc = "show row 1 with what is learnt of it" },
})

local REDRAW_SECONDS = 0.1

local function choose_mode(given)
  if given.mode ~= "auto" then return given.mode end
  return given.stream == nil and fs.is_terminal "stderr" and "bar" or "plain"
end

local function columns() return math.tointeger(tonumber(os.getenv "COLUMNS" or "")) or 80 end

local function gate_lines(gate)
  local text = ("%d rows, %d tokens an epoch, %d supervised, longest %d"):format(gate.trained_rows, gate.tokens,
    gate.supervised, gate.longest)
  if gate.truncated > 0 then text = ("%s; %d prompts cut"):format(text, gate.truncated) end
  if gate.dropped > 0 then text = ("%s; %d rows dropped as too long"):format(text, gate.dropped) end
  return text
end

-- Time left by the average since this process began training.
local function time_left(self, event)
  local done = event.step - self.first_step
  return (fs.clock() - self.started) / done * (event.total_steps - event.step)
end

local function step_text(self, event)
  local text = ("loss %.4f  lr %.2e  norm %.3f  %.0f tok/s  %s left"):format(event.loss, event.lr, event.grad_norm,
    event.tokens_per_s, terminal.duration(time_left(self, event)))
  if not event.skipped then return text end
  return text .. (event.skipped_by and "  skipped by hook " .. event.skipped_by or "  skipped: not finite")
end

local function bar_line(self, event)
  local head = ("epoch %d  %d/%d "):format(event.epoch, event.step, event.total_steps)
  local tail = " " .. step_text(self, event)
  local room = columns() - 1 - #head - #tail
  local bar = room >= 8 and terminal.bar(event.step / event.total_steps, math.min(room, 30)) or ""
  return (head .. bar .. tail)
end

local function say(self, text)
  if self.drawn then self.stream:write "\r\27[K" end
  self.drawn = false
  self.stream:write(text, "\n")
  self.stream:flush()
end

local function draw(self, event)
  local now = fs.clock()
  if self.drawn and now - self.drawn_at < REDRAW_SECONDS and event.step < event.total_steps then return end
  self.stream:write("\r\27[K", bar_line(self, event))
  self.stream:flush()
  self.drawn, self.drawn_at = true, now
end

local function on_begin(self, event)
  self.started, self.first_step = fs.clock(), event.step
  if event.gate then say(self, gate_lines(event.gate)) end
  if event.gate and self.sample then
    say(self, ("row 1: %s[%s]"):format(event.gate.sample.prompt, event.gate.sample.answer))
  end
  say(self, ("%d steps, %d an epoch%s; run folder %s"):format(event.total_steps, event.steps_per_epoch,
    event.step > 0 and (", going on after step %d"):format(event.step) or "", event.run_dir))
end

local function on_step(self, event)
  if self.mode == "bar" then return draw(self, event) end
  if event.step % self.every == 0 or event.step == event.total_steps or event.skipped then
    say(self, ("step %d/%d  epoch %d  %s"):format(event.step, event.total_steps, event.epoch, step_text(self, event)))
  end
end

local function on_evaluate(self, event)
  local names, parts = {}, {}
  for name in pairs(event.metrics) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = event.metrics[name]
    parts[i] = type(value) == "number" and ("%s %.3f"):format(name, value) or ("%s %s"):format(name, tostring(value))
  end
  say(self, ("step %d evaluated: %s"):format(event.step, table.concat(parts, ", ")))
end

local function on_end(self, results)
  local skipped = results.skipped_steps > 0 and (", %d skipped as not finite"):format(results.skipped_steps) or ""
  say(self, ("%s after %d steps in %s%s"):format(results.status, results.total_steps,
    terminal.duration(fs.clock() - self.started), skipped))
end

--- A table of callbacks that report to a stream.
---@param given { stream: file*?, mode: "auto"|"bar"|"plain"|nil, every: integer?, sample: boolean? }?
---@return table callbacks
function console.new(given)
  local resolved = options:resolve(given)
  if resolved.stream and not resolved.stream.write then errors.raise("callbacks.console.new: stream must be a file") end
  local self = {
    mode = choose_mode(resolved), stream = resolved.stream or io.stderr, every = resolved.every,
    sample = resolved.sample, drawn = false, drawn_at = 0, started = 0, first_step = 0,
  }
  return {
    on_train_begin = function(event) on_begin(self, event) end,
    on_step_end = function(event) on_step(self, event) end,
    on_epoch_end = function(event)
      say(self, ("epoch %d: mean loss %s"):format(event.epoch,
        event.mean_loss and ("%.4f"):format(event.mean_loss) or "-"))
    end,
    on_evaluate = function(event) on_evaluate(self, event) end,
    on_checkpoint = function(event) say(self, ("checkpoint %s"):format(event.path)) end,
    on_train_end = function(results) on_end(self, results) end,
  }
end

return console
