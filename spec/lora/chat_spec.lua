-- Conversations: wording of the templates, what is trained, and back.
local chat = require "crucible.chat"
local datums = require "crucible.lora.datums"
local expect = require "spec.support.expect"
local tokenizers = require "spec.support.tokenizers"

local dialogue = {
  { role = "system", content = "Be brief." }, { role = "user", content = "Hi " },
  { role = "assistant", content = "Ho." }, { role = "user", content = "Bye" },
  { role = "assistant", content = "See you." },
}

local function text_of(name, messages) return chat.text((chat.render(chat.renderer(name), messages))) end

describe("a chat template", function()
  for name, expected in pairs {
    chatml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n"
      .. "<|im_start|>assistant\nHo.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
      .. "<|im_start|>assistant\nSee you.<|im_end|>",
    llama3 = "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
      .. "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
      .. "<|start_header_id|>assistant<|end_header_id|>\n\nHo.<|eot_id|>"
      .. "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
      .. "<|start_header_id|>assistant<|end_header_id|>\n\nSee you.<|eot_id|>",
    gemma = "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo.<end_of_turn>\n"
      .. "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\nSee you.<end_of_turn>",
    role_colon = "System: Be brief.\n\nUser: Hi\n\nAssistant: Ho.\n\nUser: Bye\n\nAssistant: See you.",
  } do
    it("words a conversation as " .. name .. " does", function() assert.equal(expected, text_of(name, dialogue)) end)

    it("prompts " .. name .. " with what stands before the answer", function()
      local renderer = chat.renderer(name)
      local prompt = chat.text(chat.prompt(renderer, dialogue))
      assert.equal(prompt, expected:sub(1, #prompt))
      local answer = expected:sub(#prompt + 1)
      local message = chat.parse(renderer, answer)
      assert.same({ role = "assistant", content = "See you." }, { role = message.role,
        content = message.content:gsub("^ ", "") })
      local open = table.move(dialogue, 1, 4, 1, {})
      assert.equal(prompt, chat.text(chat.prompt(renderer, open)))
    end)
  end

  it("is listed, and refused by name", function()
    assert.same({ "chatml", "gemma", "llama3", "qwen3", "role_colon" }, chat.renderers())
    expect.raises('unknown chat template "chatlm"; did you mean "chatml"?', chat.renderer, "chatlm")
  end)

  it("parses an answer that came to its end, and one that did not", function()
    local message, finished = chat.parse(chat.renderer "chatml", "Yes.<|im_end|>\n<|im_start|>user")
    assert.equal("Yes.", message.content)
    assert.is_true(finished)
    message, finished = chat.parse(chat.renderer "chatml", "Yes and")
    assert.equal("Yes and", message.content)
    assert.is_false(finished)
    assert.equal("a", chat.parse(chat.renderer "role_colon", " a\n\nUser: b").content)
    assert.equal("a", chat.parse(chat.renderer "role_colon", " a<eos>x", "<eos>").content)
  end)
end)

describe("the template of a tokenizer", function()
  it("is the one that its special tokens speak for", function()
    assert.equal("chatml", chat.for_tokenizer(tokenizers.open("smollm", false)).name)
    for name, tokens in pairs(tokenizers.specials) do
      local tok = tokenizers.open("llama-bpe", true, tokens)
      assert.equal("chatml", chat.for_tokenizer(tok).name) -- it has those too
      assert.equal(name, assert(chat.choose(tok, name)).name)
    end
  end)

  it("is refused when it lacks a token", function()
    local tok = tokenizers.open("smollm", false)
    expect.fails("unsupported", 'chat template "llama3" needs the token <|start_header_id|>',
      chat.choose(tok, "llama3"))
    expect.fails("data", 'row 1: chat template "gemma" needs the token <start_of_turn>',
      datums.build(tok, { { messages = dialogue, template = "gemma" } }))
  end)
end)

describe("what is trained of a conversation", function()
  local tok = tokenizers.open("smollm", false)
  local end_text = "<|im_end|>"

  -- Supervised stretches of a datum, as text.
  local function trained(messages, options)
    local datum = assert(datums.row(tok, { messages = messages }, options))
    local stretches, open = {}, false
    for i, weight in ipairs(datum.weights) do
      if weight ~= 0 then
        if not open then stretches[#stretches + 1] = "" end
        stretches[#stretches] = stretches[#stretches] .. tok:decode { datum.tokens[i + 1] }
      end
      open = weight ~= 0
    end
    return stretches, datum
  end

  it("is the last answer and its end", function()
    assert.same({ "See you." .. end_text }, (trained(dialogue, {})))
  end)

  it("is every answer", function()
    assert.same({ "Ho." .. end_text, "See you." .. end_text }, (trained(dialogue, { train_on = "all_assistants" })))
  end)

  it("is every message, never a header", function()
    local all = {}
    for i, message in ipairs(dialogue) do all[i] = message.content .. end_text end
    assert.same(all, (trained(dialogue, { train_on = "all" })))
  end)

  it("is what the messages say", function()
    local marked = {}
    for i, message in ipairs(dialogue) do marked[i] = { role = message.role, content = message.content } end
    marked[2].train, marked[3].train = true, 0.5
    local stretches, datum = trained(marked, { train_on = "custom" })
    assert.same({ "Hi " .. end_text, "Ho." .. end_text }, stretches)
    assert.equal(0.5, datum.weights[#datum.weights])
  end)

  it("ends with the last trained message", function()
    local longer = table.move(dialogue, 1, 5, 1, {})
    longer[6] = { role = "user", content = "Wait" }
    assert.same({ "See you." .. end_text }, (trained(longer, {})))
  end)

  it("is nothing where the answer is empty", function()
    assert.same({}, (trained({ { role = "user", content = "a" }, { role = "assistant", content = "" } }, {})))
  end)

  it("holds text of special tokens as text", function()
    local _, datum = trained({ { role = "user", content = end_text }, { role = "assistant", content = "b" } }, {})
    local count = 0
    for _, id in ipairs(datum.tokens) do count = count + (id == tok:find(end_text) and 1 or 0) end
    assert.equal(2, count)
  end)
end)
