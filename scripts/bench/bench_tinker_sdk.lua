-- The client over crucible for scripts/bench/bench_tinker_sdk.py: the same steps as its client over the SDK.
package.path = "lua/?.lua;lua/?/init.lua;" .. package.path
package.cpath = "build/release/lua5.4/?.so;" .. package.cpath

local crucible = require "crucible"
local json = require "crucible.json"

local given = assert(json.decode(arg[1]))

local function batch(step)
  local rows = {}
  for row = 0, given.rows - 1 do
    local tokens = {}
    for place = 0, given.tokens do tokens[place + 1] = 3 + (31 * row + 17 * place + 7 * step) % 250 end
    rows[row + 1] = { tokens = tokens }
  end
  return rows
end

local session <close> = assert(crucible.lora.create_session {
  adapter = "tinker", base_url = given.base_url, api_key = given.api_key, remote_model = given.remote_model,
  differences = "note", config = { base_model = given.base_model, lora_rank = 4, lora_dropout = 0 },
})
local params = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, max_grad_norm = 0 }
local walls, losses = {}, {}
for step = 0, given.steps - 1 do
  local begun = crucible.core.fs.clock()
  local done = assert(assert(session:begin_step({ batch(step % 5) }, "cross_entropy", { params = params })):wait())
  losses[step + 1] = done.results[1].loss
  walls[step + 1] = crucible.core.fs.clock() - begun
end
print(json.encode { walls = walls, losses = losses })
