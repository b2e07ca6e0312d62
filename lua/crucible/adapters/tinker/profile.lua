-- What a server is known to do otherwise than the API's words say: by what it lists of itself and answers, or by
-- what it is told to be.
--
--     reduction  what its cross_entropy divides Σ weight · −log p by
--                  sum            nothing (the API's meaning)
--                  sequence_mean  each row's by the row's own Σ weight, then by all rows since the last update
--                  token_mean     each request's by max(1, its Σ weight); requests add up
--     repeats    what becomes of a seq_id that it has seen: "ignored", "deduplicated", "refused" (lane.lua)
--     order      what operations are done by: "arrival", or "number", where one that is left out holds up those
--                behind it; nil where that is not known
--     alpha      of the lora, by rank
--     trains     which projections, whatever was asked for; nil: as asked for
--     clips      whether optim_step clips
local errors = require "crucible.errors"

local profile = {}

local function twice_the_rank(rank) return 2 * rank end
local function always_32() return 32 end

---@class crucible.tinker.Profile
---@field name string
---@field reduction "sum"|"sequence_mean"|"token_mean"
---@field repeats "ignored"|"deduplicated"|"refused"
---@field order "arrival"|"number"|nil
---@field alpha fun(rank: integer): number
---@field trains string[]?
---@field clips boolean
---@field assumed boolean  nothing told what it is

local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }

local known = {
  skyrl = {
    reduction = "sequence_mean", repeats = "ignored", order = "arrival", alpha = always_32, trains = ALL, clips = false,
  },
  hatchery = {
    reduction = "token_mean", repeats = "deduplicated", order = "arrival", alpha = twice_the_rank, clips = true,
  },
  tuft = { reduction = "sum", repeats = "refused", alpha = twice_the_rank, clips = true },
  tinker = {
    reduction = "sum", repeats = "deduplicated", order = "number", alpha = always_32, clips = true,
  },
  unknown = { reduction = "sum", repeats = "ignored", alpha = always_32, clips = true, assumed = true },
}

local function first_model(capabilities)
  local models = capabilities.supported_models
  return type(models) == "table" and type(models[1]) == "table" and models[1] or {}
end

-- Which server it is, by its capabilities, its address and its answer to create_model.
local function name_of(capabilities, url, created)
  if url:find "^https://[%w.-]*thinkingmachines%.dev" then return "tinker" end
  if capabilities.supported_loss_fns or first_model(capabilities).model_id then return "hatchery" end
  local first = first_model(capabilities)
  if first.capabilities and first.max_context_length then return "tuft" end
  local lora = created and created.lora_config
  if type(lora) == "table" and tonumber(lora.alpha) then return "skyrl" end
  return "unknown"
end

--- What is known of a server. Options that are not "auto" win over it.
---@param capabilities table   of get_server_capabilities
---@param url string
---@param created table?       the result of create_model
---@param options { reduction: string, repeats: string, order: string }
---@return crucible.tinker.Profile
function profile.of(capabilities, url, created, options)
  local name = name_of(capabilities, url, created)
  local made = { name = name, assumed = false }
  for key, value in pairs(known[name]) do made[key] = value end
  local alpha = created and type(created.lora_config) == "table" and tonumber(created.lora_config.alpha)
  if alpha then made.alpha = function() return alpha end end
  for _, field in ipairs { "reduction", "repeats", "order" } do
    if options[field] ~= "auto" then made[field], made.told = options[field], true end
  end
  return made
end

-- ---- base models -----------------------------------------------------------------------------

