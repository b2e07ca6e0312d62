-- The prompt: Lua with crucible at hand. Lines are edited, remembered and completed; values are shown as tables a
-- person can read; help(x) explains; Ctrl-C ends a call, not the prompt.
--
-- What is read is Lua as `lua5.4 -i` reads it: an expression is shown, anything else is run, an unfinished text is
-- asked for further. `?x` is help(x), `_` the last value shown. Names without `local` stay from line to line.
local complete = require "crucible.repl.complete"
local fs = require "crucible.fs"
local inspect = require "crucible.inspect"
local interrupt = require "crucible.repl.interrupt"
local paths = require "crucible.paths"
local terminal = require "crucible.terminal"

local repl = {}

local DIM, RED, BOLD, OFF = "\27[2m", "\27[31m", "\27[1m", "\27[0m"
local MOST_LISTED = 120 -- completions that are shown at once

---@class crucible.repl.Prompt
---@field out file*
---@field environment table  where names live
---@field colour boolean
---@field editor userdata?   nil: lines are read as they come
---@field quiet boolean      no progress of runs
---@field trace string?      of the last error

-- ---- reading -------------------------------------------------------------------------------------

--- Where the lines of earlier prompts lie: $CRUCIBLE_HISTORY, else in the user's state.
---@return string
function repl.history_path()
  local given = os.getenv "CRUCIBLE_HISTORY"
  if given and given ~= "" then return given end
  local state = os.getenv "XDG_STATE_HOME"
  if not state or state == "" then state = paths.join(os.getenv "HOME" or ".", ".local/state") end
  return paths.join(state, "crucible/history")
end

--- An editor of lines with the lines of earlier prompts; nil where there is no terminal or no libedit.
---@param history string?  path of the history's file
---@return userdata?
function repl.open_editor(history)
  local ok, editline = pcall(require, "crucible.editline")
  if not ok then return nil end
  local editor = editline.open "crucible"
  if editor and history and paths.is_file(history) then editor:load(history) end
  return editor
end

--- Keeps a line for later prompts. That it cannot be written is no reason to stop.
---@param editor userdata
---@param line string
---@param history string?
function repl.remember(editor, line, history)
  if not line:find "%S" then return end
  editor:remember(line)
  if history and fs.make_folder(paths.dirname(history)) then editor:save(history) end
end

