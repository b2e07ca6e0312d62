-- The public headers as a manual: every function is told of, and every compiler of C or C++ reads them.
local shell = require "spec.support.shell"
local temp = require "spec.support.temp"

describe("crucible.h", function()
  after_each(temp.clean)

  it("says something of every function", function()
    for _, name in ipairs { "crucible.h", "crucible_lua.h" } do
      local text = temp.read("csrc/include/" .. name) .. "\n\n"
      local commented, count = false, 0
      for part in text:gmatch "(.-)\n%s*\n+" do
        -- A paragraph of declarations has its comment in it or is what the one before it was about.
        local told = part:find("/*", 1, true) ~= nil
        if part:find "%f[%w]CR_API%s[^_]" and not part:find "#define" then
          assert.is_true(told or commented, part)
          count = count + 1
        end
        commented = told and not part:find "CR_API"
      end
      assert.is_true(count > 0)
    end
  end)

  it("lists its chapters in their order", function()
    local text = temp.read "csrc/include/crucible.h"
    local contents, at = text:match "Contents, in the order of a run\n(.-)\n %*\n", 1
    local count = 0
    for line in contents:gmatch "[^\n]+" do
      local title = line:match "^ %*     (%l[%l' ]-)  "
      at = assert(text:find("/* ---- " .. title, at, true), title)
      count = count + 1
    end
    assert.equal(14, count)
  end)

  for _, compiler in ipairs {
    "cc -std=c99 -x c", "cc -std=c17 -x c", "c++ -std=c++11 -x c++", "c++ -std=c++20 -x c++",
  } do
    it("is read by " .. compiler, function()
      if select(2, shell.run("command -v " .. compiler:match "%S+")) ~= 0 then return pending "no such compiler" end
      for _, name in ipairs { "crucible.h", "crucible_lua.h" } do
        local code = ("#include <%s>\nint used(void);\nint used(void) { return CR_OK; }\n"):format(name)
        local path = temp.file(temp.folder(), "host", code)
        local output, status = shell.run(("%s -Wall -Wextra -pedantic -Werror -fsyntax-only -I csrc/include %s")
          :format(compiler, path))
        assert.equal(0, status, output)
      end
    end)
  end
end)
