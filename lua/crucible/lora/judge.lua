-- A judge of entailment: a lora trained to tell claims that evidence supports, and how well it does on
-- rows it has not seen.
--
-- A run folder that holds a judge has judge.json: { checkpoint, labels, held_out, … }; the first label is
-- the one that means "entailed".
local checkpoints = require "crucible.lora.checkpoints"
local config = require "crucible.lora.config"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"

local judge = {}

judge.file = "judge.json"

local default_labels = { "SUPPORT", "CONTRADICT" }

--- Writes judge.json into a run folder.
---@param folder string
---@param about { checkpoint: string, labels: string[], held_out: table }  checkpoint: path within the folder
---@return true? ok, string? message, string? code
function judge.write(folder, about)
  return fs.write_file(paths.join(folder, judge.file), json.encode_pretty(about))
end

local function is_about(about)
  return type(about) == "table" and type(about.checkpoint) == "string" and type(about.labels) == "table"
    and #about.labels >= 2
end

local function read_about(folder)
  local file = paths.join(folder, judge.file)
  local bytes, message, code = fs.read_file(file)
  if not bytes then return nil, message, code end
  local about
  about, message, code = json.decode(bytes)
  if code then return errors.failure(code, "%s: %s", file, message) end
  if not is_about(about) then
    return errors.failure("format", "%s: expected an object with `checkpoint` and at least two `labels`, got %s", file,
      schema.show(about))
  end
  return about
end

-- Where the weights lie, the labels, and what is known of the judge.
local function locate(path)
  if not paths.is_file(paths.join(path, judge.file)) then
    return path, default_labels, { judge = path, held_out = "not known" }
  end
  local about, message, code = read_about(path)
  if not about then return nil, message, code end
  return paths.join(path, about.checkpoint), about.labels, { judge = path, held_out = about.held_out }
end

-- A session like the one the checkpoint was made with, on the same open model.
local function session_like(session, path)
  local state, message, code = checkpoints.read(path)
  if not state then return nil, message, code end
  local settings = state.config
  settings.base_model = nil -- the open model is the one; the checkpoint's digest is compared with it
  return require("crucible.lora").create_session {
    config = config.new(settings), adapter = session.engine, model = session.model, seed = state.seed,
    adapter_name = "judge",
  }
end

---@class crucible.lora.Judge
---@field session crucible.Session  to be closed by the caller
---@field labels string[]
---@field about table

--- Opens a judge beside a session: a run folder with judge.json, or a checkpoint whose labels are those
--- of SciFact. One that was trained on another base model is refused.
---@param session crucible.Session
---@param path string
---@return crucible.lora.Judge? judge, string? message, string? code
function judge.open(session, path)
  if not session.model then
    return errors.failure("unsupported", "a judge needs an engine that runs here; the %s engine does not",
      session.engine)
  end
  local folder, labels, about = locate(path)
  if not folder then return nil, labels, about end
  local opened, message, code = session_like(session, folder)
  if not opened then return nil, message, code end
  local state
  state, message, code = opened:load_checkpoint(folder)
  if state then return { session = opened, labels = labels, about = about } end
  opened:close()
  return nil, message, code
end

return judge
