-- The same seed gives the same bytes of the saved lora.
require "crucible.core"
local lists = require "spec.support.lists"
local shell = require "spec.support.shell"
local tiny_model = require "spec.support.tiny_model"

local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local function ids(seed, count)
  return lists.map(lists.uniform(seed, count, 32768), function(x) return x // 1 % 260 end)
end

-- Two batches a step, as with gradient accumulation; rows longer and shorter than a tile of attention.
local function train(name, options, steps)
  local session = tiny_model.session(lists.with({ targets = ALL, dropout = 0.1, seed = 11, alpha = 5 }, options), name)
  for step = 1, steps do
    for part = 1, 2 do
      local seed = 10 * step + part
      local rows = { { tokens = ids(seed, 70) }, { tokens = ids(seed + 3, 9) }, { tokens = ids(seed + 6, 25) } }
      assert(session:forward_backward(rows, { scale = 0.01 }))
    end
    assert(session:optim_step({ lr = 5e-3, max_grad_norm = 0.5, loraplus_lr_ratio = options.dora and 4 or nil }))
  end
  return session
end

describe("training on the tiny models", function()
  local folder

  setup(function() folder = shell.temporary_folder() end)
  teardown(function() shell.remove_tree(folder) end)

  local function saved(name, options)
    local session <close> = train(name, options, 3)
    assert(session:save_lora(folder .. "/lora"))
    local handle = assert(io.open(folder .. "/lora", "rb"))
    local bytes = handle:read("a")
    handle:close()
    return bytes
  end

  for _, name in ipairs({ "tiny", "tiny_untied" }) do
    it("saves the same bytes twice and at 1, 2 and 3 threads, with dropout: " .. name, function()
      local one = saved(name, { threads = 1 })
      assert.is_true(one == saved(name, { threads = 1 }), "twice")
      assert.is_true(one == saved(name, { threads = 2 }), "at 2 threads")
      assert.is_true(one == saved(name, { threads = 3 }), "at 3 threads")
      assert.is_true(one == saved(name, { recompute = true }), "with recomputation")
      assert.is_false(one == saved(name, { seed = 12 }), "with another seed")
    end)

    it("does so with DoRA, ranks of single modules and LoRA+: " .. name, function()
      local dora = { dora = true, rank_pattern = { { "k_proj", 2 } }, threads = 1 }
      local one = saved(name, dora)
      assert.is_true(one == saved(name, dora), "twice")
      assert.is_true(one == saved(name, lists.with(dora, { threads = 2 })), "at 2 threads")
      assert.is_true(one == saved(name, lists.with(dora, { recompute = true })), "with recomputation")
    end)
  end

  it("begins with A in ±1/√columns from the seed and B zero", function()
    local one <close> = tiny_model.session({ targets = ALL, seed = 1 })
    local same <close> = tiny_model.session({ targets = ALL, seed = 1 })
    local other <close> = tiny_model.session({ targets = ALL, seed = 2 })
    for _, p in ipairs(one:parameters()) do
      local values = one:read(p.name)
      assert.same(values, same:read(p.name))
      if p.name:find("lora_B$") then
        assert.equal(0, lists.largest(values))
      else
        local bound = 1 / math.sqrt(p.columns)
        assert.not_same(values, other:read(p.name))
        assert.is_true(lists.largest(values) <= bound and lists.largest(values) > 0.95 * bound)
        assert.near(bound / math.sqrt(3), lists.norm(values) / math.sqrt(#values), 0.1 * bound)
      end
    end
  end)

  it("learns the rows it is shown", function()
    local session <close> = tiny_model.session({ targets = ALL })
    local rows = { { tokens = ids(1, 12) }, { tokens = ids(2, 12) } }
    local first = assert(session:forward_backward(rows)).loss
    for _ = 1, 60 do
      assert(session:optim_step({ lr = 2e-2, weight_decay = 0 }))
      assert(session:forward_backward(rows))
    end
    session:zero_gradients()
    local last = assert(session:forward_backward(rows)).loss
    assert.is_true(last < 0.5 * first, ("%g, then %g"):format(first, last))
  end)
end)
