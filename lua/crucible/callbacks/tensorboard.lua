-- A reporter that keeps a run's figures as TensorBoard event files, in tensorboard/ of its folder.
-- The option `tensorboard = true` of the training loop attaches it; `tensorboard --logdir runs` shows it.
--
--   scalars     train/loss, train/learning_rate, train/grad_norm, train/update_norm, train/tokens_per_s,
--               train/epoch, train/mean_loss (of an epoch), loss/<component>, evaluation/<metric>,
--               and with gradient hooks gradient_norm/layer_<depth>, gradient_norm/<projection>
--   histograms  gradients/log2_magnitude: of all gradients (hook "distribution"), by powers of two
--   texts       config, data, evaluation/confusion, samples/<moment>
local event_file = require "crucible.tensorboard.event_file"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local telemetry = require "crucible.telemetry"
local utc = require "crucible.utc"

local tensorboard = {}

local options = schema.new("callbacks.tensorboard.new", {
  { name = "folder", check = schema.nonempty_string, doc = "of the event files; default: tensorboard in the run's" },
  { name = "flush_every", default = 1, check = schema.number { min = 0 }, doc = "seconds between writes" },
  { name = "gradients_every", default = 1, check = schema.integer { min = 1 },
    doc = "steps between the figures of gradient hooks" },
})

local scalar_tags = {
  loss = "train/loss", lr = "train/learning_rate", grad_norm = "train/grad_norm", update_norm = "train/update_norm",
  tokens_per_s = "train/tokens_per_s",
}

-- ---- what gradient hooks found -----------------------------------------------------------------

-- Counts by power of two as a histogram of log2: its sums take each value at the middle of its bucket.
local function log2_histogram(found)
  local limits, counts, num, sum, squares = {}, {}, 0, 0, 0
  for i, count in ipairs(found.counts) do
    local exponent = found.least + i - 1
    limits[i], counts[i] = exponent + 1.0, count
    num, sum, squares = num + count, sum + count * (exponent + 0.5), squares + count * (exponent + 0.5) ^ 2
  end
  if num == 0 then return nil end
  return { limits = limits, counts = counts, min = found.least, max = limits[#limits], num = num, sum = sum,
    sum_squares = squares }
end

local function gradient_scalars(record)
  local values = {}
  for depth, norm in ipairs(record.layers or {}) do values[("gradient_norm/layer_%02d"):format(depth)] = norm end
  for target, norm in pairs(record.targets or {}) do values["gradient_norm/" .. target] = norm end
  return values
end

-- ---- texts ---------------------------------------------------------------------------------

local function indented(text) return "    " .. text:gsub("\n", "\n    ") end

local function sample_text(sample)
  return ("**Prompt**\n\n%s\n\n**Answer**\n\n%s"):format(indented(sample.prompt or ""), indented(sample.text or ""))
end

local function cell(value) return (tostring(value):gsub("|", "\\|"):gsub("%s+", " ")) end

local function confusion_text(confusion)
  local header, rule = { "expected \\ predicted" }, { "---" }
  for _, label in ipairs(confusion.labels) do header[#header + 1], rule[#rule + 1] = cell(label), "---" end
  header[#header + 1], rule[#rule + 1] = "other", "---"
  local lines = { "| " .. table.concat(header, " | ") .. " |", "| " .. table.concat(rule, " | ") .. " |" }
  for i, label in ipairs(confusion.labels) do
    local row = table.concat(confusion.counts[i], " | ")
    lines[#lines + 1] = ("| %s | %s | %s |"):format(cell(label), row, confusion.other[i])
  end
  return table.concat(lines, "\n")
end

-- ---- events --------------------------------------------------------------------------------

local on = {}

on["training.start"] = function(self, measurements, metadata)
  local done = measurements.step or 0
  local folder = self.folder or paths.join(metadata.run.run_dir, "tensorboard")
  local file, message, code = event_file.create(folder, { resumed_at = done > 0 and done + 1 or nil, now = self.now })
  if not file then return nil, message, code end
  self.file = file
  local manifest = metadata.manifest or {}
  file:text(done, "config", indented(json.encode_pretty(manifest.config or {})))
  file:text(done, "data", indented(json.encode_pretty(manifest.dataset or {})))
  return file:flush()
end

on["step.stop"] = function(self, measurements, metadata)
  local step, values = metadata.step, {}
  for name, tag in pairs(scalar_tags) do
    local value = measurements[name]
    if value == value then values[tag] = value end -- an engine may not tell all
  end
  for name, value in pairs(metadata.components or {}) do values["loss/" .. name] = value end
  values["train/epoch"] = metadata.epoch
  self.file:scalars(step, values)
  local found = metadata.row and metadata.row.hooks -- by layer and projection, as telemetry.jsonl has it
  if not found or step % self.gradients_every ~= 0 then return true end
  self.file:scalars(step, gradient_scalars(found))
  local histogram = found.histogram and found.histogram.least and log2_histogram(found.histogram)
  if histogram then self.file:histogram(step, "gradients/log2_magnitude", histogram) end
  return true
end

on["epoch.stop"] = function(self, measurements, metadata)
  if measurements.mean_loss then self.file:scalars(metadata.step, { ["train/mean_loss"] = measurements.mean_loss }) end
  return true
end

on["evaluation.stop"] = function(self, measurements, metadata)
  local values = {}
  for name, value in pairs(measurements) do
    if type(value) == "number" then values["evaluation/" .. name] = value end
  end
  self.file:scalars(metadata.step, values)
  local result = metadata.result
  if type(result) == "table" and result.confusion then
    self.file:text(metadata.step, "evaluation/confusion", confusion_text(result.confusion))
  end
  return true
end

on["samples.stop"] = function(self, _, metadata)
  local texts = {}
  for i, sample in ipairs(metadata.samples or {}) do texts[i] = sample_text(sample) end
  if #texts > 0 then self.file:text(metadata.step or 0, "samples/" .. tostring(metadata.moment), texts) end
  return true
end

on["training.stop"] = function(self) return self.file:flush() end

local function flush_when_due(self)
  local now = fs.clock()
  if now - self.flushed_at < self.flush_every then return true end
  self.flushed_at = now
  return self.file:flush()
end

-- An observer does not end what it observes: when files cannot be written it says so once and is still.
local function give_up(self, metadata, message, code)
  self.failed = true
  telemetry.emit("telemetry.failed", {}, { step = metadata.step, message = message, code = code, run = metadata.run })
end

--- A reporter, for the training loop's callbacks.
---@param given { folder: string?, flush_every: number?, gradients_every: integer? }?
---@return { on_event: fun(name: string, measurements: table, metadata: table) }
function tensorboard.new(given)
  local self = options:resolve(given)
  local second, clock = utc.time(), fs.clock()
  self.flushed_at, self.now = -math.huge, function() return second + (fs.clock() - clock) end
  return {
    on_event = function(name, measurements, metadata)
      local handle = on[name]
      if not handle or self.failed or not (self.file or name == "training.start") then return end
      local ok, message, code = handle(self, measurements, metadata)
      if ok then ok, message, code = flush_when_due(self) end
      if not ok then give_up(self, metadata, message, code) end
    end,
  }
end

return tensorboard
