-- The registry of losses, and composites. What a loss is stands in lora/predictions.lua.
--
-- Wherever a loss is asked for it may be a name, { name, options }, a table with compute (or one that `get`
-- returned), or a composite. Losses of type "builtin" are computed by the engine under that name where they
-- stand alone.
--
-- This module is a registry, and `new` makes others: names registered in one are not known to another.
-- A registry lives in a Lua state and nowhere else.
local cross_entropy = require "crucible.losses.cross_entropy"
local errors = require "crucible.errors"
local origin = require "crucible.origin"
local predictions = require "crucible.lora.predictions"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local supervised_targets = require "crucible.losses.supervised"

---@class crucible.lora.Loss
---@field name string
---@field type "builtin"|"custom"|"composite"|nil
---@field count fun(datum: crucible.core.Datum): number  units, from the data alone; default: supervised targets
---@field outputs string[]  default: { "logprobs" }
---@field compute fun(predictions: crucible.lora.Predictions, targets: crucible.lora.Target[]): table
---@field request (fun(datum: crucible.core.Datum): crucible.lora.Request)?
---@field positions "supervised"|"all"|nil
---@field scope "datum"|"batch"|nil
---@field metric_only boolean?
---@field weight number?    in a composite that is given no weights; 1
---@field requires string[]?  what its rows must provide: names of fields of a datum or of its metadata
---@field configure (fun(options: table?): crucible.lora.Loss)?  the loss with other options, for { name, options }
---@field options table?    that it was made with
---@field domain boolean?   reads claims and relations
---@field comparisons { kind: string, temperature: number?, teacher: crucible.Session? }[]?
---@field divide boolean?   false: the loss is the sum, whatever the count
---@field fused boolean?    the engine has a pass of its own for it, where it stands alone
---@field terms { loss: crucible.lora.Loss, weight: number|fun(step: integer): number|nil, name: string? }[]?
---@field term_gradients boolean?  of a composite: report each term's gradient norm and cosine to the first term

---@alias crucible.lora.LossLike string|table

-- ---- what ships ----------------------------------------------------------------------------------

local builtins = { cross_entropy = cross_entropy() }
builtins.cross_entropy.configure = cross_entropy

-- Losses in Lua, loaded when they are first asked for: each module is its configure.
local shipped = {}
for _, name in ipairs {
  "kl_divergence", "mse", "unlikelihood", "focal", "entropy_bonus", "dpo", "orpo", "importance_sampling", "ppo", "grpo",
} do shipped[name] = "crucible.losses." .. name end

-- Losses of the domain are known once they are registered.
local registrations = {
  topological = "register_topological_loss", chirality = "register_chirality_loss",
  citation_validity = "register_citation_loss",
}

-- ---- checking --------------------------------------------------------------------------------------

local known_fields = {
  "name", "type", "count", "outputs", "compute", "request", "positions", "scope", "metric_only", "weight", "requires",
  "configure", "options", "domain", "terms", "term_gradients", "comparisons", "divide", "fused",
}
local is_known_field = {}
for _, field in ipairs(known_fields) do is_known_field[field] = true end

local function check_fields(what, loss)
  for key in pairs(loss) do
    if not is_known_field[key] and loss.type ~= "builtin" then
      errors.raise('%s: a loss has no field "%s"%s', what, tostring(key), suggest.phrase(tostring(key), known_fields))
    end
  end
end

local function check_requires(what, loss)
  if loss.requires == nil then return end
  local ok = schema.list(schema.nonempty_string).read(loss.requires)
  if not ok then errors.raise("%s: requires must be a list of names, got %s", what, schema.show(loss.requires)) end
end

local function check_weight(what, weight)
  if weight ~= nil and not schema.number().read(weight) then
    errors.raise("%s: weight must be a number, got %s", what, schema.show(weight))
  end
end

