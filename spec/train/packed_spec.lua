-- Real rows packed into one pass against the same rows one by one: losses, log-probabilities and gradients are
-- equal to rounding, in whatever order the rows are packed.
local datums = require "crucible.lora.datums"
local dataset_integration = require("crucible").lora.dataset_integration
local packing = require "crucible.lora.packing"
local tiny_model = require "spec.support.tiny_model"
local tokenizer = require "crucible.tokenizer"

local function open(name, micro_batch_tokens)
  local session = tiny_model.session({ micro_batch_tokens = micro_batch_tokens }, name)
  for p, parameter in ipairs(session:parameters()) do
    if parameter.name:find "lora_B$" then -- B starts at zero, which would leave A without gradient
      local values = {}
      for i = 1, parameter.rows * parameter.columns do values[i] = math.sin(i + 13 * p) * 0.05 end
      session:write(parameter.name, values)
    end
  end
  return session
end

local function real_rows(name, count, longest)
  local model <close> = tiny_model.open(name)
  local tok = tokenizer.wrap(model:tokenizer())
  local list, given = {}, assert(dataset_integration.prepare_dataset("scifact", { limit = 60 }))
  for _, datum in ipairs((assert(datums.build(tok, given)))) do
    if #datum.tokens <= longest and #list < count then
      list[#list + 1] = { tokens = datum.tokens, weights = datum.weights }
    end
  end
  assert(#list == count)
  return list
end

local function gradients(session)
  local all = {}
  for _, parameter in ipairs(session:parameters()) do
    for _, value in ipairs(assert(session:read(parameter.name, "gradient"))) do all[#all + 1] = value end
  end
  return all
end

-- The norm of the difference over the norm.
local function distance(a, b)
  local difference, norm = 0, 0
  for i, value in ipairs(a) do
    difference, norm = difference + (value - b[i]) ^ 2, norm + value ^ 2
  end
  return math.sqrt(difference / norm), math.sqrt(norm)
end

-- Loss and gradients of batches, each given to the engine in one call.
local function train(session, batches, scale)
  local loss = 0
  for _, batch in ipairs(batches) do
    loss = loss + assert(session:forward_backward(batch, { scale = scale })).loss
  end
  return loss, gradients(session)
end

for _, name in ipairs { "tiny", "tiny_untied" } do
  describe("rows packed into one pass of " .. name, function()
    local rows = real_rows(name, 10, 380)
    local alone, sizes = {}, {}
    for i, row in ipairs(rows) do alone[i], sizes[i] = { row }, #row.tokens - 1 end
    local expected, expected_gradients
    do
      local session <close> = open(name, 1)
      expected, expected_gradients = train(session, alone, 0.01)
    end

    it("have the loss and gradients of the rows one by one", function()
      local session <close> = open(name, 1 << 20)
      local loss, found = train(session, { rows }, 0.01)
      assert.near(expected, loss, 1e-5 * expected)
      local apart, norm = distance(expected_gradients, found)
      assert.truthy(norm > 1e-4)
      assert.truthy(apart < 2e-5, apart)
    end)

    for _, method in ipairs(packing.methods) do
      it("do so laid out by " .. method, function()
        local session <close> = open(name, 1024)
        local batches = {}
        for i, numbers in ipairs(packing.epoch({ sizes = sizes, room = 1024, method = method, seed = 1,
          shuffle = true }, 1)) do
          batches[i] = {}
          for k, number in ipairs(numbers) do batches[i][k] = rows[number] end
        end
        assert.truthy(#batches < #rows)
        local loss, found = train(session, batches, 0.01)
        assert.near(expected, loss, 1e-5 * expected)
        assert.truthy((distance(expected_gradients, found)) < 2e-5)
      end)
    end

    it("do not see each other", function()
      local packed <close> = open(name, 1 << 20)
      local all = assert(packed:forward(rows))
      for i, row in ipairs(rows) do
        local own = assert(packed:forward({ row }))[1]
        for t, value in ipairs(own) do
          if value == value then assert.near(value, all[i][t], 1e-4) end
        end
      end
    end)
  end)
end

