-- SmolLM2-135M beside PyTorch and PEFT on real text. Matrices are compared by sketches
-- (support/hashed_normal.lua): an estimate below half the limit leaves a true difference above the
-- limit a chance under one in a million a matrix.
local core = require "crucible.core"
local golden = require "support.golden"
local models = require "support.models"

local SKETCH_MARGIN = 0.5
local SKETCH_SIZE = 64

local path = models.smollm2()

local function piece(list, index, size) return { table.unpack(list, (index - 1) * size + 1, index * size) } end

describe("SmolLM2-135M-Instruct #slow", function()
  if not path then
    pending("its file was not fetched: scripts/fetch_model smollm2-135m-instruct")
    return
  end

  local fixture = golden.json("smollm2.json")
  local tensors = golden.read_safetensors(golden.path("smollm2.safetensors"))
  local model, head_size

  setup(function()
    model = assert(core.open_model(path))
    head_size = model:info().head_size
  end)
  teardown(function() model:close() end)

  local function open(set)
    return assert(model:session { rank = set.rank, alpha = set.alpha, dropout = 0, targets = set.targets, seed = 0 })
  end

  local function open_hashed(set)
    local session, file = open(set), os.tmpname()
    golden.load_hashed(session, file)
    os.remove(file)
    return session
  end

  -- Every matrix of a session beside sketches and norms of the fixture, which lists them by name.
  local function worst_sketch(session, set, which, stem)
    local parameters = {}
    for _, p in ipairs(session:parameters()) do parameters[p.name] = p end
    local worst, matrix = -1.0, nil
    for i, name in ipairs(set.names) do
      local ours = golden.read(session, assert(parameters[name], name), which, head_size)
      local sketch = piece(tensors[stem .. ".sketch"], i, SKETCH_SIZE)
      local difference = golden.sketched_difference(name, ours, sketch, tensors[stem .. ".norm"][i])
      if difference > worst or difference ~= difference then worst, matrix = difference, name end
    end
    assert.equal(#set.names, #session:parameters())
    return worst, matrix
  end

  it("is the file that the fixtures were made from", function()
    assert.equal(fixture.gguf_sha256, core.fs.sha256 { file = path })
  end)

  it("gives PyTorch's log-probabilities of likely, true and random ids at every position", function()
    local session <close> = open(fixture.attention)
    for i, probe in ipairs(fixture.probes) do
      local batch, tokens = {}, { table.unpack(fixture.rows[i].tokens, 1, #fixture.rows[i].tokens - 1) }
      for j, targets in ipairs(probe.targets) do batch[j] = { tokens = tokens, targets = targets } end
      local logprobs = assert(session:forward(batch, { base = true }))
      for j, expected in ipairs(probe.logprobs) do
        local difference = golden.largest_difference(logprobs[j], expected)
        assert.is_true(difference < 1e-3, ("row %d, targets %d differ by %g"):format(i, j, difference))
      end
    end
  end)

  it("gives PyTorch's log-probabilities of 64 continuations of each text", function()
    local session <close> = open(fixture.attention)
    for i, probe in ipairs(fixture.probes) do
      local continuations = {}
      for j, id in ipairs(probe.last.ids) do continuations[j] = { id } end
      local scores = assert(session:score({ fixture.rows[i].tokens }, { continuations }, { base = true }))
      assert.is_true(golden.largest_difference(scores[1], probe.last.logprobs) < 1e-3, "row " .. i)
    end
  end)

  for _, name in ipairs { "attention", "all" } do
    local set = fixture[name]

    describe("with branches on " .. table.concat(set.targets, ", "), function()
      local session
      setup(function() session = open_hashed(set) end)
      teardown(function() session:close() end)

      it("starts from the matrices of the fixture", function()
        for i, matrix in ipairs(set.names) do
          assert.is_true(golden.relative(session:norm(matrix), tensors[name .. ".start.norm"][i]) < 1e-6, matrix)
        end
      end)

      it("gives PyTorch's log-probabilities", function()
        local batch = {}
        for i, row in ipairs(fixture.rows) do batch[i] = { tokens = row.tokens } end
        local logprobs = assert(session:forward(batch))
        for i, expected in ipairs(set.logprobs) do
          assert.is_true(golden.largest_difference(logprobs[i], expected) < 1e-3, "row " .. i)
        end
      end)

      it("gives PEFT's loss and gradient of every matrix", function()
        session:zero_gradients()
        local result = assert(session:forward_backward(fixture.rows))
        assert.equal(fixture.supervised, result.supervised)
        assert.is_true(golden.relative(result.loss, set.loss) < 1e-5)
        local worst, matrix = worst_sketch(session, set, "gradient", name .. ".gradient")
        assert.is_true(worst < SKETCH_MARGIN * 1e-4, ("%s differs by about %g"):format(matrix, worst))
      end)
    end)
  end

  it("follows ten steps of PyTorch's AdamW with clipping and decay", function()
    local steps, batch = fixture.steps, {}
    for i, row in ipairs(steps.rows) do batch[i] = fixture.rows[row] end
    local session <close> = open_hashed(fixture[steps.set])
    for step, loss in ipairs(steps.losses) do
      local result = assert(session:forward_backward(batch))
      local update = assert(session:optim_step(steps.adam))
      assert.is_true(golden.relative(result.loss, loss) < 1e-4, "loss of step " .. step)
      assert.is_true(golden.relative(update.grad_norm, steps.grad_norms[step]) < 1e-3, "norm of step " .. step)
    end
    local worst, matrix = worst_sketch(session, fixture[steps.set], "value", "steps.final")
    assert.is_true(worst < SKETCH_MARGIN * 1e-3, ("%s differs by about %g"):format(matrix, worst))
  end)

  it("writes exactly the sentences that PyTorch writes", function()
    local session <close> = open(fixture.attention)
    for _, sentence in ipairs(fixture.greedy) do
      assert.same(sentence.tokens, golden.greedy(session, sentence.prompt, #sentence.tokens))
    end
  end)
end)
