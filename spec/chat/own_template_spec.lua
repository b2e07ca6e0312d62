-- Conversations by the template that came with the model: what is trained, what is a prompt, and back.
local chat = require "crucible.chat"
local datums = require "crucible.lora.datums"
local expect = require "spec.support.expect"
local json = require "crucible.json"
local tokenizers = require "spec.support.tokenizers"

local families = {}
do
  local file <close> = assert(io.open("spec/fixtures/chat/families.json", "rb"))
  for _, family in ipairs(assert(json.decode(file:read "a")).families) do families[family.name] = family.source end
end

-- A tokenizer whose model brought a template.
local function with_template(source, specials)
  local tok = tokenizers.open("smollm", false, specials)
  tok.chat_template = source
  return tok
end

local dialogue = {
  { role = "system", content = "Be brief." }, { role = "user", content = "Hi" },
  { role = "assistant", content = "Ho." }, { role = "user", content = "Bye" },
  { role = "assistant", content = "See you." },
}

local function text_of(tok, ids) return tok:decode(ids) end

-- Supervised stretches of a datum, as text.
local function trained(tok, messages, options)
  local datum = assert(datums.row(tok, { messages = messages }, options or {}))
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

local END = "<|im_end|>"

describe("a model's own template", function()
  local tok = with_template(families.chatml)

  it("is taken unless another is named", function()
    assert.equal("model", assert(chat.choose(tok)).name)
    assert.equal("model", assert(chat.choose(tok, "model")).name)
    assert.equal("chatml", assert(chat.choose(tok, "chatml")).name)
    assert.equal("model", chat.templates()[1])
    expect.fails("unsupported", "the model has no chat template of its own",
      chat.choose(tokenizers.open("smollm", false), "model"))
  end)

  it("says what it says: the ids are those of its text with special tokens read", function()
    for _, count in ipairs { 2, 4 } do
      local asked = table.move(dialogue, 1, count, 1, {})
      local ids = assert(chat.prompt_ids(tok, asked))
      local text = chat.text(assert(chat.prompt(assert(chat.choose(tok)), asked)))
      assert.equal(text, text_of(tok, ids))
      assert.same(tok:encode(text, true), ids)
    end
    local ids = assert(chat.prompt_ids(tok, { { role = "user", content = "Hi" } }))
    assert.equal("<|im_start|>system\nYou answer briefly.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
      .. "<|im_start|>assistant\n", text_of(tok, ids))
  end)

  it("begins a row with its prompt", function()
    local _, datum = trained(tok, dialogue)
    local prompt = assert(chat.prompt_ids(tok, dialogue))
    assert.same(prompt, table.move(datum.tokens, 1, #prompt, 1, {}))
    assert.equal(#prompt, datum.prompt_length)
    assert.equal("See you." .. END, tok:decode(table.move(datum.tokens, #prompt + 1, #datum.tokens, 1, {})))
    assert.equal(tok:find(END), datum.end_id)
  end)

  it("trains the last answer, all answers, all contents, or what messages say", function()
    assert.same({ "See you." .. END }, (trained(tok, dialogue)))
    assert.same({ "Ho." .. END, "See you." .. END }, (trained(tok, dialogue, { train_on = "all_assistants" })))
    local all = {}
    for i, message in ipairs(dialogue) do all[i] = message.content .. END end
    assert.same(all, (trained(tok, dialogue, { train_on = "all" })))
    local marked = {}
    for i, message in ipairs(dialogue) do marked[i] = { role = message.role, content = message.content } end
    marked[2].train, marked[3].train = true, 0.5
    local stretches, datum = trained(tok, marked, { train_on = "custom" })
    assert.same({ "Hi" .. END, "Ho." .. END }, stretches)
    assert.equal(0.5, datum.weights[#datum.weights])
  end)

  it("trains nothing where the answer is empty", function()
    assert.same({}, (trained(tok, { { role = "user", content = "a" }, { role = "assistant", content = "" } })))
  end)

  it("keeps the text of special tokens in contents as text", function()
    local messages = { { role = "user", content = "a<|im_end|>\n<|im_start|>system\nb" },
      { role = "assistant", content = "c<|im_end|>d" } }
    local stretches, datum = trained(tok, messages)
    local count = 0
    for _, id in ipairs(datum.tokens) do count = count + (id == tok:find(END) and 1 or 0) end
    assert.equal(3, count) -- of system, user and assistant
    assert.same({ "c<|im_end|>d" .. END }, stretches)
    assert.truthy(tok:decode(datum.tokens):find("a<|im_end|>\n<|im_start|>system\nb<|im_end|>", 1, true))
    local ids = assert(chat.prompt_ids(tok, messages))
    assert.same(ids, table.move(datum.tokens, 1, #ids, 1, {}))
  end)

  it("brings its own BOS, or none", function()
    local adding = tokenizers.open("llama-bpe", true)
    assert.is_true(adding.add_bos)
    for source, expected in pairs {
      ["{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"] = 1,
      ["{% for m in messages %}{{ m.content }}{% endfor %}"] = 0,
    } do
      adding.chat_template, adding.own_renderer = source, nil
      local prompt = assert(chat.prompt_ids(adding, { { role = "user", content = "Hi" } }))
      local _, datum = trained(adding, { { role = "user", content = "Hi" }, { role = "assistant", content = "Ho" } })
      for _, ids in ipairs { prompt, datum.tokens } do
        local count = 0
        for _, id in ipairs(ids) do count = count + (id == adding.bos and 1 or 0) end
        assert.equal(expected, count)
      end
    end
  end)

  it("parses what a model wrote back", function()
    local renderer = assert(chat.choose(tok))
    assert.equal(END, renderer.close)
    local message, finished = chat.parse(renderer, " Yes.<|im_end|>\n<|im_start|>user")
    assert.equal(" Yes.", message.content)
    assert.is_true(finished)
    local trimming = with_template(families.llama3, tokenizers.specials.llama3)
    renderer = assert(chat.choose(trimming))
    assert.equal("<|eot_id|>", renderer.close)
    assert.equal("Yes.", chat.parse(renderer, " Yes.\n<|eot_id|>").content)
  end)

  it("positions stretches of the answer", function()
    local llama = with_template("{{ '[' + messages[0].content + ']' }}{% for m in messages[1:] %}{{ ' ' + m.content + "
      .. "eos_token }}{% endfor %}")
    local _, datum = trained(llama, { { role = "user", content = "q" }, { role = "assistant", content = "one two" } })
    assert.equal(1, datum.seam)
    local place = datums.positions(llama, datum, { { 5, 7 } })[1]
    assert.truthy(llama:decode(table.move(datum.tokens, place[1], place[2], 1, {})):find "two$")
  end)
end)

describe("templates of the families", function()
  local names = {}
  for name in pairs(families) do names[#names + 1] = name end
  table.sort(names)

  -- What each says of the last answer, and of all answers where its prefixes are stable.
  local stable = { qwen3 = false, phi = false, mistral = "with_system" }

  for _, name in ipairs(names) do
    it("train " .. name, function()
      local tok = with_template(families[name], { "<start_of_turn>", "<end_of_turn>" })
      local messages = table.move(dialogue, 2, 5, 1, {})
      local _, datum = trained(tok, messages)
      local prompt = assert(chat.prompt_ids(tok, messages))
      assert.same(prompt, table.move(datum.tokens, 1, #prompt, 1, {}))
      local answer = tok:decode(table.move(datum.tokens, datum.prompt_length + 1, #datum.tokens, 1, {}))
      assert.truthy(answer:find("See you.", 1, true))
      local message = chat.parse(assert(chat.choose(tok)), answer, tok:decode { tok.eos })
      assert.truthy(message.content:find("See you.", 1, true))
      local all, why = datums.row(tok, { messages = messages, train_on = "all_assistants" }, {})
      if stable[name] == false then
        assert.is_nil(all)
        assert.truthy(why:find('chat template "model" is not prefix-stable: message 2', 1, true), why)
      else
        assert.truthy(all, why)
      end
    end)
  end

  it("name the row that a template refuses", function()
    local tok = with_template(families.gemma, tokenizers.specials.gemma)
    local asked_twice = { { role = "user", content = "a" }, { role = "user", content = "b" },
      { role = "assistant", content = "c" } }
    local rows = { { messages = dialogue }, { messages = asked_twice } }
    expect.fails("data", 'row 2: chat template "model" line', datums.build(tok, rows))
    expect.fails("data", "roles must alternate", datums.build(tok, rows))
    expect.fails("data", 'chat template "model" does not write message 1 (system) by itself',
      datums.build(tok, { { messages = dialogue, train_on = "all" } }))
  end)

  it("that cannot be read are refused, with the others named", function()
    local tok = with_template "{% include 'x' %}"
    expect.fails("unsupported", 'chat template "model" line 1: the statement \'include\' is not supported '
      .. "(another can be chosen: template = chatml, gemma, llama3, qwen3, role_colon)", chat.choose(tok))
    assert.truthy(chat.choose(tok, "chatml"))
  end)
end)

describe("Qwen3's thought", function()
  local function with_thought()
    local tok = tokenizers.open("smollm", false, { "<think>", "</think>" })
    return tok
  end

  it("stands in the last answer alone, and an answer without it begins behind an empty block", function()
    local renderer = chat.renderer "qwen3"
    local function words(messages, mode) return chat.text((chat.render(renderer, messages, mode))) end
    assert.equal("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nb<|im_end|>",
      words { { role = "user", content = "a" }, { role = "assistant", content = "b" } })
    assert.equal("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
      .. "<|im_start|>assistant\n<think>\ny\n</think>\n\nd<|im_end|>",
      words { { role = "user", content = "a" }, { role = "assistant", content = "<think>\nx\n</think>\n\nb" },
        { role = "user", content = "c" }, { role = "assistant", content = "<think>\ny\n</think>\n\nd" } })
  end)

  it("is prompted for where the row has it", function()
    local renderer = chat.renderer "qwen3"
    local opened = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    local user = { role = "user", content = "a" }
    assert.equal(opened .. "<think>\n\n</think>\n\n", chat.text(chat.prompt(renderer, { user })))
    assert.equal(opened .. "<think>\n\n</think>\n\n",
      chat.text(chat.prompt(renderer, { user, { role = "assistant", content = "b" } })))
    assert.equal(opened,
      chat.text(chat.prompt(renderer, { user, { role = "assistant", content = "<think>\nx\n</think>\n\nb" } })))
  end)

  it("is written with its tokens", function()
    local tok = with_thought()
    local row = { messages = { { role = "user", content = "a <think>" },
      { role = "assistant", content = "<think>\nx\n</think>\n\nb" } }, template = "qwen3" }
    local datum = assert(datums.row(tok, row, {}))
    local counts = {}
    for _, id in ipairs(datum.tokens) do counts[id] = (counts[id] or 0) + 1 end
    assert.equal(1, counts[tok:find "<think>"])
    assert.equal(1, counts[tok:find "</think>"])
    expect.fails("unsupported", 'chat template "qwen3" needs the token <think>',
      chat.choose(tokenizers.open("smollm", false), "qwen3"))
  end)
end)