local function columns_of(names, width)
  local widest = 1
  for _, name in ipairs(names) do widest = math.max(widest, terminal.width(name) + 2) end
  local across = math.max(1, width // widest)
  local down = (#names + across - 1) // across
  local lines = {}
  for row = 1, down do
    local cells = {}
    for column = 0, across - 1 do
      local name = names[row + column * down]
      if name then cells[#cells + 1] = name .. (" "):rep(widest - terminal.width(name)) end
    end
    lines[row] = table.concat(cells):gsub("%s+$", "")
  end
  return table.concat(lines, "\n") .. "\n"
end

-- What is shown of completions: without what they share with the path before them.
local function listing(candidates)
  local names = {}
  for i = 1, math.min(#candidates, MOST_LISTED) do names[i] = candidates[i] end
  local text = columns_of(names, fs.terminal_size "stdout" or 80)
  if #candidates > MOST_LISTED then text = text .. ("… %d more\n"):format(#candidates - MOST_LISTED) end
  return text
end

--- Completes the line that an editor is in the middle of: inserts what is certain, or shows what could follow.
---@param editor userdata
---@param found crucible.repl.Completion
---@param text string  the line up to the cursor
function repl.apply(editor, found, text)
  local typed = text:sub(found.from)
  local common = complete.common(found.candidates)
  if #found.candidates == 1 then
    local folder = common:sub(-1) == "/"
    editor:insert(common:sub(#typed + 1) .. (folder and "" or found.close))
  elseif #common > #typed then
    editor:insert(common:sub(#typed + 1))
  elseif #found.candidates > 1 then
    editor:show(listing(found.candidates))
  end
end

-- A line, or nil and "eof" or "interrupt".
local function edited_line(self, prompt, before)
  while true do
    local line, why, text, cursor = self.editor:read(prompt)
    if why ~= "complete" then return line, why end
    text = text:sub(1, cursor)
    local ok, found = pcall(complete.at, before .. text, self.environment)
    if ok then
      found.from = found.from - #before
      if found.from > 0 then repl.apply(self.editor, found, text) end
    end
  end
end

local function plain_line(self, prompt)
  if self.interactive then
    self.out:write(prompt)
    self.out:flush()
  end
  local line = io.read "l"
  if not line then return nil, "eof" end
  return line
end

local function read_line(self, first, before)
  local prompt = first and "crucible> " or "      >>> "
  if not self.editor then return plain_line(self, prompt) end
  if self.colour then prompt = ("\1%s\1%s\1%s\1"):format(BOLD, prompt, OFF) end
  return edited_line(self, prompt, before)
end

-- ---- Lua -----------------------------------------------------------------------------------------

local function is_unfinished(message) return message:sub(-5) == "<eof>" end

-- A chunk of a text, as an expression where it is one; nil and why not.
local function compile(text, environment)
  local chunk = load("return " .. text, "=prompt", "t", environment)
  if chunk then return chunk end
  return load(text, "=prompt", "t", environment)
end

-- Reads until the text is whole: a chunk; nil, "eof", "interrupt" or the error.
local function read_chunk(self)
  local text, why = read_line(self, true, "")
  if not text then return nil, nil, why end
  if text == "exit" or text == "quit" then return nil, nil, "eof" end
  local asked = text:match "^%s*%?%s*(.-)%s*$"
  if asked then text = asked == "" and "help()" or ("help(%s)"):format(asked) end
  local chunk, message = compile(text, self.environment)
  while not chunk and is_unfinished(message) do
    local more
    more, why = read_line(self, false, text .. "\n")
    if why == "interrupt" then return nil, nil, why end
    if not more then return nil, text, message end
    text = text .. "\n" .. more
    chunk, message = compile(text, self.environment)
  end
  return chunk, text, message
end

-- ---- showing -------------------------------------------------------------------------------------

local function paint(self, style, text) return self.colour and style .. text .. OFF or text end

local function say_error(self, message)
  self.out:write(paint(self, RED, message), "\n")
end

-- `nil, message, code`: how the library says that the world failed.
local function is_failure(results)
  return results.n >= 3 and results[1] == nil and type(results[2]) == "string" and type(results[3]) == "string"
end

local function show_results(self, results)
  if is_failure(results) then return say_error(self, ("nil, %s: %s"):format(results[3], results[2])) end
  for i = 1, results.n do
    local options = { colour = self.colour, width = fs.terminal_size "stdout" or 100 }
    self.out:write(inspect.text(results[i], options), "\n")
  end
  if results[1] ~= nil then self.environment._ = results[1] end
end

local function hint(self, text)
  local name = text:match "^%s*local%s+([%a_][%w_]*)"
  if not name or text:find "\n" or text:find ";" then return end
  self.out:write(paint(self, DIM, ("(%s ends with its line; without `local` it stays)"):format(name)), "\n")
end

-- Runs a chunk and shows what came of it.
local function evaluate(self, chunk, text)
  local results = table.pack(interrupt.guard(function()
    local values = table.pack(chunk())
    if values.n > 0 then show_results(self, values) end
  end))
  self.out:flush()
  if results[1] then return hint(self, text) end
  self.trace = results[4]
  if results[3] then return say_error(self, "interrupted") end
  say_error(self, (tostring(results[2]):gsub("^prompt:1: ", "")))
end

-- ---- the loop ------------------------------------------------------------------------------------

local function prepare(self)
  local environment = self.environment
  environment.crucible = require "crucible"
  environment.lora = environment.crucible.lora
  environment.help = require "crucible.help"
  environment.traceback = function()
    self.out:write(self.trace or "no error yet", "\n")
  end
end

local function welcome(self)
  local crucible = self.environment.crucible
  self.out:write(("%s, %s kernels, %d threads. help() says where to begin, Tab completes, Ctrl-C ends a call, Ctrl-D "
    .. "the prompt.\n"):format(crucible._VERSION, crucible.core.kernel_name(), crucible.core.available_threads()))
end

-- Progress of runs goes to the terminal unless somebody wants it quiet.
local function attach_console(self)
  if self.quiet then return nil end
  local console = require "crucible.callbacks.console"
  return require("crucible.telemetry").attach(console.new({ sample = false }).on_event)
end

-- One text, read and run; false at the end.
local function turn(self)
  local chunk, text, why = read_chunk(self)
  if why == "eof" then return false end
  if why == "interrupt" then return true end
  if text and self.editor then repl.remember(self.editor, (text:gsub("\n%s*", " ")), self.history) end
  if chunk then
    evaluate(self, chunk, text)
  elseif text then
    say_error(self, (why:gsub("^prompt:", "line ")))
  end
  return true
end

---@class crucible.repl.Options
---@field out file*?          standard output
---@field environment table?  _G
---@field history string?     path; default: repl.history_path()
---@field colour boolean?     default: on a terminal, unless NO_COLOR is set
---@field quiet boolean?      no progress of runs
---@field before string?      Lua to run before the first line

--- Reads and runs until the end of input; the exit code.
---@param options crucible.repl.Options?
---@return integer
function repl.run(options)
  options = options or {}
  local self = {
    out = options.out or io.stdout, environment = options.environment or _G, quiet = options.quiet or false,
    history = options.history or repl.history_path(), colour = options.colour,
  }
  if self.colour == nil then self.colour = terminal.colours "stdout" end
  self.editor = repl.open_editor(self.history)
  self.interactive = self.editor ~= nil or fs.is_terminal "stdin"
  prepare(self)
  if self.interactive then welcome(self) end
  local console <close> = attach_console(self) -- luacheck: ignore
  local closing <close> = self.editor -- luacheck: ignore
  if options.before then evaluate(self, assert(compile(options.before, self.environment)), "") end
  local go_on = true
  while go_on do
    local ok, found = pcall(turn, self)
    -- The interpreter's own handling of Ctrl-C, between a call and the next line.
    if not ok and not tostring(found):find "interrupted!$" then error(found, 0) end
    go_on = not ok or found
  end
  return 0
end

return repl
