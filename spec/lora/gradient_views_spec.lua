-- Views of gradients, and what a session does with all of them.
local expect = require "spec.support.expect"
local hooked = require "spec.support.hooked"

local A, B = hooked.A, hooked.B
local open, with_gradients = hooked.open, hooked.gradients

before_each(hooked.begin)
after_each(hooked.finish)

local function check_figures(name, gradient)
  local values, stats = gradient:totable(), gradient:stats()
  local squares, zeros = 0, 0
  for _, value in ipairs(values) do
    squares, zeros = squares + value * value, zeros + (value == 0 and 1 or 0)
  end
  assert.is_true(math.abs(gradient:norm() - math.sqrt(squares)) <= 1e-12 * gradient:norm(), name)
  assert.equal(gradient:norm(), stats.norm)
  assert.equal(zeros / #values, stats.sparsity)
  table.sort(values)
  assert.same({ values[1], values[#values] }, { stats.min, stats.max })
  local middle = #values // 2
  assert.is_true(math.abs(stats.quantiles.p50 - (values[middle] + values[middle + 1]) / 2) <= 1e-12)
end

describe("views of gradients", function()
  it("answer with the figures of their values", function()
    local session <close> = open()
    for name, gradient in pairs(with_gradients(session)) do
      check_figures(name, gradient)
      local rows, columns = gradient:shape()
      assert.equal(#gradient:totable(), rows * columns)
      local histogram = gradient:histogram()
      local sum = histogram.zeros + histogram.nonfinite
      for _, bin in ipairs(histogram.counts) do sum = sum + bin end
      assert.equal(#gradient, sum)
    end
  end)

  it("know their place", function()
    local session <close> = open()
    local gradient = with_gradients(session)[B]
    assert.same({ 2, "v_proj", "B", 32, 4 }, { gradient.layer, gradient.target, gradient.matrix, gradient:shape() })
    assert.equal("crucible.gradient(" .. B .. ", 32 x 4)", tostring(gradient))
  end)

  it("write into the gradient, and their figures follow", function()
    local session <close> = open()
    local gradients = with_gradients(session)
    local gradient, other = gradients[B], gradients["layers.0.self_attn.v_proj.lora_B"]
    local norm, product, squares = gradient:norm(), gradient:dot(other), other:norm() ^ 2
    assert.equal(gradient, gradient:scale(-2))
    assert.is_true(math.abs(gradient:norm() - 2 * norm) < 1e-9 * norm)
    assert.equal(-2 * product, gradient:dot(other))
    gradient:add_(other, 0.5)
    assert.is_true(math.abs(gradient:dot(other) - (-2 * product + 0.5 * squares)) < 1e-6 * squares)
    assert.equal(gradient:stats().norm, gradient:norm())
    assert.equal(0, gradient:zero_():norm())
    assert.equal(1, gradient:stats().sparsity)
    local list = {}
    for i = 1, #gradient do list[i] = i end
    assert.equal(#gradient, gradient:add_(list):stats().max)
  end)

  it("are followed by the optimiser", function()
    local changed <close> = open()
    local plain <close> = open()
    with_gradients(changed)[B]:zero_()
    with_gradients(plain)
    assert(changed:optim_step())
    assert(plain:optim_step())
    assert.equal(0, changed:weight_norm(B))
    assert.is_true(plain:weight_norm(B) > 0)
  end)

  it("refuse what is no factor and what does not fit", function()
    local session <close> = open()
    local gradient = with_gradients(session)[B]
    expect.raises("scale takes a finite number, got inf", gradient.scale, gradient, math.huge)
    expect.raises('scale takes a finite number, got "x"', gradient.scale, gradient, "x")
    expect.raises('add_ takes a gradient, a tensor or a list of numbers, got "x"', gradient.add_, gradient, "x")
    expect.raises(B .. " has 128 values, got 1", gradient.add_, gradient, { 1 })
  end)

  it("say that they are gone after the step, after zeroing, after closing", function()
    local session <close> = open()
    local gone = { with_gradients(session)[B] }
    assert(session:optim_step())
    gone[2] = with_gradients(session)[B]
    session:zero_gradients()
    for _, gradient in ipairs(gone) do
      for _, method in ipairs { "norm", "stats", "histogram", "totable", "scale", "zero_", "dot" } do
        expect.raises("gradient of " .. B .. " is gone", gradient[method], gradient, 1)
      end
      assert.truthy(tostring(gradient):find(", gone)", 1, true))
      assert.same({ 32, 4 }, { gradient:shape() })
    end
    local last = with_gradients(session)[B]
    session:close()
    expect.raises("its session is closed", last.norm, last)
  end)
end)

describe("gradients as tensors", function()
  it("are copies that outlive the step", function()
    local session <close> = open()
    local gradient = with_gradients(session)[B]
    local values, copy = gradient:totable(), gradient:tensor()
    assert.same({ "f32", 32, 4 }, { copy:dtype(), copy:shape() })
    copy:scale_(2)
    assert.same(values, gradient:totable())
    assert(session:optim_step())
    assert.equal(2 * values[1], copy:item(1, 1))
  end)

  it("borrowed, are the gradient itself: what is written goes through, and the figures follow", function()
    local session <close> = open()
    local gradient = with_gradients(session)[B]
    local norm, borrowed = gradient:norm(), gradient:tensor { borrow = true }
    borrowed:scale_(2)
    assert.is_true(math.abs(gradient:norm() - 2 * norm) < 1e-9 * norm)
    borrowed:slice(1, 1, 16):zero_()
    assert.is_true(gradient:stats().sparsity >= 0.5)
    borrowed:zero_()
    assert.equal(0, gradient:norm())
    session:measure_gradients()
    borrowed:fill_(1)
    session:measure_gradients()
    assert.equal(math.sqrt(#gradient), gradient:norm())
    assert(session:optim_step())
    assert.is_true(session:weight_norm(B) > 0)
  end)

  it("borrowed, are gone with it, and so is every view of them", function()
    local session = open()
    local function lend()
      local borrowed = with_gradients(session)[B]:tensor { borrow = true }
      return { borrowed, borrowed:transpose(1, 2), borrowed:slice(1, 2, 3) }
    end
    local kept = {}
    for i, finish in ipairs { session.optim_step, session.zero_gradients, session.close } do
      kept[i] = lend()
      finish(session)
    end
    for _, tensors in ipairs(kept) do
      for _, one in ipairs(tensors) do
        expect.raises("tensor is gone: its gradient was used by an update or zeroed", one.sum, one)
        expect.raises("tensor is gone", one.totable, one)
      end
    end
  end)

  it("are added and multiplied as lists are", function()
    local session <close> = open()
    local gradient = with_gradients(session)[B]
    local values, copy = gradient:totable(), gradient:tensor()
    assert.equal(gradient:dot(values), gradient:dot(copy))
    assert.equal(gradient:dot(values), gradient:dot(gradient))
    assert.equal(0, gradient:add_(copy, -1):norm())
    assert.equal(gradient, gradient:add_(copy:transpose(1, 2):contiguous():transpose(1, 2), 2))
    assert.is_true(math.abs(gradient:dot(copy) - 2 * copy:to("f64"):norm():item() ^ 2) < 1e-6)
    expect.raises(B .. " has 128 values, got 64", gradient.add_, gradient, copy:slice(1, 1, 16))
    copy:close()
    expect.raises("tensor is closed", gradient.dot, gradient, copy)
    expect.raises('unknown option "borrowed"; did you mean "borrow"?', gradient.tensor, gradient, { borrowed = true })
  end)

  it("serve surgery: PCGrad's joined gradient goes against neither term", function()
    local session <close> = open()
    local first = {}
    for name, gradient in pairs(with_gradients(session)) do first[name] = gradient:tensor() end
    session:zero_gradients()
    -- A second term in conflict with the first: its opposite and something of its own.
    assert(session:forward_backward { { tokens = { 5, 9, 13, 200, 17, 21 } } })
    local second, across, own, others = {}, 0, 0, 0
    for name, gradient in pairs(session:gradients()) do
      second[name] = gradient:add_(first[name], -0.5):tensor()
      across, own = across + gradient:dot(first[name]), own + gradient:norm() ^ 2
      others = others + (first[name]:to "f64" ^ 2):sum():item()
    end
    assert.is_true(across < 0)
    local with_first, with_second = 0, 0
    for name, gradient in pairs(session:gradients()) do
      gradient:scale(1 - across / own):add_(first[name], 1 - across / others)
      with_first, with_second = with_first + gradient:dot(first[name]), with_second + gradient:dot(second[name])
    end
    assert.is_true(with_first > 0 and with_second > 0)
    assert.is_true(math.abs(with_first - (others - across ^ 2 / own)) < 1e-4 * others)
    assert.is_true(math.abs(with_second - (own - across ^ 2 / others)) < 1e-4 * own)
  end)
end)

describe("a session's gradients", function()
  it("are frozen and thawed by whole names or their beginnings", function()
    local session <close> = open()
    assert.same({ A, B }, session:freeze "layers.1.self_attn.v_proj")
    assert.same({ A, B }, session:frozen())
    assert.same({ B }, session:thaw { B })
    assert.equal(4, #session:freeze "layers.2")
    local misspelt = "layers.1.self_attn.v_prj.lora_B"
    local expected = ('no matrix is named "%s"; did you mean "%s"?'):format(misspelt, B)
    expect.raises(expected, session.freeze, session, misspelt)
    expect.raises('no matrix is named "layers.9"', session.thaw, session, { "layers.9" })
  end)

  it("stay frozen in a checkpoint", function()
    local session <close> = open()
    session:freeze { B }
    local saved = assert(session:save_checkpoint "half")
    local other <close> = open()
    other:freeze "layers.0"
    assert(other:load_checkpoint(saved.path))
    assert.same({ B }, other:frozen())
  end)

  it("have a spectrum", function()
    local session <close> = open()
    for _ = 1, 2 do
      with_gradients(session)
      assert(session:optim_step())
    end
    local spectrum = session:spectrum(B)
    assert.equal(4, #spectrum.singular_values)
    assert.is_true(spectrum.effective_rank > 1 and spectrum.effective_rank <= 4)
    assert.is_true(spectrum.stable_rank >= 1 and spectrum.stable_rank <= spectrum.effective_rank)
    local fresh <close> = open()
    assert.same({ 0, 0 }, { fresh:spectrum(B).effective_rank, fresh:spectrum(B).stable_rank })
  end)
end)
