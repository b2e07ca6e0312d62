-- The program `crucible`: finds the command, reads its options by its schema, runs it, and turns what
-- comes of it into messages and an exit code.
--
-- A command is a module crucible.cli.<name> that returns a table (crucible.cli.Command). To add one:
-- write the module and add its name to cli.commands.
local arguments = require "crucible.arguments"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"
local terminal = require "crucible.terminal"

---@class crucible.cli.Command
---@field summary string       one line for the list of commands
---@field usage string?        what follows the name: "[options] RUN …"
---@field description string?  more lines for its --help; those that begin with two spaces stay as they are
---@field options crucible.schema  `positional = true` marks what is given without dashes; --help is added
---@field main string[]?       options that its short --help lists first
---@field explicit boolean?    `run` is given only what was written, without defaults
---@field exit string[]?       exit codes of its own, a line each, for the manual
---@field run fun(given: table, streams: crucible.cli.Streams): any, string?, string?
---  true or nothing when all went well; an integer to exit with; or nil, message, code

---@class crucible.cli.Streams
---@field out file*  results
---@field err file*  messages and progress

local cli = {}

--- Names of the commands, in the order in which --help lists them.
cli.commands = {
  "bench", "chat", "completion", "data", "doctor", "evaluate", "export", "fetch", "generate", "merge", "model", "repl",
  "report", "runs", "train",
}

--- Exit codes.
cli.exit = { ok = 0, failed = 1, usage = 2, interrupted = 130 }

--- Exit codes with what they mean, for --help and the manual.
cli.exit_codes = {
  { "0", "done" },
  { "1", "failed: a file, memory, data or a server; the message says which" },
  { "2", "used wrongly: an unknown command or option, a value that is not accepted" },
  { "130", "interrupted" },
}

local USAGE = [[
usage: crucible COMMAND [options]

LoRA fine-tuning of language models on the CPU.

commands:
%s
`crucible COMMAND --help` says what a command does; --help=all: every option.

exit codes:
%s]]

local WIDTH, HEIGHT = 80, 24 -- of a screen
local DESCRIPTION, OPTIONS = 9, 8 -- lines: of a description at most, of options at least

local help_entry = {
  name = "help", default = false, check = schema.either(schema.boolean, schema.one_of { "all" }),
  doc = "this text; --help=all: with every option",
}

--- The command of a name.
---@param name string  one of cli.commands
---@return crucible.cli.Command
function cli.command(name) return require("crucible.cli." .. name) end

local load_command = cli.command

local function command_list()
  local lines = {}
  for i, name in ipairs(cli.commands) do
    local summary = terminal.wrap(load_command(name).summary, WIDTH - 14, (" "):rep(14))
    lines[i] = ("  %-11s %s\n"):format(name, summary:sub(15))
  end
  return table.concat(lines)
end

local function exit_list()
  local lines = {}
  for i, row in ipairs(cli.exit_codes) do lines[i] = ("  %-4s %s\n"):format(row[1], row[2]) end
  return table.concat(lines)
end

--- The text of `crucible --help`.
---@return string
function cli.help() return USAGE:format(command_list(), exit_list()) end

