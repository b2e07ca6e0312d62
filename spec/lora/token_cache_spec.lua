-- Tokenised data on disk: the same datums, reused, and made anew when the file is not what it should be.
local datums = require "crucible.lora.datums"
local fs = require "crucible.fs"
local temp = require "spec.support.temp"
local token_cache = require "crucible.lora.token_cache"
local tokenizers = require "spec.support.tokenizers"

local tok = tokenizers.open("smollm", false)

local rows = {
  { input = "Ask:", output = "yes", metadata = { k = 1 } },
  { input = ("long "):rep(40), output = "no", weight = 0.25, metadata = { k = 2 } },
  { messages = { { role = "user", content = "Hi" }, { role = "assistant", content = "Ho" } }, metadata = { k = 3 } },
}

local function build(folder, options, list, tokenizer)
  local given = { cache = folder }
  for key, value in pairs(options or {}) do given[key] = value end
  return assert(datums.build(tokenizer or tok, list or rows, given))
end

local function plain(list)
  local copy = {}
  for i, datum in ipairs(list) do copy[i] = datum end
  return copy
end

local function counts_of(...) return select(2, build(...)).cache end

local function only_file(folder) return folder .. "/" .. assert(fs.list(folder))[1] end

describe("the cache of tokenised data", function()
  local folder
  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  it("gives the datums that are built without it, once written and then reused", function()
    for _, options in ipairs { {}, { max_length = 30 }, { max_length = 30, truncation = "drop" } } do
      local expected, expected_counts = assert(datums.build(tok, rows, options))
      for _, state in ipairs { "written", "reused" } do
        local list, counts = build(folder, options)
        assert.equal(state, counts.cache)
        assert.equal(#expected, #list)
        assert.same(expected, plain(list))
        counts.cache = nil
        assert.same(expected_counts, counts)
      end
    end
  end)

  it("makes a datum when it is asked for, and keeps the one that is held", function()
    local list = build(folder)
    assert.equal(list[1], list[1])
    assert.is_nil(list[0])
    assert.is_nil(list[4])
    assert.is_nil(list.name)
    assert.equal(rows[2].metadata, list[2].metadata)
  end)

  it("is told apart by texts, weights, options and tokenizer", function()
    assert.equal("written", counts_of(folder))
    assert.equal("reused", counts_of(folder))
    local other = { table.unpack(rows) }
    other[1] = { input = "Ask: ", output = "yes" }
    assert.equal("written", counts_of(folder, {}, other))
    other[1] = { input = "Ask", output = ":yes" }
    assert.equal("written", counts_of(folder, {}, other))
    other[1] = { input = "Ask:", output = "yes", weight = 2 }
    assert.equal("written", counts_of(folder, {}, other))
    assert.equal("written", counts_of(folder, { train_on = "all" }))
    assert.equal("written", counts_of(folder, {}, rows, tokenizers.open("gpt2", false)))
    assert.equal("written", counts_of(folder, {}, rows, tokenizers.open("smollm", true)))
    assert.equal("reused", counts_of(folder))
  end)

  it("is made anew when the file is cut short, damaged or of something else", function()
    build(folder)
    local path = only_file(folder)
    local bytes = temp.read(path)
    for _, wrong in ipairs { bytes:sub(1, #bytes // 2), "", bytes:gsub("CRTOKENS", "XXTOKENS"),
      bytes:sub(1, -2) .. "\1", ("x"):rep(5000) } do
      assert(fs.write_file(path, wrong))
      assert.equal("written", counts_of(folder))
      assert.equal(bytes, temp.read(path))
    end
    assert.equal("reused", counts_of(folder))
  end)

  it("is done without where it cannot be written", function()
    local file = temp.file(folder, "plain", "x")
    local list, counts = build(file .. "/tokens")
    assert.equal("not writable", counts.cache)
    assert.same((assert(datums.build(tok, rows))), list)
  end)

  it("leaves no other file behind", function()
    build(folder)
    assert.equal(1, #assert(fs.list(folder)))
  end)

  it("fails as building does", function()
    local list, message, code = datums.build(tok, { { input = "a", output = ("b "):rep(50) } }, { cache = folder,
      max_length = 10 })
    assert.is_nil(list)
    assert.equal("data", code)
    assert.truthy(message:find("row 1: its answer alone", 1, true))
    assert.same({}, assert(fs.list(folder)))
  end)
end)

describe("the digest of a tokenizer", function()
  it("tells tokenizers apart and is the same for the same file", function()
    local seen = {}
    tokenizers.each(function(name, tokenizer)
      local digest = tokenizer:digest()
      assert.is_nil(seen[digest], name)
      seen[digest] = name
    end)
    assert.equal(tok:digest(), tokenizers.open("smollm", false):digest())
  end)
end)

it("the cache lies in the user's cache unless told otherwise", function()
  assert.truthy(token_cache.folder():find("/tokens$"))
end)
