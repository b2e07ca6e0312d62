-- crucible generate: what a model writes after prompts.
local chat = require "crucible.chat"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local json = require "crucible.json"
local program = require "crucible.program"
local schema = require "crucible.schema"

local command = {
  summary = "writes on from prompts",
  usage = "[options] [PROMPT …]",
  description = [[
Each PROMPT is one text; without one, standard input is the prompt. A single text is written as it comes.

  crucible generate --model smollm2-135m-instruct --chat "Name three rivers."
  crucible generate --run runs/0123456789abcdef --temperature 0 < prompt.txt
]],
  main = { "model", "run", "checkpoint", "chat", "max_tokens", "temperature", "top_p", "seed", "json" },
}

local function entries()
  local list = {
    { name = "prompt", positional = true, check = schema.list(schema.string), doc = "texts to write on from" },
    { name = "chat", default = false, check = schema.boolean, doc = "each prompt is a user's message" },
    { name = "json", default = false, check = schema.boolean, doc = "one object a prompt: prompt, text, finish …" },
  }
  table.move(program.model_entries, 1, #program.model_entries, #list + 1, list)
  for _, entry in ipairs(experiment.sampling_options.entries) do list[#list + 1] = entry end
  return list
end

command.options = schema.new("crucible generate", entries())

local DEFAULT = "smollm2-135m-instruct"

local function prompts_of(given)
  if given.prompt and #given.prompt > 0 then return given.prompt end
  local text = io.read "a"
  if not text or not text:find "%S" then return errors.failure("argument", "no prompt, and standard input is empty") end
  return { (text:gsub("\n$", "")) }
end

local function ids_of(session, prompt, given)
  if not given.chat then return prompt end
  return chat.prompt_ids(session.tokenizer, { { role = "user", content = prompt } })
end

local function all_ids(session, prompts, given)
  local list = {}
  for i, prompt in ipairs(prompts) do
    local ids, message, code = ids_of(session, prompt, given)
    if not ids then return nil, message, code end
    list[i] = ids
  end
  return list
end

local function write_json(streams, prompts, completions)
  for i, completion in ipairs(completions) do
    streams.out:write(json.encode {
      prompt = prompts[i], text = completion.text, finish = completion.finish, tokens = #completion.tokens,
      prompt_tokens = completion.prompt_tokens,
    }, "\n")
  end
end

local function write_texts(streams, completions)
  for i, completion in ipairs(completions) do
    streams.out:write(#completions > 1 and ("[%d] "):format(i) or "", completion.text, "\n")
  end
end

-- The texts; a single one is written while it comes.
local function sample(session, given, streams, prompts, ids)
  local streaming = #prompts == 1 and not given.json
  local on_token = streaming and function(event)
    streams.out:write(event.text)
    streams.out:flush()
  end or nil
  local params = experiment.sampling_options:pick(given)
  local completions, message, code = program.cancellable(session, function()
    return session:sample(ids, params, on_token)
  end)
  if streaming then streams.out:write "\n" end
  if not completions then return nil, message, code end
  if given.json then write_json(streams, prompts, completions) end
  if not given.json and not streaming then write_texts(streams, completions) end
  return true
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return true? ok, string? message, string? code
function command.run(given, streams)
  local prompts, message, code = prompts_of(given)
  if not prompts then return nil, message, code end
  local session
  session, message, code = program.open_session(given, DEFAULT)
  if not session then return nil, message, code end
  local guard <close> = session
  local ids
  ids, message, code = all_ids(guard, prompts, given)
  if not ids then return nil, message, code end
  return sample(guard, given, streams, prompts, ids)
end

return command
