-- AdamW, clipping and skipped steps of a session, beside the formulas in double.
require "crucible.core"
local counted, native = pcall(require, "crucible.core.debug")

local lists = require "spec.support.lists"
local tiny_model = require "spec.support.tiny_model"

local with = lists.with
local ADAM = { lr = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.1, max_grad_norm = 0 }
local ARRAYS = { "value", "gradient", "moment1", "moment2" }

local function open() return tiny_model.session({ rank = 2, targets = { "q_proj", "v_proj" } }, "tiny_untied") end

-- All matrices of a session one after another.
local function all(session, which)
  local out = {}
  for _, p in ipairs(session:parameters()) do
    table.move(session:read(p.name, which), 1, p.rows * p.columns, #out + 1, out)
  end
  return out
end

local function write_all(session, values, which)
  local at = 1
  for _, p in ipairs(session:parameters()) do
    session:write(p.name, lists.slice(values, at, p.rows * p.columns), which)
    at = at + p.rows * p.columns
  end
end

-- Loshchilov and Hutter's algorithm 2 on lists, in double; PyTorch's clipping.
local function update(w, g, m, v, step, adam)
  local norm = lists.norm(g)
  local clip = 1.0
  if adam.max_grad_norm > 0 then clip = math.min(1, adam.max_grad_norm / (norm + 1e-6)) end
  local change = 0.0
  for i = 1, #w do
    local before, gradient = w[i], g[i] * clip
    m[i] = adam.beta1 * m[i] + (1 - adam.beta1) * gradient
    v[i] = adam.beta2 * v[i] + (1 - adam.beta2) * gradient ^ 2
    local mean, variance = m[i] / (1 - adam.beta1 ^ step), v[i] / (1 - adam.beta2 ^ step)
    w[i] = before - adam.lr * adam.weight_decay * before - adam.lr * mean / (math.sqrt(variance) + adam.eps)
    change = change + (w[i] - before) ^ 2
  end
  return norm, math.sqrt(change)
end

describe("Session:optim_step", function()
  local session

  before_each(function() session = open() end)
  after_each(function() session:close() end)

  it("makes the three steps that a pencil makes", function()
    -- One weight of 1 with the gradients 0.5, -0.25, 0.125. In step 2, say, m = 0.02 and v = 0.00031225, so
    -- 0.899 · (1 - 0.001) - 0.1 · (0.02 / 0.19) / √(0.00031225 / 0.001999) = 0.8714673.
    local name = session:parameters()[1].name
    local expected = { 0.899, 0.8714673, 0.8365529 }
    local zeros = lists.fill(#session:read(name), 0)
    session:write(name, with(zeros, { 1 }))
    for step, slope in ipairs({ 0.5, -0.25, 0.125 }) do
      session:write(name, with(zeros, { slope }), "gradient")
      local result = assert(session:optim_step(with(ADAM, { lr = 0.1, weight_decay = 0.01 })))
      assert.near(expected[step], session:read(name)[1], 2e-6, "step " .. step)
      assert.equal(step, result.step)
      assert.near(math.abs(slope), result.grad_norm, 1e-9)
    end
  end)

  for _, max_grad_norm in ipairs({ 0, 0.5, 1e6 }) do
    it("follows the formula over all matrices with max_grad_norm " .. max_grad_norm, function()
      local adam = with(ADAM, { max_grad_norm = max_grad_norm })
      local w = lists.uniform(1, #all(session))
      local m, v = lists.fill(#w, 0), lists.fill(#w, 0)
      write_all(session, w)
      for step = 1, 3 do
        local g = lists.uniform(10 + step, #w, 0.25)
        write_all(session, g, "gradient")
        local result = assert(session:optim_step(adam))
        local norm, change = update(w, g, m, v, step, adam)
        assert.near(norm, result.grad_norm, 1e-9 * norm)
        assert.near(change, result.update_norm, 1e-5 * change)
        assert.is_false(result.skipped)
        assert.is_nil(lists.first_beyond(all(session), w, 1e-6))
        assert.is_nil(lists.first_beyond(all(session, "moment1"), m, 1e-7))
        assert.is_nil(lists.first_beyond(all(session, "moment2"), v, 1e-8))
      end
    end)
  end

  it("measures the norm before clipping and clips to the limit", function()
    local g = lists.uniform(1, #all(session), 4)
    write_all(session, g, "gradient")
    local result = assert(session:optim_step(with(ADAM, { max_grad_norm = 0.25 })))
    assert.near(lists.norm(g), result.grad_norm, 1e-6 * result.grad_norm)
    local taken = lists.map(all(session, "moment1"), function(x) return x / (1 - ADAM.beta1) end)
    assert.near(0.25, lists.norm(taken), 1e-6)
  end)

  it("zeroes the gradients and counts the step", function()
    write_all(session, lists.uniform(1, #all(session)), "gradient")
    assert.equal(1, assert(session:optim_step(ADAM)).step)
    assert.equal(0, lists.largest(all(session, "gradient")))
    assert.equal(1, session:step())
    assert.equal(2, assert(session:optim_step(ADAM)).step)
  end)

  it("decays alone where there is no gradient", function()
    local w = lists.uniform(1, #all(session))
    write_all(session, w)
    local result = assert(session:optim_step(ADAM))
    assert.equal(0, result.grad_norm)
    assert.is_nil(lists.first_beyond(all(session), lists.map(w, function(x) return x * (1 - 1e-3) end), 1e-7))
  end)

  it("corrects the bias by the step that was set, as after a resume", function()
    local w = all(session)
    local g, m, v = lists.uniform(2, #w), lists.fill(#w, 0), lists.fill(#w, 0)
    session:step(99)
    write_all(session, g, "gradient")
    assert(session:optim_step(ADAM))
    update(w, g, m, v, 100, ADAM)
    assert.is_nil(lists.first_beyond(all(session), w, 1e-6))
  end)

  it("skips a step whose gradients overflow, and takes the next", function()
    local name = session:parameters()[2].name -- a B: its branch grows without bound
    local huge = lists.fill(#session:read(name), 3e38)
    local rows = { { tokens = { 1, 2, 3, 4, 5 } } }
    session:write(name, huge)
    local broken = assert(session:forward_backward(rows))
    assert.is_true(broken.loss ~= broken.loss or broken.loss == math.huge)
    local before = lists.bits(all(session))
    local result = assert(session:optim_step(ADAM))
    assert.is_true(result.skipped)
    assert.equal(0, result.step)
    assert.equal(0, result.update_norm)
    assert.is_true(before == lists.bits(all(session)))
    assert.equal(0, lists.largest(all(session, "gradient")))
    session:write(name, lists.fill(#huge, 0.01))
    assert(session:forward_backward(rows))
    assert.is_false(assert(session:optim_step(ADAM)).skipped)
    assert.equal(1, session:step())
  end)

  if not counted then return end

  it("skips a step with any one gradient that is not finite [debug builds]", function()
    write_all(session, lists.uniform(1, #all(session)), "gradient")
    assert(session:optim_step(ADAM)) -- moments that must survive
    local before = {}
    for _, which in ipairs(ARRAYS) do before[which] = lists.bits(all(session, which)) end
    for _, p in ipairs(session:parameters()) do
      for _, bad in ipairs({ 0 / 0, math.huge, -math.huge }) do
        local g = lists.fill(p.rows * p.columns, 0.5)
        g[#g] = bad
        native.write(session, p.name, g, "gradient")
        local result = assert(session:optim_step(ADAM))
        assert.is_true(result.skipped, ("%s: %g"):format(p.name, bad))
        assert.equal(1, result.step)
        for _, which in ipairs(ARRAYS) do assert.is_true(before[which] == lists.bits(all(session, which)), which) end
      end
    end
  end)
end)

if not counted then return end

for _, kernels in ipairs(native.math.kernels()) do
  describe("AdamW with the " .. kernels .. " kernels [debug builds]", function()
    local function start(count)
      return with(ADAM, {
        weight = lists.uniform(1, count), gradient = lists.uniform(2, count), moment1 = lists.uniform(3, count, 0.125),
        moment2 = lists.map(lists.uniform(4, count, 0.125), math.abs), step = 3, max_grad_norm = 0.5, kernels = kernels,
      })
    end

    it("agrees with the plain formula at every length", function()
      for _, count in ipairs({ 1, 3, 15, 17, 65, 577, 16385 }) do
        local p = start(count)
        local weight, moment1, moment2, norm, change = native.math.adamw(with(p, { threads = 2 }))
        local clip = math.min(1, 0.5 / (norm + 1e-6))
        local plain_weight, plain1, plain2 = native.math.adamw_plain(with(p, { gradient_scale = clip }))
        assert.near(lists.norm(p.gradient), norm, 1e-9 * norm)
        assert.near(lists.norm(lists.add(plain_weight, -1, p.weight)), change, 1e-4 * change)
        assert.is_nil(lists.first_beyond(weight, plain_weight, 2e-6))
        assert.is_nil(lists.first_beyond(moment1, plain1, 1e-7))
        assert.is_nil(lists.first_beyond(moment2, plain2, 1e-7))
      end
    end)

    it("gives the same bits, norms included, at any number of threads", function()
      local p = start(40000)
      local function bits(threads)
        local w, m, v, norm, change = native.math.adamw(with(p, { threads = threads }))
        return lists.bits(lists.join(w, m, v, { norm, change }))
      end
      local one = bits(1)
      for threads = 2, 3 do assert.is_true(one == bits(threads)) end
    end)
  end)
end
