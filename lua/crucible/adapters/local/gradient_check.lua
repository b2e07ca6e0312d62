-- A loss beside finite differences, twice: its slopes with respect to its predictions, entry by entry, and
-- the gradient of the lora through the whole model, along its own direction and along random ones.
--
-- Differences are of fourth order: (4 D(h) − D(2h)) / 3, where D(h) = (f(x + h) − f(x − h)) / 2h.
-- A loss that is not smooth where it is checked (ties of a maximum, a value at a clamp's end) has no
-- slope there to agree with.
local errors = require "crucible.errors"
local losses = require "crucible.adapters.local.losses"
local random = require "crucible.random"
local schema = require "crucible.schema"
local tensor = require "crucible.tensor"

local gradient_check = {}

local options = schema.new("check_gradient", {
  { name = "directions", default = 3, check = schema.integer { min = 0 }, doc = "random directions of the lora" },
  { name = "step", default = 0.01, check = schema.number { above = 0 }, doc = "length of the lora's displacement" },
  { name = "entries", default = 64, check = schema.integer { min = 0 }, doc = "values of predictions that are tried" },
  { name = "entry_step", default = 1e-3, check = schema.number { above = 0 }, doc = "their displacement" },
  { name = "tolerance", default = 1e-3, check = schema.number { above = 0 },
    doc = "largest relative error through the model" },
  { name = "entry_tolerance", default = 1e-4, check = schema.number { above = 0 },
    doc = "largest relative error of a slope" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of the directions and the choice of entries" },
})

local function difference(f, step)
  local function slope(h) return (f(h) - f(-h)) / (2 * h) end
  return (4 * slope(step) - slope(2 * step)) / 3
end

-- ---- slopes at the predictions -----------------------------------------------------------------

-- Of the indices that have names all, or `most` that are drawn.
local function choose(names, most, seed)
  local indices, chosen = {}, {}
  for index in pairs(names) do indices[#indices + 1] = index end
  table.sort(indices)
  local order = random.permutation(#indices, seed, 1)
  for k = 1, math.min(#indices, most) do chosen[k] = indices[order[k]] end
  table.sort(chosen)
  return chosen
end

local function check_entries(session, loss, batch, given)
  local found = losses.slopes(session, batch, loss)
  local values, slopes = found.values, found.slopes
  local largest = 0
  for _, slope in ipairs(slopes) do largest = math.max(largest, math.abs(slope)) end
  local report = { error = 0, tried = 0, largest = largest }
  for _, i in ipairs(choose(found.names, given.entries, given.seed)) do
    local kept = values[i]
    local numeric = difference(function(h)
      values[i] = kept + h
      return found.value(values)
    end, given.entry_step)
    values[i] = kept
    local relative = math.abs(numeric - slopes[i]) / math.max(largest, 1e-12)
    report.tried = report.tried + 1
    if relative > report.error or relative ~= relative then
      report.error = relative
      report.worst = { output = found.names[i], slope = slopes[i], difference = numeric }
    end
  end
  return report
end

-- ---- the gradient through the model --------------------------------------------------------------

local function read_all(core, which)
  local list = {}
  for _, p in ipairs(core:parameters()) do list[p.name] = core:read(p.name, which) end
  return list
end

local function norm_of(list)
  local sum = 0
  for _, values in pairs(list) do
    for _, value in ipairs(values) do sum = sum + value * value end
  end
  return math.sqrt(sum)
end

local function dot(one, other)
  local sum = 0
  for name, values in pairs(one) do
    for i, value in ipairs(values) do sum = sum + value * other[name][i] end
  end
  return sum
end

local function scaled(list, factor)
  local out = {}
  for name, values in pairs(list) do
    out[name] = {}
    for i, value in ipairs(values) do out[name][i] = value * factor end
  end
  return out
end

-- A direction of length 1 that has two parts: half of the gradient's entries, drawn, and normal numbers
-- everywhere, where the gradient may lack something.
local function random_direction(gradient, seed)
  local half, noise, names = {}, {}, {}
  for name in pairs(gradient) do names[#names + 1] = name end
  table.sort(names)
  for k, name in ipairs(names) do
    local drawn = tensor.randn(#gradient[name], { seed = seed * 100003 + k }):totable()
    half[name], noise[name] = {}, drawn
    for i, value in ipairs(gradient[name]) do half[name][i] = drawn[i] > 0 and value or 0 end
  end
  local one, other = 1 / math.max(norm_of(half), 1e-30), 1 / math.max(norm_of(noise), 1e-30)
  for name, values in pairs(half) do
    for i, value in ipairs(values) do values[i] = value * one + noise[name][i] * other end
  end
  return scaled(half, 1 / math.max(norm_of(half), 1e-30))
end

-- DoRA's gradient takes the norms of rows as constants. So that differences do too, magnitudes follow the norms
-- that a displacement of A and B gives: their ratio is what the output sees.
local function hold_norms(core)
  local modules, start = core:modules(), {}
  for i, module in ipairs(modules) do start[i] = core:row_norms(module.layer, module.target) end
  return function()
    for i, module in ipairs(modules) do
      local name = module.name:gsub("^model%.", "") .. ".lora_magnitude_vector"
      local magnitudes, norms = core:read(name), core:row_norms(module.layer, module.target)
      for row, norm in ipairs(norms) do
        if norm > 0 then magnitudes[row] = magnitudes[row] * (norm / start[i][row]) end
      end
      core:write(name, magnitudes)
    end
  end
end

local function write_at(core, weights, direction, t, follow)
  for name, values in pairs(weights) do
    local moved = {}
    for i, value in ipairs(values) do moved[i] = value + t * direction[name][i] end
    core:write(name, moved)
  end
  if follow then follow() end
end

-- Σ over matrices; weights are back where they were afterwards, whatever happens.
local function along(session, weights, direction, step, value)
  local follow = session.config.dora and hold_norms(session.core) or nil
  local ok, found = pcall(difference, function(t)
    write_at(session.core, weights, direction, t, follow)
    return value()
  end, step)
  write_at(session.core, weights, direction, 0)
  if not ok then error(found, 0) end
  return found
end

-- A long step bends, a short one drowns in rounding: shorter ones are tried while the last disagrees.
local function nearest(session, weights, direction, given, value, expected, norm)
  local found, relative
  for _, part in ipairs { 1, 4, 16 } do
    local slope = along(session, weights, direction, given.step / part, value)
    local off = math.abs(slope - expected) / norm
    if not relative or off < relative or relative ~= relative then found, relative = slope, off end
    if relative <= given.tolerance / 4 then break end
  end
  return found, relative
end

local function check_model(session, loss, batch, given)
  local core = session.core
  local function value()
    session:zero_gradients()
    return losses.value(session, batch, loss)
  end
  session:zero_gradients()
  local result, message, code = session:forward_backward(batch, loss)
  if not result then errors.raise("check_gradient: %s (%s)", message, code) end
  local gradient, weights = read_all(core, "gradient"), read_all(core)
  local norm = norm_of(gradient)
  local report = { loss = result.loss, norm = norm, error = 0, directions = {} }
  if norm == 0 then return report end
  for k = 0, given.directions do
    local direction = k == 0 and scaled(gradient, 1 / norm) or random_direction(gradient, given.seed + k)
    local expected = dot(gradient, direction)
    local found, relative = nearest(session, weights, direction, given, value, expected, norm)
    report.directions[k + 1] = { name = k == 0 and "gradient" or "random " .. k, gradient = expected,
      difference = found, error = relative }
    report.error = math.max(report.error, relative == relative and relative or math.huge)
  end
  return report
end

local Report = {}
Report.__index = Report

function Report:__tostring()
  local worst = self.slopes.worst
  local line = "check_gradient %s: %s; slopes off by %.2g of the largest (%d tried%s), gradient off by %.2g of its norm"
  return (line .. " %.4g"):format(self.name, self.passed and "passed" or "FAILED", self.slopes.error, self.slopes.tried,
      worst and (", worst %s: %.6g beside %.6g"):format(worst.output, worst.slope, worst.difference) or "",
      self.model.error, self.model.norm)
end

--- Whether the gradient of a loss is that of finite differences. `slopes.error` is the largest difference
--- of a slope in shares of the largest slope; `model.error` that of a directional derivative in shares
--- of the gradient's norm; relative_error the larger of both. Gradients added so far are dropped, weights
--- stay. The engine computes in f32: about 1e-4 is what a right gradient shows through the model.
---@param session crucible.Session
---@param loss table
---@param batch crucible.core.Datum[]
---@param opts table?  directions, step, entries, entry_step, tolerance, entry_tolerance, seed
---@return table report  name, passed, relative_error, slopes, model; tostring gives one line
function gradient_check.run(session, loss, batch, opts)
  local given = options:resolve(opts)
  local report = setmetatable({ name = loss.name }, Report)
  report.slopes = check_entries(session, loss, batch, given)
  report.model = check_model(session, loss, batch, given)
  session:zero_gradients()
  report.relative_error = math.max(report.slopes.error, report.model.error)
  report.passed = report.slopes.error <= given.entry_tolerance and report.model.error <= given.tolerance
  return report
end

return gradient_check
