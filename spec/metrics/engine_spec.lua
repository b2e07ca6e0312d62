-- Evaluation over the real engine, on the tiny model: what the stand-in cannot tell.
local crucible = require "crucible"
local scorers = require "crucible.metrics.scorers"
local temp = require "spec.support.temp"
local tiny_model = require "spec.support.tiny_model"

local lora = crucible.lora

local function open()
  return assert(lora.create_session {
    config = { base_model = tiny_model.path, lora_rank = 2, threads = 1 }, runs = temp.folder(), seed = 3,
  })
end

local rows = {
  { input = "one:", output = "yes" }, { input = "and a second:", output = "no" },
  { input = "three of them:", output = "yes and no" },
}

describe("evaluation of the tiny model", function()
  after_each(temp.clean)

  it("measures the perplexity that the log-probabilities say", function()
    local session <close> = open()
    local sum, tokens = 0, 0
    for _, row in ipairs(rows) do
      local prompt, answer = session.tokenizer:prompt(row.input), session.tokenizer:answer(row.input, row.output)
      answer[#answer + 1] = session.tokenizer.eos
      local weights = {}
      for i = 1, #prompt + #answer - 1 do weights[i] = i >= #prompt and 1 or 0 end
      local all = table.move(answer, 1, #answer, #prompt + 1, table.move(prompt, 1, #prompt, 1, {}))
      local logprobs = assert(session:forward { { tokens = all, weights = weights } }).logprobs[1]
      for i = #prompt, #all - 1 do sum, tokens = sum - logprobs[i], tokens + 1 end
    end
    local result = assert(lora.evaluation.evaluate(session, rows, { metrics = { "perplexity", "loss" } }))
    assert.is_true(math.abs(sum / tokens - result.metrics.loss) < 1e-5 * result.metrics.loss)
    assert.is_true(math.abs(math.exp(sum / tokens) / result.metrics.perplexity - 1) < 1e-4)
  end)

  it("gives the same predictions, metrics and intervals for the same seed", function()
    local function evaluate(max_batch)
      local session <close> = open()
      local result = assert(lora.evaluation.evaluate(session, rows, { temperature = 1, seed = 5, max_tokens = 6,
        metrics = { "token_f1", "bleu", "perplexity" }, max_batch = max_batch }))
      local texts = {}
      for i, prediction in ipairs(result.predictions) do texts[i] = prediction.text end
      return { texts, result.metrics, result.intervals }
    end
    local first = evaluate(1)
    assert.same(first, evaluate(1))
    assert.same(first[1], evaluate(3)[1])
  end)

  it("scores likeness by hidden states", function()
    local session <close> = open()
    local scorer = scorers.make("similarity", "hidden", session, {})
    local scores = assert(scorer.score { { "cells grow", "cells grow" }, { "cells grow", "no" },
      { "no", "cells grow" } })
    assert.is_true(math.abs(1 - scores[1]) < 1e-9)
    assert.is_true(scores[2] >= 0 and scores[2] < 1)
    assert.is_true(math.abs(scores[2] - scores[3]) < 1e-9)
  end)

  it("refuses a checkpoint of another base model", function()
    local session <close> = open()
    local saved = assert(session:save_checkpoint "mine")
    local other <close> = assert(lora.create_session {
      config = { base_model = tiny_model.untied_path, lora_rank = 2, threads = 1 }, runs = temp.folder(),
    })
    local result, message, code = lora.evaluation.evaluate(other, rows, { checkpoint = saved.path })
    assert.is_nil(result)
    assert.equal("format", code)
    assert.truthy(message:find "was made on another base model %(tiny.gguf, SHA%-256 %x+%)")
  end)
end)
