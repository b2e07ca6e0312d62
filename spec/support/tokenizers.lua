-- Every tokenizer that specs of text run on: the tiny model's vocabulary under each pre-tokenizer, with and
-- without a BOS, and SmolLM2's where it is present.
local core = require "crucible.core"
local gguf = require "spec.support.gguf_metadata"
local models = require "spec.support.models"
local tokenizer = require "crucible.tokenizer"

local tokenizers = {}

local TINY = "spec/fixtures/tiny/tiny.gguf"
local KEY = "tokenizer.ggml."

local list

local function open_variant(pretokenizer, add_bos)
  local path = os.tmpname()
  gguf.copy(TINY, path, { [KEY .. "pre"] = gguf.text(pretokenizer), [KEY .. "add_bos_token"] = gguf.bool(add_bos) })
  local model = assert(core.open_model(path))
  os.remove(path) -- the mapping stays
  return tokenizer.wrap(model:tokenizer())
end

local function open_all()
  list = {}
  for _, pretokenizer in ipairs { "gpt2", "smollm", "llama-bpe", "qwen2" } do
    for _, add_bos in ipairs { false, true } do
      list[#list + 1] = { pretokenizer .. (add_bos and " with a BOS" or ""), open_variant(pretokenizer, add_bos) }
    end
  end
  local smollm2 = models.smollm2()
  if smollm2 then list[#list + 1] = { "SmolLM2", tokenizer.wrap(assert(core.open_model(smollm2)):tokenizer()) } end
end

--- Calls visit(name, tokenizer) for each; they stay open to the end of the suite.
---@param visit fun(name: string, tokenizer: crucible.Tokenizer)
function tokenizers.each(visit)
  if not list then open_all() end
  for _, pair in ipairs(list) do visit(pair[1], pair[2]) end
end

---@return integer
function tokenizers.count()
  if not list then open_all() end
  return #list
end

return tokenizers