-- Entries with what stands first for a reader: words without dashes, then the command's main options.
local function in_order(command)
  local entries, taken = {}, {}
  local function take(entry)
    if entry and not taken[entry.name] then
      taken[entry.name] = true
      entries[#entries + 1] = entry
    end
  end
  for _, entry in ipairs(command.options.entries) do
    if entry.positional then take(entry) end
  end
  for _, name in ipairs(command.main or {}) do take(command.options.by_name[name]) end
  for _, entry in ipairs(command.options.entries) do take(entry) end
  return entries
end

--- The options of a command as its --help lists them, with --help.
---@param name string
---@return crucible.schema
function cli.options(name)
  local command = load_command(name)
  local entries = in_order(command)
  if not command.options.by_name.help then entries[#entries + 1] = help_entry end
  return schema.new("crucible " .. name, entries)
end

local options_of = cli.options

-- A description in lines of the screen's width; examples, indented by two spaces, stay.
local function reflow(text)
  local lines, paragraph = {}, {}
  local function flush()
    if #paragraph > 0 then lines[#lines + 1] = terminal.wrap(table.concat(paragraph, " "), WIDTH) end
    paragraph = {}
  end
  for line in (text:gsub("\n*$", "") .. "\n"):gmatch "(.-)\n" do
    if line:find "^  " or line == "" then
      flush()
      lines[#lines + 1] = line
    else
      paragraph[#paragraph + 1] = line
    end
  end
  flush()
  return table.concat(lines, "\n") .. "\n"
end

local function count_lines(text) return select(2, text:gsub("\n", "")) end

local function first_lines(text, count)
  local lines = {}
  for line in text:gmatch "(.-)\n" do
    if #lines == count then return table.concat(lines, "\n") .. "\n" end
    lines[#lines + 1] = line
  end
  return text
end

local function head_of(name, command, short)
  local usage = terminal.wrap(("usage: crucible %s %s"):format(name, command.usage or "[options]"), WIDTH) .. "\n"
  local description = command.description and "\n" .. reflow(command.description) or ""
  if short then description = first_lines(description, DESCRIPTION) end
  return ("%s\n%s\n%s"):format(usage, terminal.wrap(command.summary, WIDTH), description)
end

--- The text of `crucible NAME --help`, which fits a screen; with `all`, every option of the command.
---@param name string  one of cli.commands
---@param all boolean?
---@return string
function cli.command_help(name, all)
  local command, options = load_command(name), options_of(name)
  if all then return ("%s\noptions:\n%s"):format(head_of(name, command), arguments.help(options, WIDTH)) end
  local head = head_of(name, command, true)
  local room = math.max(OPTIONS, HEIGHT - 1 - count_lines(head) - 3)
  local text, left_out = arguments.fitting(options, room, WIDTH)
  local more = left_out > 0 and ("  and %d more: crucible %s --help=all\n"):format(left_out, name) or ""
  return ("%s\noptions:\n%s%s"):format(head, text, more)
end

local function is_known(name)
  for _, known in ipairs(cli.commands) do
    if known == name then return true end
  end
  return false
end

local function usage_error(streams, who, message)
  streams.err:write(who, ": ", message, "\n")
  return cli.exit.usage
end

local function unknown_command(streams, name)
  return usage_error(streams, "crucible", ('unknown command "%s"%s'):format(name, suggest.phrase(name, cli.commands)))
end

local library = debug and debug.getinfo(1, "S").source:match("^@(.*)cli%.lua$")

-- A fault of the library itself is shown with its traceback; misuse and interruption by their message.
local function describe(raised)
  local text = tostring(raised)
  if text:find("interrupted!$") then return { interrupted = true } end
  local own_fault = library and text:sub(1, #library) == library
  return { message = own_fault and debug.traceback(text, 2) or text }
end

local function exit_code(streams, who, value, message, code)
  if value == nil and message then
    streams.err:write(who, ": ", message, "\n")
    if code == "argument" then return cli.exit.usage end
    return code == "cancelled" and cli.exit.interrupted or cli.exit.failed
  end
  return math.type(value) == "integer" and value or cli.exit.ok
end

local function run_guarded(streams, who, command, given)
  local results = table.pack(xpcall(command.run, describe, given, streams))
  if results[1] then return exit_code(streams, who, table.unpack(results, 2, results.n)) end
  local fault = results[2]
  if fault.interrupted then
    streams.err:write(who, ": interrupted\n")
    return cli.exit.interrupted
  end
  streams.err:write(who, ": ", fault.message, "\n")
  return cli.exit.failed
end

-- Whether help is asked for, and whether all of it.
local function wants_help(words)
  for _, word in ipairs(words) do
    if word == "--" then return false end
    if word == "-h" or word == "--help" then return true end
    if word == "--help=all" then return true, true end
  end
  return false
end

local function run_command(streams, name, words)
  local asked, all = wants_help(words)
  if asked then
    streams.out:write(cli.command_help(name, all))
    return cli.exit.ok
  end
  local who, command = "crucible " .. name, load_command(name)
  local given, message = arguments.parse(options_of(name), words, command.explicit)
  if not given then return usage_error(streams, who, message .. ("\ntry: %s --help"):format(who)) end
  return run_guarded(streams, who, command, given)
end

local function top_level(streams, first, second)
  if first == "--version" then
    streams.out:write(require("crucible")._VERSION, "\n")
    return cli.exit.ok
  end
  if second and first == "help" then
    if not is_known(second) then return unknown_command(streams, second) end
    streams.out:write(cli.command_help(second))
    return cli.exit.ok
  end
  if first == "help" or first == "-h" or first == "--help" then
    streams.out:write(cli.help())
    return cli.exit.ok
  end
  if first == nil then return usage_error(streams, "crucible", "which command?\n\n" .. cli.help()) end
  if first:sub(1, 1) == "-" then
    return usage_error(streams, "crucible", ("unknown option %s; known: --help, --version"):format(first))
  end
end

--- Runs the program.
---@param words string[]  a program's `arg`
---@param streams crucible.cli.Streams?  default: standard output and standard error
---@return integer exit_code
function cli.main(words, streams)
  streams = streams or { out = io.stdout, err = io.stderr }
  local code = top_level(streams, words[1], words[2])
  if code then return code end
  if not is_known(words[1]) then return unknown_command(streams, words[1]) end
  return run_command(streams, words[1], table.move(words, 2, #words, 1, {}))
end

return cli
