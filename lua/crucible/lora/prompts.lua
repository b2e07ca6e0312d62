-- Prompts and the choices after them, as sessions take them for sampling and scoring, as ids.
local errors = require "crucible.errors"
local schema = require "crucible.schema"

local prompts = {}

--- A list of prompts, a single text being one; raises where it is neither.
---@param caller string  for the error
---@param given string|(string|integer[])[]
---@return (string|integer[])[]
function prompts.list(caller, given)
  if type(given) == "string" then return { given } end
  if type(given) ~= "table" then errors.raise("%s: expected a list of prompts, got %s", caller, schema.show(given)) end
  return given
end

--- Raises where what hears tokens cannot be called.
---@param caller string  for the error
---@param on_token function?
function prompts.check_listener(caller, on_token)
  if on_token ~= nil and not schema.callable.read(on_token) then
    errors.raise("%s: on_token must be a function, got %s", caller, schema.show(on_token))
  end
end

--- Ids of each prompt.
---@param tokenizer crucible.Tokenizer
---@param list (string|integer[])[]
---@return integer[][]
function prompts.ids(tokenizer, list)
  local ids = {}
  for i, prompt in ipairs(list) do ids[i] = tokenizer:prompt_ids(prompt) end
  return ids
end

-- Ids of each choice after a prompt; the seam's space is added where the prompt is text.
local function ids_after(tokenizer, prompt, list)
  local ids = {}
  for c, choice in ipairs(list) do
    if type(choice) == "table" then
      ids[c] = choice
    elseif type(prompt) == "string" then
      ids[c] = tokenizer:answer(prompt, choice)
    else
      ids[c] = tokenizer:encode(choice)
    end
  end
  return ids
end

--- Ids of the choices after each prompt. Raises where there are lists of choices for some prompts alone.
---@param tokenizer crucible.Tokenizer
---@param caller string  for the error
---@param list (string|integer[])[]  prompts
---@param given string[]|integer[][]|string[][]  texts or lists of ids for all prompts, or a list of texts for each
---@return integer[][][]
function prompts.choices(tokenizer, caller, list, given)
  local each = type(given[1]) == "table" and type(given[1][1]) ~= "number"
  if each and #given ~= #list then
    errors.raise("%s: %d prompts and %d lists of choices, expected one list a prompt", caller, #list, #given)
  end
  local continuations = {}
  for i, prompt in ipairs(list) do continuations[i] = ids_after(tokenizer, prompt, each and given[i] or given) end
  return continuations
end

return prompts
