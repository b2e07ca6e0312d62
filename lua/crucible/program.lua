-- What the commands of the program share: which model or checkpoint is meant, colours, progress, Ctrl-C.
local checkpoints = require "crucible.lora.checkpoints"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local lora = require "crucible.lora"
local paths = require "crucible.paths"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local program = {}

--- Options that say which weights are meant.
program.model_entries = {
  { name = "model", check = schema.nonempty_string, doc = "name or path of the base model; default: the checkpoint's" },
  { name = "run", check = schema.nonempty_string, doc = "run folder whose checkpoint is used" },
  { name = "checkpoint", check = schema.nonempty_string,
    doc = 'with --run: a name, "best" or "latest", default "best"; else the path of one' },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
}

--- The option `color`.
program.color_entry = {
  name = "color", default = "auto", check = schema.one_of { "auto", "always", "never" },
  doc = "auto: on a terminal, unless NO_COLOR is set",
}

--- Whether colours are wanted.
---@param choice "auto"|"always"|"never"
---@param stream "stdout"|"stderr"|nil
---@return boolean
function program.colours(choice, stream)
  if choice ~= "auto" then return choice == "always" end
  return terminal.colours(stream or "stdout")
end

--- Entries of another schema that can be written on a command line, but for some.
---@param entries crucible.schema.Entry[]
---@param without table<string, any>
---@return crucible.schema.Entry[]
function program.sayable(entries, without)
  local list = {}
  for _, entry in ipairs(entries) do
    if not without[entry.name] and entry.check.what ~= "a function" then list[#list + 1] = entry end
  end
  return list
end

--- The path of the checkpoint that is meant; nil: the base model alone.
---@param given { run: string?, checkpoint: string? }
---@return string?
function program.checkpoint_path(given)
  if given.run then return checkpoints.locate(paths.join(given.run, "checkpoints"), given.checkpoint or "best") end
  return given.checkpoint
end

local function session_config(given, state)
  local settings = state and state.config or {}
  settings.base_model, settings.threads = given.model or settings.base_model, given.threads
  return lora.config.new(settings)
end

--- A session with the weights that are meant, or on the base model alone.
---@param given { model: string?, run: string?, checkpoint: string?, threads: integer?, seed: integer? }
---@param default string?  the model where nothing is said
---@return crucible.Session? session, string? message, string? code
function program.open_session(given, default)
  local path = program.checkpoint_path(given)
  local state, message, code
  if path then
    state, message, code = checkpoints.read(path)
    if not state then return nil, message, code end
  elseif not given.model and not default then
    return errors.failure("argument", "no model is named: give --run, --checkpoint or --model")
  end
  local chosen = { model = given.model or not path and default or nil, threads = given.threads }
  local session
  session, message, code = lora.create_session { config = session_config(chosen, state), seed = given.seed }
  if not session or not path then return session, message, code end
  state, message, code = session:load_checkpoint(path)
  if state then return session end
  session:close()
  return nil, message, code
end

--- A line of progress on a terminal's standard error; nil elsewhere.
---@param streams crucible.cli.Streams
---@param what string
---@return (fun(done: integer, total: integer))?
function program.progress(streams, what)
  if streams.err ~= io.stderr or not fs.is_terminal "stderr" then return nil end
  return function(done, total)
    streams.err:write(("\r%s %d/%d "):format(what, done, total), done == total and "\r\27[K" or "")
  end
end

--- Calls f(watcher) while SIGINT and SIGTERM cancel what the session computes; its results. Where the signals belong
--- to somebody else, f(nil).
---@param session crucible.Session
---@param f function
---@return any ...
function program.cancellable(session, f)
  local watcher <close> = require("crucible.signals").install()
  if watcher then watcher:cancels(session) end
  return f(watcher)
end

return program
