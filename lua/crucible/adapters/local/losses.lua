-- Losses over the local engine: a forward pass, what each loss makes of it, and one backward pass from
-- the slopes of all of them.
local array = require("crucible.tensor.graph").array
local errors = require "crucible.errors"
local predictions = require "crucible.lora.predictions"
local schema = require "crucible.schema"
local tensor = require "crucible.tensor"

local losses = {}

--- Steps in a row with slopes of 0 that a term is allowed.
losses.patience_zero = 3

local function made(...)
  if (...) == nil then errors.raise("%s", (select(2, ...))) end
  return ...
end

-- ---- pieces --------------------------------------------------------------------------------

-- Indices of datums that must stay together, in the order of the first of each.
local function units_of(batch)
  local units, by_group = {}, {}
  for i, datum in ipairs(batch) do
    local group = datum.metadata and datum.metadata.group
    local unit = group ~= nil and by_group[group]
    if not unit then
      unit = { tokens = 0 }
      units[#units + 1] = unit
      if group ~= nil then by_group[group] = unit end
    end
    unit[#unit + 1] = i
    unit.tokens = unit.tokens + predictions.length(datum)
  end
  return units
end

local function datums_at(batch, piece)
  local datums = {}
  for k, i in ipairs(piece) do datums[k] = batch[i] end
  return datums
end

--- Cuts a batch as the engine would, about `tokens` positions each, never within a group: lists of
--- indices.
---@param batch crucible.core.Datum[]
---@param tokens integer
---@return integer[][]
function losses.pieces(batch, tokens)
  local pieces, current, filled = {}, nil, 0
  for _, unit in ipairs(units_of(batch)) do
    if not current or filled + unit.tokens > tokens then
      current, filled = {}, 0
      pieces[#pieces + 1] = current
    end
    table.move(unit, 1, #unit, #current + 1, current)
    filled = filled + unit.tokens
  end
  for _, piece in ipairs(pieces) do table.sort(piece) end
  return pieces
end

-- ---- what a loss returned ------------------------------------------------------------------

local function fault(run, term, format, ...)
  errors.raise('loss "%s" at step %d: %s', term.name, run.step, select("#", ...) > 0 and format:format(...) or format)
end

local function is_finite(value) return value == value and value ~= math.huge and value ~= -math.huge end

local function size_of(x) return (select(3, made(array.info(x.array)))) end

-- A number, or the value of a tensor of one value; nil for anything else.
local function number_of(value)
  if type(value) == "number" then return value end
  if tensor.is(value) and size_of(value) == 1 then return value:item() end
  return nil
end

local function call(run, term, source, asked)
  local view = predictions.view(source, term, asked)
  local ok, found = xpcall(term.loss.compute, errors.traceback, view, predictions.targets(source.datums))
  if not ok then fault(run, term, "compute raised: %s", tostring(found)) end
  if type(found) ~= "table" or tensor.is(found) then
    fault(run, term, "compute must return { loss = … }, it returned %s",
      tensor.is(found) and "a tensor" or schema.show(found))
  end
  return found
end

local function value_of(run, term, found)
  local value = number_of(found.loss)
  if not value then
    local shown = tensor.is(found.loss) and "a tensor of shape " .. found.loss:shape_text() or schema.show(found.loss)
    fault(run, term, "its loss must be a single value, got %s", shown)
  end
  if not is_finite(value) then fault(run, term, "its loss is %s", tostring(value)) end
  return value
end

-- ---- slopes --------------------------------------------------------------------------------

local function norm_of(values)
  local norm = made(array.reduce.norm1(values))
  local value = made(array.item(norm))
  array.close(norm)
  return value
end

-- slopes[first ..] += factor · gradient, an array of `count` values. Returns whether it is other than 0.
local function add_slope(run, term, leaf, gradient, factor)
  local norm = norm_of(gradient)
  if not is_finite(norm) then
    fault(run, term, "its slope with respect to %s of datum %d is not finite", leaf.output, leaf.datum)
  end
  if norm == 0 or factor == 0 then return norm ~= 0 end
  local place = made(array.slice(run.slopes, 1, leaf.first, leaf.first + leaf.count - 1, 1))
  local flat = made(array.reshape(gradient, { leaf.count }))
  made(array.add(place, flat, factor))
  array.close(place)
  array.close(flat)
  return true
end

-- Slopes of leaves by the reverse walk from a scalar. Returns whether a leaf was reached, whether any is not 0.
local function walk_back(run, term, scalar, source, factor)
  local ok, why = pcall(scalar.backward, scalar)
  if not ok then fault(run, term, "the walk back from its loss raised: %s", tostring(why)) end
  local reached, pulls = false, false
  for _, leaf in ipairs(source.leaves) do
    local gradient = leaf.tensor.grad
    if gradient then
      reached = true
      if add_slope(run, term, leaf, gradient.array, factor) then pulls = true end
      leaf.tensor:zero_grad()
    end
  end
  return reached, pulls
end

local slope_outputs = { logprobs = true, entropy = true, mean_logprobs = true }

local function add_given(run, term, given, what, leaf, factor)
  if given == nil then return false end
  local slope = tensor.is(given) and given or type(given) == "table" and tensor.new(given)
  if not slope or size_of(slope) ~= leaf.count then
    fault(run, term, "slopes.%s must have %d values, got %s", what, leaf.count,
      slope and slope:shape_text() or schema.show(given))
  end
  local values = made(array.copy(slope.array, "f64"))
  local pulls = add_slope(run, term, leaf, values, factor)
  array.close(values)
  return pulls
end

local function add_given_candidates(run, term, given, source, asked, i, factor)
  local pulls = false
  for _, group in ipairs(asked[i].groups) do
    local leaf = { output = "candidates", datum = i, first = source.answers[i].candidates + group.first,
      count = group.count }
    local what = ("candidates[%d].%s"):format(i, tostring(group.name))
    if add_given(run, term, given[group.name], what, leaf, factor) then pulls = true end
  end
  return pulls
end

-- Slopes that compute returned itself.
local function take_given(run, term, slopes, source, asked, factor)
  local pulls = false
  for output, lists in pairs(slopes) do
    for i, given in pairs(lists) do
      local answer = source.answers[i]
      if not answer then fault(run, term, "slopes.%s[%s]: there is no such datum", output, tostring(i)) end
      local added
      if output == "candidates" then
        added = add_given_candidates(run, term, given, source, asked, i, factor)
      elseif output == "hidden" then
        local leaf = { output = output, datum = i, first = answer.hidden + asked[i].first_span * source.width,
          count = asked[i].spans * source.width }
        added = add_given(run, term, given, ("hidden[%d]"):format(i), leaf, factor)
      elseif slope_outputs[output] then
        local leaf = { output = output, datum = i, first = answer[output], count = answer.length }
        added = add_given(run, term, given, ("%s[%d]"):format(output, i), leaf, factor)
      else
        fault(run, term, "slopes.%s: there are slopes of logprobs, entropy, mean_logprobs, candidates and hidden",
          tostring(output))
      end
      pulls = pulls or added
    end
  end
  return pulls
end

-- Slopes of one term, times factor, into run.slopes. Returns whether any is not 0.
local function pull(run, term, found, value, source, asked, factor)
  if found.slopes then return take_given(run, term, found.slopes, source, asked, factor) end
  local tracked = tensor.is(found.loss) and found.loss.requires_grad
  local reached, pulls = false, false
  if tracked then reached, pulls = walk_back(run, term, found.loss, source, factor) end
  if not reached and value ~= 0 and not term.loss.metric_only then
    fault(run, term, "its loss of %g has no path to its predictions: compute it from them with tensor operations "
      .. "(item() and detach() cut the path), return slopes, or set metric_only", value)
  end
  return pulls
end

-- ---- totals --------------------------------------------------------------------------------

local reserved = { loss = true, slopes = true }

-- Fields that a loss reports: means over units, or sums with counts of their own.
local function report(run, term, found, units)
  local total = run.totals[term.name]
  for field, value in pairs(found) do
    if not reserved[field] then
      local number = number_of(value)
      if number then
        total.fields[field] = (total.fields[field] or 0) + number * units
      elseif type(value) == "table" and number_of(value.sum) and number_of(value.count) then
        local tally = total.tallies[field] or { sum = 0, count = 0 }
        tally.sum, tally.count = tally.sum + number_of(value.sum), tally.count + number_of(value.count)
        total.tallies[field] = tally
      else
        fault(run, term, "its field %s must be a number or { sum = …, count = … }, got %s", tostring(field),
          schema.show(value))
      end
    end
  end
end

local function units_in(term, datums)
  local units = 0
  for _, datum in ipairs(datums) do units = units + term.loss.count(datum) end
  return units
end

-- ---- a piece -------------------------------------------------------------------------------

local function active_terms(run, datums)
  local active = {}
  for number, term in ipairs(run.terms) do
    local units = units_in(term, datums)
    if units > 0 then active[#active + 1] = { term = term, units = units, number = number } end
  end
  return active
end

local function count_piece(run, found)
  run.supervised, run.tokens = run.supervised + found.supervised, run.tokens + found.tokens
end

-- Positions and supervised targets of datums that no term looks at.
local function idle_piece(datums)
  local found = { supervised = 0, tokens = 0 }
  for _, datum in ipairs(datums) do
    local length = predictions.length(datum)
    found.tokens = found.tokens + length
    for t = 1, length do
      if not datum.weights or datum.weights[t] ~= 0 then found.supervised = found.supervised + 1 end
    end
  end
  return found
end

local function source_of(run, found, datums)
  run.slopes = made(run.core:prediction_tensor("slopes"))
  return {
    values = made(run.core:prediction_tensor("values")), answers = found.answers, width = found.width,
    datums = datums, every_position = found.every_position, leaves = {},
  }
end

local function run_term(run, active, source, asked)
  local term, total = active.term, run.totals[active.term.name]
  local found = call(run, term, source, asked)
  local value = value_of(run, term, found)
  if run.value_only then
    total.sum = total.sum + value
    return true
  end
  local pulls = pull(run, term, found, value, source, asked, term.weight / run.divisors[term.name])
  total.sum = total.sum + value
  total.pulls = total.pulls or pulls
  report(run, term, found, active.units)
  if not run.apart then return true end
  local ok, message, code = run.core:backward(active.number)
  made(array.fill(run.slopes, 0))
  return ok, message, code
end

-- A model whose numbers are no numbers: that is no fault of a loss; the step will be skipped.
local function give_up(run, active)
  for _, one in ipairs(active) do run.totals[one.term.name].sum = 0 / 0 end
  return true
end

-- The forward pass for the terms that have an interest in these datums: what it gave, and what each asked.
local function predict(run, datums, active)
  local terms = {}
  for k, one in ipairs(active) do terms[k] = one.term end
  local request, asked = predictions.request(terms, datums, run.session.tokenizer)
  request.train = true
  local found, message, code = run.core:predict(datums, request)
  if not found then return nil, message, code end
  count_piece(run, found)
  found.every_position = request.every_position
  return found, asked
end

local function run_piece(run, datums)
  local active = active_terms(run, datums)
  if #active == 0 then
    run.core:pass_over(#datums)
    count_piece(run, idle_piece(datums))
    return true
  end
  local found, asked, code = predict(run, datums, active)
  if not found then return nil, asked, code end
  if not found.finite then return give_up(run, active) end
  local source = source_of(run, found, datums)
  for _, one in ipairs(active) do
    local ok, message
    ok, message, code = run_term(run, one, source, asked[one.term])
    if not ok then return nil, message, code end
  end
  if run.apart or run.value_only then return true end
  return run.core:backward()
end

-- ---- a call --------------------------------------------------------------------------------

local function divisor(name, counts)
  local count = counts[name]
  if type(count) ~= "number" or count ~= count or count < 0 then
    errors.raise("session:forward_backward: counts.%s must be a number of at least 0, got %s", name,
      schema.show(count))
  end
  return math.max(1, count)
end
losses.divisor = divisor

local function new_run(session, batch, loss, counts, apart)
  local run = {
    apart = apart, session = session, core = session.core, step = session.core:step() + 1, divisors = {}, shares = {},
    totals = {},
    supervised = 0, tokens = 0, counts = predictions.counts(loss, batch),
  }
  run.terms = predictions.terms(loss, run.step)
  for _, term in ipairs(run.terms) do
    predictions.check(term.loss)
    run.shares[term.name] = divisor(term.name, counts or run.counts)
    run.divisors[term.name] = term.loss.divide == false and 1 or run.shares[term.name]
    run.totals[term.name] = { sum = 0, pulls = false, fields = {}, tallies = {} }
    run.whole = run.whole or term.loss.scope == "batch"
  end
  return run
end

-- Norm of each term's gradient in this step so far, and its cosine to the first term's.
local function gradients_of(run)
  local by_term = {}
  for number, term in ipairs(run.terms) do
    local norm, cosine = run.core:share(number)
    by_term[term.name] = { norm = norm, cosine = cosine }
  end
  return by_term
end

local function result_of(run)
  local result = {
    loss = 0, components = {}, weighted = {}, sums = {}, tallies = {}, counts = run.counts,
    supervised = run.supervised, tokens = run.tokens,
  }
  for _, term in ipairs(run.terms) do
    local total, by, share = run.totals[term.name], run.divisors[term.name], run.shares[term.name]
    local value = total.sum / by
    result.loss = result.loss + term.weight * value
    result.components[term.name], result.weighted[term.name] = value, term.weight * value
    result.sums[term.name] = total.sum
    for field, sum in pairs(total.fields) do result.components[term.name .. "." .. field] = sum / share end
    for field, tally in pairs(total.tallies) do
      local name = term.name .. "." .. field
      result.tallies[name] = tally
      if tally.count > 0 then result.components[name] = tally.sum / tally.count end
    end
  end
  if #run.terms == 1 then result.sum = run.totals[run.terms[1].name].sum end
  if run.apart then result.gradients = gradients_of(run) end
  return result
end

-- Remembers for the zero-gradient rule what the step has seen of each term.
local function note_pulls(run)
  local seen = run.session.terms_seen
  for _, term in ipairs(run.terms) do
    local total = run.totals[term.name]
    local note = seen[term.name] or { runs = 0 }
    note.metric_only = term.loss.metric_only
    note.positive = note.positive or (run.counts[term.name] > 0 and total.sum > 0)
    note.pulls = note.pulls or total.pulls or total.sum ~= total.sum
    seen[term.name] = note
  end
end

local function run_all(run, batch)
  if run.apart then
    local ok, message, code = run.core:share_gradients(#run.terms)
    if not ok then return nil, message, code end
  end
  local tokens = run.whole and math.maxinteger or run.session.micro_batch_tokens
  for _, piece in ipairs(losses.pieces(batch, tokens)) do
    local ok, message, code = run_piece(run, datums_at(batch, piece))
    if not ok then return nil, message, code end
  end
  return true
end

--- A loss written in Lua, or a composite, and its gradients. Raises on a fault of the loss; the gradients
--- are then zero, as after a failure of the engine.
---@param session crucible.Session
---@param batch crucible.core.Datum[]
---@param loss table
---@param given { counts: table<string, number>?, term_gradients: boolean }
---@return crucible.lora.LossResult? result, string? message, string? code
function losses.forward_backward(session, batch, loss, given)
  local run = new_run(session, batch, loss, given.counts, given.term_gradients)
  local ok, done, message, code = pcall(run_all, run, batch)
  session.core:end_prediction()
  if not ok or not done then session.core:zero_gradients() end
  if not ok then error(done, 0) end
  if not done then return nil, message, code end
  note_pulls(run)
  return result_of(run)
end

--- At the end of a step: raises for a term whose loss was above 0 and whose slopes were all 0 in
--- three steps running.
---@param session crucible.Session
function losses.end_step(session)
  local step = session.core:step() + 1
  for name, note in pairs(session.terms_seen) do
    local idle = note.positive and not note.pulls and not note.metric_only
    note.runs = idle and note.runs + 1 or 0
    note.positive, note.pulls = nil, nil
    if note.runs >= losses.patience_zero then
      note.runs = 0
      session.core:zero_gradients()
      errors.raise('loss "%s" at step %d: its slopes have all been 0 for %d steps running while its loss is above 0: '
        .. "nothing is learnt from it; set metric_only if it is there to be looked at", name, step,
        losses.patience_zero)
    end
  end
end

--- Forgets what the step has seen: its gradients were dropped.
---@param session crucible.Session
function losses.drop_step(session)
  for _, note in pairs(session.terms_seen) do note.positive, note.pulls = nil, nil end
end

-- ---- for check_gradient ----------------------------------------------------------------------

--- The value that forward_backward would return as `loss`, with the same masks and no backward.
---@param session crucible.Session
---@param batch crucible.core.Datum[]
---@param loss table
---@return number
function losses.value(session, batch, loss)
  local run = new_run(session, batch, loss)
  run.value_only = true
  local ok, done, message = pcall(run_all, run, batch)
  session.core:end_prediction()
  if not ok then error(done, 0) end
  if not done then errors.raise("check_gradient: %s", message) end
  return result_of(run).loss
end

-- The loss as a function of all values of a prediction.
local function value_function(run, active, asked, source)
  return function(values)
    local constants = {
      values = made(array.new(values, "f64")), answers = source.answers, width = source.width, datums = source.datums,
      every_position = source.every_position,
    }
    local total = 0
    for _, one in ipairs(active) do
      local found = call(run, one.term, constants, asked[one.term])
      total = total + one.term.weight / run.divisors[one.term.name] * value_of(run, one.term, found)
    end
    return total
  end
end

-- Names of the values that have slopes, by index.
local function names_of(active, answers, asked, width)
  local names = {}
  local function add(output, datum, first, count)
    for k = 0, count - 1 do names[first + k] = ("%s of datum %d, value %d"):format(output, datum, k + 1) end
  end
  for _, one in ipairs(active) do
    for _, output in ipairs(one.term.loss.outputs) do
      for i, answer in ipairs(answers) do
        local own = asked[one.term][i]
        if slope_outputs[output] then add(output, i, answer[output], answer.length) end
        for k = 1, output == "comparisons" and #one.term.loss.comparisons or 0 do
          local first = answer.comparisons + (asked[one.term].first_comparison + k - 1) * answer.length
          add(output, i, first, answer.length)
        end
        if output == "hidden" then add(output, i, answer.hidden + own.first_span * width, own.spans * width) end
        for _, group in ipairs(output == "candidates" and own.groups or {}) do
          add(output, i, answer.candidates + group.first, group.count)
        end
      end
    end
  end
  return names
end

local function slopes_of(run, batch)
  local active = active_terms(run, batch)
  if #active == 0 then
    errors.raise("check_gradient: the batch has no units of the loss: expected a datum that it counts")
  end
  local found, asked = predict(run, batch, active)
  if not found then errors.raise("check_gradient: %s", asked) end
  local source = source_of(run, found, batch)
  for _, one in ipairs(active) do
    local term = one.term
    local computed = call(run, term, source, asked[term])
    local value = value_of(run, term, computed)
    pull(run, term, computed, value, source, asked[term], term.weight / run.divisors[term.name])
  end
  return {
    values = made(array.totable(source.values)), slopes = made(array.totable(run.slopes)),
    names = names_of(active, found.answers, asked, found.width), value = value_function(run, active, asked, source),
  }
end

--- Values of a prediction for the whole batch, the loss' slopes with respect to them, the loss as a function of
--- such values, and names[index] of those that have slopes.
---@param session crucible.Session
---@param batch crucible.core.Datum[]
---@param loss table
---@return { values: number[], slopes: number[], value: fun(values: number[]): number, names: table<integer, string> }
function losses.slopes(session, batch, loss)
  local run = new_run(session, batch, loss)
  local ok, found = pcall(slopes_of, run, batch)
  session:zero_gradients()
  session.core:end_prediction()
  if not ok then error(found, 0) end
  return found
end

-- ---- forward alone -------------------------------------------------------------------------

local function forward_piece(session, datums, term)
  local request, asked = predictions.request({ term }, datums, session.tokenizer)
  local found, message, code = session.core:predict(datums, request)
  if not found then return nil, message, code end
  local values = made(array.copy(made(session.core:prediction_tensor("values")), "f64"))
  session.core:end_prediction()
  return predictions.view({
    values = values, answers = found.answers, width = found.width, datums = datums,
    every_position = request.every_position,
  }, term, asked[term])
end

local function place(lists, c)
  lists[c] = lists[c] or {}
  return lists[c]
end

--- Outputs without a gradient, dropout off: what a loss with these outputs would see, as constants that
--- stay.
---@param session crucible.Session
---@param batch crucible.core.Datum[]
---@param asked { outputs: string[], request: function?, positions: string? }
---@return table<string, table>? predictions, string? message, string? code
function losses.forward(session, batch, asked)
  local term = { name = "session:forward", weight = 1, loss = {
    name = "session:forward", outputs = asked.outputs, request = asked.request, positions = asked.positions,
    comparisons = asked.comparisons,
  } }
  local result = { count = #batch }
  for _, output in ipairs(asked.outputs) do result[output] = {} end
  for _, piece in ipairs(losses.pieces(batch, session.micro_batch_tokens)) do
    local view, message, code = forward_piece(session, datums_at(batch, piece), term)
    if not view then return nil, message, code end
    for _, output in ipairs(asked.outputs) do
      local seen = view[output]
      for k, i in ipairs(piece) do
        if output == "comparisons" then
          for c, list in ipairs(seen) do place(result.comparisons, c)[i] = list[k] end
        else
          result[output][i] = seen[k]
        end
      end
    end
  end
  return result
end

return losses
