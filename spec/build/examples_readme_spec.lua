-- Every example is told of in examples/README.md and run by a spec, and the guide names nothing that is not there.
local fs = require "crucible.fs"
local temp = require "spec.support.temp"

local guide = temp.read "examples/README.md"

-- Programs, scripts and settings below a folder, without the data.
local function files_below(folder, list)
  for _, name in ipairs(assert(fs.list(folder))) do
    local path = folder .. "/" .. name
    if fs.stat(path).folder then
      if name ~= "data" then files_below(path, list) end
    elseif name ~= "README.md" then
      list[#list + 1] = path
    end
  end
  return list
end

local function specs_text()
  local parts = {}
  for _, path in ipairs(files_below("spec", {})) do
    if path:find "examples_spec%.lua$" or path:find "servers_spec%.lua$" then parts[#parts + 1] = temp.read(path) end
  end
  return table.concat(parts)
end

describe("examples/README.md", function()
  for _, path in ipairs(files_below("examples", {})) do
    local name = path:gsub("^examples/", "")

    it("tells of " .. name, function()
      assert.truthy(guide:find("](" .. name .. ")", 1, true), name)
    end)
  end

  it("names only what is there", function()
    local count = 0
    for link in guide:gmatch "%]%(([^)]+)%)" do
      assert.truthy(fs.stat("examples/" .. link), link)
      count = count + 1
    end
    for path in guide:gmatch "%f[%w]examples/[%w_/]+%.%l+" do
      assert.truthy(fs.stat(path), path)
      count = count + 1
    end
    assert.is_true(count > 30)
  end)

  it("promises that each script is run: a spec names it", function()
    local specs = specs_text()
    for _, path in ipairs(files_below("examples", {})) do
      local name = path:match "[^/]+$"
      if path:find "%.lua$" and not path:find "^examples/embed/" or path:find "%.[cp]$" then
        assert.truthy(specs:find(name, 1, true), name)
      end
    end
  end)
end)
