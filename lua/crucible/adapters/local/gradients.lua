-- Gradients of the local engine's sessions: views of single matrices, and what a session does with all
-- of them. A view reads and writes the engine's memory; once optim_step or zero_gradients has run,
-- what it stood for is gone and using it raises.
local errors = require "crucible.errors"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

---@class crucible.lora.Gradient
---@field name string     "layers.12.self_attn.q_proj.lora_A"
---@field layer integer   from 1
---@field target string   "q_proj"
---@field matrix "A"|"B"|"magnitude"
---@field rows integer
---@field columns integer
local Gradient = { __name = "crucible.gradient" }
Gradient.__index = Gradient

---@class crucible.lora.GradientStatistics
---@field count integer
---@field norm number
---@field rms number
---@field mean number
---@field std number
---@field min number
---@field max number
---@field sparsity number    share of values that are exactly 0
---@field nonfinite integer  values that are NaN or infinite
---@field quantiles { p01: number, p05: number, p25: number, p50: number, p75: number, p95: number, p99: number }

---@class crucible.lora.GradientHistogram  values by floor(log2 |x|)
---@field least integer?     exponent of the first count; nil when every value is 0 or not finite
---@field counts integer[]
---@field zeros integer
---@field nonfinite integer

local gradients = { methods = {} }

local DISTRIBUTION = { quantiles = { 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99 }, magnitudes = true }
local QUANTILES = { "p01", "p05", "p25", "p50", "p75", "p95", "p99" }

local function open(session)
  if session.closed then errors.raise("%s is closed", tostring(session)) end
  return session
end

-- Memory is all that can be lacking here; a view has no other way to say so than to raise.
local function must(value, message)
  if value == nil then errors.raise("%s", message) end
  return value
end

-- ---- measuring -----------------------------------------------------------------------------
-- All matrices are measured in one pass when the first figure of any is asked for, and kept until
-- the gradients change; after a change to one matrix that one is measured again.

local function measure(session, distribution)
  local list = must(session.core:statistics("gradient", distribution and DISTRIBUTION or nil))
  session.measured = { list = list, distribution = distribution, touched = false }
  return session.measured
end

--- Forgets figures of gradients that have changed: of one matrix, or of all.
---@param session crucible.Session
---@param index integer?
function gradients.changed(session, index)
  if not index then
    session.measured = nil
  elseif session.measured then
    session.measured.list[index], session.measured.touched = false, true
  end
end

--- Ends what views and tensors stand for: the gradients were used or zeroed.
---@param session crucible.Session
function gradients.gone(session)
  session.gradient_age = session.gradient_age + 1
  session.measured, session.lent = nil, nil
end

-- A matrix whose memory was lent to a tensor may change at any time.
local function is_lent(session, index) return session.lent and session.lent[index] end

local function live(self)
  local session = self.session
  if session.closed then errors.raise("gradient of %s: its session is closed", self.name) end
  if session.gradient_age ~= self.age then
    errors.raise("gradient of %s is gone: read it between forward_backward and optim_step", self.name)
  end
  return session
end

local function figures(self, distribution)
  local session = live(self)
  if is_lent(session, self.index) then gradients.changed(session, self.index) end
  local measured = session.measured
  if not measured or (distribution and not measured.distribution and not measured.touched) then
    measured = measure(session, distribution)
  end
  local found = measured.list[self.index]
  if found and (found.magnitudes or not distribution) then return found end
  found = must(session.core:statistics("gradient", {
    name = self.name, quantiles = distribution and DISTRIBUTION.quantiles or nil, magnitudes = distribution,
  }))
  measured.list[self.index] = found
  return found
end

local function statistics_of(found)
  local named
  if found.quantiles then
    named = {}
    for i, name in ipairs(QUANTILES) do named[name] = found.quantiles[i] end
  end
  return {
    count = found.count, norm = found.norm, rms = found.rms, mean = found.mean, std = found.std, min = found.min,
    max = found.max, sparsity = found.zeros / found.count, nonfinite = found.nonfinite, quantiles = named,
  }
end

-- ---- one matrix ----------------------------------------------------------------------------

--- Rows and columns.
---@return integer rows, integer columns
function Gradient:shape() return self.rows, self.columns end

--- Euclidean norm.
---@return number
function Gradient:norm() return figures(self, false).norm end

--- Number of values that are NaN or infinite.
---@return integer
function Gradient:nonfinite() return figures(self, false).nonfinite end

--- Moments, extremes and quantiles.
---@return crucible.lora.GradientStatistics
function Gradient:stats() return statistics_of(figures(self, true)) end

