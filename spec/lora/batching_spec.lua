-- A run whose batches are packed, and one whose tokens lie on disk: the same results, resumed or not.
local fake = require("spec.support.fake_core").install()
local crucible = require "crucible"
local expect = require "spec.support.expect"
local fs = require "crucible.fs"
local json = require "crucible.json"
local temp = require "spec.support.temp"

local lora = crucible.lora
local folder, path

before_each(function()
  folder = temp.folder()
  path = temp.file(folder, "toy.gguf", "toy")
end)
after_each(temp.clean)

local rows = {}
for i = 1, 30 do rows[i] = { input = ("x"):rep(i * 7 % 23 + 1), output = ("answer %d"):format(i) } end

-- The results of a run, the rows of each batch in order, and the losses.
local function run(options)
  local session <close> = assert(lora.create_session { config = { base_model = path, lora_rank = 2, warmup_steps = 0 },
    runs = folder .. "/runs" })
  local batches, real = {}, session.forward_backward
  session.forward_backward = function(self, batch, ...)
    local numbers = {}
    for i, datum in ipairs(batch) do numbers[i] = datum.row end
    batches[#batches + 1] = table.concat(numbers, " ")
    return real(self, batch, ...)
  end
  local losses = {}
  local given = { checkpoint_every = 0,
    callbacks = { on_step_end = function(step) losses[#losses + 1] = step.loss end } }
  for key, value in pairs(options) do given[key] = value end
  local results = assert(lora.training_loop.run(session, rows, given))
  return results, batches, losses
end

describe("a run with packed batches", function()
  local packed = { batching = "best_fit", batch_tokens = 64, epochs = 2 }

  it("takes every row once an epoch, none over the room", function()
    local results, batches = run(packed)
    local seen = {}
    for _, batch in ipairs(batches) do
      local tokens = 0
      for number in batch:gmatch "%d+" do
        number = tonumber(number)
        seen[number] = (seen[number] or 0) + 1
        tokens = tokens + #rows[number].input + 1 + #rows[number].output
      end
      assert.truthy(tokens <= 64)
    end
    for number = 1, #rows do assert.equal(2, seen[number]) end
    local manifest = json.decode(temp.read(results.run_dir .. "/manifest.json"))
    assert.equal("best_fit", manifest.plan.batching)
  end)

  it("goes on from a checkpoint with the batches it would have had", function()
    local _, whole, losses = run(packed)
    local stopped = { max_steps = 5, run_dir = folder .. "/cut" }
    for key, value in pairs(packed) do stopped[key] = value end
    local _, before, first = run(stopped)
    stopped.max_steps, stopped.resume = nil, true
    local _, after, rest = run(stopped)
    assert.equal(table.concat(whole, "\n"), table.concat(before, "\n") .. "\n" .. table.concat(after, "\n"))
    assert.same(losses, table.move(rest, 1, #rest, #first + 1, first))
  end)

  it("puts rows of like length together in buckets", function()
    local _, batches = run { batching = "bucket", batch_size = 5 }
    local spread = 0
    for _, batch in ipairs(batches) do
      local least, most = math.huge, 0
      for number in batch:gmatch "%d+" do
        local length = #rows[tonumber(number)].input + #rows[tonumber(number)].output
        least, most = math.min(least, length), math.max(most, length)
      end
      spread = math.max(spread, most - least)
    end
    assert.truthy(spread <= 6)
  end)

  it("needs batch_tokens to fill", function()
    expect.raises('batching = "best_fit" fills batches of batch_tokens, which is missing', run,
      { batching = "best_fit" })
    expect.raises('batching must be one of "in_order", "best_fit", "bucket"', run, { batching = "best" })
  end)
end)

describe("a run on rows of other kinds", function()
  local function train(list, options)
    local session <close> = assert(lora.create_session {
      config = { base_model = path, lora_rank = 2, warmup_steps = 0 }, runs = folder .. "/runs",
    })
    local batches, real = {}, session.forward_backward
    session.forward_backward = function(self, batch, ...)
      batches[#batches + 1] = batch
      return real(self, batch, ...)
    end
    return assert(lora.training_loop.run(session, list, options)), batches, session.tokenizer
  end

  it("trains conversations by the template of the tokenizer", function()
    local talk = { messages = { { role = "user", content = "Hi" }, { role = "assistant", content = "Ho" },
      { role = "user", content = "Bye" }, { role = "assistant", content = "See you" } } }
    local results, batches, tok = train({ talk }, { formatter = "chat", train_on = "all_assistants" })
    local datum, trained = batches[1][1], {}
    for i, weight in ipairs(datum.weights) do
      if weight ~= 0 then trained[#trained + 1] = datum.tokens[i + 1] end
    end
    assert.equal(" Ho<eos> See you<eos>", tok:decode(trained))
    assert.equal("User: Hi\n\nAssistant: Ho<eos>\n\nUser: Bye\n\nAssistant:", results.gate.sample.prompt)
  end)

  it("evaluates conversations from the prompt that training has", function()
    local talk = { messages = { { role = "user", content = "Hi" }, { role = "assistant", content = "Ho" } } }
    local session <close> = assert(lora.create_session {
      config = { base_model = path, lora_rank = 2 }, runs = folder .. "/runs",
    })
    local found = assert(lora.evaluation.evaluate(session, { talk }, { formatter = "chat",
      metrics = { "exact_match" } }))
    assert.equal(1, found.samples)
    local prompt = fake.generations[#fake.generations].prompts[1]
    assert.equal("User: Hi\n\nAssistant:", session.tokenizer:decode(prompt))
  end)

  it("keeps the pairs of preference together, however rows are batched", function()
    local pairs_of = {}
    for i = 1, 9 do pairs_of[i] = { prompt = ("q"):rep(i), chosen = "yes", rejected = "no" } end
    for _, options in ipairs { { batch_size = 4 }, { batching = "bucket", batch_size = 4 },
      { batching = "best_fit", batch_tokens = 40 } } do
      options.formatter, options.checkpoint_every = "preference", 0
      local _, batches = train(pairs_of, options)
      for _, batch in ipairs(batches) do
        for i = 1, #batch, 2 do
          assert.equal(batch[i].metadata.group, batch[i + 1].metadata.group)
          assert.equal("chosen", batch[i].metadata.choice)
          assert.equal("rejected", batch[i + 1].metadata.choice)
        end
      end
    end
  end)
end)

describe("a run whose tokens lie on disk", function()
  it("has the losses of one that tokenises anew, and makes its file once", function()
    local cache = folder .. "/tokens"
    local plain, _, losses = run { token_cache = false }
    local _, _, written = run { token_cache = cache }
    local files = assert(fs.list(cache))
    local again, _, reused = run { token_cache = cache }
    assert.equal(1, #files)
    assert.same(files, fs.list(cache))
    assert.same(losses, written)
    assert.same(losses, reused)
    local function digest(results) return json.decode(temp.read(results.run_dir .. "/manifest.json")).dataset.sha256 end
    assert.equal(digest(plain), digest(again))
  end)
end)
