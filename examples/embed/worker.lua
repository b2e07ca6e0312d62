-- What each thread of examples/embed/threads.c runs: trains a lora and returns the SHA-256 of its file.
local path, seed, steps = ...
local core = require "crucible.core"

local model <close> = assert(core.open_model(path))
local tokenizer = model:tokenizer()
local session <close> = assert(model:session {
  rank = 4, alpha = 8, dropout = 0.1, targets = { "q_proj", "k_proj", "v_proj", "o_proj" }, seed = seed, threads = 2,
})

local batch = {}
for i, text in ipairs {
  "Water boils at 100 degrees.", "Ice is water that is frozen.", "Steam is water that boils.", "Snow is ice.",
} do
  batch[i] = { tokens = tokenizer:encode(text) }
end

for _ = 1, steps do
  assert(session:forward_backward(batch))
  assert(session:optim_step { lr = 1e-3 })
end

local file = os.tmpname()
assert(session:save_lora(file))
local digest = assert(core.fs.sha256 { file = file })
os.remove(file)
return digest
