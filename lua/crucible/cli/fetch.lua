-- crucible fetch: models and data sets into the cache.
local dataset_integration = require "crucible.lora.dataset_integration"
local errors = require "crucible.errors"
local models = require "crucible.models"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local sources = require "crucible.datasets.sources"
local suggest = require "crucible.suggest"

local options = schema.new("crucible fetch", {
  { name = "name", positional = true, check = schema.list(schema.nonempty_string),
    doc = 'of a model or a data set, or "hf:OWNER/REPO/file.gguf"; without one, the known names are listed' },
  { name = "split", check = schema.nonempty_string, doc = "of data sets; default: all" },
})

local function list(streams)
  streams.out:write("models\n")
  for _, name in ipairs(models.names()) do
    local entry = models.find(name)
    local size = entry.bytes and ("%.1f GB"):format(entry.bytes / 1e9) or ""
    local here = paths.is_file(models.cached_path(entry)) and "here" or ""
    streams.out:write((("  %-24s %8s  %-5s %s"):format(name, size, here, entry.hub):gsub("%s+$", "")), "\n")
  end
  streams.out:write("data sets\n")
  for _, name in ipairs(dataset_integration.datasets()) do
    local dataset = dataset_integration.find(name)
    streams.out:write(("  %-24s %s\n"):format(name, table.concat(dataset.splits, ", ")))
  end
end

local function fetch_dataset(dataset, split)
  if not dataset.files then return errors.failure("not_found", "%s is not published anywhere", dataset.name) end
  if split and not dataset.files[split] then
    return errors.failure("not_found", '%s has no split "%s"; it has: %s', dataset.name, split,
      table.concat(dataset.splits, ", "))
  end
  local folder = paths.join(paths.cache(), "data", dataset.folder or dataset.name)
  for _, name in ipairs(split and { split } or dataset.splits) do
    local ok, message, code = sources.fetch(dataset, name, folder)
    if not ok then return nil, message, code end
  end
  return folder
end

local function fetch(name, split)
  local dataset = dataset_integration.find(name)
  if dataset then return fetch_dataset(dataset, split) end
  if models.find(name) then return models.fetch(name) end
  local known, names = dataset_integration.datasets(), models.names()
  table.move(names, 1, #names, #known + 1, known)
  return errors.failure("not_found", 'no model and no data set is called "%s"%s', name, suggest.phrase(name, known))
end

local function run(given, streams)
  if not given.name or #given.name == 0 then return list(streams) end
  for _, name in ipairs(given.name) do
    local path, message, code = fetch(name, given.split)
    if not path then return nil, message, code end
    streams.out:write(path, "\n")
  end
end

return {
  summary = "fetches models and data sets into the cache, or lists them",
  usage = "[options] [NAME …]",
  description = [[
It prints the path of each. What is there already is not fetched again; a download that was cut goes on where it
ended. CRUCIBLE_HOME moves the cache; HF_ENDPOINT, HF_TOKEN and the usual proxy variables are understood.]],
  options = options,
  run = run,
}
