-- Data files as data sets: formats, columns, bad rows, streams and their order.
local dataset_integration = require("crucible").lora.dataset_integration
local expect = require "spec.support.expect"
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

local prepare, stream = dataset_integration.prepare_dataset, dataset_integration.stream_dataset

describe("a data file", function()
  local folder

  before_each(function() folder = temp.folder() end)
  after_each(temp.clean)

  local function file(name, text) return temp.file(folder, name, text) end

  local function pairs_of(rows)
    local list = {}
    for i, row in ipairs(rows) do list[i] = row.input .. "=" .. row.output end
    return table.concat(list, " ")
  end

  for name, text in pairs {
    ["x.jsonl"] = '{"input":"a","output":"1"}\n{"input":"b","output":"2"}\n',
    ["x.json"] = '[{"input":"a","output":"1"},{"input":"b","output":"2"}]',
    ["x.csv"] = "input,output\na,1\nb,2\n",
    ["x.tsv"] = "input\toutput\na\t1\nb\t2\n",
    ["x.csv.gz"] = "input,output\na,1\nb,2\n",
    ["x.json.zst"] = '[{"input":"a","output":"1"},{"input":"b","output":"2"}]',
  } do
    it("may be " .. name, function()
      local path = file(name, text)
      local packer = ({ gz = "gzip", zst = "zstd" })[name:match("(%w+)$")]
      if packer and select(2, shell.run("command -v " .. packer)) ~= 0 then return pending(packer) end
      if packer then shell.run(("%s -c <%s >%s.new && mv %s.new %s"):format(packer, path, path, path, path)) end
      assert.equal("a=1 b=2", pairs_of(assert(prepare(path))))
    end)
  end

  it("may be text, a row a line", function()
    local rows = assert(prepare(file("x.txt", "one\n\ntwo\n"), { transform = function(row)
      return { input = "", output = row.text }
    end }))
    assert.equal("=one =two", pairs_of(rows))
  end)

  it("takes a format that its name does not tell", function()
    assert.equal("a=1", pairs_of(assert(prepare(file("x.data", "input,output\na,1\n"), { format = "csv" }))))
    expect.raises('format must be one of "jsonl", "json", "csv", "tsv", "text"', prepare, "x", { format = "xml" })
  end)

  describe("with columns", function()
    local nested = '{"q":{"text":"a"},"answers":[{"text":"1"},{"text":"9"}],"a.b":"dotted","n":5}\n'

    it("picks and renames them by path", function()
      local path = file("x.jsonl", nested)
      local function picked(input, output)
        return pairs_of(assert(prepare(path, { columns = { input = input, output = output } })))
      end
      assert.equal("a=1", picked("q.text", "answers.0.text"))
      assert.equal("dotted=9", picked("a.b", "answers.1.text"))
    end)

    it("keeps nothing else", function()
      local seen
      assert(prepare(file("x.jsonl", nested), { columns = { "n", "q.text" }, transform = function(row)
        seen = row
        return { input = "i", output = "o" }
      end }))
      assert.same({ n = 5, ["q.text"] = "a" }, seen)
    end)

    it("does so for tables, too", function()
      assert.equal("a=1", pairs_of(assert(prepare({ { x = { y = "a" }, z = "1" } },
        { columns = { input = "x.y", output = "z" } }))))
    end)

    it("names the row and the key that is missing", function()
      expect.fails("data", 'x.jsonl: row 2: "q.text" is missing', prepare(file("x.jsonl", nested .. '{"q":{}}\n'),
        { columns = { input = "q.text", output = "answers.0.text" } }))
      expect.fails("data", 'row 1: "answers.7.text" is missing', prepare(file("y.jsonl", nested),
        { columns = { input = "q.text", output = "answers.7.text" } }))
      expect.raises("columns must be a list of keys, or a table of new key → key", prepare, "x", { columns = {} })
    end)
  end)

  describe("with bad rows", function()
    local text = table.concat({
      '{"input":"a","output":"1"}', '{"input":"b",', '{"input":5,"output":"3"}', '{"input":"d","output":"4"}',
      '{"input":"\xff","output":"5"}', '["no object"]' }, "\n")
    text = text:gsub('"no object"', "5")

    it("stops at the first and names file and line", function()
      expect.fails("format", "x.jsonl:2: not JSON: expected a key in quotes at byte 13, found the end",
        prepare(file("x.jsonl", text)))
    end)

    it("skips and counts them when asked to", function()
      local rows, info = assert(prepare(file("x.jsonl", text), { on_bad_row = "skip" }))
      assert.equal("a=1 d=4", pairs_of(rows))
      assert.equal(4, info.skipped)
      assert.truthy(info.skipped_rows[1]:find("x.jsonl:2: not JSON", 1, true))
      assert.truthy(info.skipped_rows[2]:find('x.jsonl: row 3: "input" is not a string', 1, true))
      assert.truthy(info.skipped_rows[3]:find("x.jsonl:5: not JSON: expected UTF-8", 1, true))
      assert.truthy(info.skipped_rows[4]:find("x.jsonl: row 6: ", 1, true))
    end)

    it("counts them in a stream as it goes", function()
      local next_batch, info = assert(stream(file("x.jsonl", text), { on_bad_row = "skip", batch_size = 1 }))
      assert.equal("a=1", pairs_of(next_batch()))
      assert.equal(0, info.skipped)
      assert.equal("d=4", pairs_of(next_batch()))
      assert.equal(2, info.skipped)
      assert.is_nil(next_batch())
      assert.equal(4, info.skipped)
    end)

    for title, given in pairs {
      ["a formatter that raises"] = { formatter = function(row) error("no " .. row.output, 0) end, why = "no 1" },
      ["a formatter that returns nil"] = { formatter = function() end, why = "gave a nil" },
      ["a transform of the wrong shape"] = { transform = function() return { input = "x" } end,
        why = '"output" is not a string' },
      ["a transform that gives no table"] = { transform = function() return "x" end, why = "gave a string" },
    } do
      it("names file and row of " .. title, function()
        local why = given.why
        local options = { formatter = given.formatter, transform = given.transform }
        local path = file("x.jsonl", '\n{"input":"a","output":"1"}\n')
        local _, message, code = prepare(path, options)
        assert.equal("data", code)
        assert.truthy(message:find("x.jsonl: row 2: ", 1, true), message)
        assert.truthy(message:find(why, 1, true), message)
        options.on_bad_row = "skip"
        assert.equal(1, select(2, assert(prepare(path, options))).skipped)
      end)
    end

    it("never skips the end of a file that is damaged", function()
      local lines = {}
      for i = 1, 20000 do lines[i] = ('{"input":"%d","output":"%d"}'):format(i, i * 7919 % 10007) end
      local path = file("x.jsonl", table.concat(lines, "\n"))
      shell.run(("gzip -c %s | head -c 50000 >%s.gz"):format(path, path))
      expect.fails("format", "x.jsonl.gz: is damaged", prepare(path .. ".gz", { on_bad_row = "skip" }))
    end)

    it("names a line that is too long", function()
      local path = file("x.jsonl", '{"input":"a","output":"1"}\n{"input":"' .. ("b"):rep(5000) .. '","output":"2"}\n')
      expect.fails("format", "x.jsonl:2: is longer than 1000 bytes", prepare(path, { max_row_bytes = 1000 }))
      assert.equal("a=1", pairs_of(assert(prepare(path, { max_row_bytes = 1000, on_bad_row = "skip" }))))
    end)
  end)

  describe("as a stream", function()
    local path

    before_each(function()
      local lines = {}
      for i = 1, 3000 do lines[i] = ('{"input":"%d","output":"x"}'):format(i) end
      path = file("x.jsonl", table.concat(lines, "\n"))
    end)

    local function order(options)
      local list = {}
      for batch in assert(stream(path, options)) do
        for _, row in ipairs(batch) do list[#list + 1] = tonumber(row.input) end
      end
      return list
    end

    it("keeps the order of the file unless told otherwise", function()
      local list = order {}
      for i = 1, 3000 do assert.equal(i, list[i]) end
      assert.equal(3000, #list)
    end)

    it("shuffles within its buffer, by the seed alone", function()
      local list = order { shuffle = true, seed = 3, shuffle_buffer = 100 }
      assert.same(list, order { shuffle = true, seed = 3, shuffle_buffer = 100, batch_size = 7 })
      assert.not_same(list, order { shuffle = true, seed = 4, shuffle_buffer = 100 })
      local seen, early = {}, 0
      for place, number in ipairs(list) do
        assert.is_nil(seen[number])
        seen[number] = true
        assert.is_true(number - place < 100)
        if number > place then early = early + 1 end
      end
      assert.equal(3000, #list)
      assert.is_true(early > 1000)
    end)

    it("draws every order of a small file alike", function()
      local small, counts = file("y.csv", "input,output\n1,x\n2,x\n3,x\n"), {}
      for seed = 1, 600 do
        local word = ""
        for batch in assert(stream(small, { shuffle = true, seed = seed })) do
          for _, row in ipairs(batch) do word = word .. row.input end
        end
        counts[word] = (counts[word] or 0) + 1
      end
      local orders = 0
      for _, count in pairs(counts) do
        orders = orders + 1
        assert.is_true(count > 60 and count < 150)
      end
      assert.equal(6, orders)
    end)

    it("limits after the shuffle and filters before it", function()
      assert.equal(10, #order { shuffle = true, limit = 10 })
      for _, number in ipairs(order { shuffle = true, filter = function(row) return #row.input == 2 end }) do
        assert.is_true(number >= 10 and number < 100)
      end
    end)

    -- In a process of its own, whose peak no other spec has raised.
    it("holds memory constant", function()
      if os.getenv "LD_PRELOAD" then return pending "a sanitizer keeps freed memory" end
      local big = folder .. "/big.jsonl"
      shell.run(("for i in $(seq 100); do cat %s; echo; done >%s"):format(path, big))
      local script = file("stream.lua", ([[
        local fs = require("crucible.core").fs
        local stream = require("crucible.lora.dataset_integration").stream_dataset
        local count, early = 0, nil
        for batch in assert(stream(%q, { shuffle = true, batch_size = 10 })) do
          count = count + #batch
          if count == 50000 then early = fs.peak_memory() end
        end
        print(count, fs.peak_memory() - early)
      ]]):format(big))
      local count, grown = shell.run("lua5.4 " .. script):match("^(%d+)%s+(%d+)")
      assert.equal("300000", count)
      assert.is_true(tonumber(grown) < 2 << 20)
    end)
  end)
end)
