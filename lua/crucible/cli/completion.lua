-- crucible completion: what bash and zsh need to complete its commands and options.
local schema = require "crucible.schema"

local command = {
  summary = "prints the completion of bash or zsh",
  usage = "bash | zsh",
  description = [[
An installed copy brings both along. From a checkout:

  source <(crucible completion bash)
  crucible completion zsh > ~/.zfunc/_crucible
]],
}

command.options = schema.new("crucible completion", {
  { name = "shell", positional = true, required = true, check = schema.one_of { "bash", "zsh" }, doc = "which" },
})

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
function command.run(given, streams)
  streams.out:write(require("crucible.manual")[given.shell]())
  return true
end

return command
