-- DoRA (Liu et al. 2024): magnitudes beside directions, in every pass of a session. Beside PEFT: spec/golden.
local cjson = require "cjson"
local core = require "crucible.core"

local expect = require "spec.support.expect"
local golden = require "spec.support.golden"
local gradient = require "spec.support.gradient"
local lists = require "spec.support.lists"
local shell = require "spec.support.shell"
local tiny_model = require "spec.support.tiny_model"

local ALL = core.targets()
local STEP = 0.01 -- of finite differences: see spec/model/gradient_spec.lua
local ADAM = { lr = 5e-3, weight_decay = 0.05, max_grad_norm = 0.5, loraplus_lr_ratio = 4 }

local function ids(seed, count)
  return lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
end

local function batch()
  local half = lists.map(lists.fill(21, 1), function(_, i) return i > 10 and 1 or 0 end)
  return {
    { tokens = ids(1, 22), weights = half },
    { tokens = ids(2, 13), targets = ids(3, 13), weights = lists.uniform(4, 13, 2) },
    { tokens = ids(5, 2) },
  }
end

local function new(name, options)
  return tiny_model.session(lists.with({ targets = ALL, seed = 3, dora = true }, options or {}), name)
end

-- A session whose B is not zero and whose magnitudes are not norms.
local function open(name, options)
  local session = new(name, options)
  for i, p in ipairs(session:parameters()) do
    if p.part == "B" then session:write(p.name, lists.uniform(i, p.rows * p.columns, 0.125)) end
    if p.part == "magnitude" then
      local changes = lists.uniform(i, p.rows, 0.25)
      session:write(p.name, lists.map(session:read(p.name), function(m, row) return m * (1 + changes[row]) end))
    end
  end
  return session
end

local function bits_of(session, which)
  local out = {}
  for i, p in ipairs(session:parameters()) do out[i] = lists.bits(session:read(p.name, which)) end
  return table.concat(out)
end

local function name_of(module, part) return module.name:gsub("^model%.", "") .. "." .. part end

-- W + scale · B A of a module in double, by rows; W from a session without branches on it.
local function composed(session, module, base)
  local a, b = session:read(name_of(module, "lora_A")), session:read(name_of(module, "lora_B"))
  local weights = base:merge_rows(module.layer, module.target)
  local columns, rows = #a // module.rank, {}
  for row = 1, #b // module.rank do
    rows[row] = { string.unpack(("<" .. ("f"):rep(columns)), weights, (row - 1) * columns * 4 + 1) }
    rows[row][columns + 1] = nil
    for j = 1, columns do
      local sum = 0.0
      for k = 1, module.rank do sum = sum + b[(row - 1) * module.rank + k] * a[(k - 1) * columns + j] end
      rows[row][j] = rows[row][j] + module.scale * sum
    end
  end
  return rows
end

