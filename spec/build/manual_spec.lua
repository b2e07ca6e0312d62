-- The lines of documentation and the code say the same: every function of the public face is described, with the
-- parameters that it has, and nothing is described that is not there.
local crucible = require "crucible"
local docs = require "crucible.docs"
local shell = require "spec.support.shell"

-- Tables of functions that a program may call, by the name it calls them by.
local function public_tables()
  local found = {}
  local function add(name, value)
    if type(value) == "table" then found[#found + 1] = { name = name, value = value } end
  end
  for _, room in ipairs { { "crucible", crucible }, { "crucible.lora", crucible.lora } } do
    add(room[1], room[2])
    for name in pairs(getmetatable(room[2]).rooms) do
      if name ~= "core" then add(room[1] .. "." .. name, room[2][name]) end -- core has a spec of its own
    end
  end
  for _, name in ipairs { "console", "tensorboard", "quality_monitor" } do
    add("crucible.callbacks." .. name, require("crucible.callbacks." .. name))
  end
  for _, name in ipairs { "metrics", "chat", "download", "inspect", "peek", "repl", "schema" } do
    add("crucible." .. name, require("crucible." .. name))
  end
  return found
end

local function source_files()
  local files = {}
  local found = shell.run "find lua/crucible -name '*.lua' ! -name '*.meta.lua'"
  for path in found:gmatch "%S+" do files[#files + 1] = path end
  table.sort(files)
  return files
end

-- What is wrong with the documentation of a function; nil when nothing is.
local function fault(entry)
  if not entry then return "has no documentation" end
  if #entry.text == 0 then return ("%s:%d: has no line of description"):format(entry.path, entry.line) end
  local named, given = {}, {}
  for _, parameter in ipairs(entry.parameters) do named[parameter.name] = true end
  for _, argument in ipairs(entry.arguments) do given[argument] = true end
  local place = ("%s:%d"):format(entry.path, entry.line)
  for name in pairs(named) do
    if not given[name] then return ("%s: describes %s, which is no argument"):format(place, name) end
  end
  for name in pairs(given) do
    if not named[name] then return ("%s: does not describe %s"):format(place, name) end
  end
end

-- Registries hand their entries to methods as a hidden first argument.
local function without_hidden(entry)
  if not entry or entry.arguments[1] ~= "entries" then return entry end
  local copy = {}
  for key, value in pairs(entry) do copy[key] = value end
  copy.arguments = table.move(entry.arguments, 2, #entry.arguments, 1, {})
  return copy
end

describe("the documentation in the sources", function()
  it("has every function of the public face, with its arguments", function()
    local faults = {}
    for _, room in ipairs(public_tables()) do
      for name, value in pairs(room.value) do
        local public = type(name) == "string" and not name:find "^_"
        if public and type(value) == "function" then
          local found = fault(without_hidden(docs.of(value)))
          if found then faults[#faults + 1] = ("%s.%s %s"):format(room.name, name, found) end
        end
      end
    end
    table.sort(faults)
    assert.same({}, faults)
  end)

  it("has every method of a class, with its arguments", function()
    local faults = {}
    for _, path in ipairs(source_files()) do
      for _, entry in ipairs(docs.file(path).entries) do
        local method = entry.name:match "^%u[%w_]*[:.]([%w_]+)$"
        local found = method and not method:find "^_" and #entry.text > 0 and fault(entry)
        if found then faults[#faults + 1] = entry.name .. " " .. found end
      end
    end
    assert.same({}, faults)
  end)

  it("describes no function that is not there", function()
    local orphans = {}
    for _, path in ipairs(source_files()) do
      for _, orphan in ipairs(docs.file(path).orphans) do
        orphans[#orphans + 1] = ("%s:%d: %s"):format(path, orphan.line, orphan.text)
      end
    end
    assert.same({}, orphans)
  end)

  it("names the rooms that there are", function()
    for name, room in pairs { crucible = crucible, ["crucible.lora"] = crucible.lora } do
      local fields, rooms = {}, {}
      for _, class in ipairs(docs.module(name).classes) do
        if class.name == name then
          for _, field in ipairs(class.fields) do fields[field.name] = true end
        end
      end
      for key in pairs(getmetatable(room).rooms) do rooms[key] = true end
      assert.same(rooms, fields)
    end
  end)

  it("has a class for every handle's methods", function()
    local session = docs.module "crucible.adapters.local.session"
    assert.truthy(docs.class(session, "crucible.Session"))
    assert.truthy(#docs.class(session, "crucible.Session").fields > 5)
  end)
end)

describe("the manual of crucible.editline", function()
  it("has every function of the module and no other", function()
    local there, editline = pcall(require, "crucible.editline")
    if not there then return pending "libedit was not there at build time" end
    local live, told = {}, {}
    for name in pairs(editline) do live["editline." .. name] = true end
    for name in pairs(debug.getregistry()["crucible.editline"].__index) do live["Editor:" .. name] = true end
    for _, entry in ipairs(docs.module("crucible.editline.meta").entries) do
      told[entry.name] = true
      assert.is_nil(fault(entry))
    end
    assert.same(live, told)
  end)

  it("says why it cannot open what is no terminal", function()
    local there, editline = pcall(require, "crucible.editline")
    if not there then return pending "libedit was not there at build time" end
    if require("crucible.fs").is_terminal "stdin" and require("crucible.fs").is_terminal "stdout" then return end
    local editor, message, code = editline.open "crucible"
    assert.is_nil(editor)
    assert.equal("unsupported", code)
    assert.truthy(message:find("no terminal", 1, true))
  end)
end)
