-- crucible chat: a conversation with a model, its lora in or out.
local chat = require "crucible.chat"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local fs = require "crucible.fs"
local program = require "crucible.program"
local repl = require "crucible.repl"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local command = {
  summary = "talks with a model",
  usage = "[options]",
  description = [[
Ctrl-C ends an answer, Ctrl-D the talk. Lines that begin with a slash are commands; /help lists them.

  crucible chat --run runs/0123456789abcdef --system "Answer in one sentence."
]],
  main = { "model", "run", "checkpoint", "system", "template", "max_tokens", "temperature", "seed" },
}

local function entries()
  local list = {
    { name = "system", check = schema.string, doc = "what the conversation begins with" },
    { name = "template", check = schema.nonempty_string, doc = "chat template by name; default: the model's" },
    program.color_entry,
  }
  table.move(program.model_entries, 1, #program.model_entries, #list + 1, list)
  for _, entry in ipairs(experiment.sampling_options.entries) do list[#list + 1] = entry end
  return list
end

command.options = schema.new("crucible chat", entries())

local DEFAULT = "smollm2-135m-instruct"
local DIM, BOLD, OFF = "\27[2m", "\27[1m", "\27[0m"

local COMMANDS = [[
/system TEXT   begins anew, with this before everything
/reset         begins anew
/base          the lora out, or in again
/set NAME VALUE  a sampling option: /set temperature 0.2
/again         another answer to the last message
/help          this list
/quit          ends (as Ctrl-D does)
]]

-- ---- the conversation ----------------------------------------------------------------------------

local function paint(self, style, text) return self.colour and style .. text .. OFF or text end

local function note(self, text) self.out:write(paint(self, DIM, text), "\n") end

local function begin(self)
  self.messages = {}
  if self.system then self.messages[1] = { role = "system", content = self.system } end
end

-- Drops the oldest turns until the prompt and the answer fit; nil, message, code when they cannot.
local function fitting_prompt(self)
  while true do
    local ids, message, code = chat.prompt_ids(self.session.tokenizer, self.messages, self.template)
    if not ids then return nil, message, code end
    if #ids + self.params.max_tokens <= self.session.context then return ids end
    local first = self.messages[1].role == "system" and 2 or 1
    if #self.messages <= first then
      return errors.failure("context_overflow", "the message and %d new tokens exceed the context of %d",
        self.params.max_tokens, self.session.context)
    end
    table.remove(self.messages, first)
    if self.messages[first] and self.messages[first].role == "assistant" then table.remove(self.messages, first) end
  end
end

local function params_of(self)
  local params, renderer = {}, chat.choose(self.session.tokenizer, self.template)
  for name, value in pairs(self.params) do params[name] = value end
  local stops = { self.session.tokenizer.eos }
  if renderer and renderer.close then stops[#stops + 1] = self.session.tokenizer:find(renderer.close) end
  params.stop_ids = params.stop_ids or stops
  if renderer and renderer.stop then params.stop_sequences = { renderer.stop } end
  params.seed = (params.seed or self.session.seed) + self.turns
  return params
end

-- The model's turn. A cancelled answer stays as far as it came.
local function answer(self)
  local ids, message, code = fitting_prompt(self)
  if not ids then return note(self, ("%s: %s"):format(code, message)) end
  local parts = {}
  self.turns = self.turns + 1
  local completions
  completions, message, code = program.cancellable(self.session, function(watcher)
    return self.session:sample({ ids }, params_of(self), function(event)
      parts[#parts + 1] = event.text
      self.out:write(event.text)
      self.out:flush()
      return not (watcher and watcher:pending())
    end)
  end)
  self.out:write "\n"
  local text = completions and completions[1].text or table.concat(parts)
  local cut = code == "cancelled" or completions and completions[1].finish == "cancelled"
  if not completions and not cut then return note(self, ("%s: %s"):format(code, message)) end
  if cut then note(self, "(interrupted)") end
  self.messages[#self.messages + 1] = { role = "assistant", content = text }
end

-- ---- commands ------------------------------------------------------------------------------------

local commands = {}

function commands.help(self) self.out:write(COMMANDS) end

function commands.quit() return "quit" end

function commands.reset(self)
  begin(self)
  note(self, "(begun anew)")
end

function commands.system(self, text)
  self.system = text ~= "" and text or nil
  commands.reset(self)
end

function commands.base(self)
  self.params.base = not self.params.base
  note(self, self.params.base and "(the base model answers)" or "(the lora is in)")
end

function commands.again(self)
  local last = self.messages[#self.messages]
  if last and last.role == "assistant" then self.messages[#self.messages] = nil end
  last = self.messages[#self.messages]
  if not last or last.role ~= "user" then return note(self, "nothing was asked yet") end
  answer(self)
end

function commands.set(self, text)
  local name, value = text:match "^(%S+)%s+(.+)$"
  if not name then return note(self, "expected a name and a value: /set temperature 0.2") end
  local changed = schema.copy(self.params)
  changed[name] = tonumber(value) or value == "true" or value ~= "false" and value
  local ok, checked = pcall(experiment.sampling_params, changed)
  if not ok then return note(self, (tostring(checked):gsub("^.-lora%.sampling_params: ", ""))) end
  self.params = checked
  note(self, ("(%s = %s)"):format(name, value))
end

local function command_names()
  local names = {}
  for name in pairs(commands) do names[#names + 1] = "/" .. name end
  table.sort(names)
  return names
end

local function run_command(self, line)
  local name, rest = line:match "^/(%S*)%s*(.-)%s*$"
  if commands[name] then return commands[name](self, rest) end
  note(self, ("unknown command /%s%s"):format(name, suggest.phrase("/" .. name, command_names())))
end

-- ---- lines ---------------------------------------------------------------------------------------

-- What could follow a slash.
local function complete(self, text)
  if text:sub(1, 1) ~= "/" then return end
  local found = { from = 1, candidates = {}, close = " " }
  for _, name in ipairs(command_names()) do
    if name:sub(1, #text) == text then found.candidates[#found.candidates + 1] = name end
  end
  repl.apply(self.editor, found, text)
end

local function read_line(self)
  if not self.editor then
    if self.interactive then
      self.out:write "> "
      self.out:flush()
    end
    return io.read "l"
  end
  local prompt = self.colour and ("\1%s\1> \1%s\1"):format(BOLD, OFF) or "> "
  while true do
    local line, why, text, cursor = self.editor:read(prompt)
    if why == "complete" then
      complete(self, text:sub(1, cursor))
    elseif why ~= "interrupt" then
      return line
    end
  end
end

local function turn(self)
  local line = read_line(self)
  if not line then return "quit" end
  if not line:find "%S" then return end
  if self.editor then self.editor:remember(line) end
  if line:sub(1, 1) == "/" then return run_command(self, line) end
  self.messages[#self.messages + 1] = { role = "user", content = line }
  answer(self)
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return true? ok, string? message, string? code
function command.run(given, streams)
  local session, message, code = program.open_session(given, DEFAULT)
  if not session then return nil, message, code end
  local guard <close> = session
  local renderer
  renderer, message, code = chat.choose(session.tokenizer, given.template)
  if not renderer then return nil, message, code end
  local self = {
    session = guard, out = streams.out, template = given.template, system = given.system, turns = 0,
    params = experiment.sampling_params(experiment.sampling_options:pick(given)),
    colour = program.colours(given.color),
  }
  local editor <close> = streams.out == io.stdout and repl.open_editor() or nil
  self.editor, self.interactive = editor, editor ~= nil or streams.out == io.stdout and fs.is_terminal "stdin"
  if self.interactive then
    note(self, ("%s, template %s; /help lists commands"):format(session.model.name, renderer.name))
  end
  begin(self)
  while turn(self) ~= "quit" do end
  return true
end

return command
