-- Archives, good and hostile, made by tar and zip and by hand.
local expect = require "spec.support.expect"
local fs = require("crucible.core").fs
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

-- A tar header (POSIX ustar) and its content: what no careful tar would write.
local function tar_entry(name, content, kind, link)
  local head = (name .. ("\0"):rep(100 - #name)) .. "0000644\0000000000\0000000000\0"
    .. ("%011o\0%011o\0"):format(#content, 0)
    .. "        " .. (kind or "0") .. (link or "") .. ("\0"):rep(100 - #(link or "")) .. "ustar\00000"
  head = head .. ("\0"):rep(512 - #head)
  local sum = 0
  for i = 1, 512 do sum = sum + head:byte(i) end
  head = head:sub(1, 148) .. ("%06o\0 "):format(sum) .. head:sub(157)
  return head .. content .. ("\0"):rep(-#content % 512)
end

describe("fs.unpack", function()
  local folder, out

  before_each(function()
    folder = temp.folder()
    out = folder .. "/out/deep"
  end)
  after_each(temp.clean)

  local function archive(...)
    return temp.file(folder, "x.tar", table.concat { ... } .. ("\0"):rep(1024))
  end

  it("takes out files and folders", function()
    local path = archive(tar_entry("a/", "", "5"), tar_entry("a/b/c.txt", "sea"), tar_entry("./d", ""))
    assert.is_true(fs.unpack(path, out))
    assert.equal("sea", temp.read(out .. "/a/b/c.txt"))
    assert.equal("", temp.read(out .. "/d"))
    assert.same({ "a", "d" }, fs.list(out))
  end)

  it("takes a folder that is named as the root for the folder itself", function()
    assert.is_true(fs.unpack(archive(tar_entry("/", "", "5"), tar_entry("a", "x")), out))
    assert.same({ "a" }, fs.list(out))
  end)

  for _, kind in ipairs { "gzip", "zstd", "zip" } do
    it("understands " .. kind, function()
      if select(2, shell.run("command -v " .. kind)) ~= 0 then return pending(kind .. " is not installed") end
      temp.file(folder, "in/hello.txt", ("hello "):rep(1000))
      local path = folder .. "/" .. kind
      local pack = kind == "zip" and "cd %s/in && zip -q -r %s ." or "tar -C %s/in -c . | " .. kind .. " >%s"
      shell.run(pack:format(folder, path) .. (kind == "zip" and " && mv " .. path .. ".zip " .. path or ""))
      assert.is_true(fs.unpack(path, out))
      assert.equal(("hello "):rep(1000), temp.read(out .. "/hello.txt"))
    end)
  end

  for title, name in pairs {
    ["up"] = "../evil", ["up from within"] = "a/../../evil", ["from the root"] = "/tmp/evil",
    ["up as Windows writes it"] = "a\\..\\..\\evil", ["to another drive"] = "C:evil",
  } do
    it("refuses an entry that leads " .. title, function()
      expect.fails("unsupported", ('the entry "%s" would leave the folder: refused'):format(name),
        fs.unpack(archive(tar_entry("good", "x"), tar_entry(name, "evil")), out))
      assert.is_nil(fs.stat(folder .. "/evil"))
      assert.is_nil(fs.stat(folder .. "/out/evil"))
    end)
  end

  it("refuses links, with which later entries could leave", function()
    for _, kind in ipairs { "1", "2" } do
      expect.fails("unsupported", 'the entry "door" is a link or a device: refused',
        fs.unpack(archive(tar_entry("door", "", kind, "/etc"), tar_entry("door/evil", "x")), out))
    end
  end)

  it("stops at its limits", function()
    local path = archive(tar_entry("a", ("x"):rep(5000)), tar_entry("b", ("x"):rep(5000)))
    expect.fails("unsupported", "more bytes than are allowed", fs.unpack(path, out, { most_bytes = 9999 }))
    expect.fails("unsupported", "more entries than are allowed", fs.unpack(path, out, { most_entries = 1 }))
    assert.is_true(fs.unpack(path, out, { most_bytes = 10000, most_entries = 2 }))
  end)

  it("fails on what is no archive, is cut short or is not there", function()
    expect.fails("format", "cannot be unpacked", fs.unpack(temp.file(folder, "text", "no archive"), out))
    expect.fails("format", "cannot be unpacked", fs.unpack(temp.file(folder, "cut",
      tar_entry("a", ("x"):rep(5000)):sub(1, 3000)), out))
    expect.fails("not_found", "absent", fs.unpack(folder .. "/absent", out))
    expect.fails("io", "found a folder", fs.unpack(folder, out))
    expect.raises("unknown field 'limit'", fs.unpack, folder, out, { limit = 1 })
  end)
end)