--- Names of the models that a server lists; empty where its list says nothing of what it has loaded.
---@param capabilities table
---@return string[]
function profile.models(capabilities)
  local names = {}
  local models = type(capabilities.supported_models) == "table" and capabilities.supported_models or {}
  for _, model in ipairs(models) do
    if type(model) == "table" and type(model.model_name) == "string" then names[#names + 1] = model.model_name end
  end
  return names
end

-- ---- what a config means there -----------------------------------------------------------------

local groups = {
  attention = { "k_proj", "o_proj", "q_proj", "v_proj" },
  mlp = { "down_proj", "gate_proj", "up_proj" },
}

local function covers(targets, group)
  local have, count = {}, 0
  for _, name in ipairs(targets) do have[name] = true end
  for _, name in ipairs(group) do count = count + (have[name] and 1 or 0) end
  return count == #group, count > 0
end

--- The API's switches for target_modules: train_attn, train_mlp, train_unembed.
---@param targets string[]
---@return { train_attn: boolean, train_mlp: boolean, train_unembed: boolean }
function profile.switches(targets)
  local _, attention = covers(targets, groups.attention)
  local _, mlp = covers(targets, groups.mlp)
  return { train_attn = attention, train_mlp = mlp, train_unembed = false }
end

-- Projections that the server trains when asked for `targets`.
local function trained(found, targets)
  if found.trains then return found.trains end
  local list, switches = {}, profile.switches(targets)
  if switches.train_attn then table.move(groups.attention, 1, #groups.attention, 1, list) end
  if switches.train_mlp then table.move(groups.mlp, 1, #groups.mlp, #list + 1, list) end
  return list
end

local function sorted_text(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return table.concat(copy, ", ")
end

local function add(list, field, ours, theirs, instead)
  list[#list + 1] = { field = field, config = ours, server = theirs, instead = instead }
end

---@class crucible.tinker.Difference
---@field field string    of the config
---@field config any      what it says
---@field server any      what the server does
---@field instead string  what would mean the same on both

--- In what a config means something else on a server. Dropout counts only when it was asked for: the API has none,
--- and a config that says nothing has the default.
---@param found crucible.tinker.Profile
---@param config crucible.lora.Config
---@param default_dropout number
---@return crucible.tinker.Difference[] refused, crucible.tinker.Difference[] noted
function profile.differences(found, config, default_dropout)
  local refused, noted = {}, {}
  local alpha, theirs = found.alpha(config.lora_rank), trained(found, config.target_modules)
  if alpha ~= config.lora_alpha then
    add(refused, "lora_alpha", config.lora_alpha, alpha, ("lora_alpha = %g"):format(alpha))
  end
  if sorted_text(theirs) ~= sorted_text(config.target_modules) then
    add(refused, "target_modules", sorted_text(config.target_modules), sorted_text(theirs),
      'target_modules = { "' .. table.concat(theirs, '", "') .. '" }')
  end
  if config.rslora then
    add(refused, "rslora", true, false, "rslora = false with lora_alpha times the root of the rank")
  end
  if config.dora then add(refused, "dora", true, false, "dora = false") end
  for _, field in ipairs { "rank_pattern", "alpha_pattern", "loraplus_lr_ratio" } do
    if config[field] then add(refused, field, "set", "one value for all", "a config without it") end
  end
  if config.max_grad_norm > 0 and not found.clips then
    add(refused, "max_grad_norm", config.max_grad_norm, "never clips", "max_grad_norm = 0")
  end
  if config.lora_dropout > 0 then
    local list = config.lora_dropout == default_dropout and noted or refused
    add(list, "lora_dropout", config.lora_dropout, 0, "lora_dropout = 0")
  end
  return refused, noted
end

--- The differences in words: nil, message, "unsupported".
---@param found crucible.tinker.Profile
---@param url string
---@param refused crucible.tinker.Difference[]
---@return nil, string message, string code
function profile.refusal(found, url, refused)
  local parts = {}
  for i, one in ipairs(refused) do
    parts[i] = ("config.%s is %s, the server has %s (%s would mean the same on both)"):format(one.field,
      tostring(one.config), tostring(one.server), one.instead)
  end
  return errors.failure("unsupported", "%s (%s): %s; differences = \"note\" goes on with what the server has", url,
    found.name, table.concat(parts, "; "))
end

return profile
