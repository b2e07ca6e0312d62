-- Adapters as others write them: PEFT folders and GGUF files, and what a session must be like to load one.
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local gguf = require "crucible.gguf"
local models = require "crucible.models"
local paths = require "crucible.paths"
local peft = require "crucible.lora.peft"

local adapter_files = {}

--- Key of a GGUF adapter with the base's name, as PEFT would have it.
adapter_files.base_key = "crucible.lora.base"

---@class crucible.lora.AdapterFile
---@field format "peft"|"gguf"
---@field options table        of lora.config.new: rank, alpha, targets, …
---@field base_model string?   what it was trained on, as far as it says

-- Module names of GGUF's, by what stands between "blk.N." and ".weight".
local modules = {
  attn_q = "q_proj", attn_k = "k_proj", attn_v = "v_proj", attn_output = "o_proj", ffn_gate = "gate_proj",
  ffn_up = "up_proj", ffn_down = "down_proj",
}
local folders = { gate_proj = "mlp", up_proj = "mlp", down_proj = "mlp" }

-- ---- PEFT ------------------------------------------------------------------------------------------

-- The known name of a model that PEFT names as the hub does; else that name itself.
local function known_name(hub)
  for _, name in ipairs(models.names()) do
    local entry = models.find(name)
    if entry and entry.hub == hub then return name end
  end
  return hub
end

local function base_of(found)
  local base = found.base_model_name_or_path
  return type(base) == "string" and known_name(base) or nil
end

local function describe_folder(path)
  local file = paths.join(path, peft.config_file)
  if not paths.is_file(file) then
    return errors.failure("format", "%s is no adapter: it has no %s", path, peft.config_file)
  end
  local bytes, message, code = fs.read_file(file)
  if not bytes then return nil, message, code end
  local options
  options, message, code = peft.options(bytes)
  if not options then return errors.failure(code, "%s: %s", file, message) end
  return { format = "peft", options = options, base_model = base_of(peft.read(bytes)) }
end

-- ---- GGUF ------------------------------------------------------------------------------------------

-- Ranks by module name, and the targets in the order of a layer.
local function read_tensors(tensors)
  local ranks, targets = {}, {}
  for _, tensor in ipairs(tensors) do
    local layer, part = tensor.name:match("^blk%.(%d+)%.([%w_]+)%.weight%.lora_a$")
    local module = part and modules[part]
    if module then
      ranks[("layers.%s.%s.%s"):format(layer, folders[module] or "self_attn", module)] = tensor.shape[1]
      targets[module] = true
    end
  end
  return ranks, targets
end

-- The rank that most modules have.
local function common_rank(ranks)
  local counts, best = {}, nil
  for _, rank in pairs(ranks) do
    counts[rank] = (counts[rank] or 0) + 1
    local ahead = best and (counts[best] > counts[rank] or (counts[best] == counts[rank] and best < rank))
    if not ahead then best = rank end
  end
  return best
end

-- rank_pattern for the modules of another rank; nil when there are none.
local function pattern_of(ranks, common)
  local pattern, any = {}, false
  for name, rank in pairs(ranks) do
    if rank ~= common then
      pattern[(name:gsub("%.", "\\."))] = rank
      any = true
    end
  end
  return any and pattern or nil
end

local function target_list(targets)
  local list = {}
  for _, name in ipairs(require("crucible.lora.config").targets) do
    if targets[name] then list[#list + 1] = name end
  end
  return list
end

local function describe_gguf(path)
  local file, message, code = gguf.read(path)
  if not file then return nil, message, code end
  if file.keys["general.type"] ~= "adapter" then
    return errors.failure("format", '%s is no adapter: its general.type is "%s", expected "adapter"', path,
      tostring(file.keys["general.type"]))
  end
  local ranks, targets = read_tensors(file.tensors)
  local rank, alpha = common_rank(ranks), file.keys["adapter.lora.alpha"]
  if not rank or type(alpha) ~= "number" then
    return errors.failure("format", "%s is no adapter: %s", path,
      rank and "adapter.lora.alpha is missing" or "it has no matrices of projections")
  end
  local base = file.keys[adapter_files.base_key]
  return {
    format = "gguf", base_model = type(base) == "string" and known_name(base) or nil,
    options = {
      lora_rank = rank, lora_alpha = alpha > 0 and (math.tointeger(alpha) or alpha) or rank,
      target_modules = target_list(targets), rank_pattern = pattern_of(ranks, rank),
    },
  }
end

-- ---- the door --------------------------------------------------------------------------------------

--- What an adapter is: a PEFT folder or a GGUF file. Fails with "not_found", "format" (something else) or
--- "unsupported" (a kind of adapter that no session trains).
---@param path string
---@return crucible.lora.AdapterFile? adapter, string? message, string? code
function adapter_files.describe(path)
  if paths.is_folder(path) then return describe_folder(path) end
  if paths.is_file(path) then return describe_gguf(path) end
  return errors.failure("not_found", "%s: no such adapter", path)
end

return adapter_files