-- A loss given as a table with what it leaves out.
local function complete(what, given, name)
  local loss = {}
  for field, value in pairs(given) do loss[field] = value end
  loss.name = loss.name or name
  if loss.terms then return predictions.check(loss) end
  loss.type = loss.type or "custom"
  loss.count = loss.count or supervised_targets
  loss.outputs = loss.outputs or { "logprobs" }
  check_fields(what, loss)
  check_requires(what, loss)
  check_weight(what, loss.weight)
  return predictions.check(loss)
end

-- ---- weights over steps ----------------------------------------------------------------------------

local shapes = {
  linear = function(x) return x end,
  cosine = function(x) return (1 - math.cos(math.pi * x)) / 2 end,
}

local schedule_options = schema.new("a schedule of a weight", {
  { name = "from", default = 0, check = schema.number(), doc = "weight up to step `start`" },
  { name = "to", required = true, check = schema.number(), doc = "weight from step start + steps on" },
  { name = "steps", required = true, check = schema.integer { min = 1 }, doc = "steps between the two" },
  { name = "start", default = 1, check = schema.integer { min = 1 }, doc = "first step" },
  { name = "shape", default = "linear", check = schema.one_of { "linear", "cosine" }, doc = "of the way" },
})

-- The weight at a step (from 1).
local function schedule(given)
  local chosen = schedule_options:resolve(given)
  local shape = shapes[chosen.shape]
  return function(step)
    local x = math.min(1, math.max(0, (step - chosen.start) / chosen.steps))
    return chosen.from + (chosen.to - chosen.from) * shape(x)
  end
end

local function read_weight(what, weight)
  if schema.number().read(weight) or schema.callable.read(weight) then return weight end
  if type(weight) == "table" then return schedule(weight) end
  return errors.raise("%s must be a number, a function of the step or a schedule { from, to, steps }, got %s", what,
    schema.show(weight))
end

-- ---- what a loss requires ---------------------------------------------------------------------------

local function provides(datum, name)
  local found = require("crucible.domain.example").provides(datum, name)
  if found ~= nil then return found end
  return datum[name] ~= nil or datum.metadata ~= nil and datum.metadata[name] ~= nil
end

