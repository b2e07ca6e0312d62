-- Files of tokenised rows: there and back, and every way in which a file may be wrong.
local core = require "crucible.core"
local expect = require "spec.support.expect"
local temp = require "spec.support.temp"

local KEY, OTHER = ("ab"):rep(32), ("cd"):rep(32)
local rows = {
  { tokens = { 5, 6, 7 }, weights = { 0, 0.5 }, row = 1, prompt_length = 2, seam = 1, end_id = 7 },
  { tokens = { 9 }, weights = {}, row = 4, prompt_length = 0, seam = 0 },
  { tokens = { 1, 2 }, weights = { -1 }, row = 5, prompt_length = 1, seam = 0 },
}

local function write(path, list, key)
  local writer <close> = assert(core.write_tokens())
  for _, row in ipairs(list or rows) do assert(writer:add(row)) end
  assert(writer:commit(path, key or KEY, { rows = 5, truncated = 1, dropped = 2 }))
  return path
end

describe("a file of tokenised rows", function()
  local path
  before_each(function() path = temp.folder() .. "/new/folder/rows.tokens" end)
  after_each(temp.clean)

  it("gives back what was written", function()
    local file <close> = assert(core.open_tokens(write(path), KEY))
    assert.equal(3, #file)
    for i, row in ipairs(rows) do assert.same(row, file:row(i)) end
    assert.same({ rows = 5, truncated = 1, dropped = 2 }, file:counts())
    assert.equal("crucible.tokens (3 rows)", tostring(file))
    expect.raises("row 4: the file has 3", file.row, file, 4)
    expect.raises("rows are numbered from 1", file.row, file, 0)
    file:close()
    expect.raises("closed", file.row, file, 1)
  end)

  it("may be empty", function()
    local file <close> = assert(core.open_tokens(write(path, {}), KEY))
    assert.equal(0, #file)
  end)

  it("is replaced whole, and readers of the old one keep theirs", function()
    local old <close> = assert(core.open_tokens(write(path), KEY))
    local new <close> = assert(core.open_tokens(write(path, { rows[3] }, OTHER), OTHER))
    assert.equal(1, #new)
    assert.same(rows[1], old:row(1))
  end)

  it("is refused with another key", function()
    expect.fails("format", "was made of other data", core.open_tokens(write(path), OTHER))
  end)

  it("is missed where there is none", function()
    expect.fails("not_found", path, core.open_tokens(path, KEY))
  end)

  it("is refused at every length but its own", function()
    local bytes = temp.read(write(path))
    for length = 0, #bytes - 1 do
      assert(core.fs.write_file(path, bytes:sub(1, length)))
      local file, _, code = core.open_tokens(path, KEY)
      assert.is_nil(file)
      assert.equal("format", code)
    end
    assert(core.fs.write_file(path, bytes .. "\0\0\0\0"))
    expect.fails("format", "is not as long as its header says", core.open_tokens(path, KEY))
  end)

  it("is refused with any byte changed", function()
    local bytes = temp.read(write(path))
    for at = 1, #bytes do
      local changed = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 0x10) .. bytes:sub(at + 1)
      assert(core.fs.write_file(path, changed))
      local file, _, code = core.open_tokens(path, KEY)
      assert.is_nil(file, at)
      assert.equal("format", code)
    end
  end)

  it("is refused when it is something else", function()
    temp.file(path:match "^(.*)/", "rows.tokens", ("GGUF"):rep(100))
    expect.fails("format", "is no file of tokenised rows", core.open_tokens(path, KEY))
  end)

  -- The checksum of file/token_file.c, so that what stands behind it is tried as well.
  local function mix(hash, bytes)
    for at = 1, #bytes, 8 do
      hash = (hash ~ string.unpack("<i8", (bytes:sub(at, at + 7) .. ("\0"):rep(8)))) * 0x9E3779B97F4A7C15
      hash = hash ~ (hash >> 32)
    end
    return hash
  end

  local function forged(ends, fields, ids, weights)
    local sections, hash = { string.pack("<i8i8i8", 0, 0, 0) }, 0
    for i, part in ipairs { { "<i8", ends }, { "<I4", fields }, { "<i4", ids }, { "<f", weights } } do
      local packed = {}
      for k, value in ipairs(part[2]) do packed[k] = string.pack(part[1], value) end
      sections[i + 1] = table.concat(packed)
    end
    for _, bytes in ipairs(sections) do hash = mix(hash, bytes) end
    local head = "CRTOKENS" .. string.pack("<I4I4", 1, 0x01020304) .. KEY:gsub("..", function(pair)
      return string.char(tonumber(pair, 16)) end) .. string.pack("<I8I8", #ends, #ids)
    return temp.file(path:match "^(.*)/", "rows.tokens",
      head .. sections[1] .. string.pack("<i8", hash) .. table.concat(sections, "", 2))
  end

  it("is refused with rows that do not fit, whatever its checksum", function()
    local file <close> = assert(core.open_tokens(forged({ 2 }, { 1, 2, 0, 5 }, { 3, 4 }, { 0, 0 }), KEY))
    assert.same({ tokens = { 3, 4 }, weights = { 0 }, row = 1, prompt_length = 2, seam = 0, end_id = 5 }, file:row(1))
    for _, case in ipairs {
      { { 3 }, { 1, 0, 0, 0 }, { 3, 4 }, { 0, 0 } }, { { 1 }, { 1, 0, 0, 0 }, { 3, 4 }, { 0, 0 } },
      { { 2, 1 }, { 1, 0, 0, 0, 1, 0, 0, 0 }, { 3, 4 }, { 0, 0 } },
      { { 1, 1 }, { 1, 0, 0, 0, 1, 0, 0, 0 }, { 3 }, { 0 } },
      { { 2 }, { 1, 3, 0, 0 }, { 3, 4 }, { 0, 0 } }, { {}, {}, { 3 }, { 0 } }, { { -1 }, { 1, 0, 0, 0 }, { 3 }, { 0 } },
    } do
      expect.fails("format", "is damaged", core.open_tokens(forged(table.unpack(case)), KEY))
    end
  end)

  it("holds no row without tokens and no prompt beyond its row", function()
    local writer <close> = assert(core.write_tokens())
    expect.raises("weights has 0 values, expected one fewer than tokens has (0)", writer.add, writer,
      { tokens = {}, weights = {} })
    expect.fails("argument", "with a prompt of 2", writer:add { tokens = { 1 }, weights = {}, prompt_length = 2 })
  end)

  it("takes rows of the right shape alone", function()
    local writer <close> = assert(core.write_tokens())
    expect.raises("weights has 2 values, expected one fewer than tokens has (2)", writer.add, writer,
      { tokens = { 1, 2 }, weights = { 1, 1 } })
    expect.raises("tokens is missing", writer.add, writer, {})
    expect.raises("seam: expected an integer", writer.add, writer, { tokens = { 1 }, weights = {}, seam = -1 })
    expect.raises("key: expected 64 hexadecimal digits", writer.commit, writer, path, "ab", {})
    expect.raises('unknown field \'row\'', writer.commit, writer, path, KEY, { row = 1 })
    assert.equal("crucible.tokenwriter", tostring(writer))
    writer:close()
    expect.raises("closed", writer.add, writer, rows[1])
  end)

  it("cannot be written into a file's place as a folder", function()
    local writer <close> = assert(core.write_tokens())
    local folder = temp.folder()
    local file = temp.file(folder, "plain", "x")
    local ok, _, code = writer:commit(file .. "/rows.tokens", KEY, {})
    assert.is_nil(ok)
    assert.truthy(code == "io" or code == "not_found")
  end)
end)
