-- crucible repl: the prompt.
local program = require "crucible.program"
local repl = require "crucible.repl"
local schema = require "crucible.schema"

local command = {
  summary = "a Lua prompt with models, sessions and runs at hand",
  usage = "[options]",
  description = [[
Lines are edited, remembered and completed with Tab; help(x) explains a function, a value or an option; Ctrl-C ends a
call and leaves its session usable. With --model, --run or --checkpoint there is a `session` from the start.

  crucible repl --model smollm2-135m-instruct
]],
}

local entries = {
  { name = "quiet", default = false, check = schema.boolean, doc = "no progress of runs" },
  { name = "history", check = schema.nonempty_string,
    doc = "file of earlier lines; default: $CRUCIBLE_HISTORY, else in the user's state" },
  program.color_entry,
}
table.move(program.model_entries, 1, #program.model_entries, #entries + 1, entries)

command.options = schema.new("crucible repl", entries)

--- Runs the command.
---@param given table
---@return integer? exit_code, string? message, string? code
function command.run(given)
  if given.model or given.run or given.checkpoint then
    local session, message, code = program.open_session(given)
    if not session then return nil, message, code end
    _G.session = session -- the prompt's names are globals
  end
  return repl.run { quiet = given.quiet, history = given.history, colour = program.colours(given.color) }
end

return command
