-- Gradient hooks: how they are registered and run, and what the builtin ones measure.
local crucible = require "crucible"
local expect = require "spec.support.expect"
local hooked = require "spec.support.hooked"

local hooks = crucible.lora.gradient_hooks
local open = hooked.open
local B = hooked.B

before_each(hooked.begin)
after_each(hooked.finish)

describe("hooks", function()
  local function info() return { step = 1, gradients = {} } end

  it("run in the order of registration and build on each other", function()
    local one = hooks.new()
    hooks.register_hook(one, "double", function(given) return { value = 2 * (given.value or 1) } end)
    hooks.register_hook(one, "add", function(given) return { value = given.value + 1, seen = true } end)
    local found = hooks.run_hooks(one, info())
    assert.same({ 3, true }, { found.value, found.seen })
    hooks.unregister_hook(one, "double")
    hooks.register_hook(one, "double", function(given) return { value = 2 * given.value } end)
    local again = info()
    again.value = 5
    assert.equal(12, one:run_hooks(again).value)
    assert.same({ "add", "double" }, one:names())
  end)

  it("may return info itself, or nothing", function()
    local function same(given)
      given.touched = true
      return given
    end
    local one = hooks.new { hooks = { { "same", same }, { "silent", function() end } } }
    assert.is_true(one:run_hooks(info()).touched)
  end)

  it("come as names, names with options, names with functions, and with points", function()
    local function own() end
    local late = { "late", own, points = { "after_clipping", "after_update" } }
    local one = hooks.new { hooks = { "norm", { "health", { vanishing = 1e-5 } }, { "own", own }, late } }
    assert.same({ "norm", "health", "own", "late" }, one:names())
    assert.is_true(one:stands_at "after_clipping")
    assert.is_false(hooks.new({ hooks = { "norm" } }):stands_at "after_update")
    assert.same({ "updates" }, one:watched())
    for _, make in ipairs { "norm", "distribution", "flow", "health" } do
      one:register_hook("my " .. make, hooks["gradient_" .. make .. "_hook"]())
    end
    assert.equal("crucible.gradient_hooks(norm, health, own, late, my norm, my distribution, my flow, my health; "
      .. "0 steps seen)", tostring(one))
  end)

  for _, case in ipairs {
    { "an unknown name", { "nrm" }, 'no hook is named "nrm"; did you mean "norm"?' },
    { "a hook without a name", { "norm", {} }, "hook 2: expected a name, { name, options } or" },
    { "an unknown option of a hook", { { "health", { vanish = 1 } } }, 'did you mean "vanishing"?' },
    { "a threshold that is none", { { "health", { exploding = 0 } } }, "exploding must be a number above 0" },
    { "the same name twice", { "norm", "norm" }, '"norm" is registered already' },
    { "an unknown point", { { "x", print, points = { "before" } } }, 'unknown point "before"' },
  } do
    it("are refused for " .. case[1], function() expect.raises(case[3], hooks.new, { hooks = case[2] }) end)
  end

  it("are refused when they are no functions, and unregistered only by name", function()
    local one = hooks.new { hooks = { "norm" } }
    expect.raises('unknown option "buffersize"; did you mean "buffer_size"?', hooks.new, { buffersize = 3 })
    expect.raises('hook "x" must be a function, got 5', one.register_hook, one, "x", 5)
    expect.raises('no hook is named "nrm"; did you mean "norm"?', one.unregister_hook, one, "nrm")
    expect.raises("expected what gradient_hooks.new returns, got an empty table", hooks.register_hook, {}, "x", print)
    expect.raises("expected a table with gradients", one.run_hooks, one, {})
  end)

  it("keep the last results", function()
    local function square(given) return { square = given.step ^ 2 } end
    local one = hooks.new { buffer_size = 3, experiment_id = "x", hooks = { { "square", square } } }
    for step = 1, 5 do one:run_hooks { step = step, gradients = {} } end
    local kept = {}
    for i, record in ipairs(one:buffer()) do kept[i] = record.square end
    assert.same({ 9, 16, 25 }, kept)
    assert.is_nil(one:buffer()[1].gradients)
  end)

  it("that raise name themselves and the step", function()
    local bad, good = { "bad", function() error "boom" end }, { "good", function() return { good = true } end }
    local one = hooks.new { hooks = { bad } }
    expect.raises('gradient hook "bad" failed at step 1 (after_backward)', one.run_hooks, one, info())
    local found = hooks.new({ on_error = "continue", hooks = { bad, good } }):run_hooks(info())
    assert.is_true(found.good)
    assert.equal("bad", found.hook_errors[1].hook)
    assert.truthy(found.hook_errors[1].message:find "boom")
  end)

  for _, case in ipairs {
    { "an unknown action", { action = "skp" }, 'unknown action "skp"; did you mean "skip"?' },
    { "an action of no kind", { action = 5 }, 'action must be "skip", "stop" or a table, got 5' },
    { "a factor that is none", { action = { scale = "x" } }, 'scale must be a finite number, got "x"' },
    { "an unknown name to freeze", { action = { freeze = { "layers.99" } } }, 'no matrix is named "layers.99"' },
    { "an unknown key among actions", { action = { skip = true, scal = 2 } }, 'did you mean "scale"?' },
    { "a result that is no table", 7, "it must return a table or nil, got 7" },
  } do
    it("that ask for " .. case[1] .. " have failed", function()
      local session <close> = open()
      local one = hooks.new { hooks = { { "bad", function() return case[2] end } } }
      local given = { step = 1, gradients = hooked.gradients(session), session = session }
      expect.raises(case[3], one.run_hooks, one, given)
    end)
  end
end)