for _, name in ipairs { "tiny", "tiny_untied" } do
  describe("DoRA on " .. name, function()
    it("lists A, B and magnitudes [out, 1], which start as the norms of the base's rows", function()
      local session <close> = new(name)
      local plain <close> = new(name, { dora = false })
      local parameters = session:parameters()
      assert.equal(#plain:parameters() // 2 * 3, #parameters)
      for i, module in ipairs(session:modules()) do
        local magnitude = parameters[3 * i]
        assert.equal(name_of(module, "lora_magnitude_vector"), magnitude.name)
        assert.same({ "A", "B", "magnitude", 1 },
          { parameters[3 * i - 2].part, parameters[3 * i - 1].part, magnitude.part, magnitude.columns })
        local norms = session:read(magnitude.name)
        for row, values in ipairs(composed(session, module, plain)) do
          assert.near(lists.norm(values), norms[row], 1e-6 * norms[row])
        end
        assert.same(plain:read(parameters[3 * i - 2].name), session:read(parameters[3 * i - 2].name)) -- the same A
      end
    end)

    it("leaves the model as it is before the first step, with dropout too", function()
      local session <close> = new(name, { dropout = 0.4 })
      local expected = session:forward(batch(), { base = true })
      local trained = assert(session:forward_backward(batch(), { logprobs = true })).logprobs
      for i, row in ipairs(session:forward(batch())) do
        for t, value in ipairs(row) do
          if value == value then -- NaN: not supervised
            assert.near(expected[i][t], value, 1e-4)
            assert.near(expected[i][t], trained[i][t], 1e-4)
          end
        end
      end
    end)

    it("merges to magnitude · V / |V|, all rows or some", function()
      local session <close> = open(name)
      local plain <close> = new(name, { dora = false })
      for _, module in ipairs(session:modules()) do
        local merged = assert(session:merge_rows(module.layer, module.target))
        local magnitudes = session:read(name_of(module, "lora_magnitude_vector"))
        local rows = composed(session, module, plain)
        local columns = #rows[1]
        local norms = session:row_norms(module.layer, module.target)
        for row, values in ipairs(rows) do
          assert.near(lists.norm(values), norms[row], 1e-6 * norms[row])
          local ours = { string.unpack("<" .. ("f"):rep(columns), merged, (row - 1) * columns * 4 + 1) }
          ours[columns + 1] = nil
          local factor = magnitudes[row] / lists.norm(values)
          local expected = lists.map(values, function(v) return v * factor end)
          assert.is_nil(lists.first_beyond(ours, expected, 2e-6 * lists.largest(expected)))
        end
        assert.equal(merged:sub(columns * 4 + 1, columns * 12), session:merge_rows(module.layer, module.target, 2, 2))
      end
    end)

    -- Norms are constants in backward, so that they must be in the differences: magnitudes follow them.
    local function check_matrix(session, rows, module, parameter, seed)
      local magnitude = name_of(module, "lora_magnitude_vector")
      local start, norms = session:read(magnitude), session:row_norms(module.layer, module.target)
      local g, x = session:read(parameter.name, "gradient"), session:read(parameter.name)
      local norm = lists.norm(g)
      local function f(values)
        session:write(parameter.name, values)
        if parameter.part ~= "magnitude" then
          local now = session:row_norms(module.layer, module.target)
          session:write(magnitude, lists.map(start, function(m, row) return m * now[row] / norms[row] end))
        end
        session:zero_gradients()
        return assert(session:forward_backward(rows, { scale = 1 })).loss
      end
      local random = lists.uniform(seed, #x)
      local length = lists.norm(random)
      for what, direction in pairs {
        gradient = lists.map(g, function(v) return v / norm end),
        noise = lists.map(random, function(v) return v / length end),
      } do
        local expected, slope = lists.dot(g, direction), gradient.along(f, x, direction, STEP)
        assert.near(expected, slope, 1e-3 * norm, ("%s along %s: norm %g"):format(parameter.name, what, norm))
      end
      session:write(parameter.name, x)
      session:write(magnitude, start)
      f(x) -- the gradients are those of the start again
    end

    for _, dropout in ipairs { 0, 0.3 } do
      it(("has the gradients that finite differences find, with dropout %g #slow"):format(dropout), function()
        local session <close> = open(name, { dropout = dropout })
        local rows = batch()
        assert(session:forward_backward(rows, { scale = 1 }))
        local parameters = session:parameters()
        for i, module in ipairs(session:modules()) do
          for part = 1, 3 do check_matrix(session, rows, module, parameters[3 * i - 3 + part], 3 * i + part) end
        end
      end)
    end

    it("has the same bits when layers are recomputed and at 1 and 2 threads", function()
      for _, dropout in ipairs { 0, 0.3 } do
        local one <close> = open(name, { dropout = dropout })
        local expected = assert(one:forward_backward(batch())).loss
        for _, options in ipairs { { recompute = true }, { threads = 2 } } do
          local other <close> = open(name, lists.with({ dropout = dropout }, options))
          assert.equal(expected, assert(other:forward_backward(batch())).loss)
          assert.is_true(bits_of(one, "gradient") == bits_of(other, "gradient"))
        end
      end
    end)

    it("gives the gradients of the whole batch however it is cut", function()
      for _, dropout in ipairs { 0, 0.3 } do
        local whole <close> = open(name, { dropout = dropout, micro_batch_tokens = 4096 })
        local cut <close> = open(name, { dropout = dropout, micro_batch_tokens = 1 })
        assert(whole:forward_backward(batch()))
        assert(cut:forward_backward(batch()))
        for _, p in ipairs(whole:parameters()) do
          local relative = lists.relative(cut:read(p.name, "gradient"), whole:read(p.name, "gradient"))
          assert.is_true(relative < 1e-5, p.name)
        end
      end
    end)

    it("gives a loss of one's own the gradient of the builtin one", function()
      local session <close> = open(name, { dropout = 0.3 })
      local rows = { batch()[1] }
      local result = assert(session:forward_backward(rows, { scale = 1 }))
      local expected = bits_of(session, "gradient")
      session:zero_gradients()
      local prediction = assert(session:predict(rows, { outputs = { "logprobs" }, train = true }))
      local slopes = {}
      for t = 1, prediction.answers[1].length do slopes[t] = -rows[1].weights[t] end
      assert(core.tensor.assign(assert(session:prediction_tensor("slopes")), core.tensor.new(slopes, "f64")))
      assert(session:backward())
      assert.equal(expected, bits_of(session, "gradient"))
      assert.is_true(result.loss > 0)
    end)

    local function vocabulary()
      local model <close> = tiny_model.open(name)
      return model:info().vocabulary
    end

    it("decodes what a pass without kept keys finds likeliest, and scores alike", function()
      local session <close> = open(name)
      local prompt = ids(7, 12)
      local written, size = golden.greedy(session, prompt, 6), vocabulary()
      for i = 1, #written do
        local text = table.move(written, 1, i - 1, #prompt + 1, { table.unpack(prompt) })
        local choices = {}
        for id = 0, size - 1 do choices[id + 1] = { id } end
        local scores = assert(session:score({ text }, { choices }))[1]
        local best = 1
        for id = 2, #scores do best = scores[id] > scores[best] and id or best end
        assert.is_true(scores[best] - scores[written[i] + 1] < 1e-4, "token " .. i)
        local tokens = { table.unpack(text) }
        tokens[#tokens + 1] = written[i]
        local logprobs = assert(session:forward { { tokens = tokens } })[1]
        assert.near(logprobs[#logprobs], scores[written[i] + 1], 1e-4)
      end
    end)
  end)
end

describe("DoRA's norms", function()
  -- Row `row` of a projection with B A = -share · W there.
  local function cancel(session, module, row, share)
    local a = session:read(name_of(module, "lora_A"))
    local columns = #a // module.rank
    local weights = session:merge_rows(module.layer, module.target, row, 1)
    local w = { string.unpack("<" .. ("f"):rep(columns), weights) }
    table.move(w, 1, columns, 1, a)
    local b = lists.fill(#session:read(name_of(module, "lora_B")), 0)
    b[(row - 1) * module.rank + 1] = -share / module.scale
    session:write(name_of(module, "lora_A"), a)
    session:write(name_of(module, "lora_B"), b)
    return lists.norm(lists.slice(w, 1, columns))
  end

  it("keep their digits where B A takes nearly all of a row away", function()
    local session <close> = new("tiny", { targets = { "v_proj" } })
    local module = session:modules()[1]
    local norm = cancel(session, module, 3, 1 - 2 ^ -10)
    local found = session:row_norms(module.layer, module.target)
    assert.near(norm * 2 ^ -10, found[3], 1e-3 * norm * 2 ^ -10)
    assert.near(session:read(name_of(module, "lora_magnitude_vector"))[2], found[2], 1e-6)
  end)

  it("may be zero: such a row is left as it is, and nothing becomes NaN", function()
    local session <close> = new("tiny", { targets = { "v_proj" } })
    local module = session:modules()[1]
    cancel(session, module, 3, 1)
    assert.equal(0, session:row_norms(module.layer, module.target)[3])
    local result = assert(session:forward_backward(batch()))
    assert.is_true(result.loss == result.loss and math.abs(result.loss) < math.huge)
    for _, figures in ipairs(session:statistics("gradient")) do assert.equal(0, figures.nonfinite) end
    assert(session:merge_rows(module.layer, module.target))
  end)

  it("follow what is written between calls", function()
    local one <close> = open("tiny")
    local two <close> = new("tiny")
    assert(two:forward(batch()))
    assert(two:score({ { 1, 2 } }, { { { 3 } } }))
    for _, p in ipairs(one:parameters()) do two:write(p.name, one:read(p.name)) end
    assert.same(one:score({ { 1, 2 } }, { { { 3 } } }), two:score({ { 1, 2 } }, { { { 3 } } }))
    assert.equal(lists.bits(one:forward(batch())[2]), lists.bits(two:forward(batch())[2]))
    assert.equal(assert(one:forward_backward(batch())).loss, assert(two:forward_backward(batch())).loss)
  end)

  it("follow an update within a generation", function()
    local session <close> = open("tiny")
    local generation <close> = assert(session:generate({ { 1, 2, 3 } }, { max_tokens = 3 }))
    assert(generation:step())
    assert(session:forward_backward(batch()))
    assert(session:optim_step(ADAM))
    assert(generation:step())
    local fresh <close> = new("tiny")
    for _, p in ipairs(session:parameters()) do fresh:write(p.name, session:read(p.name)) end
    assert.equal(lists.bits(fresh:forward(batch())[2]), lists.bits(session:forward(batch())[2]))
  end)

  it("refuse to merge what is not finite, naming the module", function()
    local session <close> = new("tiny", { targets = { "v_proj" } })
    local name = "layers.1.self_attn.v_proj.lora_magnitude_vector"
    session:write(name, lists.with(session:read(name), { [4] = 3e38 }))
    local other = "layers.1.self_attn.v_proj.lora_A"
    local b = "layers.1.self_attn.v_proj.lora_B"
    session:write(other, lists.map(session:read(other), function() return 1e30 end))
    session:write(b, lists.with(session:read(b), { [13] = 1e30 }))
    expect.fails("argument", "model.layers.1.self_attn.v_proj: row 3", session:merge_rows(2, "v_proj"))
    expect.raises("no projection is named 'lm_head'", session.merge_rows, session, 1, "lm_head")
    expect.raises("no layer 9: the model has 3", session.merge_rows, session, 9, "v_proj")
    expect.raises("not so many rows", session.merge_rows, session, 1, "v_proj", 2, 1000)
  end)
end)

describe("magnitudes", function()
  it("are frozen, measured and updated like A and B", function()
    local session <close> = open("tiny", { targets = { "q_proj" } })
    local parameters = session:parameters()
    local name, frozen = parameters[3].name, parameters[6].name
    local kept = session:read(frozen)
    session:freeze(frozen)
    assert(session:watch { "updates" })
    assert(session:forward_backward(batch()))
    assert.equal(0, session:norm(frozen, "gradient"))
    local norm = session:norm(name, "gradient")
    assert.is_true(norm > 0)
    assert.near(norm, session:statistics("gradient", { name = name }).norm, 1e-9 * norm)
    assert(session:optim_step(ADAM))
    assert.same(kept, session:read(frozen))
    local change = session:updates()
    assert.is_true(change[3] > 0 and change[6] == 0)
    local found = session:singular_values(name)
    assert.same(session:singular_values(parameters[1].name), found)
  end)

  local function train(session, steps)
    for _ = 1, steps do
      assert(session:forward_backward(batch()))
      assert(session:optim_step(ADAM))
    end
  end

  local folder
  before_each(function() folder = shell.temporary_folder() end)
  after_each(function() shell.remove_tree(folder) end)

  it("come back from files to the bit, and training goes on as if it had not stopped", function()
    local options = { dropout = 0.2, rank_pattern = { { "k_proj", 2 } } }
    local whole <close> = open("tiny", options)
    local first <close> = open("tiny", options)
    train(whole, 5)
    train(first, 3)
    assert(first:save_lora(folder .. "/lora"))
    assert(first:save_optimizer(folder .. "/optimizer"))
    local resumed <close> = new("tiny", lists.with(options, { threads = 2 }))
    assert(resumed:load_lora(folder .. "/lora"))
    assert(resumed:load_optimizer(folder .. "/optimizer"))
    train(resumed, 2)
    for _, which in ipairs { "value", "moment1", "moment2" } do
      assert.is_true(bits_of(whole, which) == bits_of(resumed, which), which)
    end
  end)

  it("stand in files as PEFT has them: one dimension, no .weight, rows in the order of checkpoints", function()
    local session <close> = open("tiny")
    assert(session:save_lora(folder .. "/lora"))
    local handle = assert(io.open(folder .. "/lora", "rb"))
    local bytes = handle:read("a")
    handle:close()
    local header = cjson.decode(bytes:sub(9, 8 + string.unpack("<I8", bytes)))
    local found = golden.read_safetensors(folder .. "/lora")
    for _, p in ipairs(session:parameters()) do
      local name = golden.peft_name(p.name)
      if p.part == "magnitude" then
        assert.equal("base_model.model.model." .. p.name, name)
        assert.same({ p.rows }, header[name].shape)
      end
      assert.equal(lists.bits(golden.read(session, p, "value", 16)), lists.bits(found[name]), name)
    end
  end)

  local faults = {
    { "missing", function(t) table.remove(t, 3) end, "not_found", "q_proj.lora_magnitude_vector is missing" },
    { "two-dimensional", function(t) t[3].name = t[3].name .. ".weight" end, "format",
      "q_proj.lora_magnitude_vector.weight is none of this session's matrices" },
    { "too short", function(t) t[3].rows, t[3].values = 63, lists.fill(63, 1) end, "format",
      "q_proj.lora_magnitude_vector: expected [64], the file has [63]" },
    { "not finite", function(t) t[3].values[5] = 0 / 0 end, "format",
      "q_proj.lora_magnitude_vector holds a value that is not finite" },
  }
  for _, fault in ipairs(faults) do
    local title, spoil, code, text = table.unpack(fault)
    it("are refused when one is " .. title, function()
      local session <close> = open("tiny")
      local tensors, before = {}, bits_of(session)
      for i, p in ipairs(session:parameters()) do
        tensors[i] = { name = golden.peft_name(p.name), rows = p.rows, columns = p.columns,
          values = lists.uniform(i, p.rows * p.columns) }
      end
      spoil(tensors)
      golden.write_safetensors(folder .. "/lora", tensors)
      expect.fails(code, text, session:load_lora(folder .. "/lora"))
      assert.is_true(before == bits_of(session))
    end)
  end

  it("are refused by a session without, and missed by one with", function()
    local session <close> = open("tiny")
    local plain <close> = tiny_model.session { targets = ALL }
    assert(session:save_lora(folder .. "/dora"))
    assert(plain:save_lora(folder .. "/plain"))
    expect.fails("format", "lora_magnitude_vector is none of this session's matrices",
      plain:load_lora(folder .. "/dora"))
    expect.fails("not_found", "lora_magnitude_vector is missing", session:load_lora(folder .. "/plain"))
  end)
end)
