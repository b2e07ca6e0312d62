-- Rows of data files: formats, compression, rows that are none, files that end badly.
local core = require "crucible.core"
local expect = require "spec.support.expect"
local json = require "crucible.json"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

describe("core.open_rows", function()
  local folder

  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  local function open(name, text, options) return assert(core.open_rows(temp.file(folder, name, text), options)) end

  -- All rows and, in brackets, what was wrong with the others: { row, "[2: why]", … }, and their lines.
  local function read(rows)
    local list, lines = {}, {}
    while true do
      local row, line, code, bad_line = rows:next()
      if row ~= nil then
        list[#list + 1], lines[#lines + 1] = row, line
      elseif bad_line then
        assert.equal("format", code)
        list[#list + 1], lines[#lines + 1] = ("[%d: %s]"):format(bad_line, line), bad_line
      else
        return list, lines, line, code
      end
    end
  end

  describe("JSON Lines", function()
    it("are values a line, empty lines left out", function()
      local list, lines = read(open("x.jsonl", '{"a":1}\n\n  \n[2,{"b":null}]\r\n"s"\n4'))
      assert.same({ { a = 1 }, { 2, { b = json.null } }, "s", 4 }, list)
      assert.same({ 1, 4, 5, 6 }, lines)
      assert.equal(json.null, list[2][2].b)
    end)

    it("hold every kind of value, exactly", function()
      local list = read(open("x.jsonl", [==[
[1, -2, 0, -0, 9223372036854775807, -9223372036854775808, 9223372036854775808, 1.5, 1e2, -2.5E-3, 1.0]
[0.1, 123456789012345678, 3.14159265358979323846, 2.2250738585072014e-308, 1.7976931348623157e308, 5e-324]
["", "\"\\\/\b\f\n\r\t", "\u00e9\ud83d\ude00\u0000", "é😀", true, false, null, [], {}]
]==]))
      assert.same({ 1, -2, 0, 0, math.maxinteger, math.mininteger, 9223372036854775808.0, 1.5, 100.0, -2.5e-3, 1.0 },
        list[1])
      assert.same({ "integer", "float", "float" },
        { math.type(list[1][6]), math.type(list[1][7]), math.type(list[1][11]) })
      assert.same({ 0.1, 123456789012345678, 3.14159265358979323846, 2.2250738585072014e-308, 1.7976931348623157e308,
        5e-324 }, list[2])
      assert.same({ "", '"\\/\b\f\n\r\t', "é😀\0", "é😀", true, false, json.null, {}, {} }, list[3])
    end)

    it("give decimals as the C library reads them #many", function()
      local texts = {}
      for i = 1, 2000 do
        local bits = (i * 0x9E3779B97F4A7C15) ~ (i << 7)
        local value = string.unpack("<d", string.pack("<i8", bits & 0x7fefffffffffffff))
        texts[i] = ("%.17g"):format(i % 2 == 0 and value or (bits % 1000000007) / 10 ^ (i % 12))
      end
      local row = read(open("x.jsonl", "[" .. table.concat(texts, ",") .. "]"))[1]
      for i, text in ipairs(texts) do assert.equal(tonumber(text) + 0.0, row[i] + 0.0, text) end
    end)

    it("keep strings whole wherever an escape or another alphabet stands in them #many", function()
      local texts, lines = {}, {}
      for length = 0, 40 do
        for _, special in ipairs { "", '"', "\\", "\n", "é", "😀", "\u{7f}", "\u{1}" } do
          for at = 0, length, 7 do
            local text = ("x"):rep(at) .. special .. ("y"):rep(length - at)
            texts[#texts + 1], lines[#lines + 1] = text, json.encode { text }
          end
        end
      end
      local list = read(open("x.jsonl", table.concat(lines, "\n")))
      for i, text in ipairs(texts) do assert.equal(text, list[i][1]) end
    end)

    it("may begin with a mark of byte order", function()
      assert.same({ { a = 1 } }, read(open("x.jsonl", '\u{FEFF}{"a":1}\n')))
    end)

    it("are read as before in any size of blocks #many", function()
      local texts = {}
      for i = 1, 3000 do texts[i] = json.encode { i = i, text = ("é\n"):rep(i % 997) } end
      local list, lines = read(open("x.jsonl", table.concat(texts, "\n")))
      assert.equal(3000, #list)
      for i, row in ipairs(list) do
        assert.equal(texts[i], json.encode(row))
        assert.equal(i, lines[i])
      end
    end)
  end)

  for _, case in ipairs {
    { '{"a":}', "expected a value at byte 5, found '}'" },
    { '{"a" 1}', "expected ':' after a key at byte 5, found '1'" },
    { "{a:1}", "expected a key in quotes at byte 1, found 'a'" },
    { '{"a":1', "expected ',' or '}' at byte 6, found the end" },
    { "[1 2]", "expected ',' or ']' at byte 3, found '2'" },
    { "[1] 2", "expected the end at byte 4, found '2'" },
    { '"\t"', "expected an escape instead of a raw control character at byte 1, found byte 0x09" },
    { '"abcdefghijkl', "expected the end of a string at byte 13, found the end" },
    { '"\\x"', "after a backslash at byte 2, found 'x'" },
    { '"\\ud800x"', "expected a surrogate pair at byte 1, found half of one" },
    { '"\\u12g4"', "expected four hexadecimal digits after \\u at byte 5, found 'g'" },
    { '"abcdefgh\xff"', "expected UTF-8 at byte 9, found byte 0xff" },
    { '"\xed\xa0\x80"', "expected UTF-8 at byte 1" },
    { "NaN", "expected a value at byte 0, found 'N'" },
    { "01", "expected no digit after a leading zero at byte 1" },
    { "1.", "expected a digit at byte 2, found the end" },
    { "-", "expected a digit at byte 1, found the end" },
    { "1e999", "too large for a double" },
    { ("1"):rep(600), "has more than 512 digits" },
    { ("["):rep(201) .. ("]"):rep(201), "no deeper nesting than 200" },
  } do
    it("names what is wrong with a line and goes on behind it: " .. case[1]:sub(1, 12):gsub("%c", " "), function()
      local list = read(open("x.jsonl", '1\n' .. case[1] .. '\n{"a":"b"}\n'))
      assert.equal(3, #list)
      assert.same({ 1, { a = "b" } }, { list[1], list[3] })
      assert.equal("[2: not JSON: ", list[2]:sub(1, 14))
      assert.truthy(list[2]:find(case[2], 1, true), list[2])
    end)
  end

  describe("a JSON array", function()
    it("is a row an element, each with its line", function()
      local list, lines = read(open("x.json", '\n[ {"a": [1, "]}"]} ,\n\n 5,"s\\"]", [ ],\n{"b":{}} ]\n'))
      assert.same({ { a = { 1, "]}" } }, 5, 's"]', {}, { b = {} } }, list)
      assert.same({ 2, 4, 4, 4, 5 }, lines)
      assert.same({}, read(open("empty.json", " [ ] ")))
    end)

    it("is known by its first character, as lines are", function()
      assert.same({ { a = 1 }, { a = 2 } }, read(open("x.json", '{"a":1}\n{"a":2}')))
      assert.same({ { a = 1 } }, read(open("no_ending", '[{"a":1}]')))
      assert.same({ { { a = 1 } } }, read(open("x.jsonl", '[{"a":1}]')))
    end)

    for _, case in ipairs {
      { '[{"a":1} {"b":2}]', { { a = 1 } }, "expected ',' or ']'" },
      { '[1,,2]', { 1 }, "expected an element before ','" },
      { '[1] 2', { 1 }, "expected nothing behind it" },
      { '[1,\n', { 1 }, "expected ']' at the end" },
      { '[1,{"a":\n', { 1 }, "ends within the element that begins in line 1" },
    } do
      it("ends where it is broken: " .. case[1]:gsub("\n", " "), function()
        local rows = open("x.json", case[1])
        local list, _, message, code = read(rows)
        assert.equal("format", code)
        assert.truthy(message:find(case[3], 1, true), message)
        assert.truthy(message:find("x.json", 1, true))
        assert.is_true(#list <= #case[2])
        assert.equal("format", select(3, rows:next()))
      end)
    end

    it("goes on behind an element that is wrong inside", function()
      assert.same({ 1, "[1: not JSON: expected ':' after a key at byte 5, found '2']", 3 },
        read(open("x.json", '[1,{"a" 2},3]')))
    end)
  end)

  describe("CSV", function()
    it("is an object of strings a line, by the first line's names", function()
      local list, lines = read(open("x.csv",
        'id,text,label\n1,plain,a\n2," with ""quotes"", comma\nand line",b\r\n\n3,,""\n'))
      assert.same({ { id = "1", text = "plain", label = "a" },
        { id = "2", text = ' with "quotes", comma\nand line', label = "b" },
        { id = "3", text = "", label = "" } }, list)
      assert.same({ 2, 3, 6 }, lines)
    end)

    it("takes quotes within a field as they are", function()
      assert.same({ { a = 'x"y""z', b = '"' } }, read(open("x.csv", 'a,b\nx"y""z,""""')))
    end)

    it("separates by tabs as TSV", function()
      assert.same({ { a = "1,5", ["b c"] = "x\ty" } }, read(open("x.tsv", 'a\tb c\n1,5\t"x\ty"')))
    end)

    it("names the line with too few or too many fields, and goes on", function()
      assert.same({ "[2: has 1 fields, the first line 2]", { a = "1", b = "2" },
        "[4: has 3 fields, the first line 2]" },
        read(open("x.csv", "a,b\n1\n1,2\n1,2,3")))
    end)

    it("fails for a name that stands twice, and within quotes at the end", function()
      local _, _, message, code = read(open("x.csv", "a,b,a\n1,2,3"))
      assert.equal("format", code)
      assert.truthy(message:find('x.csv:1: the first line names "a" twice', 1, true), message)
      _, _, message = read(open("y.csv", 'a,b\n1,2\n3,"open\n4,5\n'))
      assert.truthy(message:find("ends within the quotes of the row that begins in line 3", 1, true), message)
    end)

    it("has no rows without lines", function()
      assert.same({}, read(open("x.csv", "")))
      assert.same({}, read(open("y.csv", "a,b\n")))
    end)

    it("is cut the same wherever blocks end #many", function()
      local parts = { "a,b" }
      for i = 1, 40000 do parts[i + 1] = ('%d,"x ""%d"", %s"'):format(i, i, ("\n"):rep(i % 5)) end
      local list = read(open("x.csv", table.concat(parts, "\n")))
      assert.equal(40000, #list)
      for i, row in ipairs(list) do
        assert.equal(tostring(i), row.a)
        assert.equal(('x "%d", %s'):format(i, ("\n"):rep(i % 5)), row.b)
      end
    end)
  end)

  it("reads text a line", function()
    local list, lines = read(open("x.txt", "first\r\n\n  second \nbad \xff\nlast"))
    assert.same({ { text = "first" }, { text = "  second " }, "[4: not UTF-8: byte 0xff at byte 4]",
      { text = "last" } }, list)
    assert.same({ 1, 3, 4, 5 }, lines)
  end)

  for _, program in ipairs { "gzip", "zstd", "bzip2", "xz" } do
    it("reads what " .. program .. " made, by content and not by name #many", function()
      if select(2, shell.run("command -v " .. program)) ~= 0 then return pending(program .. " is not installed") end
      local endings = { gzip = "gz", zstd = "zst", bzip2 = "bz2", xz = "xz" }
      temp.file(folder, "x.csv", "a\n1\n" .. ("2\n"):rep(300000))
      local path = ("%s/x.csv.%s"):format(folder, endings[program])
      shell.run(("%s -c %s/x.csv >%s"):format(program, folder, path))
      assert.equal(300001, #read(assert(core.open_rows(path))))
      shell.run(("cp %s %s/plain.csv"):format(path, folder))
      assert.equal(300001, #read(assert(core.open_rows(folder .. "/plain.csv"))))
    end)

    it("says that a file of " .. program .. " is cut short or damaged, after the rows before", function()
      if select(2, shell.run("command -v " .. program)) ~= 0 then return pending(program .. " is not installed") end
      local lines = {}
      for i = 1, 50000 do lines[i] = ('{"i":%d,"x":%d}'):format(i, i * 7919 % 10007) end
      temp.file(folder, "x.jsonl", table.concat(lines, "\n"))
      shell.run(("%s -c %s/x.jsonl >%s/x.packed"):format(program, folder, folder))
      local bytes = temp.read(folder .. "/x.packed")
      temp.file(folder, "cut", bytes:sub(1, #bytes * 2 // 3))
      local rows, message, code = core.open_rows(folder .. "/cut")
      if rows then -- else less than a block of the compressed file was left
        local list
        list, _, message, code = read(rows)
        assert.is_true(#list < 50000)
      end
      assert.equal("format", code)
      assert.truthy(message:find("/cut: is damaged", 1, true), message)
    end)
  end

  describe("a row that is too long", function()
    local long = '{"text":"' .. ("x"):rep(3000000) .. '"}'

    it("is named, skipped and not kept in memory", function()
      local text = '{"a":1}\n' .. long .. '\n{"a":2}\n' .. long
      assert.same({ { a = 1 }, "[2: is longer than 100000 bytes]", { a = 2 }, "[4: is longer than 100000 bytes]" },
        read(open("x.jsonl", text, { longest = 100000 })))
      assert.equal(4, #read(open("x.jsonl", text)))
    end)

    it("is so in an array and in a table, too", function()
      assert.same({ 1, "[1: is longer than 100000 bytes]", 3 },
        read(open("x.json", "[1," .. long .. ",3]", { longest = 100000 })))
      assert.same({ { a = "1" }, "[3: is longer than 100000 bytes]", { a = "2" } },
        read(open("x.csv", 'a\n1\n"' .. ('""\n'):rep(1000000) .. '"\n2', { longest = 100000 })))
    end)

    it("of 64 MiB costs no more than the limit", function()
      local path = folder .. "/huge.jsonl"
      shell.run(("{ echo '{\"a\":1}'; printf '{\"t\":\"'; head -c 67108864 /dev/zero | tr '\\0' x; echo '\"}'; "
        .. "echo '{\"a\":2}'; } >%s"):format(path))
      local before = core.fs.peak_memory()
      assert.same({ { a = 1 }, "[2: is longer than 16777216 bytes]", { a = 2 } }, read(assert(core.open_rows(path))))
      assert.is_true(core.fs.peak_memory() - before < 48 << 20)
    end)
  end)

  it("makes the members that are kept alone", function()
    local list = read(open("x.jsonl", '{"a":1,"b":{"c":[1,{"d":2}]},"e":[[],[3]],"f":4}\n[1]\n{"x":{"a":2}}',
      { keep = { "a", "e", "none" } }))
    assert.same({ { a = 1, e = { {}, { 3 } } }, { 1 }, {} }, list)
  end)

  it("takes the later of two members with one name", function()
    assert.same({ { a = 2 } }, read(open("x.jsonl", '{"a":1,"a":2}')))
  end)

  it("is the same without a thread of its own", function()
    local texts = {}
    for i = 1, 5000 do texts[i] = json.encode { i = i, text = ("x"):rep(i % 500) } end
    local text = table.concat(texts, "\n")
    assert.same(read(open("x.jsonl", text)), read(open("x.jsonl", text, { ahead = false })))
  end)

  it("may be closed at any time, and is then closed", function()
    local rows = open("x.jsonl", ("[1]\n"):rep(500000))
    assert.same({ 1 }, (rows:next()))
    assert.equal("crucible.rows", tostring(rows))
    rows:close()
    rows:close()
    assert.equal("crucible.rows (closed)", tostring(rows))
    expect.raises("rows is closed", rows.next, rows)
    for _ = 1, 20 do open("x.jsonl", ("[1]\n"):rep(100000)) end
    collectgarbage()
  end)

  it("fails for what is no file, or no text", function()
    expect.fails("not_found", "absent", core.open_rows(folder .. "/absent"))
    expect.fails("io", "expected a regular file, found a folder", core.open_rows(folder))
    local _, _, message = read(open("x.jsonl", "\xff\xfe1\0"))
    assert.truthy(message:find("is UTF-16, expected UTF-8", 1, true))
    local path = temp.file(folder, "y", "")
    expect.raises("unknown format 'xml'; known: jsonl, json, csv, tsv, text", core.open_rows, path, { format = "xml" })
    expect.raises("unknown field 'columns'", core.open_rows, path, { columns = {} })
    expect.raises("keep[1]: expected a string, got number", core.open_rows, path, { keep = { 1 } })
  end)
end)
