-- crucible runs: what runs there are, two or more beside each other, one taken away.
local errors = require "crucible.errors"
local runs = require "crucible.lora.runs"
local schema = require "crucible.schema"

local options = schema.new("crucible runs", {
  { name = "what", positional = true, default = {}, check = schema.list(schema.nonempty_string),
    doc = "list (the default), compare RUN RUN …, delete RUN …" },
  { name = "runs", default = "runs", check = schema.nonempty_string, doc = "folder of run folders" },
  { name = "status", check = schema.nonempty_string, doc = "list: those of this status alone" },
  { name = "tag", check = schema.nonempty_string, doc = "list: those with this tag alone" },
  { name = "running", default = false, check = schema.boolean,
    doc = "delete: also runs that say they are running (they may have been killed)" },
})

local actions = {}

function actions.list(given, streams)
  local list, message, code = runs.list(given.runs, { status = given.status, tag = given.tag })
  if not list then return nil, message, code end
  streams.out:write(#list == 0 and ("no runs in %s\n"):format(given.runs) or runs.text(list))
end

function actions.compare(given, streams, names)
  if #names < 2 then return errors.failure("argument", "compare needs at least two runs, got %d", #names) end
  local found, message, code = runs.compare(names, given.runs)
  if not found then return nil, message, code end
  streams.out:write(found.text)
end

function actions.delete(given, streams, names)
  if #names == 0 then return errors.failure("argument", "delete needs at least one run, got none") end
  for _, name in ipairs(names) do
    local path, message, code = runs.delete(name, { folder = given.runs, running = given.running })
    if not path then return nil, message, code end
    streams.out:write("deleted ", path, "\n")
  end
end

local function run(given, streams)
  local word = given.what[1] or "list"
  local action = actions[word]
  if not action then
    return errors.failure("argument", "%s: expected list, compare or delete", schema.show(word))
  end
  return action(given, streams, table.move(given.what, 2, #given.what, 1, {}))
end

return {
  summary = "lists, compares and deletes runs",
  usage = "[list | compare RUN RUN … | delete RUN …] [options]",
  description = "A run is named by its folder, its id, or a beginning of it that no other run has.",
  options = options,
  run = run,
}
