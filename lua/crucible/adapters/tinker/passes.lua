-- Passes over a batch, with and without gradients.
--
-- Cross-entropy is linear in log-probabilities, so its weights are known from the data and one pass does. Any other
-- loss on `logprobs` takes two: a forward pass, what the loss makes of it here, and a cross-entropy whose weights are
-- minus the loss' slopes: where the server's cross-entropy is a sum, its gradient is then the loss'. Losses run in the
-- same Lua that they run in on the local engine (adapters/local/losses.lua), over the facade below.
local array = require("crucible.tensor.graph").array
local errors = require "crucible.errors"
local future = require "crucible.adapters.tinker.future"
local loss_functions = require "crucible.lora.loss_functions"
local losses = require "crucible.adapters.local.losses"
local predictions = require "crucible.lora.predictions"
local reduction = require "crucible.adapters.tinker.reduction"
local rows = require "crucible.adapters.tinker.rows"
local sampling = require "crucible.adapters.tinker.sampling"
local supervised_targets = require "crucible.losses.supervised"
local wire = require "crucible.adapters.tinker.wire"

local passes = {}

-- ---- operations ------------------------------------------------------------------------------

local function pass_operation(session, list, forward_only)
  local client, pass = session.client, { rows = list }
  wire.prepare(pass, client.dialect)
  return {
    rows = list, kind = forward_only and "forward" or "forward_backward", alters = not forward_only, expects = "pass",
    body = function(model_id, seq_id) return wire.pass(pass, model_id, seq_id, forward_only, client.dialect) end,
    read = function(value) return wire.read_pass(value, list) end,
    sent = function() pass.text = nil end,
  }
end

