-- Every family beside transformers and PEFT, on small random models of odd sizes.
local core = require "crucible.core"
local family_model = require "support.family_model"
local golden = require "support.golden"
local temp = require "support.temp"

local SKETCH_MARGIN = 0.5 -- see smollm2_spec.lua
local TARGETS = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local rows = family_model.fixtures.rows

local function without_weights()
  local out = {}
  for i, row in ipairs(rows) do out[i] = { tokens = row.tokens } end
  return out
end

local function assert_logprobs(expected, actual)
  for i, row in ipairs(expected) do
    local difference = golden.largest_difference(actual[i], row)
    assert.is_true(difference < 1e-4, ("row %d differs by %g"):format(i, difference))
  end
end

-- What any file of the family must give; head_size: as golden.read takes it.
local function check(title, fixture, write, head_size)
  describe(title, function()
    local model, folder
    setup(function()
      folder = temp.folder()
      model = assert(core.open_model(write(folder)))
    end)
    teardown(function()
      model:close()
      temp.clean()
    end)

    local function open(options)
      local config = {
        rank = fixture.rank, alpha = fixture.alpha, dropout = 0, targets = TARGETS, seed = 0, threads = 2,
      }
      for key, value in pairs(options or {}) do config[key] = value end
      local session = assert(model:session(config))
      golden.load_hashed(session, folder .. "/hashed.safetensors")
      return session
    end

    it("gives transformers' log-probabilities", function()
      local session <close> = open()
      assert_logprobs(fixture.base_logprobs, assert(session:forward(without_weights(), { base = true })))
    end)

    it("gives PEFT's log-probabilities with branches on all seven projections", function()
      local session <close> = open()
      assert_logprobs(fixture.logprobs, assert(session:forward(without_weights())))
    end)

    for _, recompute in ipairs { false, true } do
      local how = recompute and "recomputing the layers" or "keeping the layers"
      it("gives PEFT's loss and gradient of every matrix, " .. how, function()
        local session <close> = open { recompute = recompute }
        local result = assert(session:forward_backward(rows))
        assert.is_true(golden.relative(result.loss, fixture.loss) < 1e-5)
        for _, p in ipairs(session:parameters()) do
          local expected = assert(fixture.gradients[p.name], p.name)
          local ours = golden.read(session, p, "gradient", head_size)
          local difference = golden.sketched_difference(p.name, ours, expected.sketch, expected.norm)
          assert.is_true(difference < SKETCH_MARGIN * 1e-4, ("%s differs by about %g"):format(p.name, difference))
        end
      end)
    end

    it("scores and generates with kept keys as it does without", function()
      local session <close> = open()
      local ids = rows[1].tokens
      local logprobs = assert(session:forward { { tokens = ids } })[1]
      for _, cut in ipairs { 1, 4, 5, 6, 20 } do
        local prompt, rest = { table.unpack(ids, 1, cut) }, { table.unpack(ids, cut + 1) }
        local sum = 0.0
        for i = cut, #ids - 1 do sum = sum + logprobs[i] end
        local scores = assert(session:score({ prompt }, { { rest } }))
        assert.near(sum, scores[1][1], 1e-3)
      end
      -- Each greedy token is the likeliest one of a pass without kept keys.
      local prompt = { table.unpack(ids, 1, 12) }
      local written = golden.greedy(session, prompt, 8)
      for i = 1, #written do
        local text = table.move(written, 1, i - 1, #prompt + 1, { table.unpack(prompt) })
        local choices = {}
        for id = 0, fixture.config.vocab_size - 1 do choices[id + 1] = { id } end
        local scores = assert(session:score({ text }, { choices }))[1]
        local best = 1
        for id = 2, #scores do best = scores[id] > scores[best] and id or best end
        assert.equal(best - 1, written[i], "token " .. i)
      end
    end)
  end)
end

for _, family in ipairs(family_model.gguf) do
  local fixture = family_model.fixtures[family]
  check(family .. " as GGUF", fixture, function(folder)
    local path = folder .. "/" .. family .. ".gguf"
    family_model.write_gguf(family, path)
    return path
  end, family == "llama" and fixture.config.head_dim or nil)
end

for _, family in ipairs { "llama", "mistral", "qwen2", "qwen3", "gemma3" } do
  check(family .. " as a folder of the hub", family_model.fixtures[family], function(folder)
    family_model.write_folder(family, folder, { shards = family == "qwen3" and 3 or nil })
    return folder
  end)
end
