-- PEFT's adapter_config.json: what PEFT needs to load adapter_model.safetensors of the same folder.
local json = require "crucible.json"
local schema = require "crucible.schema"

local peft = {}

--- Names of the two files of a PEFT folder.
peft.weights_file = "adapter_model.safetensors"
peft.config_file = "adapter_config.json"

--- The bytes of adapter_config.json.
---@param config crucible.lora.Config
---@param base_model string  as PEFT would name it
---@return string
function peft.config_bytes(config, base_model)
  return json.encode_pretty {
    peft_type = "LORA", task_type = "CAUSAL_LM", base_model_name_or_path = base_model,
    r = config.lora_rank, lora_alpha = config.lora_alpha, lora_dropout = config.lora_dropout,
    target_modules = json.array(schema.copy(config.target_modules)), use_rslora = config.rslora, use_dora = false,
    bias = "none", fan_in_fan_out = false, inference_mode = true, init_lora_weights = true, modules_to_save = json.null,
    layers_to_transform = json.null, layers_pattern = json.null, rank_pattern = {}, alpha_pattern = {},
    auto_mapping = json.null, revision = json.null,
  }
end

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return copy
end

--- In what a folder's adapter_config.json differs from a session's config: "r is 8, expected 16";
--- nil when nothing does.
---@param bytes string
---@param config crucible.lora.Config
---@return string? difference, string? message, string? code
function peft.difference(bytes, config)
  local found, message, code = json.decode(bytes)
  if code then return nil, message, code end
  local expected = { r = config.lora_rank, lora_alpha = config.lora_alpha, use_rslora = config.rslora }
  for _, key in ipairs { "r", "lora_alpha", "use_rslora" } do
    local value = found[key]
    if key == "use_rslora" and value == nil then value = false end
    if value ~= expected[key] then
      return ("%s is %s, expected %s"):format(key, tostring(value), tostring(expected[key]))
    end
  end
  if type(found.target_modules) ~= "table" then return "target_modules is not a list" end
  local have = table.concat(sorted(found.target_modules), ", ")
  local want = table.concat(sorted(config.target_modules), ", ")
  if have ~= want then return ("target_modules is %s, expected %s"):format(have, want) end
end

return peft
