-- LoRA+ (Hayou et al. 2024): B and magnitudes learn at a multiple of A's rate. Beside PEFT: spec/golden.
require "crucible.core"
local expect = require "spec.support.expect"
local lists = require "spec.support.lists"
local shell = require "spec.support.shell"
local tiny_model = require "spec.support.tiny_model"

local ADAM = { lr = 1e-3, weight_decay = 0, max_grad_norm = 0 }

local function open() return tiny_model.session({ rank = 2, targets = { "q_proj", "v_proj" }, dora = true }) end

local function step(session, options)
  for i, p in ipairs(session:parameters()) do
    session:write(p.name, lists.uniform(i, p.rows * p.columns), "gradient")
  end
  return assert(session:optim_step(lists.with(ADAM, options or {})))
end

-- How far a weight moved on average in one step, by part.
local function moves(session, options)
  local before, out, counts = {}, {}, {}
  for _, p in ipairs(session:parameters()) do before[p.name] = session:read(p.name) end
  step(session, options)
  for _, p in ipairs(session:parameters()) do
    for i, value in ipairs(session:read(p.name)) do
      out[p.part] = (out[p.part] or 0) + math.abs(value - before[p.name][i])
      counts[p.part] = (counts[p.part] or 0) + 1
    end
  end
  for part, sum in pairs(out) do out[part] = sum / counts[part] end
  return out
end

describe("a ratio of learning rates", function()
  it("moves B and magnitudes so many times as far as A in Adam's first step", function()
    for _, ratio in ipairs { 1, 16, 0.5 } do
      local session <close> = open()
      local found = moves(session, { loraplus_lr_ratio = ratio })
      assert.near(1e-3, found.A, 1e-5)
      assert.near(1e-3 * ratio, found.B, 1e-5 * ratio)
      assert.near(1e-3 * ratio, found.magnitude, 2e-5 * ratio)
    end
  end)

  it("decays each at its own rate", function()
    local session <close> = open()
    local before = {}
    for i, p in ipairs(session:parameters()) do
      before[i] = lists.fill(p.rows * p.columns, 1)
      session:write(p.name, before[i])
    end
    assert(session:optim_step { lr = 0.01, weight_decay = 0.5, loraplus_lr_ratio = 8 })
    for _, p in ipairs(session:parameters()) do
      assert.near(p.part == "A" and 0.995 or 0.96, session:read(p.name)[1], 1e-6)
    end
  end)

  it("of 1 changes no bit", function()
    local one <close> = open()
    local two <close> = open()
    for _ = 1, 3 do
      step(one)
      step(two, { loraplus_lr_ratio = 1 })
    end
    for _, p in ipairs(one:parameters()) do
      assert.equal(lists.bits(one:read(p.name)), lists.bits(two:read(p.name)))
    end
  end)

  it("leaves frozen matrices alone", function()
    local session <close> = open()
    local name = session:parameters()[2].name
    session:freeze(name)
    step(session, { loraplus_lr_ratio = 16 })
    assert.equal(0, session:norm(name))
  end)

  it("is kept by the optimiser, its file and a session that loads it", function()
    local folder = shell.temporary_folder()
    local whole <close> = open()
    local first <close> = open()
    step(whole, { loraplus_lr_ratio = 16 })
    step(whole)
    step(first, { loraplus_lr_ratio = 16 })
    assert(first:save_lora(folder .. "/lora"))
    assert(first:save_optimizer(folder .. "/optimizer"))
    local resumed <close> = open()
    assert(resumed:load_lora(folder .. "/lora"))
    assert(resumed:load_optimizer(folder .. "/optimizer"))
    step(resumed)
    for _, p in ipairs(whole:parameters()) do
      assert.equal(lists.bits(whole:read(p.name)), lists.bits(resumed:read(p.name)), p.name)
    end
    shell.remove_tree(folder)
  end)

  it("is refused when it is none", function()
    local session <close> = open()
    for _, ratio in ipairs { 0, -1, math.huge } do
      expect.raises("loraplus_lr_ratio: expected a finite number > 0", session.optim_step, session,
        lists.with(ADAM, { loraplus_lr_ratio = ratio }))
    end
  end)
end)
