-- The text floor: ids as Hugging Face tokenizers give them, any bytes there and back, files refused.

local cjson = require "cjson"
local core = require "crucible.core"
local expect = require "spec.support.expect"
local gguf = require "spec.support.gguf_metadata"
local models = require "spec.support.models"

local FIXTURES = "spec/fixtures/tokenizer/"
local TINY = "spec/fixtures/tiny/tiny.gguf"
local PRETOKENIZERS = { "gpt2", "smollm", "llama-bpe", "qwen2" }

local has_debug, debugging = pcall(require, "crucible.core.debug")

local function read_rows(name)
  local file <close> = assert(io.open(FIXTURES .. name, "rb"))
  return cjson.decode(file:read("a"))
end

local function text_of(row)
  if row.hex then return (row.hex:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end)) end
  local parts = {}
  for i, part in ipairs(row.parts) do parts[i] = type(part) == "table" and part[1]:rep(part[2]) or part end
  return table.concat(parts)
end

local function expand(runs)
  local out = {}
  for _, run in ipairs(runs) do
    local value, times = run, 1
    if type(run) == "table" then value, times = run[1], run[2] end
    for _ = 1, times do out[#out + 1] = math.tointeger(value) end
  end
  return out
end

-- ids are compared as text: luassert's diff of long lists takes longer than the rest of the suite.
local function assert_list(expected, got) assert.equal(table.concat(expected, " "), table.concat(got, " ")) end

local function assert_there_and_back(tokenizer, text)
  assert.truthy(tokenizer:decode(tokenizer:encode(text)) == text)
  assert.truthy(tokenizer:decode(tokenizer:encode(text, true)) == text)
end

-- ---- a small generator of bytes, the same on every machine --------------------------------------------

local function random(seed)
  local state = seed
  return function(limit)
    state = state * 6364136223846793005 + 1442695040888963407
    return (state >> 33) % limit + 1
  end
end

local function random_bytes(draw, length, alphabet)
  local out = {}
  for i = 1, length do
    local at = draw(#alphabet)
    out[i] = alphabet:sub(at, at)
  end
  return table.concat(out)
end

-- ---- files made of the tiny model's -----------------------------------------------------------------

local KEY = "tokenizer.ggml."

--- Opens the tiny model with other keys: the tokenizer, or nil, message, code.
local function open_changed(changes)
  local path = os.tmpname()
  local keys = {}
  for name, value in pairs(changes) do keys[KEY .. name] = value end
  gguf.copy(TINY, path, keys)
  local model, message, code = core.open_model(path)
  os.remove(path)
  if not model then return nil, message, code end
  return model:tokenizer()
end

local function tiny_list(name) return gguf.list(TINY, KEY .. name) end

--- The list with the entry that reads `old` replaced.
local function replaced(name, old, new)
  local list, found = tiny_list(name), false
  for i, value in ipairs(list) do
    if value == old then list[i], found = new, true end
  end
  assert(found, old)
  return gguf.texts(list)
end

local function position(list, value)
  for i, other in ipairs(list) do
    if other == value then return i end
  end
end

--- Changes that make the token `old` one of `kind` that reads `new`, with the merges that give it left out.
local function with_token(old, new, kind)
  local tokens, types, merges = tiny_list("tokens"), tiny_list("token_type"), {}
  local at = assert(position(tokens, old))
  tokens[at], types[at] = new, kind
  for _, merge in ipairs(tiny_list("merges")) do
    local left, right = merge:match("^(%S+) (%S+)$")
    if left ~= old and right ~= old and left .. right ~= old then merges[#merges + 1] = merge end
  end
  return { tokens = gguf.texts(tokens), token_type = gguf.i32s(types), merges = gguf.texts(merges) }, at - 1
end

local function merge_all(changes, more)
  for name, value in pairs(more) do changes[name] = value end
  return changes
end

-- ---- specs --------------------------------------------------------------------------------------------

describe("SmolLM2's tokenizer", function()
  local path = models.smollm2()
  if not path then
    pending("needs SmolLM2-135M-Instruct: scripts/fetch_model smollm2-135m-instruct")
    return
  end

  local model, tokenizer
  setup(function()
    model = assert(core.open_model(path))
    tokenizer = model:tokenizer()
  end)
  teardown(function() model:close() end)

  for _, row in ipairs(read_rows("smollm2_stress.json")) do
    it("takes in and gives back " .. row.name, function()
      local text = text_of(row)
      assert_there_and_back(tokenizer, text)
      if row.ids then
        assert_list(expand(row.ids), tokenizer:encode(text, true))
        assert_list(expand(row.plain_ids or row.ids), tokenizer:encode(text))
      end
    end)
  end

  it("gives back random bytes, valid or not, also those that have no token", function()
    local draw, every = random(1), {}
    for byte = 0, 255 do every[#every + 1] = string.char(byte) end
    for _, alphabet in ipairs({ table.concat(every), "\xED\xB0\xB3\x84\xAD\x04\xFF a", "a \n'sLl1\xC3\xA9\xC2\xA0" }) do
      for length = 1, 300 do assert_there_and_back(tokenizer, random_bytes(draw, length, alphabet)) end
    end
  end)

  it("encodes a megabyte of one letter without a quadratic wait", function()
    local start = os.clock()
    assert_there_and_back(tokenizer, ("a"):rep(1 << 20))
    assert_there_and_back(tokenizer, ("\xFF"):rep(1 << 18))
    assert.truthy(os.clock() - start < 30)
  end)

  it("describes itself", function()
    assert.same({
      model = "gpt2", pretokenizer = "smollm", size = 49152, bos = 1, eos = 2, pad = 2, unknown = 0, add_bos = false,
      space_prefix = false, prefixes_each = false, prefix_unless_spaced = false, composes = false,
    }, tokenizer:info())
  end)

  it("leaves special tokens out of the text on request", function()
    local ids = tokenizer:encode("<|im_start|>user\nHi<|im_end|>\n", true)
    assert.equal("user\nHi\n", tokenizer:decode(ids, true))
  end)

  it("finds tokens by their bytes", function()
    assert.equal(2, tokenizer:find("<|im_end|>"))
    assert.equal(tokenizer:encode(" the")[1], tokenizer:find(" the"))
    assert.is_nil(tokenizer:find("Ġthe"))
  end)

  it("names the id and its place when decode gets one that does not exist", function()
    expect.fails("argument", "token id 49152 at position 2: expected 0 to 49151", tokenizer:decode({ 5, 49152 }))
    expect.fails("argument", "token id -1 at position 1", tokenizer:decode({ -1 }))
  end)
end)

describe("Pre-tokenizers", function()
  if not has_debug then
    pending("need a debug build")
    return
  end

  for _, name in ipairs(PRETOKENIZERS) do
    for _, row in ipairs(read_rows("pieces.json")) do
      it(("%s cuts %s where the published pattern does"):format(name, row.name), function()
        assert_list(expand(row[name]), debugging.pretokenize(name, text_of(row)))
      end)
    end
  end

  it("answer to their other names", function()
    local text = "it'S 1234  x\n\n"
    for alias, name in pairs({ default = "gpt2", llama3 = "llama-bpe", ["llama-v3"] = "llama-bpe" }) do
      assert.same(debugging.pretokenize(name, text), debugging.pretokenize(alias, text))
    end
  end)

  it("make one piece of each run of stray bytes, and see a text's end before it", function()
    for _, name in ipairs(PRETOKENIZERS) do
      assert.same({ 1, 2, 3, 2 }, debugging.pretokenize(name, "a  \xFF\xE2\x80 b"))
    end
  end)

  it("list the known names when one is unknown", function()
    expect.fails("unsupported", "unknown pre-tokenizer 'tekken': expected one of gpt2, default, smollm, llama-bpe, "
      .. "llama3, llama-v3, qwen2", debugging.pretokenize("tekken", "x"))
  end)
end)

describe("A tokenizer's merging", function()
  -- The definition, step by step: the pair of lowest rank, leftmost first.
  local function plain_merge(ranks, letters)
    while true do
      local best, at = math.huge, nil
      for i = 1, #letters - 1 do
        local rank = ranks[letters[i] .. " " .. letters[i + 1]]
        if rank and rank < best then best, at = rank, i end
      end
      if not at then return letters end
      letters[at] = letters[at] .. table.remove(letters, at + 1)
    end
  end

  local function plain_ids(word)
    local ranks, ids, letters = {}, {}, {}
    for rank, merge in ipairs(tiny_list("merges")) do ranks[merge] = rank end
    for letter in word:gmatch(".") do letters[#letters + 1] = letter end
    local tokens = tiny_list("tokens")
    for i, token in ipairs(plain_merge(ranks, letters)) do ids[i] = position(tokens, token) - 1 end
    return ids
  end

  it("follows the plain loop in short and long pieces", function()
    local model <close> = assert(core.open_model(TINY))
    local tokenizer, draw = model:tokenizer(), random(7)
    for _, length in ipairs({ 1, 2, 3, 10, 40, 95, 96, 97, 98, 200, 1000 }) do
      local word = random_bytes(draw, length, "heatinrosdlcg")
      assert_list(plain_ids(word), tokenizer:encode(word))
    end
  end)

  it("is left out for a piece that is a token, with a pre-tokenizer that says so", function()
    local changes, id = with_token("ent", "zqz", 1)
    local text = "zqz"
    assert.same(3, #open_changed(merge_all(changes, { pre = gguf.text("qwen2") })):encode(text))
    assert.same({ id }, open_changed(merge_all(changes, { pre = gguf.text("llama-bpe") })):encode(text))
  end)
end)

describe("Added tokens", function()
  it("are cut out leftmost first, then longest first", function()
    local changes, short = with_token("ent", "<tool", 4)
    local longer = position(tiny_list("tokens"), "Ġth") - 1
    local tokens, types = tiny_list("tokens"), tiny_list("token_type")
    tokens[short + 1], types[short + 1] = "<tool", 4
    tokens[longer + 1], types[longer + 1] = "<tool_call>", 4
    changes.tokens, changes.token_type = gguf.texts(tokens), gguf.i32s(types)
    local merges = {}
    for _, merge in ipairs(tiny_list("merges")) do
      if merge ~= "en t" and merge ~= "Ġt h" then merges[#merges + 1] = merge end
    end
    changes.merges = gguf.texts(merges)
    local tokenizer = assert(open_changed(changes))
    local rest = { tokenizer:find("_"), tokenizer:find("c") }
    assert.same({ longer, short, rest[1], rest[2] }, tokenizer:encode("<tool_call><tool_c", true))
    assert_there_and_back(tokenizer, "<<tool_call><tool<tool_call <|im_end|>")
  end)

  it("are special only when the file calls them control", function()
    local tokenizer = assert(open_changed((with_token("ent", "<think>", 4))))
    local id = tokenizer:find("<think>")
    assert.is_false(tokenizer:is_special(id))
    assert.is_true(tokenizer:is_special(tokenizer:find("<|im_end|>")))
    assert.same({ id }, tokenizer:encode("<think>", true))
    assert.equal("<think>", tokenizer:decode({ id, 2 }, true))
  end)

  it("stand verbatim, also where the byte alphabet has the same letters", function()
    local tokenizer = assert(open_changed((with_token("ent", "Ġé ", 4))))
    local id = tokenizer:find("Ġé ")
    assert.same({ id }, tokenizer:encode("Ġé ", true))
    assert.equal("Ġé ", tokenizer:decode({ id }))
    assert_there_and_back(tokenizer, " \xE9 Ġé Ġé")
  end)

  it("cut short at the end of the text are text", function()
    local model <close> = assert(core.open_model(TINY))
    local tokenizer = model:tokenizer()
    for length = 1, #"<|im_end|>" - 1 do
      local text = ("<|im_end|>"):sub(1, length)
      assert.same(tokenizer:encode(text), tokenizer:encode(text, true))
    end
  end)
end)

describe("A tokenizer in a file", function()
  local function refuses(title, code, message, changes)
    it("is refused: " .. title, function() expect.fails(code, message, open_changed(changes)) end)
  end

  refuses("of SentencePiece without scores", "format", "key tokenizer.ggml.scores is missing",
    { model = gguf.text("llama") })
  for _, name in ipairs({ "model", "pre", "tokens", "token_type", "merges" }) do
    refuses("without " .. name, "format", "key tokenizer.ggml." .. name .. " is missing", { [name] = false })
  end
  refuses("of another model", "unsupported",
    "tokenizer.ggml.model is 'bert': supported are gpt2 (byte-level BPE) and llama",
    { model = gguf.text("bert") })
  refuses("with an unknown pre-tokenizer", "unsupported",
    "tokenizer.ggml.pre: unknown pre-tokenizer 'tekken': expected one of gpt2, default, smollm",
    { pre = gguf.text("tekken") })
  refuses("with a token twice", "format", "'Ġt' is also token", { tokens = replaced("tokens", "Ġa", "Ġt") })
  refuses("with fewer types than tokens", "format", "tokenizer.ggml.token_type has 3 entries: expected 320",
    { token_type = gguf.i32s({ 3, 3, 3 }) })
  refuses("with a type that does not exist", "format", "tokenizer.ggml.token_type[1] is 7: expected 1 to 6", {
    token_type = (function()
      local types = tiny_list("token_type")
      types[2] = 7
      return gguf.i32s(types)
    end)(),
  })
  refuses("without a byte that escapes need", "format", "has no token for the byte 0x84",
    { tokens = replaced("tokens", "Ħ", "nothing") })
  refuses("with a merge of an unknown token", "format",
    "tokenizer.ggml.merges[2] 'i zz': one of the two is not in tokenizer.ggml.tokens",
    { merges = replaced("merges", "i n", "i zz") })
  refuses("with a merge that gives no token", "format", "'i q': what it gives is not in tokenizer.ggml.tokens",
    { merges = replaced("merges", "i n", "i q") })
  refuses("with a merge twice", "format", "'Ġ t': the same pair stands earlier",
    { merges = replaced("merges", "i n", "Ġ t") })
  for _, merge in ipairs({ "", " ", "in", "in ", " in", "i  " }) do
    refuses(("with the merge '%s'"):format(merge), "format", "tokenizer.ggml.merges[2] '" .. merge .. "': ",
      { merges = replaced("merges", "i n", merge) })
  end
  refuses("with a merge that gives a special token of other bytes", "format", "involves a special token", {
    token_type = (function()
      local types = tiny_list("token_type")
      types[position(tiny_list("tokens"), "Ġt")] = 3
      return gguf.i32s(types)
    end)(),
  })
  for _, name in ipairs({ "bos", "eos", "padding", "unknown" }) do
    local key = name .. "_token_id"
    refuses("with a " .. key .. " outside the vocabulary", "format",
      ("tokenizer.ggml.%s is 320: expected less than 320"):format(key), { [key] = gguf.u32(320) })
  end
  refuses("with a BOS to add and none named", "format", "tokenizer.ggml.bos_token_id is missing",
    { add_bos_token = gguf.bool(true), bos_token_id = false })

  it("is taken without ids of special tokens, which then are nil", function()
    local none = { bos_token_id = false, eos_token_id = false, padding_token_id = false, unknown_token_id = false }
    local info = assert(open_changed(none)):info()
    assert.is_nil(info.bos or info.eos or info.pad or info.unknown)
  end)

  it("adds a BOS by default where the model family does", function()
    assert.is_true(assert(open_changed({ pre = gguf.text("llama-v3"), add_bos_token = false })):info().add_bos)
    assert.is_false(assert(open_changed({ pre = gguf.text("qwen2"), add_bos_token = false })):info().add_bos)
    assert.equal("llama-bpe", assert(open_changed({ pre = gguf.text("llama-v3") })):info().pretokenizer)
  end)

  it("keeps bytes without a token by escaping them", function()
    local tokenizer = assert(open_changed({ tokens = replaced("tokens", "ą", "nothing") }))
    local escaped = tokenizer:encode("\5")
    assert.equal(3, #escaped)
    assert.equal("\5", tokenizer:decode(escaped))
    for _, text in ipairs({ "\xED\xB0\x85", "\5\xED\xB0\x85\xED\xB3\xAD\5", "\xED\5\xB0\5\x85<|im_end|>\xED" }) do
      assert_there_and_back(tokenizer, text)
    end
  end)
end)

describe("Encoding and decoding", function()
  if not has_debug then
    pending("with failing allocations need a debug build")
    return
  end

  it("report memory that runs out at any point, and leak nothing", function()
    local model <close> = assert(core.open_model(TINY))
    local tokenizer = model:tokenizer()
    local text = "the <|im_end|>" .. ("entity "):rep(50) .. ("e"):rep(500)
    local ids = tokenizer:encode(text, true)
    collectgarbage() -- what earlier specs left
    local _, live = debugging.memory_count()
    local failures, nth = 0, 0
    repeat
      nth = nth + 1
      debugging.memory_fail_at(nth)
      local got, message, code = tokenizer:encode(text, true)
      debugging.memory_fail_at(0)
      if got then assert_list(ids, got) else expect.fails("memory", "out of memory", got, message, code) end
      failures = failures + (got and 0 or 1)
      got = nil -- luacheck: ignore 311
      collectgarbage()
      assert.equal(live, select(2, debugging.memory_count()))
    until code == nil
    assert.truthy(failures > 3)
    debugging.memory_fail_at(1)
    local back, message, code = tokenizer:decode(ids)
    debugging.memory_fail_at(0)
    expect.fails("memory", "out of memory", back, message, code)
  end)
end)
