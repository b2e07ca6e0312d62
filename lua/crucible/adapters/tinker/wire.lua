-- Bodies of passes, in both dialects, and what their answers hold.
--
-- A row is what is sent of a datum: { tokens, targets, weights, needed }, lists of one length; targets[i] follows
-- tokens[i]. needed[i] ~= 0 where a log-probability is wanted; default: weights.
local codec = require "crucible.adapters.tinker.codec"
local json = require "crucible.json"

local wire = {}

---@class crucible.tinker.Row
---@field tokens integer[]
---@field targets integer[]
---@field weights number[]
---@field needed number[]?

local JSON, PROTOBUF = "application/json", "application/x-protobuf"

-- What a request is taken to cost, by the SDK's reckoning: 10 bytes a token and a value of a tensor.
local BYTES_A_VALUE = 10

--- Bytes that a row is reckoned to take.
---@param row crucible.tinker.Row
---@return integer
function wire.size_of(row) return 3 * BYTES_A_VALUE * #row.tokens end

--- Cuts rows into chunks of at most so many rows and reckoned bytes, at least one row each.
---@param rows crucible.tinker.Row[]
---@param most_rows integer
---@param most_bytes integer
---@return crucible.tinker.Row[][]
function wire.chunks(rows, most_rows, most_bytes)
  local chunks, current, bytes = {}, nil, 0
  for _, row in ipairs(rows) do
    local size = wire.size_of(row)
    if not current or #current == most_rows or bytes + size > most_bytes then
      current, bytes = {}, 0
      chunks[#chunks + 1] = current
    end
    current[#current + 1], bytes = row, bytes + size
  end
  return chunks
end

-- ---- JSON ----------------------------------------------------------------------------------

-- Nine digits tell every float32 from its neighbours.
local function number_list(values)
  local texts, known = {}, {}
  for i, value in ipairs(values) do
    local text = known[value]
    if not text then
      text = ("%.9g"):format(value)
      known[value] = text
    end
    texts[i] = text
  end
  return table.concat(texts, ",")
end

local ROW = '{"model_input":{"chunks":[{"type":"encoded_text","tokens":[%s]}]},"loss_fn_inputs":{'
  .. '"target_tokens":{"data":[%s],"dtype":"int64","shape":[%d]},'
  .. '"weights":{"data":[%s],"dtype":"float32","shape":[%d]}}}'

local function row_text(row)
  return ROW:format(table.concat(row.tokens, ","), table.concat(row.targets, ","), #row.targets,
    number_list(row.weights), #row.weights)
end

local function rows_text(rows)
  local texts = {}
  for i, row in ipairs(rows) do texts[i] = row_text(row) end
  return table.concat(texts, ",")
end

local function json_pass(pass, model_id, seq_id, input)
  return ('{"model_id":%s,"seq_id":%d,"%s":{"loss_fn":"cross_entropy","data":[%s]}}'):format(json.encode(model_id),
    seq_id, input, pass.text or rows_text(pass.rows))
end

-- ---- both ----------------------------------------------------------------------------------

--- Makes the text of a pass ahead of time, in the dialect that will be spoken.
---@param pass { rows: crucible.tinker.Row[] }
---@param dialect "json"|"protobuf"
function wire.prepare(pass, dialect)
  if dialect == "json" then pass.text = rows_text(pass.rows) end
end

--- The body of a pass over rows, its content type and the path it goes to.
---@param pass { rows: crucible.tinker.Row[], text: string? }
---@param model_id string
---@param seq_id integer
---@param forward_only boolean
---@param dialect "json"|"protobuf"
---@return string body, string content_type, string path
function wire.pass(pass, model_id, seq_id, forward_only, dialect)
  if dialect == "protobuf" then
    return codec.encode_pass(pass.rows, model_id, seq_id, forward_only), PROTOBUF, "forward_backward"
  end
  local path = forward_only and "forward" or "forward_backward"
  return json_pass(pass, model_id, seq_id, path .. "_input"), JSON, path
end

-- ---- answers -------------------------------------------------------------------------------

-- Numbers of an answer's list; null stands for NaN.
local function numbers_of(list, length)
  if type(list) ~= "table" then return nil, "no list" end
  local numbers = {}
  for i = 1, #list do
    local value = list[i]
    if value == json.null then value = 0 / 0 end
    if type(value) ~= "number" then return nil, "what is no number" end
    numbers[i] = value
  end
  if length and #numbers ~= length then return nil, ("%d numbers where %d were asked for"):format(#numbers, length) end
  return numbers
end
wire.numbers_of = numbers_of

local function metrics_of(metrics)
  local found = {}
  for name, value in pairs(type(metrics) == "table" and metrics or {}) do
    if type(name) == "string" and type(value) == "number" then found[name] = value end
  end
  return found
end
wire.metrics_of = metrics_of

---@class crucible.tinker.PassResult
---@field logprobs number[][]  of each row's targets; NaN where the server gave none
---@field metrics table<string, number>

local function is_finite(value) return value == value and value ~= math.huge and value ~= -math.huge end

-- The target of a row that is wanted and not told; nil when there is none.
local function missing_in(numbers, row)
  local needed = row.needed or row.weights
  for t, value in ipairs(numbers) do
    if needed[t] ~= 0 and not is_finite(value) then return t end
  end
end

--- What the answer to a pass holds; nil and what is wrong with it. A log-probability that is none has spoilt the
--- gradients as well.
---@param value table
---@param rows crucible.tinker.Row[]
---@return crucible.tinker.PassResult? result, string? message, string? code
function wire.read_pass(value, rows)
  local outputs = value.loss_fn_outputs
  if type(outputs) ~= "table" then return nil, "the answer has no loss_fn_outputs" end
  if #outputs ~= #rows then
    return nil, ("the answer has %d output%s for %d rows"):format(#outputs, #outputs == 1 and "" or "s", #rows)
  end
  local logprobs = {}
  for i, row in ipairs(rows) do
    local tensor = type(outputs[i]) == "table" and outputs[i].logprobs
    local numbers, problem = numbers_of(type(tensor) == "table" and tensor.data or nil)
    if not numbers then return nil, ("the answer's log-probabilities of row %d are %s"):format(i, problem) end
    if #numbers ~= #row.targets then
      return nil, ("the answer has %d log-probabilities for the %d targets of row %d"):format(#numbers, #row.targets, i)
    end
    local missing = missing_in(numbers, row)
    if missing then
      return nil, ("the log-probability of target %d of row %d is not a number"):format(missing, i), "nonfinite"
    end
    logprobs[i] = numbers
  end
  return { logprobs = logprobs, metrics = metrics_of(value.metrics) }
end

local function reduce_max(a, b) return math.max(a, b) end
local function reduce_min(a, b) return math.min(a, b) end
local function reduce_sum(a, b) return a + b end

local reductions = { max = reduce_max, min = reduce_min, sum = reduce_sum }

--- The results of chunks as one: outputs in their order; metrics by what follows the colon of their names.
---@param results crucible.tinker.PassResult[]
---@return crucible.tinker.PassResult
function wire.join(results)
  if #results == 1 then return results[1] end
  local logprobs, metrics, counts, rows = {}, {}, {}, {}
  for _, result in ipairs(results) do
    table.move(result.logprobs, 1, #result.logprobs, #logprobs + 1, logprobs)
    for name, value in pairs(result.metrics) do
      local reduce = reductions[name:match ":(%w+)$"]
      if reduce then
        metrics[name] = metrics[name] and reduce(metrics[name], value) or value
      else
        rows[name] = (rows[name] or 0) + value * #result.logprobs
        counts[name] = (counts[name] or 0) + #result.logprobs
      end
    end
  end
  for name, sum in pairs(rows) do metrics[name] = counts[name] > 0 and sum / counts[name] or nil end
  return { logprobs = logprobs, metrics = metrics }
end

return wire