--- Magnitudes of the values.
---@return crucible.lora.GradientHistogram
function Gradient:histogram()
  local found = figures(self, true)
  local bins = found.magnitudes
  return {
    least = bins.least, counts = table.move(bins, 1, #bins, 1, {}), zeros = found.zeros, nonfinite = found.nonfinite,
  }
end

local tensor_options = schema.new("gradient:tensor", {
  { name = "borrow", default = false, check = schema.boolean,
    doc = "the engine's own memory instead of a copy: writing goes through; gone with the gradient" },
})

local function array_of(self, borrow) return must(live(self).core:gradient_tensor(self.name, borrow)) end

--- The values as a tensor [rows, columns] of f32: a copy or, with borrow, the gradient itself. A
--- borrowed tensor, and every view of it, refuses to be used once the gradient is gone.
---@param options { borrow: boolean? }?
---@return crucible.Tensor
function Gradient:tensor(options)
  local borrow = tensor_options:resolve(options).borrow
  local array = array_of(self, borrow)
  if borrow then
    self.session.lent = self.session.lent or {}
    self.session.lent[self.index] = true
  end
  return require("crucible.tensor").wrap(array)
end

--- A copy as a flat list, row after row.
---@return number[]
function Gradient:totable() return live(self).core:read(self.name, "gradient") end

local function check_factor(self, method, factor)
  if type(factor) ~= "number" or factor ~= factor or math.abs(factor) == math.huge then
    errors.raise("gradient of %s: %s takes a finite number, got %s", self.name, method, schema.show(factor))
  end
end

--- Multiplies every value with a number.
---@param factor number
---@return crucible.lora.Gradient self
function Gradient:scale(factor)
  local session = live(self)
  check_factor(self, "scale", factor)
  session.core:scale_gradient(self.name, factor)
  gradients.changed(session, self.index)
  return self
end

--- Makes every value 0.
---@return crucible.lora.Gradient self
function Gradient:zero_() return self:scale(0) end

-- Numbers of another gradient, a tensor or a list, as the engine takes them.
local function numbers_of(self, method, other)
  local meta = getmetatable(other)
  if meta == Gradient then return array_of(other, true) end
  if type(other) == "table" and not meta then return other end
  if type(other) == "table" and meta.__name == "crucible.tensor" then return other.array end
  return errors.raise("gradient of %s: %s takes a gradient, a tensor or a list of numbers, got %s", self.name, method,
    schema.show(other))
end

--- Adds factor · other. A frozen matrix stays at 0.
---@param other crucible.lora.Gradient|crucible.Tensor|number[]  as many values as this has
---@param factor number?  1
---@return crucible.lora.Gradient self
function Gradient:add_(other, factor)
  local session = live(self)
  check_factor(self, "add_", factor or 1)
  session.core:add_gradient(self.name, factor or 1, numbers_of(self, "add_", other))
  gradients.changed(session, self.index)
  return self
end

--- Σ of products with the values of another, in double.
---@param other crucible.lora.Gradient|crucible.Tensor|number[]
---@return number
function Gradient:dot(other) return live(self).core:dot_gradient(self.name, numbers_of(self, "dot", other)) end

--- Whether what it stood for was used or zeroed since.
---@return boolean
function Gradient:is_gone() return self.session.closed or self.session.gradient_age ~= self.age end

function Gradient:__len() return self.rows * self.columns end

function Gradient:__tostring()
  local gone = self:is_gone() and ", gone" or ""
  return ("crucible.gradient(%s, %d x %d%s)"):format(self.name, self.rows, self.columns, gone)
end

-- What a table of views prints as.
local Views = {
  __name = "crucible.gradients",
  __tostring = function(views) return require("crucible.adapters.local.gradient_table").text(views) end,
}

--- Views of all gradients by name; printed, a table with bars.
---@param session crucible.Session
---@return table<string, crucible.lora.Gradient>
function gradients.views(session)
  local views = setmetatable({}, Views)
  for index, place in ipairs(session:matrices()) do
    views[place.name] = setmetatable({
      session = session, age = session.gradient_age, index = index, name = place.name, layer = place.layer,
      target = place.target, matrix = place.matrix, rows = place.rows, columns = place.columns,
    }, Gradient)
  end
  return views
end

-- ---- all matrices: methods of a session ----------------------------------------------------

local methods = gradients.methods

---@class crucible.lora.Matrix
---@field name string
---@field layer integer  from 1
---@field target string
---@field matrix "A"|"B"|"magnitude"
---@field rows integer
---@field columns integer

--- The trained matrices in order of depth, then projection, then A, B and, with DoRA, magnitudes [out, 1].
---@return crucible.lora.Matrix[]
function methods:matrices()
  if not self.known_matrices then
    self.known_matrices = open(self).core:parameters()
    for _, place in ipairs(self.known_matrices) do place.matrix = place.part end
  end
  return self.known_matrices
end

--- Measures all gradients in one pass; with `distribution`, quantiles and histograms as well. Views
--- then answer from what was found.
---@param distribution boolean?
function methods:measure_gradients(distribution)
  local measured = not self.lent and open(self).measured
  if measured and not measured.touched and (measured.distribution or not distribution) then return end
  measure(self, distribution or false)
end

--- The figures found so far of the present gradients, by name; plain tables that outlive the step.
---@return table<string, crucible.lora.GradientStatistics>
function methods:measured_gradients()
  local found = {}
  for index, place in ipairs(open(self):matrices()) do
    local record = self.measured and self.measured.list[index]
    if record then found[place.name] = statistics_of(record) end
  end
  return found
end

--- Norm of a matrix's weights.
---@param name string
---@return number
function methods:weight_norm(name) return open(self).core:norm(name, "value") end

--- Scales all gradients where they lie to norm max_grad_norm if above it (0 = never), as optim_step
--- would: what follows is then optim_step with max_grad_norm = 0.
---@param max_grad_norm number
---@return number grad_norm  before
---@return number scale      1 = left alone
function methods:clip_gradients(max_grad_norm)
  local norm, scale = open(self).core:clip(max_grad_norm)
  if scale ~= 1 then gradients.changed(self) end
  return norm, scale
end

--- Multiplies all gradients with a number.
---@param factor number
function methods:scale_gradients(factor)
  for _, view in pairs(self:gradients()) do view:scale(factor) end
end

-- The matrices that names stand for: a whole name, or its beginning up to a dot.
local function matching(self, names, method)
  local found = {}
  for _, name in ipairs(type(names) == "table" and names or { names }) do
    local before = #found
    for index, place in ipairs(self:matrices()) do
      if place.name == name or place.name:sub(1, #tostring(name) + 1) == tostring(name) .. "." then
        found[#found + 1] = { index = index, name = place.name }
      end
    end
    if #found == before then
      local known = {}
      for i, place in ipairs(self:matrices()) do known[i] = place.name end
      local nearest = suggest.nearest(tostring(name), known)
      errors.raise("session:%s: no matrix is named %s%s", method, schema.show(name),
        nearest and ('; did you mean "%s"?'):format(nearest) or "")
    end
  end
  return found
end

local function set_frozen(self, names, frozen, method)
  local done = {}
  for i, place in ipairs(matching(open(self), names, method)) do
    self.core:freeze(place.name, frozen)
    gradients.changed(self, place.index)
    done[i] = place.name
  end
  return done
end

--- Freezes matrices: values and moments stay, gradients read 0. Names may be beginnings: "layers.3".
---@param names string|string[]
---@return string[] frozen  whole names
function methods:freeze(names) return set_frozen(self, names, true, "freeze") end

--- Lets frozen matrices be trained again.
---@param names string|string[]
---@return string[] thawed  whole names
function methods:thaw(names) return set_frozen(self, names, false, "thaw") end

--- Names of the frozen matrices, in order.
---@return string[]
function methods:frozen() return open(self).core:frozen() end

--- What to keep an eye on beside training: "updates", "pieces", "turns" (core.meta.lua). Each costs a
--- copy of the weights or gradients; an empty list ends it.
---@param what string[]
---@return true? ok, string? message, string? code
function methods:watch(what) return open(self).core:watch(what) end

---@class crucible.lora.Update
---@field change number  norm of what the last update changed
---@field before number  norm of the weights before it
---@field ratio number?  change / before; nil for weights that were 0

--- The last update of each matrix, by name. Needs watch { "updates" }.
---@return table<string, crucible.lora.Update>
function methods:updates()
  local change, before = open(self).core:updates()
  must(change, before)
  local found = {}
  for i, place in ipairs(self:matrices()) do
    local ratio = before[i] > 0 and change[i] / before[i] or nil
    found[place.name] = { change = change[i], before = before[i], ratio = ratio }
  end
  return found
end

--- What each micro-batch since the last update added: norm, rows, supervised. Needs watch { "pieces" }.
---@return { norm: number, rows: integer, supervised: integer }[]
function methods:pieces() return must(open(self).core:pieces()) end

--- Cosines between the gradients now and at the previous call, by name, and of all as one vector; nil
--- where there is none. Needs watch { "turns" }.
---@return table<string, number> cosines, number? overall
function methods:turns()
  local list, overall = open(self).core:turns()
  must(list, overall)
  local found = {}
  for i, place in ipairs(self:matrices()) do
    if list[i] == list[i] then found[place.name] = list[i] end
  end
  return found, overall == overall and overall or nil
end

---@class crucible.lora.Spectrum
---@field singular_values number[]  of scale · B A, largest first
---@field effective_rank number     exp of the entropy of their shares (Roy and Vetterli 2007)
---@field stable_rank number        Σ s² / max s²

--- Singular values of the branch that a matrix belongs to.
---@param name string
---@return crucible.lora.Spectrum
function methods:spectrum(name)
  local values = must(open(self).core:singular_values(name))
  local sum, squares, entropy = 0, 0, 0
  for _, value in ipairs(values) do sum, squares = sum + value, squares + value * value end
  for _, value in ipairs(values) do
    local share = sum > 0 and value / sum or 0
    if share > 0 then entropy = entropy - share * math.log(share) end
  end
  return {
    singular_values = values, effective_rank = sum > 0 and math.exp(entropy) or 0,
    stable_rank = sum > 0 and squares / values[1] ^ 2 or 0,
  }
end

return gradients