-- Numbers of the rows that lack what is required.
local function rows_without(datums, name)
  local rows = {}
  for i, datum in ipairs(datums) do
    if not provides(datum, name) then rows[#rows + 1] = datum.row or i end
  end
  return rows
end

-- Which rows lack it, in words.
local function lacking(rows, count)
  if #rows == count then return "no row has" end
  if #rows == 1 then return ("row %d lacks"):format(rows[1]) end
  return ("row %d and %d more lack"):format(rows[1], #rows - 1)
end

local function check_term(term, datums)
  local of_domain = term.loss.domain
  for _, name in ipairs(term.loss.requires or {}) do
    local rows = rows_without(datums, name)
    -- Of the domain's losses a row without structure counts 0; none at all is the wrong data set.
    if #rows > 0 and (#rows == #datums or not of_domain) then
      return errors.failure("data", 'loss "%s" requires %s, which %s%s', term.name, name, lacking(rows, #datums),
        of_domain and '; answers of claims, relations and citations are in "scifact_cns"' or "")
    end
  end
  return true
end

-- ---- registries -------------------------------------------------------------------------------------

-- Functions of a registry, whose first argument is its entries by name; bound in `new`.
local methods = {}

--- Registers a loss under a name of one's own. Raises when the name is taken.
---@param name string
---@param loss table  as lora/predictions.lua tells; name, count, outputs may be left out
function methods.register(entries, name, loss)
  if type(name) ~= "string" or name == "" then
    errors.raise("lora.loss_functions.register: a loss needs a name, got %s", schema.show(name))
  end
  if entries[name] or shipped[name] then
    errors.raise('lora.loss_functions.register: "%s" is registered already, expected another name', name)
  end
  if type(loss) ~= "table" then
    errors.raise('lora.loss_functions.register: "%s" must be a table with compute, got %s', name, schema.show(loss))
  end
  entries[name] = complete(('lora.loss_functions.register: "%s"'):format(name), loss, name)
end

local function load_shipped(entries, name)
  if shipped[name] and not entries[name] then
    local configure = require(shipped[name])
    local loss = configure()
    loss.configure = configure
    entries[name] = complete(name, loss, name)
  end
  return entries[name]
end

--- The loss of a name; nil, "not_found" for an unknown one.
---@param name string
---@return crucible.lora.Loss? loss, string? code
function methods.get(entries, name)
  local loss = load_shipped(entries, name)
  if not loss then return nil, "not_found" end
  return loss
end

--- Names of all losses, sorted.
---@return string[]
function methods.list(entries)
  local names = {}
  for name in pairs(entries) do names[#names + 1] = name end
  for name in pairs(shipped) do
    if not entries[name] then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

local function register_domain(entries, name, options)
  local configure = require("crucible.losses." .. name)
  local loss = configure(options)
  loss.configure = configure
  entries[name] = complete(name, loss, name)
end

--- Registers "topological" (weight 0.1): how far the graph of claims that the model believes in is from
--- the target's. Options: space, matching. Registering again replaces it.
---@param options { space: string?, matching: string? }?
function methods.register_topological_loss(entries, options) register_domain(entries, "topological", options) end

--- Registers "chirality" (weight 0.15): whether support and refutation get their due share, and cited
--- documents their likelihood. Options: space.
---@param options { space: string? }?
function methods.register_chirality_loss(entries, options) register_domain(entries, "chirality", options) end

--- Registers "citation_validity" (weight 0.2): the likelihood that citations stay in the evidence pool.
--- Options: space.
---@param options { space: string? }?
function methods.register_citation_loss(entries, options) register_domain(entries, "citation_validity", options) end

local function unknown(entries, name)
  if registrations[name] then
    errors.raise('loss "%s" is not registered: call lora.loss_functions.%s() first', name, registrations[name])
  end
  errors.raise('unknown loss "%s"%s', name, suggest.phrase(name, methods.list(entries)))
end

local function by_name(entries, name, options)
  local loss = methods.get(entries, name) or unknown(entries, name)
  if options == nil then return loss end
  if not loss.configure then errors.raise('loss "%s" takes no options', name) end
  local configured = loss.configure(options)
  configured.configure = loss.configure
  return complete(name, configured, name)
end

--- A loss given as a name, { name, options }, a table with compute or a composite. Raises on anything else.
---@param loss_fn crucible.lora.LossLike
---@return crucible.lora.Loss
function methods.resolve(entries, loss_fn)
  if type(loss_fn) == "string" then return by_name(entries, loss_fn) end
  if type(loss_fn) == "table" then
    if type(loss_fn[1]) == "string" then return by_name(entries, loss_fn[1], loss_fn[2] or {}) end
    if loss_fn.type == "builtin" or loss_fn.terms then return predictions.check(loss_fn) end
    if loss_fn.compute then return complete("a loss", loss_fn, "custom") end
  end
  return errors.raise("a loss is a name, { name, options }, a table with compute or a composite, got %s",
    schema.show(loss_fn))
end

local function check_lengths(losses, weights)
  if type(losses) ~= "table" or #losses == 0 then
    errors.raise("lora.loss_functions.composite: expected a list of losses, got %s", schema.show(losses))
  end
  if weights == nil then return end
  if type(weights) ~= "table" or #weights ~= #losses then
    errors.raise("lora.loss_functions.composite: %d losses and %s weights, expected one a loss", #losses,
      type(weights) == "table" and #weights or schema.show(weights))
  end
end

local composite_options = schema.new("lora.loss_functions.composite", {
  { name = "name", default = "composite", check = schema.nonempty_string, doc = "in messages" },
  { name = "term_gradients", default = false, check = schema.boolean,
    doc = "report each term's gradient norm on the lora and its cosine to the first term" },
})

--- A loss that is the weighted sum of others, which may be composites. A term may also be { loss = loss, name = name }
--- to be listed under another name. A weight is a number, a function of the step (from 1), or a schedule { from, to,
--- steps, start?, shape? = "linear"|"cosine" }; without weights each loss has the one it was registered with.
--- Its result has the terms' values by name: components, weighted, counts.
---@param losses crucible.lora.LossLike[]
---@param weights (number|function|table)[]?
---@param options { name: string?, term_gradients: boolean? }?
---@return crucible.lora.Loss
function methods.composite(entries, losses, weights, options)
  check_lengths(losses, weights)
  local chosen, terms = composite_options:resolve(options), {}
  for i, given in ipairs(losses) do
    local named = type(given) == "table" and given.loss ~= nil
    local loss = methods.resolve(entries, named and given.loss or given)
    local weight = loss.weight or 1
    if weights then weight = read_weight(("lora.loss_functions.composite: weight %d"):format(i), weights[i]) end
    terms[i] = { loss = loss, weight = weight, name = named and given.name or nil }
  end
  local made = { type = "composite", name = chosen.name, terms = terms, term_gradients = chosen.term_gradients }
  predictions.terms(made) -- two terms of one name raise here, not in step 1
  return made
end

---@class crucible.lora.loss_functions
---@field register fun(name: string, loss: table)
---@field get fun(name: string): crucible.lora.Loss?, string?
---@field list fun(): string[]
---@field resolve fun(loss_fn: crucible.lora.LossLike): crucible.lora.Loss
---@field composite fun(losses: crucible.lora.LossLike[], weights: table?, options: table?): crucible.lora.Loss
---@field register_topological_loss fun(options: table?)
---@field register_chirality_loss fun(options: table?)
---@field register_citation_loss fun(options: table?)
local function new_registry()
  local entries, registry = {}, {}
  for name, loss in pairs(builtins) do entries[name] = loss end
  for name, method in pairs(methods) do
    registry[name] = function(...) return method(entries, ...) end
    origin[registry[name]] = method
  end
  return registry
end

local loss_functions = new_registry()

--- A registry of its own, which knows what ships and nothing else: what a session is given as `loss_functions`.
---@return crucible.lora.loss_functions
function loss_functions.new() return new_registry() end

--- The units of a loss in some datums, by the name of the loss: what forward_backward takes as
--- `counts` once they are added up over an optimiser step.
---@param loss crucible.lora.Loss
---@param batch crucible.core.Datum[]
---@return table<string, integer>
function loss_functions.counts(loss, batch) return predictions.counts(loss, batch) end

--- Whether datums provide what each term of a loss requires. Fails with "data", naming the loss, the
--- entry and a row. Of the domain's losses some row must; others need it in every row.
---@param loss crucible.lora.Loss
---@param datums crucible.core.Datum[]
---@return true? ok, string? message, string? code
function loss_functions.check(loss, datums)
  for _, term in ipairs(predictions.terms(loss)) do
    local ok, message, code = check_term(term, datums)
    if not ok then return nil, message, code end
  end
  return true
end

--- Raises for a data set that has no claims and a loss that reads them.
---@param loss crucible.lora.Loss
---@param dataset any  what training_loop.run was given
function loss_functions.check_dataset(loss, dataset)
  if dataset ~= "scifact" then return end
  for _, term in ipairs(predictions.terms(loss)) do
    if term.loss.domain then
      errors.raise('loss "%s" reads claims, relations and citations, and the answers of "scifact" are bare labels: '
        .. 'use the data set "scifact_cns"', term.name)
    end
  end
end

--- Holds the gradient of a loss beside finite differences, through the whole model of a session: a report with
--- `passed`, `relative_error` and where they differ most; print it. Gradients added so far are dropped.
---@param loss_fn string|crucible.lora.Loss
---@param session crucible.Session
---@param batch crucible.core.Datum[]  small: the model runs some twenty times
---@param options table?  directions, step, entries, entry_step, tolerance, entry_tolerance, seed
---@return table report
function loss_functions.check_gradient(loss_fn, session, batch, options)
  if type(session) ~= "table" or not session.check_gradient then
    errors.raise("check_gradient: expected a session of an engine that gives gradients, got %s", schema.show(session))
  end
  return session:check_gradient(loss_fn, batch, options)
end

return loss_functions
