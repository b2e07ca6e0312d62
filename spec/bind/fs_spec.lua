-- Durable files and the system's facts.

local core = require "crucible.core"
local expect = require "spec.support.expect"
local shell = require "spec.support.shell"

local fs = core.fs

describe("core.fs", function()
  local folder

  before_each(function() folder = shell.temporary_folder() end)
  after_each(function() shell.remove_tree(folder) end)

  local function path(name) return folder .. "/" .. name end

  it("writes and reads whole files, whatever the bytes", function()
    for _, bytes in ipairs({ "", "text\n", ("\0\xff"):rep(40000) }) do
      assert.is_true(fs.write_file(path("file"), bytes))
      assert.equal(bytes, fs.read_file(path("file")))
    end
    assert.same({ "file" }, fs.list(folder))
  end)

  it("appends, making the file first", function()
    assert.is_true(fs.append_file(path("log"), "one\n"))
    assert.is_true(fs.append_file(path("log"), "two\n"))
    assert.equal("one\ntwo\n", fs.read_file(path("log")))
  end)

  it("makes folders with their parents and lists names in order", function()
    assert.is_true(fs.make_folder(path("a/b/c")))
    assert.is_true(fs.make_folder(path("a/b/c")))
    for _, name in ipairs({ "z", "m", "k" }) do assert(fs.write_file(path("a/b/" .. name), name)) end
    assert.same({ "c", "k", "m", "z" }, fs.list(path("a/b")))
    assert.is_true(fs.sync_folder(path("a/b")))
  end)

  it("renames over an existing file", function()
    assert(fs.write_file(path("new"), "new"))
    assert(fs.write_file(path("old"), "old"))
    assert.is_true(fs.rename(path("new"), path("old")))
    assert.equal("new", fs.read_file(path("old")))
    assert.is_nil(fs.stat(path("new")))
  end)

  it("removes trees, and is content when there is none", function()
    assert(fs.make_folder(path("a/b")))
    assert(fs.write_file(path("a/b/file"), "x"))
    assert.is_true(fs.remove_tree(path("a")))
    assert.is_true(fs.remove_tree(path("a")))
    assert.same({}, fs.list(folder))
  end)

  it("tells what stands at a path, and nil alone for nothing", function()
    assert(fs.write_file(path("file"), "12345"))
    local status = fs.stat(path("file"))
    assert.same({ false, 5 }, { status.folder, status.size })
    assert.near(os.time(), status.modified, 60)
    assert.is_true(fs.stat(folder).folder)
    assert.equal(1, select("#", fs.stat(path("absent"))))
  end)

  it("returns the path and the reason when it cannot", function()
    expect.fails("not_found", path("absent"), fs.read_file(path("absent")))
    expect.fails("not_found", path("absent"), fs.list(path("absent")))
    expect.fails("not_found", path("absent"), fs.rename(path("absent"), path("other")))
    expect.fails("not_found", path("absent"), fs.sha256({ file = path("absent") }))
    expect.fails("io", folder, fs.read_file(folder))
    assert(fs.write_file(path("file"), "x"))
    assert.equal("io", select(3, fs.make_folder(path("file"))))
    assert.is_nil((fs.write_file(path("absent/file"), "x")))
    assert.is_nil((fs.append_file(path("absent/file"), "x")))
    assert.is_nil((fs.sync_folder(path("absent"))))
  end)

  it("digests bytes and files", function()
    local empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert.equal(empty, fs.sha256(""))
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", fs.sha256("abc"))
    assert(fs.write_file(path("file"), "abc"))
    assert.equal(fs.sha256("abc"), fs.sha256({ file = path("file") }))
    expect.raises("file is missing: expected a string", fs.sha256, {})
    expect.raises("unknown field 'path'; known: file", fs.sha256, { path = "x" })
    expect.raises("file: expected a string, got 1", fs.sha256, { file = 1 })
    expect.raises("string expected, got boolean", fs.sha256, true)
  end)

  it("has a clock that only moves forward", function()
    local before = fs.clock()
    for _ = 1, 1000 do
      local now = fs.clock()
      assert.truthy(now >= before)
      before = now
    end
  end)

  it("gives random bytes", function()
    assert.equal("", fs.random_bytes(0))
    assert.equal(1000, #fs.random_bytes(1000))
    assert.not_equal(fs.random_bytes(16), fs.random_bytes(16))
    expect.raises("expected 0 to 1048576 bytes", fs.random_bytes, -1)
    expect.raises("expected 0 to 1048576 bytes", fs.random_bytes, 1 << 30)
  end)

  it("knows terminals by the stream's name", function()
    assert.equal("boolean", type(fs.is_terminal("stdout")))
    assert.equal("boolean", type(fs.is_terminal("stderr")))
    expect.raises("invalid option 'keyboard'", fs.is_terminal, "keyboard")
  end)

  it("measures the process", function() assert.truthy(fs.peak_memory() > 1 << 20) end)

  it("refuses what is no path", function()
    for _, name in ipairs({ "write_file", "read_file", "append_file", "make_folder", "rename", "remove_tree",
      "sync_folder", "list", "stat" }) do
      expect.raises("string expected", fs[name], {}, "x")
      expect.raises("a path holds no NUL byte", fs[name], folder .. "\0", "x")
    end
    expect.raises("#2", fs.rename, folder, "a\0b")
    expect.raises("string expected, got nil", fs.write_file, path("file"), nil)
  end)
end)

describe("the size of a terminal", function()
  it("is nil where there is none, and the terminal's own where there is one", function()
    local script = shell.quote [[print(require("crucible.core").fs.terminal_size "stdout")]]
    assert.equal("nil\n", (shell.run(shell.lua .. " -e " .. script)))
    if select(2, shell.run "command -v script") ~= 0 then return pending "needs script(1)" end
    local command = "stty cols 77 rows 11; " .. shell.lua .. " -e " .. script
    local output = shell.run("script -qec " .. shell.quote(command) .. " /dev/null </dev/null")
    assert.truthy(output:find("77\t11", 1, true), output)
  end)

  it("is asked of a stream that exists", function()
    assert.has_error(function() require("crucible.core").fs.terminal_size "keyboard" end)
  end)
end)
