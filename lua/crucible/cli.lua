-- The program `crucible`: finds the command, reads its options by its schema, runs it, and turns what
-- comes of it into messages and an exit code.
--
-- A command is a module crucible.cli.<name> that returns a table (crucible.cli.Command). To add one:
-- write the module and add its name to cli.commands.
local arguments = require "crucible.arguments"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

---@class crucible.cli.Command
---@field summary string       one line for the list of commands
---@field usage string?        what follows the name: "[options] RUN …"
---@field description string?  more lines for its --help
---@field options crucible.schema  `positional = true` marks what is given without dashes; --help is added
---@field run fun(given: table, streams: crucible.cli.Streams): any, string?, string?
---  true or nothing when all went well; an integer to exit with; or nil, message, code

---@class crucible.cli.Streams
---@field out file*  results
---@field err file*  messages and progress

local cli = {}

--- Names of the commands, in the order in which --help lists them.
cli.commands = { "data", "evaluate", "export", "fetch", "merge", "report", "runs" }

--- Exit codes.
cli.exit = { ok = 0, failed = 1, usage = 2, interrupted = 130 }

local USAGE = [[
usage: crucible COMMAND [options]

LoRA fine-tuning of language models on the CPU.

commands:
%s
`crucible COMMAND --help` says what a command does and lists its options.

exit codes:
  0    done
  1    failed: a file, memory, data or a server; the message says which
  2    used wrongly: an unknown command or option, a value that is not accepted
  130  interrupted
]]

local help_entry = { name = "help", default = false, check = schema.boolean, doc = "this text" }

local function load_command(name) return require("crucible.cli." .. name) end

local function command_list()
  local lines = {}
  for i, name in ipairs(cli.commands) do lines[i] = ("  %-12s %s\n"):format(name, load_command(name).summary) end
  return table.concat(lines)
end

--- The text of `crucible --help`.
---@return string
function cli.help() return USAGE:format(command_list()) end

-- The command's schema with --help.
local function options_of(name, command)
  local entries = table.move(command.options.entries, 1, #command.options.entries, 1, {})
  if not command.options.by_name.help then entries[#entries + 1] = help_entry end
  return schema.new("crucible " .. name, entries)
end

--- The text of `crucible NAME --help`.
---@param name string  one of cli.commands
---@return string
function cli.command_help(name)
  local command = load_command(name)
  local usage = ("usage: crucible %s %s\n"):format(name, command.usage or "[options]")
  local description = command.description and "\n" .. command.description:gsub("\n*$", "\n") or ""
  return ("%s\n%s\n%s\noptions:\n%s"):format(usage, command.summary, description,
    arguments.help(options_of(name, command)))
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

local function wants_help(words)
  for _, word in ipairs(words) do
    if word == "--" then return false end
    if word == "-h" or word == "--help" then return true end
  end
  return false
end

local function run_command(streams, name, words)
  if wants_help(words) then
    streams.out:write(cli.command_help(name))
    return cli.exit.ok
  end
  local who, command = "crucible " .. name, load_command(name)
  local given, message = arguments.parse(options_of(name, command), words)
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
