-- A life of sessions for hosts: everything that holds threads, files or memory, some of it left open.
local path, folder = ...
local core = require "crucible.core"

local model = assert(core.open_model(path))
local session = assert(model:session {
  rank = 2, alpha = 4, dropout = 0.1, targets = { "q_proj", "up_proj" }, threads = 3,
})
for _ = 1, 3 do
  assert(session:forward_backward { { tokens = { 1, 2, 3, 4, 5, 6 } }, { tokens = { 7, 8, 9 } } })
  assert(session:optim_step { lr = 1e-3 })
end
assert(session:save_lora(folder .. "/lora"))
assert(session:load_lora(folder .. "/lora"))
assert(not core.open_model(folder .. "/nowhere.gguf"))

local generation = assert(session:generate({ { 1, 2, 3 } }, { max_tokens = 5, temperature = 1 }))
assert(generation:step())

local lines = {}
for i = 1, 200 do lines[i] = ('{"text": "row %d", "value": %d.5}'):format(i, i) end
assert(core.fs.write_file(folder .. "/rows.jsonl", table.concat(lines, "\n")))
local rows = assert(core.open_rows(folder .. "/rows.jsonl", { ahead = true }))
assert(rows:next().value == 1.5)

local http = assert(core.open_http())
local transfer = http:start { url = "http://127.0.0.1:9/nothing", connect_seconds = 5 }
for _ = 1, 100 do
  if not transfer or transfer:state().done then break end
  assert(http:wait(0.05))
end

local closed <close> = assert(model:session { rank = 1, alpha = 1, dropout = 0, targets = { "v_proj" }, threads = 2 })
assert(closed:forward { { tokens = { 1, 2 } } })
