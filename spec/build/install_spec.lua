-- What `cmake --install` lays down works without the source tree.
local shell = require "spec.support.shell"

local build = os.getenv("CRUCIBLE_BUILD") or "build/release"

-- The sanitizers' builds are not for installing.
if build:match("[^/]*$") ~= "release" then return end

local root = shell.run("pwd"):gsub("\n", "")
local tiny = root .. "/spec/fixtures/tiny/tiny.gguf"

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
      "lib/libcrucible.a", "lib/libcrucible.so", "lib/libcrucible_lua.a",
      "include/crucible.h", "include/crucible_lua.h",
      "lib/pkgconfig/crucible.pc", "lib/pkgconfig/crucible-lua.pc", "lib/cmake/crucible/crucible-config.cmake",
      "bin/crucible", "share/doc/crucible/README.md", "share/doc/crucible/examples/README.md",
      "share/lua/5.4/crucible/report/page.css", "share/lua/5.4/crucible/report/page.js",
      "share/man/man1/crucible.1", "share/bash-completion/completions/crucible", "share/zsh/site-functions/_crucible",
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

  -- Names that `nm` prints, as a set, and how many.
  local function symbols(arguments)
    local output, status = in_prefix("nm " .. arguments)
    assert.equal(0, status, output)
    local names, count = {}, 0
    for name in output:gmatch("%s[%u] ([%w_.@]+)\n") do
      if not names[name] then names[name], count = true, count + 1 end
    end
    return names, count
  end

  -- The functions that crucible.h or crucible_lua.h declares.
  local function declared(header)
    local names, count = {}, 0
    local text = shell.run("cat " .. prefix .. "/include/" .. header)
    text = text:gsub("/%*.-%*/", ""):gsub("#[^\n]*", "")
    for name in text:gmatch("CR_API [^;]-([%w_]+)%(") do names[name], count = true, count + 1 end
    assert.is_true(count > 0)
    return names
  end

  it("exports from the module luaopen_crucible_core and the two functions for hosts", function()
    assert.same({ luaopen_crucible_core = true, cr_lua_session = true, cr_lua_model = true },
      (symbols "-D --defined-only lib/lua/5.4/crucible/core.so"))
  end)

  it("exports from the shared library what crucible.h declares, and that alone", function()
    assert.same(declared "crucible.h", (symbols "-D --defined-only lib/libcrucible.so"))
  end)

  it("has names of its own in the archives alone", function()
    local names, count = symbols "--defined-only --extern-only lib/libcrucible.a"
    assert.is_true(count > 300)
    for name in pairs(names) do assert.truthy(name:match "^cr_", name) end
    assert.same(declared "crucible_lua.h", (symbols "--defined-only --extern-only lib/libcrucible_lua.a"))
  end)

  it("calls nothing that prints, ends the process or changes what belongs to it", function()
    for _, name in ipairs {
      "exit", "_exit", "abort", "atexit", "printf", "puts", "putchar", "perror", "stdout", "stderr", "setlocale",
      "fesetround", "fesetenv", "feenableexcept", "signal", "sigaction", "raise", "kill", "setenv", "putenv", "chdir",
      "umask", "srand", "system", "fork",
    } do
      local library = symbols "--undefined-only lib/libcrucible.a"
      assert.is_nil(library[name], name)
      if name ~= "sigaction" then -- signals.c, for programs that ask
        assert.is_nil(symbols("--undefined-only lib/libcrucible_lua.a")[name], name)
      end
    end
  end)

  it("leaves no symbol of its own to be found later", function()
    local output, status = in_prefix("nm -D --undefined-only lib/lua/5.4/crucible/core.so")
    assert.equal(0, status, output)
    assert.is_nil(output:match("%scr_[%w_]+"))
  end)

  local function compile(source, program, more)
    return in_prefix(("export PKG_CONFIG_PATH=$PWD/lib/pkgconfig && cc -std=c11 -Wall -Werror %s %s -o %s"):format(
      shell.quote(root .. "/" .. source), more, program))
  end

  it("leaves no symbol undefined where Lua is linked", function()
    local output, status = in_prefix("PKG_CONFIG_PATH=$PWD/lib/pkgconfig && export PKG_CONFIG_PATH && " ..
      "cc -shared -Wl,--no-undefined -Wl,--whole-archive -l:libcrucible_lua.a -Wl,--no-whole-archive " ..
      "-o whole.so $(pkg-config --libs crucible-lua lua5.4)")
    assert.equal(0, status, output)
  end)

  it("links a C program against the shared library, which trains", function()
    local output, status = compile("examples/embed/train.c", "train", "$(pkg-config --cflags --libs crucible)")
    assert.same({ "", 0 }, { output, status })
    assert.truthy(shell.run("ldd " .. prefix .. "/train"):find("libcrucible.so.0", 1, true))
    output, status = in_prefix("LD_LIBRARY_PATH=lib ./train " .. shell.quote(tiny) .. " 2")
    assert.equal(0, status, output)
    assert.truthy(output:find("step 2  loss ", 1, true))
  end)

  it("links the same program statically", function()
    local output, status = compile("examples/embed/train.c", "train_static",
      "$(pkg-config --cflags crucible) lib/libcrucible.a $(pkg-config --libs --static crucible | sed 's/-lcrucible//')")
    assert.same({ "", 0 }, { output, status })
    assert.is_nil(shell.run("ldd " .. prefix .. "/train_static"):find("libcrucible", 1, true))
    output, status = in_prefix("./train_static " .. shell.quote(tiny) .. " 1")
    assert.equal(0, status, output)
  end)

  it("links a host with Lua inside", function()
    local output, status = compile("examples/embed/host.c", "host", "$(pkg-config --cflags --libs lua5.4 crucible-lua)")
    assert.same({ "", 0 }, { output, status })
    output, status = in_prefix(("./host %s %s 2"):format(
      shell.quote(root .. "/examples/embed/host.lua"), shell.quote(tiny)))
    assert.equal(0, status, output)
    assert.truthy(output:find("host: step 2", 1, true))
  end)

  it("is found by CMake", function()
    shell.write(prefix .. "/project/CMakeLists.txt", ([[
cmake_minimum_required(VERSION 3.22)
project(host LANGUAGES C)
find_package(crucible 0.1 REQUIRED)
add_executable(shared %s/examples/embed/train.c)
target_link_libraries(shared PRIVATE crucible::crucible)
add_executable(archive %s/examples/embed/train.c)
target_link_libraries(archive PRIVATE crucible::static)
]]):format(root, root))
    local output, status = in_prefix("cmake -S project -B project/build -DCMAKE_PREFIX_PATH=$PWD >log && " ..
      "cmake --build project/build >>log || { cat log; false; }")
    assert.equal(0, status, output)
    for _, name in ipairs { "shared", "archive" } do
      output, status = in_prefix(("project/build/%s %s 1"):format(name, shell.quote(tiny)))
      assert.equal(0, status, output)
    end
  end)
end)
