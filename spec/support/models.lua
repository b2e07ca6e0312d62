-- Where the real models lie that some specs need. scripts/fetch_model puts them there.
local models = {}

local function cache_folder()
  local home = os.getenv("CRUCIBLE_HOME")
  if home and home ~= "" then return home end
  local cache = os.getenv("XDG_CACHE_HOME")
  if not cache or cache == "" then cache = (os.getenv("HOME") or ".") .. "/.cache" end
  return cache .. "/crucible"
end

local function find(name, file)
  local path = cache_folder() .. "/models/" .. file
  local handle = io.open(path, "rb")
  if handle then
    handle:close()
    return path
  end
  if os.getenv("CRUCIBLE_REQUIRE_MODELS") == "1" then
    error(("%s is not at %s: run scripts/%s %s"):format(name, path,
      name:find("minilm", 1, true) and "fetch_encoder" or "fetch_model", name), 0)
  end
  return nil
end

--- Path of SmolLM2-135M-Instruct (Q4_1), or nil when it was not fetched. With
--- CRUCIBLE_REQUIRE_MODELS=1 its absence is an error instead.
---@return string?
function models.smollm2()
  return find("smollm2-135m-instruct", "SmolLM2-135M-Instruct.Q4_1.gguf")
end

--- Path of Gemma 3 270M (Q4_K_M), or nil when it was not fetched; never required, for its size.
---@return string?
function models.gemma3()
  local path = cache_folder() .. "/models/gemma-3-270m-q4_k_m.gguf"
  local handle <close> = io.open(path, "rb")
  return handle and path or nil
end

--- Folder of all-MiniLM-L6-v2, or nil when it was not fetched; as above.
---@return string?
function models.minilm()
  local config = find("all-minilm-l6-v2", "all-minilm-l6-v2/config.json")
  return config and config:gsub("/config%.json$", "") or nil
end

return models
