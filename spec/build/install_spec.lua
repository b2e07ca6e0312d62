-- What `cmake --install` lays down works without the source tree.
local shell = require "spec.support.shell"

local build = os.getenv("CRUCIBLE_BUILD") or "build/release"

-- The sanitizers' builds are not for installing.
if build:match("[^/]*$") ~= "release" then return end

local HOST = [[
#include <crucible.h>
#include <stdio.h>

int main(void)
{
    cr_model *model = NULL;
    int code = cr_model_open(&model, "absent.gguf");
    printf("%s %s\n", cr_code_name(code), cr_kernel_name());
    cr_model_close(model);
    return code == CR_ENOTFOUND ? 0 : 1;
}
]]

describe("an installed copy", function()
  local prefix

  setup(function()
    prefix = shell.temporary_folder()
    local output, status = shell.run(("cmake --install %s --prefix %s"):format(shell.quote(build), prefix))
    assert.equal(0, status, output)
  end)
  teardown(function() shell.remove_tree(prefix) end)

  local function in_prefix(command)
    return shell.run(("cd %s && unset LUA_PATH LUA_CPATH LUA_INIT && %s"):format(prefix, command))
  end

  it("has every part in its place", function()
    for _, path in ipairs {
      "lib/lua/5.4/crucible/core.so", "share/lua/5.4/crucible/init.lua", "share/lua/5.4/crucible/lora/config.lua",
      "lib/libcrucible.a", "include/crucible.h", "include/crucible_lua.h", "lib/pkgconfig/crucible.pc", "bin/crucible",
      "share/lua/5.4/crucible/report/page.css", "share/lua/5.4/crucible/report/page.js",
    } do
      local handle = io.open(prefix .. "/" .. path)
      assert.truthy(handle, path .. " is not there")
      handle:close()
    end
  end)

  it("loads in the stock interpreter", function()
    local output, status = in_prefix(
      [[LUA_PATH='share/lua/5.4/?.lua;share/lua/5.4/?/init.lua;;' LUA_CPATH='lib/lua/5.4/?.so;;' \
        lua5.4 -e 'assert(require("crucible").lora); print(require("crucible.core").kernel_name())']])
    assert.equal(0, status, output)
    assert.truthy(output:match("^%w+\n$"), output)
  end)

  it("has the program crucible, from anywhere", function()
    local output, status = shell.run(("cd / && unset CRUCIBLE_BUILD LUA_PATH LUA_CPATH && %s/bin/crucible --version")
      :format(prefix))
    assert.same({ require("crucible")._VERSION .. "\n", 0 }, { output, status })
  end)

  it("writes reports", function()
    shell.write(prefix .. "/run/telemetry.jsonl", '{"step": 1, "loss": 2}\n')
    local output, status = in_prefix "bin/crucible report run && grep -c '<h1>' run/report.html"
    assert.same({ "run/report.html\n1\n", 0 }, { output, status })
  end)

  it("exports nothing but luaopen_*", function()
    local output, status = in_prefix("nm -D --defined-only lib/lua/5.4/crucible/core.so")
    assert.equal(0, status, output)
    local found = 0
    for name in output:gmatch("%s([%w_]+)\n") do
      assert.truthy(name:match("^luaopen_crucible_core"), name .. " is exported")
      found = found + 1
    end
    assert.is_true(found > 0)
  end)

  it("leaves no symbol of its own to be found later", function()
    local output, status = in_prefix("nm -D --undefined-only lib/lua/5.4/crucible/core.so")
    assert.equal(0, status, output)
    assert.is_nil(output:match("%scr_[%w_]+"))
  end)

  it("links a C program against the static library", function()
    shell.write(prefix .. "/host.c", HOST)
    local output, status = in_prefix(
      "PKG_CONFIG_PATH=$PWD/lib/pkgconfig && export PKG_CONFIG_PATH && " ..
      "cc -std=c11 host.c $(pkg-config --static --cflags --libs crucible) -o host && ./host")
    assert.equal(0, status, output)
    assert.truthy(output:match("^not_found %w+\n$"), output)
  end)
end)
