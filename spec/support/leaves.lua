-- What a loss sees, made by hand: leaves of the shapes that lora/predictions.lua tells, so that losses are tried
-- without a model; and finite differences over them.
local lists = require "spec.support.lists"
local predictions = require "crucible.lora.predictions"
local tensor = require "crucible.tensor"

local leaves = {}

local Candidates = {}
function Candidates.__index(self, key) return rawget(self, "parts")[key] end
function Candidates.__len(self) return #self.positions end

local function candidates_of(group, values)
  local parts, first = {}, 1
  for p, ids in ipairs(group.ids) do
    parts[p] = values:slice(1, first, first + #ids - 1)
    first = first + #ids
  end
  return setmetatable({ values = values, positions = group.positions, ids = group.ids, parts = parts }, Candidates)
end

local function count_ids(group)
  local count = 0
  for _, ids in ipairs(group.ids) do count = count + #ids end
  return count
end

local WIDTH = 5 -- of hidden states

local function leaf(seen, values, shape)
  local made = tensor.new(values)
  if shape then made = made:reshape(shape):clone() end
  made.requires_grad = true
  seen.leaves[#seen.leaves + 1] = made
  return made
end

-- Log-probabilities of about -0.1 to -3.
local function draw(seed, count)
  return lists.map(lists.uniform(seed, count, 1.25), function(x) return x - 1.5 end)
end

local makers = {}

function makers.logprobs(seen, _, datum, i, values)
  return leaf(seen, values.logprobs and values.logprobs[i] or draw(31 * i + 1, predictions.length(datum)))
end

function makers.entropy(seen, _, datum, i, values)
  return leaf(seen, values.entropy and values.entropy[i]
    or lists.map(draw(31 * i + 2, predictions.length(datum)), math.abs))
end

-- A constant: by default what any token may have at most.
function makers.likeliest(_, _, datum, i, values)
  return tensor.new(values.likeliest and values.likeliest[i] or lists.fill(predictions.length(datum), -0.01))
end

function makers.base_logprobs(_, _, datum, i, values)
  return tensor.new(values.base_logprobs and values.base_logprobs[i] or draw(31 * i + 3, predictions.length(datum)))
end

function makers.candidates(seen, loss, datum, i, values)
  local groups, number = {}, 0
  local request = loss.request(datum).candidates
  local names = {}
  for name in pairs(request) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local group = request[name]
    number = number + 1
    local list = {}
    if values.candidate then
      for p, ids in ipairs(group.ids) do
        for _, id in ipairs(ids) do list[#list + 1] = values.candidate(i, group.positions[p], id) end
      end
    else
      list = draw(31 * i + 7 * number, count_ids(group))
    end
    local made = #list > 0 and leaf(seen, list) or tensor.zeros(0)
    groups[name] = candidates_of(group, made)
  end
  return groups
end

function makers.hidden(seen, loss, datum, i)
  local count = #loss.request(datum).spans
  return leaf(seen, lists.uniform(31 * i + 5, count * WIDTH, 2), { count, WIDTH })
end

--- Predictions and targets for some datums, and the leaves in a list. `values` may hold logprobs, entropy,
--- base_logprobs (a list of T numbers for each datum) and candidate(i, position, id); the rest is drawn.
---@param loss crucible.lora.Loss
---@param datums crucible.core.Datum[]
---@param values table?
---@return { predictions: table, targets: table[], leaves: crucible.Tensor[] }
function leaves.see(loss, datums, values)
  local seen = { predictions = {}, targets = predictions.targets(datums), leaves = {} }
  for _, output in ipairs(loss.outputs) do
    local list = {}
    for i, datum in ipairs(datums) do list[i] = makers[output](seen, loss, datum, i, values or {}) end
    seen.predictions[output] = list
  end
  return seen
end

--- The loss of what is seen as a number, its fields, and the gradient of each leaf (nil: none).
function leaves.compute(loss, seen)
  local found = loss.compute(seen.predictions, seen.targets)
  found.loss:backward()
  local slopes = {}
  for k, one in ipairs(seen.leaves) do
    slopes[k] = one.grad
    one:zero_grad()
  end
  return found.loss:item(), found, slopes
end

local function value_at(loss, seen, k, flat)
  local one = seen.leaves[k]
  local shape = { one:shape() }
  tensor.no_grad(function() one:assign_(tensor.new(flat):reshape(shape)) end)
  return loss.compute(seen.predictions, seen.targets).loss:item()
end

local ZEROS = 11 -- of the places whose slope is 0, one in so many is looked at

--- The largest difference between slopes and four-point estimates, relative to the norm of the slopes of
--- the leaf (at least 1e-3).
---@param loss crucible.lora.Loss
---@param seen table
---@param step number?  1e-3
---@return number worst
function leaves.difference(loss, seen, step)
  step = step or 1e-3
  local _, _, slopes = leaves.compute(loss, seen)
  local worst = 0
  for k, one in ipairs(seen.leaves) do
    local flat = one:flatten():totable()
    local own = slopes[k] and slopes[k]:flatten():totable() or lists.fill(#flat, 0)
    local norm = math.max(1e-3, math.sqrt(lists.dot(own, own)))
    for j = 1, #flat do
      local function at(t)
        local moved = table.move(flat, 1, #flat, 1, {})
        moved[j] = moved[j] + t
        return value_at(loss, seen, k, moved)
      end
      local function slope(t) return (at(t) - at(-t)) / (2 * t) end
      if own[j] ~= 0 or j % ZEROS == 0 then
        worst = math.max(worst, math.abs((4 * slope(step) - slope(2 * step)) / 3 - own[j]) / norm)
      end
    end
    value_at(loss, seen, k, flat)
  end
  return worst
end

return leaves
