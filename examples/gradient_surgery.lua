-- Gradient surgery: two loss terms that pull the same weights apart, and PCGrad between them (Yu et al.,
-- "Gradient Surgery for Multi-Task Learning", 2020).
--
--     lua5.4 examples/gradient_surgery.lua [--model NAME] [--steps N] [--method pcgrad|sum] …
--
-- One term teaches SciFact's verdicts; the other asks for the claim again after the same evidence, as a language
-- model would go on. Each step computes both gradients apart. Where they disagree (a negative product over all
-- matrices), PCGrad takes from each what points against the other before they are added. You will see both
-- losses and the cosine between the terms at each step, how often they were in conflict, and the losses of
-- plain summing beside PCGrad's when --method is left out.
local crucible = require "crucible"
local arguments = require "crucible.arguments"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"
local lora = crucible.lora

local options = schema.new("gradient_surgery", {
  { name = "model", default = "smollm2-135m-instruct", check = schema.string, doc = "name or path of the base model" },
  { name = "steps", default = 12, check = schema.integer { min = 1 }, doc = "optimiser steps for each method" },
  { name = "batch", default = 2, check = schema.integer { min = 1 }, doc = "rows of each term a step" },
  { name = "method", check = schema.one_of { "pcgrad", "sum" }, doc = "how to join them; default: both in turn" },
  { name = "learning_rate", default = 1e-3, check = schema.number { above = 0 }, doc = "of AdamW" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of everything random" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "help", default = false, check = schema.boolean, doc = "this text" },
})

local given, problem = arguments.parse(options, arg)
if not given or given.help then
  io.stderr:write(problem and "gradient_surgery: " .. problem .. "\n" or arguments.help(options))
  os.exit(problem and 2 or 0)
end

-- ---- two terms over the same rows ------------------------------------------------------------

-- A row of tokens: only what follows the prompt is learnt.
local function datum(tokenizer, prompt, answer)
  local tokens = tokenizer:prompt(prompt)
  local length, weights = #tokens, {}
  local ids = tokenizer:answer(prompt, answer)
  table.move(ids, 1, #ids, length + 1, tokens)
  for i = 1, #tokens - 1 do weights[i] = i >= length and 1 or 0 end
  return { tokens = tokens, weights = weights }
end

local function terms(session, rows)
  local verdicts, claims = {}, {}
  for i, row in ipairs(rows) do
    local claim, evidence = row.input:match "Claim: (.-)\nEvidence: (.-)\n"
    evidence = evidence:sub(1, 240)
    local question = ("Claim: %s\nEvidence: %s\n\nVerdict:"):format(claim, evidence)
    verdicts[i] = datum(session.tokenizer, question, row.output)
    claims[i] = datum(session.tokenizer, evidence, " " .. claim)
  end
  return verdicts, claims
end

local function batch_at(list, step)
  local batch = {}
  for i = 1, given.batch do batch[i] = list[((step - 1) * given.batch + i - 1) % #list + 1] end
  return batch
end

-- ---- surgery --------------------------------------------------------------------------------

-- Gradients of one term alone as tensors, by name. The session is left without any.
local function gradients_of(session, batch)
  local loss = assert(session:forward_backward(batch)).loss
  local found = {}
  for name, gradient in pairs(session:gradients()) do found[name] = gradient:tensor() end
  session:zero_gradients()
  return loss, found
end

-- Products over all matrices as one vector: of the session's gradient with another and with itself, and of
-- the other with itself.
local function products(gradients, other)
  local across, own, others = 0, 0, 0
  for name, gradient in pairs(gradients) do
    across, own = across + gradient:dot(other[name]), own + gradient:norm() ^ 2
    others = others + (other[name] ^ 2):sum():item()
  end
  return across, own, others
end

-- The session holds term b; afterwards it holds a + b, each without its part against the other:
-- a - (a·b / b·b) b + b - (a·b / a·a) a.
local function join(session, a, method)
  local gradients = session:gradients()
  local across, own, others = products(gradients, a)
  local conflict = across < 0
  local cut = conflict and method == "pcgrad"
  for name, gradient in pairs(gradients) do
    gradient:scale(cut and 1 - across / own or 1):add_(a[name], cut and 1 - across / others or 1)
  end
  return across / math.sqrt(own * others), conflict
end

local function train(model, method)
  local config = lora.config.new {
    base_model = given.model, learning_rate = given.learning_rate, threads = given.threads,
  }
  local session <close> = assert(model:session { config = config, seed = given.seed })
  local verdicts, claims = terms(session, assert(lora.dataset_integration.prepare_dataset("scifact", { limit = 64 })))
  local rows, conflicts = {}, 0
  for step = 1, given.steps do
    local first_loss, first = gradients_of(session, batch_at(verdicts, step))
    local second_loss = assert(session:forward_backward(batch_at(claims, step))).loss
    local cosine, conflict = join(session, first, method)
    assert(session:optim_step())
    conflicts = conflicts + (conflict and 1 or 0)
    rows[step] = { step, first_loss, second_loss, cosine, conflict and "yes" or "" }
  end
  print(method == "pcgrad" and "PCGrad" or "plain sum")
  io.write(terminal.table({ "step", "verdict loss", "claim loss", "cosine", "conflict" }, rows))
  print(("%d of %d steps in conflict\n"):format(conflicts, given.steps))
  return rows[#rows]
end

local model <close> = assert(crucible.model(given.model))
local ends = {}
for _, method in ipairs(given.method and { given.method } or { "sum", "pcgrad" }) do
  local last = train(model, method)
  ends[#ends + 1] = { method, last[2], last[3] }
end
io.write(terminal.table({ "at the last step", "verdict loss", "claim loss" }, ends))
