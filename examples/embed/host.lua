-- What examples/embed/host.c runs: a few steps with the engine alone (crucible.core), told to the host.
local path, steps = ...
local core = require "crucible.core"

local rows = {
  { "The capital of France is", " Paris." }, { "The capital of Italy is", " Rome." },
  { "The capital of Spain is", " Madrid." }, { "The capital of Greece is", " Athens." },
}

local model <close> = assert(core.open_model(path))
local tokenizer = model:tokenizer()
local session <close> = assert(model:session {
  rank = 8, alpha = 16, dropout = 0, targets = { "q_proj", "v_proj" }, seed = 0,
})

-- The weight belongs to the target: tokens[i + 1] at position i.
local function datum_of(row)
  local tokens, answer = tokenizer:encode(row[1]), tokenizer:encode(row[2])
  local before, weights = #tokens, {}
  table.move(answer, 1, #answer, before + 1, tokens)
  for i = 1, #tokens - 1 do weights[i] = i >= before and 1 or 0 end
  return { tokens = tokens, weights = weights }
end

local batch = {}
for i, row in ipairs(rows) do batch[i] = datum_of(row) end

for step = 1, math.tointeger(tonumber(steps or "20")) do
  local result = assert(session:forward_backward(batch))
  assert(session:optim_step { lr = 2e-3, weight_decay = 0 })
  report(step, result.loss) -- luacheck: ignore 113
end

local generation <close> = assert(session:generate({ tokenizer:encode(rows[1][1]) }, {
  temperature = 0, max_tokens = 8,
}))
local ids = {}
for events in generation.step, generation do
  for _, event in ipairs(events) do ids[#ids + 1] = event.token end
end
print(rows[1][1] .. tokenizer:decode(ids))
