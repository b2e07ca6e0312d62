-- Gradients of a core session: measured, changed, clipped, frozen, watched.
local bind = require "spec.support.bind"
local core = require "crucible.core"
local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local temp = require "spec.support.temp"

local ADAM = { lr = 1e-2, weight_decay = 0.1, max_grad_norm = 1 }

local function saved(session)
  local path = temp.folder() .. "/lora.safetensors"
  assert(session:save_lora(path))
  return temp.read(path)
end

local function total_norm(session)
  local squares = 0
  for _, found in ipairs(session:statistics()) do squares = squares + found.norm ^ 2 end
  return math.sqrt(squares)
end

local function near(expected, found, share)
  return math.abs(found - expected) <= (share or 1e-12) * math.abs(expected)
end

it("statistics of values need no session", function()
  assert.equal(5, core.statistics({ 3, 0, -4 }).norm)
end)

describe("gradients of a session", function()
  local session, first, second

  before_each(function()
    session = bind.session()
    first, second = session:parameters()[1].name, session:parameters()[2].name
    assert(session:forward_backward(bind.batch(2, 24)))
  end)

  after_each(function()
    session:close()
    temp.clean()
  end)

  it("are scaled, added to and multiplied by name", function()
    local before = session:read(second, "gradient")
    local values = lists.uniform(3, #before)
    assert.is_true(near(lists.dot(before, values), session:dot_gradient(second, values)))
    assert.is_true(session:scale_gradient(second, -0.5))
    assert.same(lists.map(before, function(value) return -0.5 * value end), session:read(second, "gradient"))
    assert.is_true(session:scale_gradient(second, 0))
    assert.is_true(session:add_gradient(second, 2, values))
    assert.same(lists.map(values, function(value) return 2 * value end), session:read(second, "gradient"))
    assert.is_true(session:add_gradient(second, -2, string.pack(("f"):rep(#values), table.unpack(values))))
    assert.equal(0, session:norm(second, "gradient"))
  end)

  it("are lent or copied as arrays, and taken back from them", function()
    local before = session:read(second, "gradient")
    local copy, lent = session:gradient_tensor(second), session:gradient_tensor(second, true)
    assert.same(core.tensor.totable(copy), core.tensor.totable(lent))
    assert.is_true(near(lists.dot(before, before), session:dot_gradient(second, copy)))
    session:add_gradient(second, -1, copy)
    assert.equal(0, core.statistics(lent).norm)
    assert.same(before, lists.join(table.unpack(core.tensor.totable(copy))))
    session:zero_gradients()
    expect.fails("argument", "tensor is gone: its gradient was used by an update or zeroed", core.tensor.totable(lent))
    expect.raises("tensor is gone", core.statistics, lent)
    expect.raises("no parameter is named 'x'", session.gradient_tensor, session, "x")
  end)

  it("refuse what does not fit", function()
    expect.raises("no parameter is named 'layers.9'", session.scale_gradient, session, "layers.9", 1)
    expect.raises("expected a finite number", session.scale_gradient, session, first, 0 / 0)
    expect.raises("expected a finite number", session.add_gradient, session, first, math.huge, {})
    expect.raises(first .. " has 256 values, got 2", session.add_gradient, session, first, 1, { 1, 2 })
    expect.raises("has 256 values, got 0", session.dot_gradient, session, first, {})
    expect.raises("values: expected a list", session.dot_gradient, session, first)
    expect.raises("no parameter is named 'x'", session.statistics, session, "gradient", { name = "x" })
    expect.raises("invalid option 'grad'", session.statistics, session, "grad")
    expect.raises("expected a norm >= 0", session.clip, session, -1)
  end)

  it("are clipped where they lie, and a step without clipping then reaches the same bytes", function()
    local other <close> = bind.session()
    for limit in pairs { [0.01] = true, [1e6] = true, [0] = true } do
      local norm, scale = session:clip(limit)
      assert.is_true(near(norm, total_norm(session) / scale, 1e-6))
      assert.equal(limit == 0.01 and 0.01 / (norm + 1e-6) or 1, scale)
      assert(session:optim_step { lr = 1e-2, weight_decay = 0.1, max_grad_norm = 0 })
      assert(other:forward_backward(bind.batch(2, 24)))
      assert.equal(norm, other:optim_step({ lr = 1e-2, weight_decay = 0.1, max_grad_norm = limit }).grad_norm)
      assert.equal(saved(other), saved(session))
      assert(session:forward_backward(bind.batch(2, 24)))
    end
  end)

  it("that are not finite are left alone by clipping, and the step is skipped", function()
    session:add_gradient(first, 1, lists.fill(256, 0 / 0))
    local norm, scale = session:clip(1)
    assert.is_true(norm ~= norm)
    assert.equal(1, scale)
    assert.is_true(session:optim_step(ADAM).skipped)
  end)
end)

describe("frozen matrices", function()
  it("keep value and moments, and their gradients read zero", function()
    local session <close> = bind.session()
    local batch = bind.batch(2, 24)
    assert(session:forward_backward(batch))
    assert(session:optim_step(ADAM))
    local names, kept = {}, {}
    for i, parameter in ipairs(session:parameters()) do
      if i % 3 == 0 then names[#names + 1] = parameter.name end
    end
    for _, name in ipairs(names) do
      assert.is_true(session:freeze(name))
      for _, which in ipairs { "value", "moment1", "moment2" } do kept[name .. which] = session:read(name, which) end
    end
    assert.same(names, session:frozen())
    for _ = 1, 3 do
      assert(session:forward_backward(batch))
      for _, name in ipairs(names) do assert.equal(0, session:norm(name, "gradient")) end
      session:add_gradient(names[1], 1, lists.fill(#kept[names[1] .. "value"], 1))
      assert.equal(0, session:norm(names[1], "gradient"))
      session:write(names[1], lists.fill(#kept[names[1] .. "value"], 1), "gradient")
      assert(session:optim_step(ADAM))
    end
    for _, name in ipairs(names) do
      for _, which in ipairs { "value", "moment1", "moment2" } do
        assert.same(kept[name .. which], session:read(name, which))
      end
    end
    session:freeze(names[1], false)
    assert.equal(#names - 1, #session:frozen())
    assert(session:forward_backward(batch))
    assert(session:optim_step(ADAM))
    assert.not_same(kept[names[1] .. "value"], session:read(names[1]))
  end)

  it("leave the others' update as it is, to the bit", function()
    local whole <close> = bind.session()
    local part <close> = bind.session()
    local parameters = whole:parameters()
    local without_clipping = { lr = 1e-2, weight_decay = 0.1, max_grad_norm = 0 }
    part:freeze(parameters[2].name)
    part:freeze(parameters[3].name)
    for _, session in ipairs { whole, part } do
      assert(session:forward_backward(bind.batch(2, 24)))
      assert(session:optim_step(without_clipping))
    end
    for i, parameter in ipairs(parameters) do
      local frozen = i == 2 or i == 3
      local same = lists.bits(whole:read(parameter.name)) == lists.bits(part:read(parameter.name))
      assert.equal(not frozen, same, parameter.name)
    end
  end)
end)

describe("what a session watches", function()
  it("is nothing until asked, and said by name", function()
    local session <close> = bind.session()
    for _, method in ipairs { "updates", "pieces", "turns" } do
      expect.fails("argument", method .. " are not watched", session[method](session))
    end
    expect.raises('expected a list of "updates", "pieces", "turns"', session.watch, session, { "update" })
    assert.is_true(session:watch { "updates" })
    expect.fails("argument", "there was no update", session:updates())
    assert.is_true(session:watch {})
    expect.fails("argument", "updates are not watched", session:updates())
  end)

  it("leaves the bytes of training alone", function()
    local plain <close> = bind.session()
    local watched <close> = bind.session()
    watched:watch { "updates", "pieces", "turns" }
    for _ = 1, 3 do
      for _, session in ipairs { plain, watched } do
        assert(session:forward_backward(bind.batch(3, 24)))
        if session == watched then
          session:turns()
          session:statistics("gradient", { quantiles = { 0.5 }, magnitudes = true })
          session:pieces()
        end
        assert(session:optim_step(ADAM))
      end
    end
    assert.equal(saved(plain), saved(watched))
    temp.clean()
  end)

  it("updates: how far each matrix moved, and from how far", function()
    local session <close> = bind.session()
    session:watch { "updates" }
    assert(session:forward_backward(bind.batch(2, 24)))
    local before = {}
    for i, parameter in ipairs(session:parameters()) do before[i] = session:read(parameter.name) end
    local result = assert(session:optim_step(ADAM))
    local change, length = session:updates()
    local squares = 0
    for i, parameter in ipairs(session:parameters()) do
      local after = session:read(parameter.name)
      assert.is_true(near(lists.norm(lists.add(after, -1, before[i])), change[i], 1e-9))
      assert.is_true(near(lists.norm(before[i]), length[i], 1e-9))
      squares = squares + change[i] ^ 2
    end
    assert.is_true(near(math.sqrt(squares), result.update_norm, 1e-5))
  end)

  it("pieces: the norm of what each micro-batch added", function()
    local session <close> = bind.session { micro_batch_tokens = 24 }
    session:watch { "pieces" }
    local batch = bind.batch(3, 24)
    batch[2].weights = lists.fill(23, 0)
    batch[3].weights = lists.fill(23, 1)
    batch[3].weights[1] = 0
    assert(session:forward_backward(batch, { scale = 0.01 }))
    local pieces = session:pieces()
    assert.equal(2, #pieces) -- a micro-batch without supervision is not run
    assert.same({ 1, 23, 1, 22 }, { pieces[1].rows, pieces[1].supervised, pieces[2].rows, pieces[2].supervised })
    local alone <close> = bind.session()
    for piece, row in ipairs { 1, 3 } do
      alone:zero_gradients()
      assert(alone:forward_backward({ batch[row] }, { scale = 0.01 }))
      assert.is_true(near(total_norm(alone), pieces[piece].norm, 1e-5))
    end
    assert(session:forward_backward({ batch[1] }))
    assert.equal(3, #session:pieces())
    assert(session:optim_step(ADAM))
    assert.same({}, session:pieces())
  end)

  it("turns: cosines with the gradients of the call before", function()
    local session <close> = bind.session()
    session:watch { "turns" }
    local function gradients()
      local all = {}
      for i, parameter in ipairs(session:parameters()) do all[i] = session:read(parameter.name, "gradient") end
      return all
    end
    assert(session:forward_backward(bind.batch(1, 24)))
    local cosines, overall = session:turns()
    for _, cosine in ipairs(cosines) do assert.is_true(cosine ~= cosine) end
    assert.is_true(overall ~= overall)
    local before = gradients()
    assert(session:optim_step(ADAM))
    assert(session:forward_backward(bind.batch(2, 20)))
    cosines, overall = session:turns()
    local now = gradients()
    for i = 1, #before do
      local product = lists.dot(now[i], before[i])
      local lengths = lists.norm(now[i]) * lists.norm(before[i])
      if lengths > 0 then
        assert.is_true(near(product / lengths, cosines[i], 1e-9))
      else
        assert.is_true(cosines[i] ~= cosines[i]) -- dA is 0 while B is
      end
    end
    assert.is_true(near(lists.dot(lists.join(table.unpack(now)), lists.join(table.unpack(before)))
      / lists.norm(lists.join(table.unpack(now))) / lists.norm(lists.join(table.unpack(before))), overall, 1e-9))
  end)
end)

describe("singular values", function()
  local function branch_of(session, target)
    for i, parameter in ipairs(session:parameters()) do
      if parameter.target == target then return parameter, session:parameters()[i + 1] end
    end
  end

  it("are those of scale · B A, from either matrix", function()
    local session <close> = bind.session { rank = 3, alpha = 6 }
    local a, b = branch_of(session, "q_proj")
    -- Rows of A and columns of B along the axes: the values stand in the products.
    local a_values, b_values = lists.fill(a.rows * a.columns, 0), lists.fill(b.rows * b.columns, 0)
    for i, length in ipairs { 0.5, 4, 2.0 ^ -20 } do
      a_values[(i - 1) * a.columns + 5 * i] = length
      b_values[(7 * i - 1) * b.columns + i] = 3
    end
    session:write(a.name, a_values)
    session:write(b.name, b_values)
    local found = session:singular_values(a.name)
    for i, expected in ipairs { 24, 3, 6 * 2.0 ^ -20 } do assert.is_true(near(expected, found[i])) end
    assert.same(found, session:singular_values(b.name))
  end)

  it("have the squares' sum of the product, whatever the shapes", function()
    for _, rank in ipairs { 1, 5, 40, 80 } do
      local session <close> = bind.session { rank = rank, alpha = rank, targets = { "k_proj" } }
      local a, b = branch_of(session, "k_proj")
      local left = lists.uniform(1, b.rows * b.columns)
      session:write(b.name, left)
      local right = session:read(a.name)
      local squares = 0
      for i = 0, b.rows - 1 do
        for j = 1, a.columns do
          local sum = 0
          for k = 0, rank - 1 do sum = sum + left[i * rank + k + 1] * right[k * a.columns + j] end
          squares = squares + sum * sum
        end
      end
      local found = session:singular_values(b.name)
      assert.equal(math.min(rank, b.rows, a.columns), #found)
      local own = 0
      for i, value in ipairs(found) do
        own = own + value * value
        assert.is_true(value >= 0 and (i == 1 or value <= found[i - 1]))
      end
      assert.is_true(near(squares, own, 1e-9))
    end
  end)

  it("are zero at the start, and refused by name when a weight is not finite", function()
    local session <close> = bind.session()
    local first = session:parameters()[1].name
    assert.same({ 0, 0, 0, 0 }, session:singular_values(first))
    expect.raises("no parameter is named 'x'", session.singular_values, session, "x")
    for _ = 1, 30 do
      session:add_gradient(first, 1e30, lists.fill(256, 1))
      session:optim_step { lr = 1e38, weight_decay = 0, max_grad_norm = 0 }
    end
    expect.fails("argument", first .. " has a value that is not finite", session:singular_values(first))
  end)
end)
