-- Greedy text of SmolLM2-135M beside transformers, in float32, with and without a lora, alone and 16 together
-- (scripts/make_generation_golden.py).
local core = require "crucible.core"
local golden = require "support.golden"
local models = require "support.models"

local CERTAIN = 2e-3 -- a token that led the runner-up by less could change with rounding

local path = models.smollm2()

describe("greedy text of SmolLM2-135M-Instruct #slow", function()
  if not path then
    pending "its file was not fetched: scripts/fetch_model smollm2-135m-instruct"
    return
  end

  if not core.fs.stat(golden.path "generation.json") then
    pending "its fixture was not made: scripts/make_generation_golden.py"
    return
  end

  local fixture = golden.json("generation.json")
  local model, session

  setup(function()
    model = assert(core.open_model(path))
    session = assert(model:session {
      rank = fixture.rank, alpha = fixture.alpha, dropout = 0, targets = fixture.targets, seed = 0,
    })
    local file = os.tmpname()
    golden.load_hashed(session, file)
    os.remove(file)
  end)
  teardown(function()
    session:close()
    model:close()
  end)

  local function run(prompts, params)
    local generation <close> = assert(session:generate(prompts, params))
    local rows = {}
    for i = 1, #prompts do rows[i] = {} end
    for events in function() return (generation:step()) end do
      for _, event in ipairs(events) do table.insert(rows[event.prompt], event.token) end
    end
    return rows
  end

  for _, set in ipairs { "base", "lora" } do
    for _, max_batch in ipairs { 1, 16 } do
      local which = set == "lora" and "with a lora" or "without a lora"
      it(("is transformers' %s, %d rows together"):format(which, max_batch), function()
        local rows = run(fixture.prompts, { max_tokens = 64, max_batch = max_batch, base = set == "base" })
        local compared = 0
        for i, expected in ipairs(fixture[set]) do
          if expected.lead > CERTAIN then
            compared = compared + 1
            assert.same(expected.tokens, rows[i])
          end
        end
        assert.is_true(compared >= 15, compared)
      end)
    end
  end
end)
