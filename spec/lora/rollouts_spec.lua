-- Runs by rewards on the tiny model: what a step samples, how it is rewarded, that it learns, and that a run that is
-- cut goes on to the same bytes.
local crucible = require "crucible"
local expect = require "spec.support.expect"
local hooked = require "spec.support.hooked"
local temp = require "spec.support.temp"

local lora = crucible.lora
local loop = lora.training_loop

before_each(hooked.begin)
after_each(hooked.finish)

local PROMPTS = { "row 1:", "row 2:", "row 3:", "row 4:", "row 5:" }

-- Share of tokens with an even id: something that a policy can learn.
local function even(sample)
  local count = 0
  for _, token in ipairs(sample.tokens) do count = count + (token % 2 == 0 and 1 or 0) end
  return count / math.max(1, #sample.tokens)
end

local function options_of(changes)
  local options = { reward = { { even, name = "even" } }, group_size = 4, batch_size = 2, max_tokens = 8,
    checkpoint_every = 0 }
  for name, value in pairs(changes or {}) do options[name] = value end
  return options
end

local function train(changes, config, prompts)
  local session <close> = hooked.open(config)
  local steps, options = {}, options_of(changes)
  options.callbacks = { options.callbacks or {}, { on_step_end = function(event) steps[#steps + 1] = event end } }
  return assert(loop.rollouts(session, prompts or PROMPTS, options)), steps
end

local function bytes(results)
  local path = results.checkpoints[#results.checkpoints].path
  return temp.read(path .. "/adapter_model.safetensors") .. temp.read(path .. "/optimizer.safetensors")
end

describe("a step of a run by rewards", function()
  it("samples each prompt group_size times and tells what came of it", function()
    local results, steps = train()
    assert.equal(3, results.total_steps) -- five prompts, two a step
    local event = steps[1]
    assert.equal(8, #event.rollouts)
    assert.equal(4, #steps[3].rollouts)
    local sum = 0
    for i, one in ipairs(event.rollouts) do
      assert.equal((i - 1) // 4 + 1, one.group)
      assert.equal((i - 1) % 4 + 1, one.index)
      assert.equal(1, one.step)
      assert.equal(even(one), one.reward)
      assert.same({ even = one.reward }, one.parts)
      assert.is_true(#one.tokens <= 8)
      sum = sum + one.reward
    end
    assert.is_true(math.abs(event.components.reward - sum / 8) < 1e-12)
    assert.is_true(math.abs(event.components["reward.even"] - sum / 8) < 1e-12)
    for _, name in ipairs { "reward.length", "reward.finished", "reward.deviation", "reward.idle_groups", "grpo" } do
      assert.is_number(event.components[name], name)
    end
  end)

  it("draws other samples in each step, and the same again for the same seed at any number of threads", function()
    local function texts(config)
      local _, steps = train({ epochs = 2 }, config)
      local list = {}
      for _, event in ipairs(steps) do
        for _, one in ipairs(event.rollouts) do list[#list + 1] = table.concat(one.tokens, " ") end
      end
      return list
    end
    local first = texts()
    assert.same(first, texts { threads = 2 })
    local _, one = train({ max_steps = 2, shuffle = false }, nil, { "row 1:" })
    assert.not_equal(table.concat(one[1].rollouts[1].tokens, " "), table.concat(one[2].rollouts[1].tokens, " "))
  end)

  it("learns from sampled tokens alone, the end token included", function()
    local session <close> = hooked.open()
    local seen, inner = {}, session.forward_backward
    session.forward_backward = function(self, batch, ...)
      table.move(batch, 1, #batch, #seen + 1, seen)
      return inner(self, batch, ...)
    end
    local last
    assert(loop.rollouts(session, PROMPTS, options_of { max_steps = 1, callbacks = {
      on_step_end = function(event) last = event end,
    } }))
    for i, datum in ipairs(seen) do
      local one = last.rollouts[i]
      local prompt = session.tokenizer:prompt(one.prompt)
      local supervised = 0
      for t, weight in ipairs(datum.weights) do
        assert.equal(t >= #prompt and 1 or 0, weight)
        supervised = supervised + weight
      end
      assert.equal(#one.tokens + (one.finish == "stop" and 1 or 0), supervised)
      assert.equal(("1.%d"):format(one.group), datum.metadata.group)
      assert.equal(one.reward, datum.reward)
    end
  end)
end)

describe("advantages", function()
  it("are rewards against their group's, and nothing is learnt from a group that is all alike", function()
    local results = train { reward = function() return 1 end }
    assert.equal("finished", results.status)
    local _, steps = train { reward = function() return 1 end }
    for _, event in ipairs(steps) do
      assert.equal(1, event.components["reward.idle_groups"])
      assert.equal(0, event.grad_norm)
    end
  end)

  for _, name in ipairs { "importance_sampling", "ppo" } do
    it(("reach %s with the log-probabilities of sampling, whose slope is GRPO's at the start"):format(name), function()
      local _, expected = train({ max_steps = 1 }, { lora_dropout = 0 })
      local _, found = train({ max_steps = 1, loss = name }, { lora_dropout = 0 })
      assert.is_true(expected[1].grad_norm > 0)
      assert.is_true(math.abs(expected[1].grad_norm - found[1].grad_norm) < 1e-4 * expected[1].grad_norm)
    end)
  end
end)

describe("a run by rewards", function()
  it("raises its reward", function()
    local _, steps = train({ max_steps = 40, group_size = 8, batch_size = 3 }, { learning_rate = 2e-2, lora_rank = 8 })
    local function mean(first, last)
      local sum = 0
      for i = first, last do sum = sum + steps[i].components.reward end
      return sum / (last - first + 1)
    end
    assert.is_true(mean(31, 40) > mean(1, 2) + 0.15, ("%.3f, then %.3f"):format(mean(1, 2), mean(31, 40)))
  end)

  it("goes on to the bytes of the run that was not cut, at one and two threads", function()
    local function cut(threads)
      local id = "cut" .. threads
      local config = { lora_dropout = 0.1, schedule = "cosine", threads = threads }
      local changes = { max_steps = 5, checkpoint_every = 1, run_dir = hooked.open(config).run_dir .. id }
      changes.callbacks = { on_step_end = function(event) if event.step == 3 then return "stop" end end }
      train(changes, config)
      changes.callbacks, changes.resume = nil, true
      return (train(changes, config))
    end
    local whole = bytes((train({ max_steps = 5, checkpoint_every = 1 }, { lora_dropout = 0.1, schedule = "cosine" })))
    for threads = 1, 2 do assert.is_true(whole == bytes(cut(threads))) end
  end)

  it("keeps the state with the best reward", function()
    local results, steps = train { max_steps = 4, checkpoint_every = 1 }
    local best = 1
    for i = 2, 4 do
      if steps[i].components.reward > steps[best].components.reward then best = i end
    end
    assert.equal("reward", results.best.metric)
    assert.equal(best, results.best.step)
  end)

  it("may be evaluated on held-out rows, which have outputs", function()
    local results = train { evaluate = { dataset = hooked.rows(3) }, evaluate_every = 2 }
    assert.is_number(results.evaluations[1].metrics.cross_entropy)
    assert.is_nil(results.evaluations[1].metrics.grpo)
  end)

  it("writes samples and a manifest, and is listed like any other", function()
    local results = train { samples = { count = 2, max_tokens = 4 } }
    assert.truthy(temp.read(results.run_dir .. "/samples.jsonl"):find('"moment":"before"', 1, true))
    assert.equal("finished", assert(lora.runs.read(results.run_dir)).status)
  end)
end)

describe("rewards", function()
  local rewards = require "crucible.lora.rewards"

  local function of(reward, sample)
    sample.metadata, sample.group = sample.metadata or {}, 1
    return rewards.of(rewards.terms(reward), sample)
  end

  it("are metrics by name: form and citations of claims, words, numbers", function()
    local prompt = "Passage:\nDocument 17: A title\n\nAn abstract.\n\nTask:\n"
    local good = "CLAIM[c1]: it works\nCLAIM[c2] (Document 17): it did work\nRELATION: c2 supports c1"
    local sample = { prompt = prompt, text = good, expected = good, metadata = { pool = { "17" }, doc_ids = { "17" } } }
    assert.equal(1, (of("schema_compliance", sample)))
    assert.equal(1, (of("citation_accuracy", sample)))
    sample.text, sample.assessment = good:gsub("17", "99"), nil
    local total, parts = of({ "schema_compliance", { "citation_accuracy", weight = 2 } }, sample)
    assert.equal(1, total)
    assert.same({ schema_compliance = 1, citation_accuracy = 0 }, parts)
    assert.equal(1, (of("exact_match", { prompt = "", text = "a", expected = "a" })))
    assert.equal(1, (of("gsm8k", { prompt = "", text = "so #### 12", expected = "#### 12" })))
  end)

  it("add up by weights, with parts of their own", function()
    local total, parts = of({ { function() return 2, { inner = 7 } end, weight = 0.5, name = "two" },
      function() return 1 end }, { prompt = "", text = "" })
    assert.equal(2, total)
    assert.same({ two = 2, inner = 7, reward_2 = 1 }, parts)
  end)

  it("that raise or return no number end the run, named with the step", function()
    local ok, message = pcall(train, { checkpoint_every = 1, reward = { { function(sample)
      if sample.step == 2 then error "no such judge" end
      return 0
    end, name = "judge" } } })
    assert.is_false(ok)
    for _, part in ipairs { "rollouts failed at step 2", 'reward "judge" of prompt 1', "no such judge",
      "checkpoint step_000001 kept" } do
      assert.truthy(message:find(part, 1, true), part .. " in " .. message)
    end
    expect.raises("must be a finite number, got 0/0", function()
      local good, why = pcall(train, { reward = function() return 0 / 0 end })
      assert.is_false(good)
      error((why:gsub("%-?nan", "0/0")), 0)
    end)
  end)

  it("that are unknown, or need more than a text, are refused before anything is sampled", function()
    expect.raises('unknown metric "schema_complance"', train, { reward = "schema_complance" })
    expect.raises('"mean_entailment" needs scorers', train, { reward = "mean_entailment" })
    expect.raises('"perplexity" is no metric of a text', train, { reward = "perplexity" })
    expect.raises("reward is missing", function()
      local session <close> = hooked.open()
      loop.rollouts(session, PROMPTS, {})
    end)
    expect.raises('unknown option "group_sizes"', train, { group_sizes = 4 })
  end)

  it("need prompts that fit: cut from the left, or left out", function()
    local session <close> = hooked.open()
    local long = { ("long "):rep(3000) }
    expect.fails("data", "no prompt leaves room for 8 new tokens", loop.rollouts(session, long,
      options_of { most_prompt_tokens = 10 }))
    expect.fails("data", "no prompt leaves room", loop.rollouts(session, long,
      options_of { config = { truncation = "drop" } }))
    local events = {}
    assert(loop.rollouts(session, long, options_of { callbacks = {
      on_step_end = function(event) events[#events + 1] = event.tokens end,
    } }))
    assert.is_true(events[1] <= 4 * session.context)
  end)
end)