-- What a plain loop finds in a list.
local function plain_stats(values)
  local sum, squares, variance = 0, 0, 0
  for _, value in ipairs(values) do sum, squares = sum + value, squares + value * value end
  for _, value in ipairs(values) do variance = variance + (value - sum / #values) ^ 2 / #values end
  return {
    norm = math.sqrt(squares), mean = sum / #values, std = math.sqrt(variance), min = math.min(table.unpack(values)),
    max = math.max(table.unpack(values)),
  }
end

describe("the norm and distribution hooks", function()
  it("give what the reference promises, by name", function()
    local session <close> = open()
    local gradients = hooked.gradients(session)
    local one = hooks.new { hooks = { "norm", "distribution" } }
    local found = one:run_hooks { step = 1, gradients = gradients, session = session }
    for name, gradient in pairs(gradients) do
      local stats = found.gradient_stats[name]
      for figure, value in pairs(plain_stats(gradient:totable())) do
        assert.is_true(math.abs(stats[figure] - value) <= 1e-12 + 1e-12 * math.abs(value), name .. " " .. figure)
      end
      assert.equal(stats.norm, found.gradient_norms[name])
    end
  end)

  it("count every value in one histogram", function()
    local session <close> = open()
    local gradients = hooked.gradients(session)
    local histogram = hooks.gradient_distribution_hook()({ gradients = gradients }).gradient_histogram
    local counted = histogram.zeros + histogram.nonfinite
    for _, count in ipairs(histogram.counts) do counted = counted + count end
    for _, gradient in pairs(gradients) do counted = counted - #gradient end
    assert.equal(0, counted)
  end)
end)

describe("the flow hook", function()
  local targets = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

  local function names_of(layers)
    local names = {}
    for layer = 0, layers - 1 do
      for i, target in ipairs(targets) do
        for _, matrix in ipairs { "A", "B" } do
          names[#names + 1] = ("layers.%d.%s.%s.lora_%s"):format(layer, i <= 4 and "self_attn" or "mlp", target, matrix)
        end
      end
    end
    return names
  end

  for _, layers in ipairs { 2, 12, 30 } do
    it(("is ordered by depth, then projection, then A before B, for %d layers"):format(layers), function()
      local expected = names_of(layers)
      local found = hooks.gradient_flow_hook() { gradients = hooked.bare(expected) }
      for i, entry in ipairs(found.gradient_flow) do
        assert.same({ expected[i], i, (i - 1) // 14 + 1 }, { entry.layer, entry.magnitude, entry.depth })
      end
      assert.equal(#expected, #found.gradient_flow)
    end)

    it(("adds up to layers and projections, for %d layers"):format(layers), function()
      local found = hooks.gradient_flow_hook() { gradients = hooked.bare(names_of(layers)) }
      local squares, order = 0, {}
      for _, entry in ipairs(found.gradient_flow) do squares = squares + entry.magnitude ^ 2 end
      local by_layer, by_target = squares, squares
      for depth, rolled in ipairs(found.gradient_layers) do
        assert.equal(depth, rolled.depth)
        by_layer = by_layer - rolled.magnitude ^ 2
      end
      for i, rolled in ipairs(found.gradient_targets) do
        order[i], by_target = rolled.target, by_target - rolled.magnitude ^ 2
      end
      assert.same(targets, order)
      assert.equal(layers, #found.gradient_layers)
      assert.is_true(math.abs(by_layer) < 1e-12 * squares and math.abs(by_target) < 1e-12 * squares)
    end)
  end

  it("follows a session's own order", function()
    local session <close> = open { target_modules = { "down_proj", "o_proj", "q_proj", "gate_proj" } }
    local found = hooks.gradient_flow_hook() { gradients = hooked.gradients(session) }
    for i, place in ipairs(session:matrices()) do assert.equal(place.name, found.gradient_flow[i].layer) end
  end)
end)

describe("further hooks", function()
  it("measure updates beside weights", function()
    local session <close> = open()
    local events = hooked.events(session, { "updates" })
    assert.is_nil(events[1].gradient_updates[B].ratio)
    assert.is_true(events[2].gradient_updates[B].ratio > 0.1)
    assert.is_true(events[2].update_ratio > 1e-3 and events[2].update_ratio < 0.1)
  end)

  it("compare with the step before: 1 between the same gradients, nothing at the first step", function()
    local session <close> = open { learning_rate = 1e-12, weight_decay = 0 }
    local events = hooked.events(session, { "cosine" }, { rows = 1, epochs = 3 })
    assert.is_nil(events[1].gradient_cosine)
    assert.is_true(events[2].gradient_cosine > 0.999)
    assert.is_true(events[3].gradient_cosines[B] > 0.999)
  end)

  it("look at spectra every so often", function()
    local session <close> = open()
    local events = hooked.events(session, { { "spectrum", { every = 2 } } })
    assert.is_nil(events[1].lora_spectra)
    assert.is_true(events[2].lora_spectra["layers.1.self_attn.v_proj"].effective_rank > 0)
    assert.is_nil(events[3].lora_spectra)
  end)
end)

describe("the noise hook", function()
  -- About normal: twelve uniforms, by Knuth's MMIX generator.
  local function generator(state)
    return function()
      local sum = 0
      for _ = 1, 12 do
        state = (state * 6364136223846793005 + 1442695040888963407) & -1
        sum = sum + (state >> 11) * 2.0 ^ -53
      end
      return sum - 6
    end
  end

  -- One step whose rows have gradients of ones plus noise; a piece is a row.
  local function step(normal, dimension, noise, rows)
    local pieces, whole = {}, {}
    for r = 1, rows do
      local squares = 0
      for i = 1, dimension do
        local value = (1 + noise * normal()) / rows
        whole[i], squares = (whole[i] or 0) + value, squares + value ^ 2
      end
      pieces[r] = { norm = math.sqrt(squares), rows = 1 }
    end
    local squares = 0
    for _, value in ipairs(whole) do squares = squares + value ^ 2 end
    return {
      session = { pieces = function() return pieces end },
      gradients = { all = { norm = function() return math.sqrt(squares) end } },
    }
  end

  it("finds the scale of gradients whose noise is known", function()
    local hook, normal, found = require "crucible.hooks.noise" { decay = 0.99 }, generator(7), nil
    for _ = 1, 300 do found = hook(step(normal, 100, 3, 4)) end
    -- |G|² = dimension, S = dimension · noise²
    assert.is_true(math.abs(found.gradient_noise_scale - 9) < 1.5, tostring(found.gradient_noise_scale))
    assert.is_true(math.abs(found.gradient_noise.signal - 100) < 15)
    assert.equal(4, found.gradient_noise.pieces)
  end)

  it("takes the pieces of accumulated batches, and says nothing of a single one", function()
    local session <close> = open { grad_accumulation = 2 }
    local events = hooked.events(session, { "noise" }, { rows = 16 })
    assert.equal(2, events[1].gradient_noise.pieces)
    assert.is_true(events[4].gradient_noise.noise > 0)
    local single <close> = open()
    events = hooked.events(single, { "noise" })
    assert.is_nil(events[1].gradient_noise)
    assert.is_nil(events[1].gradient_noise_scale)
  end)
end)
