-- The program's manual page and the completions of shells, made of the same tables that the commands read their
-- options by.
local arguments = require "crucible.arguments"
local cli = require "crucible.cli"

local manual = {}

-- ---- manual page ---------------------------------------------------------------------------------
-- roff's man macros: https://man7.org/linux/man-pages/man7/man.7.html

-- Text as roff takes it literally.
local function roff(text)
  text = text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("\n([.'])", "\n\\&%1"):gsub("^([.'])", "\\&%1")
  return (text:gsub("[\xC2-\xF4][\x80-\xBF]+", function(c) return ("\\[u%04X]"):format(utf8.codepoint(c)) end))
end

local function add_description(parts, text)
  local example = false
  for line in (text .. "\n"):gmatch "(.-)\n" do
    local indented = line:match "^  (.*)$"
    if (indented ~= nil) ~= example then
      example = indented ~= nil
      parts[#parts + 1] = example and ".RS 4\n.nf\n" or ".fi\n.RE\n"
    end
    if indented then
      parts[#parts + 1] = roff(indented) .. "\n"
    elseif line == "" then
      parts[#parts + 1] = ".PP\n"
    else
      parts[#parts + 1] = roff(line) .. "\n"
    end
  end
  if example then parts[#parts + 1] = ".fi\n.RE\n" end
end

local function add_options(parts, schema)
  for _, entry in ipairs(schema.entries) do
    if entry.name ~= "help" then
      local default = arguments.default_text(entry)
      parts[#parts + 1] = (".TP\n.B %s\n%s%s (%s)\n"):format(roff(arguments.form(entry)), roff(entry.doc),
        roff(default), roff(entry.check.what))
    end
  end
end

local function add_command(parts, name)
  local command = cli.command(name)
  parts[#parts + 1] = (".SS crucible %s %s\n%s.\n.PP\n"):format(name, roff(command.usage or "[options]"),
    roff(command.summary))
  add_description(parts, command.description or "")
  add_options(parts, cli.options(name))
end

local HEAD = [[
.TH CRUCIBLE 1 "" "crucible %s" "User Commands"
.SH NAME
crucible \- LoRA fine\-tuning of language models on the CPU
.SH SYNOPSIS
.B crucible
.I COMMAND
.RI [ options ]
.SH DESCRIPTION
Trains, measures, inspects and runs language models with low\-rank adapters. Every command takes
.B \-\-help
(what fits a screen) and
.B \-\-help=all
(every option). Options stand for those of the Lua functions of the same names, with dashes for underscores; a list is
written with commas, a table as JSON; a value that begins with a dash is written
.BR \-\-name=value .
]]

local TAIL = [[
.SH ENVIRONMENT
.TP
.B CRUCIBLE_HOME
Folder of models and data; default: crucible in XDG_CACHE_HOME or ~/.cache.
.TP
.B CRUCIBLE_DATA
A folder that is searched for data sets before it.
.TP
.B CRUCIBLE_MODELS
File of names of one's own; default: models.json in CRUCIBLE_HOME.
.TP
.B CRUCIBLE_OFFLINE
1: nothing is fetched.
.TP
.B CRUCIBLE_HISTORY
File of the prompt's earlier lines; default: crucible/history in XDG_STATE_HOME or ~/.local/state.
.TP
.B HF_ENDPOINT, HF_TOKEN
Address of the model hub, and the person's key to it.
.TP
.B NO_COLOR
Set to anything: no colours.
.SH FILES
.TP
.I runs/ID/
A run: manifest.json, telemetry.jsonl, checkpoints/, report.html.
.TP
.I ~/.editrc
Keys of the prompt (editrc(5)).
]]

--- The manual page of the program, as roff.
---@return string
function manual.page()
  local parts = { HEAD:format((require("crucible")._VERSION:gsub("^crucible ", ""))), ".SH COMMANDS\n" }
  for _, name in ipairs(cli.commands) do add_command(parts, name) end
  parts[#parts + 1] = ".SH EXIT STATUS\n"
  for _, row in ipairs(cli.exit_codes) do parts[#parts + 1] = (".TP\n.B %s\n%s\n"):format(row[1], roff(row[2])) end
  parts[#parts + 1] = TAIL
  return table.concat(parts)
end

-- ---- completions ---------------------------------------------------------------------------------

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- The words that an option's value is one of; nil for any other value.
local function choices(entry)
  local check = entry.check
  if check.words then return check.words end
  for _, choice in ipairs(check.choices or {}) do
    if choice.words then return choice.words end
  end
end

local NAMES = { -- what a word without dashes may be, beside a file
  dataset = "crucible.lora.dataset_integration", model = "crucible.models",
}

local function names_for(entry)
  local words = choices(entry)
  if words then return words end
  if not NAMES[entry.name] then return nil end
  local room = require(NAMES[entry.name])
  return (room.datasets or room.names)()
end

-- Options of a command as words, values of those that have a few, and words without dashes.
local function words_of(name)
  local options, values, words = {}, {}, {}
  for _, entry in ipairs(cli.options(name).entries) do
    local flag = "--" .. entry.name:gsub("_", "-")
    local known = names_for(entry)
    if entry.positional then
      table.move(known or {}, 1, #(known or {}), #words + 1, words)
    else
      options[#options + 1] = flag
      if entry.check.kind == "boolean" and entry.default == true then options[#options + 1] = "--no-" .. flag:sub(3) end
      if known and entry.check.kind ~= "boolean" then values[#values + 1] = { flag = flag, words = known } end
    end
  end
  return options, values, words
end

local BASH = [==[
# Completion of crucible for bash; made by `crucible completion bash`.
_crucible() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W %s -- "$word"))
    return
  fi
  local options='' words='' values=''
  case $command in
%s  esac
  if [ -n "$values" ]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
  fi
}
complete -o filenames -F _crucible crucible
]==]

local function bash_case(name)
  local options, values, words = words_of(name)
  local lines = { ("    %s)\n      options=%s words=%s\n"):format(name, quote(table.concat(options, " ")),
    quote(table.concat(words, " "))) }
  if #values > 0 then
    lines[#lines + 1] = "      case $before in\n"
    for _, value in ipairs(values) do
      lines[#lines + 1] = ("        %s) values=%s ;;\n"):format(value.flag, quote(table.concat(value.words, " ")))
    end
    lines[#lines + 1] = "      esac\n"
  end
  lines[#lines + 1] = "      ;;\n"
  return table.concat(lines)
end

--- The completion script of bash.
---@return string
function manual.bash()
  local cases = {}
  for i, name in ipairs(cli.commands) do cases[i] = bash_case(name) end
  return BASH:format(quote(table.concat(cli.commands, " ") .. " help --help --version"), table.concat(cases))
end

-- A text inside the brackets of zsh's _arguments.
local function zsh_text(text) return (text:gsub("[%[%]\\:]", "\\%0")) end

local function zsh_option(entry)
  local flag, doc = "--" .. entry.name:gsub("_", "-"), zsh_text(entry.doc)
  local known = names_for(entry)
  local words = known and ("(%s)"):format(table.concat(known, " "))
  if entry.positional then
    local many = entry.check.kind == "strings" and "*" or ""
    return quote(("%s:%s:%s"):format(many, zsh_text(entry.name), choices(entry) and words or "_files"))
  end
  if entry.check.kind == "boolean" then return quote(("%s[%s]"):format(flag, doc)) end
  return quote(("%s=[%s]:%s:%s"):format(flag, doc, zsh_text(entry.name), words or "_files"))
end

local ZSH = [[
#compdef crucible
# Completion of crucible for zsh; made by `crucible completion zsh`.
_crucible() {
  local -a commands
  commands=(
%s  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
%s  esac
}
_crucible "$@"
]]

local function zsh_case(name)
  local lines = {}
  for _, entry in ipairs(cli.options(name).entries) do lines[#lines + 1] = "        " .. zsh_option(entry) end
  return ("    %s)\n      _arguments -s \\\n%s\n      ;;\n"):format(name, table.concat(lines, " \\\n"))
end

--- The completion script of zsh.
---@return string
function manual.zsh()
  local commands, cases = {}, {}
  for i, name in ipairs(cli.commands) do
    commands[i] = "    " .. quote(("%s:%s"):format(name, zsh_text(cli.command(name).summary))) .. "\n"
    cases[i] = zsh_case(name)
  end
  return ZSH:format(table.concat(commands), table.concat(cases))
end

return manual
