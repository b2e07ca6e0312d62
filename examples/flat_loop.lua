-- A fine-tuning loop with nothing between you and the C module: rows to tokens, forward_backward,
-- optim_step, and a look at what was learnt. The rooms of crucible.lora do the same with a config,
-- a data gate, checkpoints and reports: see train_scifact.lua.
--
--     lua5.4 examples/flat_loop.lua MODEL.gguf [STEPS]
--
-- You will see the loss of each step fall, and the tuned model's answer to the first question.
local core = require "crucible.core"

local path, steps = arg[1], math.tointeger(tonumber(arg[2] or "20"))
if not path or not steps then
  io.stderr:write("usage: lua5.4 examples/flat_loop.lua MODEL.gguf [STEPS]\n")
  os.exit(2)
end
local data = arg[0]:gsub("[^/]*$", "") .. "data/scifact/verification_train.jsonl"

local model <close> = assert(core.open_model(path))
local tokenizer = model:tokenizer()
local session <close> = assert(model:session {
  rank = 8, alpha = 16, dropout = 0.05, targets = { "q_proj", "v_proj" }, seed = 0,
})

local function prompt_of(row)
  return ("Claim: %s\nEvidence: %s\n\nVerdict:"):format(row.claim, table.concat(row.evidence, " "))
end

-- Prompt and answer are encoded apart, so the prompt's ids are what the model sees when it is
-- asked. The weight belongs to the target: tokens[i + 1] at position i.
local function datum_of(row)
  local tokens = tokenizer:encode(prompt_of(row))
  local prompt_length = #tokens
  local answer = tokenizer:encode(" " .. row.label)
  answer[#answer + 1] = tokenizer:info().eos
  table.move(answer, 1, #answer, prompt_length + 1, tokens)
  local weights = {}
  for i = 1, #tokens - 1 do weights[i] = i >= prompt_length and 1 or 0 end
  return { tokens = tokens, weights = weights }
end

local rows, datums = {}, {}
for line in io.lines(data) do
  rows[#rows + 1] = assert(core.decode_json(line))
  datums[#datums + 1] = datum_of(rows[#rows])
end

local BATCH = 4
for step = 1, steps do
  local batch = {}
  for i = 1, BATCH do batch[i] = datums[((step - 1) * BATCH + i - 1) % #datums + 1] end
  local result = assert(session:forward_backward(batch))
  local update = assert(session:optim_step {
    lr = 2e-4 * math.min(1, step / 5), beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, max_grad_norm = 1,
  })
  print(("step %d  loss %.4f  norm %.3f"):format(step, result.loss, update.grad_norm))
end

local generation <close> = assert(session:generate({ tokenizer:encode(prompt_of(rows[1])) }, {
  temperature = 0, max_tokens = 8, stop_ids = { tokenizer:info().eos },
}))
local answer = {}
for events in generation.step, generation do
  for _, event in ipairs(events) do answer[#answer + 1] = event.token end
end
print(("\n%s%s"):format(prompt_of(rows[1]), tokenizer:decode(answer)))
