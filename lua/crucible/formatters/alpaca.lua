-- Instructions as Stanford Alpaca (Taori et al. 2023) words them, a newline after "### Response:" as
-- torchtune has it.
local fields = require "crucible.formatters.fields"

local WITH_INPUT = "Below is an instruction that describes a task, paired with an input that provides further context. "
  .. "Write a response that appropriately completes the request.\n\n### Instruction:\n%s\n\n### Input:\n%s\n\n"
  .. "### Response:\n"
local WITHOUT = "Below is an instruction that describes a task. Write a response that appropriately completes the "
  .. "request.\n\n### Instruction:\n%s\n\n### Response:\n"

--- { instruction, input?, output } to the prompt and the output.
---@param example table
---@return { input: string, output: string, metadata: table }
return function(example)
  local instruction, input = fields.string(example, "instruction"), fields.optional_string(example, "input")
  local prompt = input ~= "" and WITH_INPUT:format(instruction, input) or WITHOUT:format(instruction)
  return { input = prompt, output = fields.string(example, "output"), metadata = {} }
end
