-- PEFT's adapter_config.json: what PEFT needs to load adapter_model.safetensors of the same folder, and what
-- it says of a folder that PEFT wrote.
local errors = require "crucible.errors"
local json = require "crucible.json"
local patterns = require "crucible.lora.patterns"
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
    target_modules = json.array(schema.copy(config.target_modules)), use_rslora = config.rslora, use_dora = config.dora,
    bias = "none", fan_in_fan_out = false, inference_mode = true, init_lora_weights = true, modules_to_save = json.null,
    layers_to_transform = json.null, layers_pattern = json.null,
    rank_pattern = json.object(patterns.list(config.rank_pattern)),
    alpha_pattern = json.object(patterns.list(config.alpha_pattern)), auto_mapping = json.null, revision = json.null,
  }
end

-- ---- what this library does not have ---------------------------------------------------------

local function is_unset(value)
  return value == nil or value == json.null or value == false or (type(value) == "table" and next(value) == nil)
end

-- Ways to start A and B that leave the base's weights as they are; others take part of them away.
local harmless_starts = { gaussian = true, eva = true, orthogonal = true }

local function is_harmless_start(value)
  return is_unset(value) or value == true or harmless_starts[value] or false
end

local foreign = {
  { "modules_to_save", is_unset, "whole modules are neither trained nor loaded" },
  { "bias", function(value) return is_unset(value) or value == "none" end, "biases are not trained" },
  { "lora_bias", is_unset, "B has no bias" },
  { "fan_in_fan_out", is_unset, "weights are [out, in]" },
  { "layers_to_transform", is_unset, "every layer carries the branches of target_modules" },
  { "layers_pattern", is_unset, "every layer carries the branches of target_modules" },
  { "exclude_modules", is_unset, "every layer carries the branches of target_modules" },
  { "layer_replication", is_unset, "layers are those of the base" },
  { "target_parameters", is_unset, "branches stand on modules alone" },
  { "trainable_token_indices", is_unset, "embeddings are not trained" },
  { "init_lora_weights", is_harmless_start, "the base's weights stay as they are" },
}
for _, variant in ipairs {
  "use_qalora", "use_bdlora", "arrow_config", "velora_config", "monteclora_config", "kasa_config",
  "alora_invocation_tokens", "megatron_config",
} do
  foreign[#foreign + 1] = { variant, is_unset, "this variant of LoRA is not known" }
end

local function shown(value)
  if type(value) ~= "table" then return tostring(value) end
  if #value == 0 then return json.encode(value) end
  local names = {}
  for i, member in ipairs(value) do names[i] = tostring(member) end
  return table.concat(names, ", ")
end

-- The first field that asks for something which is not there.
local function refusal(found)
  if found.peft_type ~= nil and found.peft_type ~= "LORA" then
    return ('peft_type is %s: only "LORA" is known'):format(shown(found.peft_type))
  end
  for _, field in ipairs(foreign) do
    local name, is_fine, reason = table.unpack(field)
    if not is_fine(found[name]) then return ("%s is %s: %s"):format(name, shown(found[name]), reason) end
  end
end

-- ---- reading -----------------------------------------------------------------------------------

local function string_end(text, at)
  repeat
    at = text:find('["\\]', at + 1)
    local escape = text:sub(at, at) == "\\"
    if escape then at = at + 1 end
  until not escape
  return at
end

--- Keys of the object that a member of a JSON object holds, as they stand in the text; a decoded table
--- has lost their order, which says which of several patterns counts.
---@param text string  valid JSON: an object
---@param member string
---@return string[]
function peft.keys_in_order(text, member)
  local keys, depth, at, inside = {}, 0, 0, false
  while true do
    at = text:find('[{}%[%]"]', at + 1)
    if not at then return keys end
    local char = text:sub(at, at)
    if char == '"' then
      local last = string_end(text, at)
      if text:find("^%s*:", last + 1) then
        local key = json.decode(text:sub(at, last))
        if depth == 1 then inside = key == member end
        if depth == 2 and inside then keys[#keys + 1] = key end
      end
      at = last
    elseif char == "{" or char == "[" then
      depth = depth + 1
    else
      depth = depth - 1
    end
  end
end

local function pattern_of(found, text, member)
  local values, list = found[member], {}
  if is_unset(values) then return list end
  if type(values) ~= "table" or #values > 0 then
    return errors.failure("format", "%s is %s: expected an object of numbers", member, shown(values))
  end
  for i, key in ipairs(peft.keys_in_order(text, member)) do
    if type(values[key]) ~= "number" then
      return errors.failure("format", '%s: "%s" is %s: expected a number', member, key, shown(values[key]))
    end
    list[i] = { key, values[key] }
  end
  return list
end

--- What an adapter_config.json says: its fields, with rank_pattern and alpha_pattern as lists of pairs in their
--- order. Refuses what this library does not have, by the name of the field.
---@param bytes string
---@return table? fields, string? message, string? code
function peft.read(bytes)
  local found, message, code = json.decode(bytes)
  if code then return nil, message, code end
  if type(found) ~= "table" then return errors.failure("format", "expected an object") end
  local reason = refusal(found)
  if reason then return errors.failure("unsupported", "%s", reason) end
  for _, member in ipairs { "rank_pattern", "alpha_pattern" } do
    found[member], message, code = pattern_of(found, bytes, member)
    if not found[member] then return nil, message, code end
  end
  return found
end

--- The options of lora.config.new with which a session can load the folder of an adapter_config.json.
---@param bytes string
---@return table? options, string? message, string? code
function peft.options(bytes)
  local found, message, code = peft.read(bytes)
  if not found then return nil, message, code end
  if type(found.target_modules) ~= "table" then
    return errors.failure("unsupported", "target_modules is %s: expected a list of projections",
      shown(found.target_modules))
  end
  return {
    lora_rank = found.r, lora_alpha = found.lora_alpha, lora_dropout = found.lora_dropout,
    target_modules = found.target_modules, rslora = found.use_rslora == true, dora = found.use_dora == true,
    rank_pattern = #found.rank_pattern > 0 and found.rank_pattern or nil,
    alpha_pattern = #found.alpha_pattern > 0 and found.alpha_pattern or nil,
  }
end

-- ---- comparing -----------------------------------------------------------------------------------

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return copy
end

local function target_difference(found, config)
  if type(found.target_modules) ~= "table" then return "target_modules is not a list" end
  local have = table.concat(sorted(found.target_modules), ", ")
  local want = table.concat(sorted(config.target_modules), ", ")
  if have ~= want then return ("target_modules is %s, expected %s"):format(have, want) end
end

local function module_difference(found, modules)
  for _, module in ipairs(modules) do
    local rank = patterns.value(found.rank_pattern, module.name, found.r)
    local alpha = patterns.value(found.alpha_pattern, module.name, found.lora_alpha)
    if rank ~= module.rank then return ("r of %s is %s, expected %s"):format(module.name, rank, module.rank) end
    if alpha ~= module.alpha then
      return ("lora_alpha of %s is %s, expected %s"):format(module.name, alpha, module.alpha)
    end
  end
end

local function flag(value) return not is_unset(value) end

--- In what a folder's adapter_config.json differs from a session's config: "r is 8, expected 16";
--- nil when nothing does.
---@param bytes string
---@param config crucible.lora.Config
---@param modules crucible.core.Module[]  of the session
---@return string? difference, string? message, string? code
function peft.difference(bytes, config, modules)
  local found, message, code = peft.read(bytes)
  if code then return nil, message, code end
  local plain = #found.rank_pattern + #found.alpha_pattern + #patterns.list(config.rank_pattern)
    + #patterns.list(config.alpha_pattern) == 0
  local expected = {
    { "r", found.r, config.lora_rank, plain }, { "lora_alpha", found.lora_alpha, config.lora_alpha, plain },
    { "use_rslora", flag(found.use_rslora), config.rslora, true },
    { "use_dora", flag(found.use_dora), config.dora, true },
  }
  for _, field in ipairs(expected) do
    local name, have, want, counts = table.unpack(field, 1, 4)
    if counts and have ~= want then return ("%s is %s, expected %s"):format(name, tostring(have), tostring(want)) end
  end
  return target_difference(found, config) or module_difference(found, modules)
end

return peft
