-- scripts/check_layers.lua on folders with planted violations.

local shell = require "spec.support.shell"

local function run(root) return shell.run("lua5.4 scripts/check_layers.lua " .. shell.quote(root)) end

describe("scripts/check_layers.lua", function()
  local root

  before_each(function()
    root = shell.temporary_folder()
    shell.write(root .. "/csrc/base/base.c", '#include "base/base.h"\n')
  end)

  after_each(function() shell.remove_tree(root) end)

  local function finds(path, text, expected)
    shell.write(root .. "/" .. path, text)
    local output, status = run(root)
    assert.equal(1, status)
    assert.truthy(output:find(path .. ":" .. expected, 1, true), ("expected %s in:\n%s"):format(expected, output))
  end

  local function accepts(path, text)
    shell.write(root .. "/" .. path, text)
    local output, status = run(root)
    assert.equal(0, status, output)
  end

  it("accepts this repository", function()
    local output, status = run(".")
    assert.equal(0, status, output)
  end)

  it("refuses a folder without sources", function()
    shell.remove_tree(root .. "/csrc")
    local _, status = run(root)
    assert.equal(1, status)
  end)

  local violations = {
    { "an include that points right", "csrc/math/norm.c", '\n#include "model/layer.h"\n',
      '2: "model/layer.h": math/ may not include model/' },
    { "an include of bind/ from a floor", "csrc/train/session.c", '#include "bind/bind.h"\n', "1: " },
    { "a header without its floor", "csrc/math/norm.c", '#include "norm.h"\n', "1: " },
    { "a private header in bind/", "csrc/bind/model.c", '#include "model/model.h"\n', "1: " },
    { "Lua outside bind/", "csrc/train/session.c", "#include <lua.h>\n", "1: <lua.h>" },
    { "Lua in quotes outside bind/", "csrc/train/session.c", '#include "lauxlib.h"\n', "1: <lauxlib.h>" },
    { "threads outside parallel.c", "csrc/math/matmul.c", "#include <pthread.h>\n", "1: <pthread.h>" },
    { "the file system outside file/", "csrc/lora/lora_file.c", "int f(void)\n{\n    return open(p, 0);\n}\n",
      "3: open()" },
    { "a file stream outside file/", "csrc/model/model.c", 'FILE *f = fopen ("x", "r");\n', "1: fopen()" },
    { "an exit", "csrc/base/arena.c", "void f(void) { exit(1); }\n", "1: exit()" },
    { "an abort after a member of that name", "csrc/base/arena.c", "x->abort(1); abort();\n", "1: abort()" },
    { "an assert", "csrc/math/norm.c", "void f(int n) { assert(n > 0); }\n", "1: assert()" },
    { "printing", "csrc/train/session.c", 'void f(void)\n{\n    fprintf(stderr, "x");\n}\n', "3: fprintf()" },
    { "a file on no floor", "csrc/util/strings.c", "int x;\n", "1: not on a floor" },
    { "a file beside the floors", "csrc/loose.c", "int x;\n", "1: not on a floor" },
    { "the C module in a room", "lua/crucible/lora/config.lua", 'local core = require "crucible.core"\n', "1: " },
    { "the C module in brackets", "lua/crucible/lora.lua", "\nlocal fs = require('crucible.core').fs\n", "2: " },
  }
  for _, case in ipairs(violations) do
    local title, path, text, expected = table.unpack(case)
    it("finds " .. title, function() finds(path, text, expected) end)
  end

  local fine = {
    { "its own floor and the floors to the left", "csrc/model/layer.c",
      '#include "model/layer.h"\n#include "math/norm.h"\n#include "include/crucible.h"\n#include <math.h>\n' },
    { "every floor in bind/debug.c", "csrc/bind/debug.c", '#include "math/norm.h"\n#include <lua.h>\n' },
    { "the public face in bind/", "csrc/bind/model.c",
      '#include "include/crucible.h"\n#include "bind/bind.h"\n#include <lauxlib.h>\n' },
    { "comments that speak of calls", "csrc/math/norm.c", "/* never exit()\n * abort() */ // printf(x)\n" },
    { "strings that speak of calls", "csrc/math/norm.c", 'const char *s = "a \\" exit(1)";\n' },
    { "longer names and members", "csrc/math/norm.c",
      'int a = snprintf(b, 1, "x") + cr_rename(x) + file->open(y) + ops.exit(z);\n' },
    { "a static assertion", "csrc/math/norm.c", '_Static_assert(1, "x");\nstatic_assert(1, "x");\n' },
    { "the C module in the local adapter", "lua/crucible/adapters/local.lua", 'require "crucible.core"\n' },
    { "a commented require", "lua/crucible/lora.lua", '--[[ require "crucible.core"\n]] -- require "crucible.core"\n' },
    { "printing in a fuzz target", "csrc/fuzz/driver.c", 'void f(void) { fprintf(stderr, "x"); exit(1); }\n' },
  }
  for _, case in ipairs(fine) do
    local title, path, text = table.unpack(case)
    it("accepts " .. title, function() accepts(path, text) end)
  end
end)
