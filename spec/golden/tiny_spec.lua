-- The tiny models beside PyTorch and PEFT: every log-probability, gradient and update in full.
local golden = require "support.golden"
local tiny_model = require "support.tiny_model"

local function without_weights(rows)
  local out = {}
  for i, row in ipairs(rows) do out[i] = { tokens = row.tokens, targets = row.targets } end
  return out
end

-- A session whose branches come from the file that PEFT wrote.
local function open(name, set_name, set)
  local session = tiny_model.session({ rank = set.rank, alpha = set.alpha, targets = set.targets }, name)
  assert(session:load_lora(golden.path(("%s_%s.adapter.safetensors"):format(name, set_name))))
  return session
end

-- Compares all matrices with a file of PEFT's names; returns the worst relative difference and whose it is.
local function worst_matrix(session, which, file, head_size)
  local theirs = golden.read_safetensors(golden.path(file))
  local worst, name = -1.0, nil
  for _, p in ipairs(session:parameters()) do
    local expected = assert(theirs[golden.peft_name(p.name)], p.name)
    local difference = golden.relative_norm(golden.read(session, p, which, head_size), expected)
    if difference > worst or difference ~= difference then worst, name = difference, p.name end
  end
  return worst, name
end

local function assert_logprobs(expected, actual)
  for i, row in ipairs(expected) do
    assert.is_true(golden.largest_difference(actual[i], row) < 1e-3, "row " .. i)
  end
end

local function describe_set(name, set_name, fixture, head_size)
  local set = fixture[set_name]
  local file = ("%s_%s.%%s.safetensors"):format(name, set_name)

  describe(("%s with branches on %s"):format(name, table.concat(set.targets, ", ")), function()
    local session
    before_each(function() session = open(name, set_name, set) end)
    after_each(function() session:close() end)

    it("gives PyTorch's log-probabilities", function()
      assert_logprobs(set.logprobs, assert(session:forward(without_weights(fixture.rows))))
    end)

    it("gives the base's log-probabilities with the branches left out", function()
      assert_logprobs(fixture.base_logprobs, assert(session:forward(without_weights(fixture.rows), { base = true })))
    end)

    it("gives the weighted mean loss over the supervised targets", function()
      local result = assert(session:forward_backward(fixture.rows))
      assert.equal(fixture.supervised, result.supervised)
      assert.is_true(golden.relative(result.loss, set.loss) < 1e-5)
      assert.is_true(golden.relative(result.sum, set.loss * fixture.supervised) < 1e-5)
    end)

    it("gives PEFT's gradient of every matrix", function()
      assert(session:forward_backward(fixture.rows))
      local worst, matrix = worst_matrix(session, "gradient", file:format("gradient"), head_size)
      assert.is_true(worst < 1e-4, ("%s differs by %g"):format(matrix, worst))
    end)

    it("follows ten steps of PyTorch's AdamW with clipping and decay", function()
      for step, loss in ipairs(set.losses) do
        local result = assert(session:forward_backward(fixture.rows))
        local update = assert(session:optim_step(set.adam))
        assert.is_true(golden.relative(result.loss, loss) < 1e-4, "loss of step " .. step)
        assert.is_true(golden.relative(update.grad_norm, set.grad_norms[step]) < 1e-4, "norm of step " .. step)
        assert.is_true(update.grad_norm > set.adam.max_grad_norm, "clipping did not bite in step " .. step)
        assert.is_false(update.skipped)
      end
      local worst, matrix = worst_matrix(session, "value", file:format("final"), head_size)
      assert.is_true(worst < 1e-3, ("%s differs by %g"):format(matrix, worst))
    end)
  end)
end

for _, name in ipairs { "tiny", "tiny_untied" } do
  local fixture = golden.json(name .. ".json")
  local model <close> = tiny_model.open(name)
  local head_size = model:info().head_size

  for _, set_name in ipairs { "attention", "all" } do
    if fixture[set_name] then describe_set(name, set_name, fixture, head_size) end
  end

  describe(name, function()
    it("writes exactly the sentence that PyTorch writes", function()
      local session <close> = tiny_model.session(nil, name)
      local opened <close> = tiny_model.open(name)
      assert.same(fixture.greedy.prompt, opened:tokenizer():encode(fixture.greedy.text))
      assert.same(fixture.greedy.tokens, golden.greedy(session, fixture.greedy.prompt, #fixture.greedy.tokens))
    end)
  end)
end
