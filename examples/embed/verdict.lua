-- A tuned model's verdict on a claim, for the hosts in this folder. Whoever requires it gets one open session
-- for the life of the Lua state:
--
--     local verdict = require "verdict"          -- examples/embed in LUA_PATH
--     verdict.of("Water is wet.", "Wet is what water makes.")  → { label = "SUPPORT", probability = 0.83 }
--
-- The environment says which: CRUCIBLE_MODEL, a name or path, and CRUCIBLE_CHECKPOINT, a folder of a run's
-- checkpoints/ that was trained on `scifact`.
local checkpoints = require "crucible.lora.checkpoints"
local lora = require("crucible").lora

local verdict = {}

local LABELS = { "SUPPORT", "CONTRADICT" }
local open -- the session

local function needed(name)
  local value = os.getenv(name)
  if not value or value == "" then error(name .. " is not set", 0) end
  return value
end

-- A session of the shape that the checkpoint was trained with.
local function session()
  if open then return open end
  local path = needed "CRUCIBLE_CHECKPOINT"
  local settings = assert(checkpoints.read(path)).config
  settings.base_model, settings.threads = needed "CRUCIBLE_MODEL", 1
  local made = assert(lora.create_session { config = settings })
  assert(made:load_checkpoint(path))
  open = made
  return open
end

local prompt_of = lora.dataset_integration.formatter "scifact"

--- The likelier label, and how likely it is beside the other.
---@param claim string
---@param evidence string
---@return { label: string, probability: number }
function verdict.of(claim, evidence)
  local row = prompt_of { claim = claim, evidence = { evidence }, label = LABELS[1] }
  local scores = assert(session():score({ row.input }, LABELS))[1]
  local best = scores[1] >= scores[2] and 1 or 2
  return { label = LABELS[best], probability = 1 / (1 + math.exp(scores[3 - best] - scores[best])) }
end

return verdict