-- Adds passes over rows to the model's order: the operations.
local function add_passes(session, requests, forward_only)
  local operations = {}
  for _, list in ipairs(requests) do
    for _, chunk in ipairs(wire.chunks(list, session.options.chunk_rows, session.options.chunk_bytes)) do
      local op = pass_operation(session, chunk, forward_only)
      session.lane:add(op)
      operations[#operations + 1] = op
    end
  end
  return operations
end

local function futures_of(operations)
  local list = {}
  for i, op in ipairs(operations) do list[i] = op.future end
  return list
end

--- A forward pass over rows: the future of their log-probabilities.
---@param session table
---@param list crucible.tinker.Row[]
---@return crucible.tinker.Future
function passes.forward(session, list)
  return future.all(futures_of(add_passes(session, { list }, true)), function(results)
    return wire.join(results).logprobs
  end)
end

-- The chunk sizes count what token_mean's floor lets through: a request that is cut stays at most as large.
local function add_gradients(session, list)
  session:prepare_base()
  local requests = reduction.requests(session.profile.reduction, list, session.step_state)
  local operations = add_passes(session, requests, false)
  table.move(operations, 1, #operations, #session.step_operations + 1, session.step_operations)
  return operations
end

-- ---- cross-entropy -----------------------------------------------------------------------------

--- Whether a loss' gradient is a weighted cross-entropy whose weights the data alone tell.
---@param loss table
---@return boolean
function passes.is_linear(loss)
  return loss.type == "builtin" and loss.name == "cross_entropy" and #loss.outputs == 1
end

-- What a row's sum is divided by before rows are added.
local function row_divisor(loss, datum)
  return loss.options.reduction == "sequence_mean" and math.max(1, supervised_targets(datum)) or 1
end

local function divisor_of(loss, counts, given)
  local share = losses.divisor(loss.name, given or counts)
  return loss.divide == false and 1 or share
end

local function coefficients(loss, batch, divisor)
  local list = {}
  for i, datum in ipairs(batch) do
    local weight, by, own = rows.weight_of(datum), row_divisor(loss, datum) * divisor, {}
    for t = 1, predictions.length(datum) do own[t] = weight(t) / by end
    list[i] = own
  end
  return list
end

-- Log-probabilities by datum, out of the rows that were sent; a row that went in parts comes more than once.
local function by_datum(operations, results)
  local found = {}
  for o, op in ipairs(operations) do
    for r, row in ipairs(op.rows) do found[row.index] = results[o].logprobs[r] end
  end
  return found
end

local function masked(batch, logprobs)
  local lists = {}
  for i, datum in ipairs(batch) do
    local weight, own = rows.weight_of(datum), {}
    for t = 1, predictions.length(datum) do
      own[t] = weight(t) ~= 0 and logprobs[i] and logprobs[i][t] or 0 / 0
    end
    lists[i] = own
  end
  return lists
end
passes.masked = masked

local function sum_of(loss, batch, logprobs)
  local sum, supervised, tokens = 0, 0, 0
  for i, datum in ipairs(batch) do
    local weight, row = rows.weight_of(datum), 0
    local length = predictions.length(datum)
    for t = 1, length do
      local w = weight(t)
      if w ~= 0 then row, supervised = row - w * logprobs[i][t], supervised + 1 end
    end
    sum, tokens = sum + row / row_divisor(loss, datum), tokens + length
  end
  return sum, supervised, tokens
end

local function linear_result(loss, batch, counts, divisor, logprobs, wanted)
  local sum, supervised, tokens = sum_of(loss, batch, logprobs)
  local value, name = sum / divisor, loss.name
  return {
    loss = value, sum = sum, components = { [name] = value }, weighted = { [name] = value }, sums = { [name] = sum },
    tallies = {}, counts = counts, supervised = supervised, tokens = tokens,
    logprobs = wanted and masked(batch, logprobs) or nil,
  }
end

local function linear_pass(session, batch, loss, given, ids)
  local counts = loss_functions.counts(loss, batch)
  local divisor = divisor_of(loss, counts, given.counts)
  local list = rows.with(ids, coefficients(loss, batch, divisor))
  local operations = add_gradients(session, list)
  return future.all(futures_of(operations), function(results)
    return linear_result(loss, batch, counts, divisor, by_datum(operations, results), given.logprobs)
  end)
end

-- ---- other losses ------------------------------------------------------------------------------

--- What adapters/local/losses.lua asks of an engine, for a session on a server.
---@class crucible.tinker.Facade
local Facade = {}
Facade.__index = Facade

---@param session table
---@return crucible.tinker.Facade
function passes.facade(session) return setmetatable({ session = session, under_way = {} }, Facade) end

function Facade:step() return self.session.steps end

local function made(...)
  if (...) == nil then errors.raise("%s", (select(2, ...))) end
  return ...
end

-- Adds one output of all datums to the values, 0 where nothing is asked for; notes in answers where each datum's
-- begin. Returns whether those asked for are finite.
local function lay_out(batch, output, logprobs, every_position, values, answers)
  local finite = true
  for i, datum in ipairs(batch) do
    local weight, length = rows.weight_of(datum), predictions.length(datum)
    answers[i] = answers[i] or { length = length }
    answers[i][output] = #values + 1
    for t = 1, length do
      local value = logprobs[i][t]
      local asked = every_position or weight(t) ~= 0
      if asked and (value ~= value or value == math.huge or value == -math.huge) then finite = false end
      values[#values + 1] = asked and value or 0
    end
  end
  return finite
end

local function count_positions(batch)
  local supervised, tokens = 0, 0
  for _, datum in ipairs(batch) do
    supervised, tokens = supervised + supervised_targets(datum), tokens + predictions.length(datum)
  end
  return supervised, tokens
end

local sources = {
  logprobs = function(session, ids, batch, everywhere)
    return passes.forward(session, rows.plain(ids, batch, everywhere))
  end,
  base_logprobs = function(session, ids) return sampling.base_logprobs(session, ids) end,
}

function Facade:predict(batch, request)
  local session = self.session
  local ids, message, code = rows.read("session:forward_backward", session, batch)
  if not ids then return nil, message, code end
  local pending, everywhere = {}, request.every_position
  for o, output in ipairs(request.outputs) do pending[o] = sources[output](session, ids, batch, everywhere) end
  local values, answers, finite = {}, {}, true
  for o, output in ipairs(request.outputs) do
    local found
    found, message, code = pending[o]:wait()
    if not found then return nil, message, code end
    finite = lay_out(batch, output, found, everywhere, values, answers) and finite
  end
  self.ids, self.answers = ids, answers
  self.arrays = { values = made(array.new(values, "f64")), slopes = made(array.full({ #values }, 0, "f64")) }
  local supervised, tokens = count_positions(batch)
  return { answers = answers, width = 0, finite = finite, supervised = supervised, tokens = tokens }
end

function Facade:prediction_tensor(which) return self.arrays[which] end

-- weights = −slopes
function Facade:backward()
  local slopes, weights = made(array.totable(self.arrays.slopes)), {}
  for i, answer in ipairs(self.answers) do
    local own = {}
    for t = 1, answer.length do own[t] = -slopes[answer.logprobs + t - 1] end
    weights[i] = own
  end
  local operations = add_gradients(self.session, rows.with(self.ids, weights))
  table.move(operations, 1, #operations, #self.under_way + 1, self.under_way)
  return true
end

function Facade:end_prediction() self.arrays, self.ids, self.answers = nil, nil, nil end

function Facade:zero_gradients() self.session:zero_gradients() end

function Facade:pass_over() end -- luacheck: ignore self

function Facade:share_gradients() -- luacheck: ignore self
  return errors.failure("unsupported",
    'term_gradients: the server gives no gradients; they can be had with adapter = "local"')
end

local function custom_pass(session, batch, loss, given)
  local facade = session.core
  facade.under_way = {}
  local result, message, code = losses.forward_backward(session, batch, loss, given)
  if not result then return nil, message, code end
  local operations = facade.under_way
  return future.all(futures_of(operations), function() return result end)
end

-- ---- the door ----------------------------------------------------------------------------------

local instead = {
  candidates = "session:score, or this loss", mean_logprobs = "the loss without label smoothing, or this one",
}
local given_by_servers = { logprobs = true, base_logprobs = true }

--- Raises, naming the loss and what it asks for, unless its gradient can be had on the session's server.
---@param session table
---@param loss table
---@param caller string
function passes.check(session, loss, caller)
  for _, term in ipairs(predictions.terms(loss)) do
    for _, output in ipairs(term.loss.outputs) do
      if not given_by_servers[output] then
        errors.raise('%s: loss "%s" reads %s, which servers of the Tinker API do not give; take %s with '
          .. 'adapter = "local"', caller, term.name, output, instead[output] or "it")
      end
    end
  end
  if loss.term_gradients then
    errors.raise('%s: loss "%s" asks for term_gradients, which servers do not give; take it with adapter = "local"',
      caller, loss.name)
  end
  if not passes.is_linear(loss) and not reduction.takes_slopes(session.profile.reduction) then
    errors.raise('%s: loss "%s" cannot be had on %s (%s): %s', caller, loss.name, session.client.url,
      session.profile.name, reduction.reason_negative)
  end
end

--- Adds a loss' gradients on the server: the future of what the loss is.
---@param session table
---@param batch crucible.core.Datum[]
---@param loss table
---@param given { counts: table<string, number>?, logprobs: boolean?, term_gradients: boolean? }
---@return crucible.tinker.Future? future, string? message, string? code
function passes.forward_backward(session, batch, loss, given)
  passes.check(session, loss, "session:forward_backward")
  local ids, message, code = rows.read("session:forward_backward", session, batch)
  if not ids then return nil, message, code end
  if passes.is_linear(loss) then return linear_pass(session, batch, loss, given, ids) end
  if given.logprobs then
    errors.raise("session:forward_backward: logprobs come with cross_entropy alone; others return them as a component")
  end
  return custom_pass(session, batch, loss, given)
end

--- Outputs of a forward pass as a loss would see them, as constants.
---@param session table
---@param batch crucible.core.Datum[]
---@param given { outputs: string[], request: function?, positions: string?, comparisons: table? }
---@return table? predictions, string? message, string? code
function passes.outputs(session, batch, given)
  for _, output in ipairs(given.outputs) do
    if not given_by_servers[output] then
      errors.raise('session:forward: servers of the Tinker API do not give %s; it can be had with adapter = "local"',
        output)
    end
  end
  return losses.forward(session, batch, given)
end

return passes
