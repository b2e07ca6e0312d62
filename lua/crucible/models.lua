-- Names of models and where their files lie. A path to a .gguf file works everywhere a name does.
local errors = require "crucible.errors"
local paths = require "crucible.paths"
local suggest = require "crucible.suggest"

local models = {}

---@class crucible.models.Known
---@field name string
---@field file string     in the models folder of the cache
---@field hub string      the same model on the Hugging Face hub, as PEFT names it
---@field licence string

---@type table<string, crucible.models.Known>
local known = {
  ["smollm2-135m-instruct"] = {
    name = "smollm2-135m-instruct",
    file = "SmolLM2-135M-Instruct.Q4_1.gguf",
    hub = "HuggingFaceTB/SmolLM2-135M-Instruct",
    licence = "Apache-2.0",
  },
}

--- Names of the known models, sorted.
---@return string[]
function models.names()
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- What is known of a model by its name, or by the name of its file at the end of a path; or nil.
---@param name_or_path string
---@return crucible.models.Known?
function models.find(name_or_path)
  local by_name = known[name_or_path:lower()]
  if by_name then return by_name end
  for _, entry in pairs(known) do
    if paths.basename(name_or_path) == entry.file then return entry end
  end
end

--- Where the file of a known model lies, present or not.
---@param entry crucible.models.Known
---@return string
function models.cached_path(entry) return paths.join(paths.cache(), "models", entry.file) end

local function is_path(text) return text:find("/", 1, true) ~= nil or text:lower():match("%.gguf$") ~= nil end

--- The file of a model given by name or by path. Fails with "not_found": an unknown name, a
--- known one that was not fetched, or a path where nothing lies.
---@param name_or_path string
---@return string? path, string? message, string? code
function models.resolve(name_or_path)
  if type(name_or_path) ~= "string" or name_or_path == "" then
    errors.raise("models.resolve: expected a model's name or the path of a .gguf file, got %s", type(name_or_path))
  end
  local entry = known[name_or_path:lower()]
  if entry then
    local path = models.cached_path(entry)
    if paths.is_file(path) then return path end
    return errors.failure("not_found", "%s is not at %s; run: scripts/fetch_model %s", entry.name, path, entry.name)
  end
  if paths.is_file(name_or_path) then return name_or_path end
  if is_path(name_or_path) then return errors.failure("not_found", "%s: no such file", name_or_path) end
  return errors.failure("not_found", 'unknown model "%s"%s (a path to a .gguf file works too)', name_or_path,
    suggest.phrase(name_or_path, models.names()))
end

return models
