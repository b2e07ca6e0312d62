-- Named wordings of conversations, each as a family of models was trained on it.

---@class crucible.chat.Renderer
---@field name string
---@field roles table<string, string>?  role → how it is written; nil for a model's own template
---@field close string?    special token that ends a turn; nil: the model's end token ends the assistant's
---@field tokens string[]  special tokens it needs
---@field trim boolean     white space around contents is removed
---@field header (fun(written: string, extra: string?): (string|table)[])?  pieces before a content; { special } for a token
---@field between string?  after a turn, before the next
---@field stop string?     text that ends an answer, for renderers without a token of their own
---@field merge_system boolean?  a system message is put before the first user's
---@field thinks boolean?  answers may hold <think>…</think>; one without it begins with an empty block

-- Of ChatML: OpenAI's; SmolLM2, Qwen.
local function chatml_header(role) return { { "<|im_start|>" }, role .. "\n" } end
local chatml_roles = { system = "system", user = "user", assistant = "assistant", tool = "tool" }

---@type table<string, crucible.chat.Renderer>
local renderers = {
  chatml = {
    roles = chatml_roles, tokens = { "<|im_start|>", "<|im_end|>" }, close = "<|im_end|>", between = "\n", trim = false,
    header = chatml_header,
  },
  -- Llama 3 (model card, "Prompt format").
  llama3 = {
    roles = { system = "system", user = "user", assistant = "assistant", tool = "ipython" },
    tokens = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" }, close = "<|eot_id|>", between = "",
    trim = true,
    header = function(role) return { { "<|start_header_id|>" }, role, { "<|end_header_id|>" }, "\n\n" } end,
  },
  -- Qwen3 (model card, "Switching between thinking and non-thinking mode"): thought is kept of answers to the last
  -- question alone, and an answer without thought begins behind an empty block, as with enable_thinking off.
  qwen3 = {
    roles = chatml_roles, tokens = { "<|im_start|>", "<|im_end|>" }, added = { "<think>", "</think>" },
    close = "<|im_end|>", between = "\n", trim = false, header = chatml_header, thinks = true,
  },
  -- Gemma 2 and 3 (model card, "Chat template"); it has no system role.
  gemma = {
    roles = { user = "user", assistant = "model" }, merge_system = true,
    tokens = { "<start_of_turn>", "<end_of_turn>" }, close = "<end_of_turn>", between = "\n", trim = true,
    header = function(role) return { { "<start_of_turn>" }, role .. "\n" } end,
  },
  -- For base models: names before colons, the model's end token after an answer.
  role_colon = {
    roles = { system = "System", user = "User", assistant = "Assistant", tool = "Tool" },
    tokens = {}, between = "\n\n", trim = true, stop = "\n\nUser:",
    header = function(role) return { role .. ":" } end,
  },
}

for name, renderer in pairs(renderers) do renderer.name = name end

return renderers
