-- Choices after prompts, as sessions score them, as ids.
local errors = require "crucible.errors"

local choices = {}

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
---@param prompts (string|integer[])[]
---@param given string[]|integer[][]|string[][]  texts or lists of ids for all prompts, or a list of texts for each
---@return integer[][][]
function choices.ids(tokenizer, caller, prompts, given)
  local each = type(given[1]) == "table" and type(given[1][1]) ~= "number"
  if each and #given ~= #prompts then
    errors.raise("%s: %d prompts and %d lists of choices, expected one list a prompt", caller, #prompts, #given)
  end
  local continuations = {}
  for i, prompt in ipairs(prompts) do continuations[i] = ids_after(tokenizer, prompt, each and given[i] or given) end
  return continuations
end

return choices
