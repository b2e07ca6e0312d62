-- The protobuf dialect, over the C module.
local core = require "crucible.core"
local errors = require "crucible.errors"

local codec = {}

---@alias crucible.tinker.Expectation "pass"|"sample"  what a protobuf body would be

-- What the JSON dialect would have said.
local function as_json(output)
  local outputs = {}
  for i, lists in ipairs(output.outputs) do
    outputs[i] = {}
    for name, data in pairs(lists) do outputs[i][name] = { data = data } end
  end
  return { loss_fn_output_type = output.type, metrics = output.metrics, loss_fn_outputs = outputs }
end

local kinds = { pass = "forward_backward_output", sample = "sample_response" }

--- Value of a protobuf body, as the JSON dialect has it.
---@param bytes string
---@param expects crucible.tinker.Expectation?
---@return table? value, string? message, string? code
function codec.decode(bytes, expects)
  if not kinds[expects] then return errors.failure("format", "protobuf where JSON was expected") end
  local value, message, code = core.tinker_decode(kinds[expects], bytes)
  if not value then return nil, message, code end
  return expects == "pass" and as_json(value) or value
end

local function datum_of(row)
  return {
    tokens = row.tokens,
    inputs = {
      target_tokens = { dtype = "int64", values = row.targets }, weights = { dtype = "float32", values = row.weights },
    },
  }
end

--- Bytes of a pass over rows.
---@param rows crucible.tinker.Row[]
---@param model_id string
---@param seq_id integer
---@param forward_only boolean
---@return string
function codec.encode_pass(rows, model_id, seq_id, forward_only)
  local data = {}
  for i, row in ipairs(rows) do data[i] = datum_of(row) end
  local bytes, message = core.tinker_encode("forward_backward", {
    model_id = model_id, seq_id = seq_id, loss_fn = "cross_entropy", forward_only = forward_only, data = data,
  })
  if not bytes then errors.raise("%s", message) end
  return bytes
end

return codec
