-- Checks that includes and requires only point left (csrc/README.md), that what one floor alone may
-- touch stays there, and that the core neither prints nor ends the process.
--
--   lua5.4 scripts/check_layers.lua [root]
--
-- Prints one `file:line: message` a violation; the exit status is 1 when there is any.

-- Left to right: a file may include its own floor and the floors before it.
local FLOORS = { "base", "math", "file", "net", "text", "model", "lora", "train" }

-- What a file may include beyond the rule above.
local PUBLIC_HEADERS = { ["include/crucible.h"] = true, ["include/crucible_lua.h"] = true }
local SEES_EVERY_FLOOR = { -- specs reach kernels through these
  ["csrc/bind/debug.c"] = true,
  ["csrc/bind/debug_math.c"] = true,
  ["csrc/bind/debug_tensor.c"] = true,
}
local ALSO_SEES = {
  ["csrc/bind/fs.c"] = "file", -- durable files and digests for Lua
  ["csrc/bind/http.c"] = "net",
  ["csrc/bind/json.c"] = "file",
  ["csrc/bind/rows.c"] = "file",
  ["csrc/bind/tinker.c"] = "net",
  ["csrc/bind/gguf.c"] = "file",
}

-- System headers and calls that belong to one place. `only`: folders or files that may.
local OWNED_HEADERS = {
  { names = { "lua.h", "lauxlib.h", "lualib.h", "luaconf.h" }, only = { "csrc/bind/" }, what = "Lua" },
  { names = { "pthread.h", "threads.h", "omp.h" }, only = { "csrc/base/parallel.c", "csrc/base/ahead.c" },
    what = "threads" },
  { names = { "pcre2.h" }, only = { "csrc/text/", "csrc/fuzz/fuzz_regex.c" }, what = "PCRE2" },
  { names = { "curl/curl.h", "curl/multi.h", "curl/easy.h" }, only = { "csrc/net/" }, what = "libcurl" },
  { names = { "histedit.h" }, only = { "csrc/bind/editline.c" }, what = "libedit" },
  { names = { "archive.h", "archive_entry.h" }, only = { "csrc/file/" }, what = "libarchive" },
}
local OWNED_CALLS = {
  {
    names = { "open", "openat", "creat", "fopen", "freopen", "mmap", "munmap", "opendir", "mkdir", "rmdir",
      "unlink", "remove", "rename", "fsync", "mkstemp" },
    -- parallel.c reads the control group's processor quota.
    only = { "csrc/file/", "csrc/fuzz/", "csrc/base/parallel.c" },
    message = "%s(): only file/ knows the file system",
  },
  {
    names = { "exit", "_exit", "_Exit", "quick_exit", "abort", "assert", "raise" },
    only = { "csrc/fuzz/" },
    message = "%s(): the core returns a code, it never ends the process",
  },
  {
    names = { "printf", "fprintf", "vprintf", "vfprintf", "dprintf", "puts", "fputs", "putchar", "putc", "fputc",
      "perror" },
    only = { "csrc/fuzz/" },
    message = "%s(): the core never prints",
  },
}

-- The Lua files that may require the C module; everything else goes through them.
local CORE_USERS = {
  ["lua/crucible/adapters/local.lua"] = true,
  ["lua/crucible/adapters/tinker/codec.lua"] = true,
  ["lua/crucible/adapters/tinker/loop.lua"] = true,
  ["lua/crucible/cli/doctor.lua"] = true,
  ["lua/crucible/datasets/files.lua"] = true,
  ["lua/crucible/docs.lua"] = true,
  ["lua/crucible/download.lua"] = true,
  ["lua/crucible/domain/topology.lua"] = true,
  ["lua/crucible/encoder.lua"] = true,
  ["lua/crucible/init.lua"] = true,
  ["lua/crucible/json.lua"] = true,
  ["lua/crucible/lora/patterns.lua"] = true,
  ["lua/crucible/lora/token_cache.lua"] = true,
  ["lua/crucible/model.lua"] = true,
  ["lua/crucible/models.lua"] = true,
  ["lua/crucible/signals.lua"] = true,
  ["lua/crucible/tensor/graph.lua"] = true,
  ["lua/crucible/tokenizer.lua"] = true,
  ["lua/crucible/fs.lua"] = true,
  ["lua/crucible/gguf.lua"] = true,
}

-- ---- reading ------------------------------------------------------------------------------------

local C_SYNTAX = {
  { open = "^/%*", close = "%*/", comment = true },
  { open = "^//", close = "\n", comment = true, keeps_close = true },
  { open = '^"', close = '"', escapes = true },
  { open = "^'", close = "'", escapes = true },
}
local LUA_SYNTAX = {
  { open = "^%-%-%[(=*)%[", close = "%%]%s%%]", comment = true },
  { open = "^%-%-", close = "\n", comment = true, keeps_close = true },
  { open = "^%[(=*)%[", close = "%%]%s%%]" },
  { open = '^"', close = '"', escapes = true },
  { open = "^'", close = "'", escapes = true },
}

-- Position of the last byte of the piece that `syntax` opened just before `at`.
local function find_end(text, at, syntax, level)
  local close = level and syntax.close:format(level) or syntax.close
  while true do
    local first, last = text:find(close, at)
    if not first then return #text end
    local slashes = syntax.escapes and #text:sub(at, first - 1):match("\\*$") or 0
    if slashes % 2 == 0 then return syntax.keeps_close and first - 1 or last end
    at = last + 1
  end
end

local function piece_at(text, at, syntaxes)
  for _, syntax in ipairs(syntaxes) do
    local _, last, level = text:find(syntax.open, at)
    if last then return syntax, find_end(text, last + 1, syntax, level) end
  end
end

local function blank(text) return (text:gsub("[^\n]", " ")) end

-- The text with comments (and, on request, strings) blanked; lines keep their numbers.
local function code_of(text, syntaxes, without_strings)
  local out, at = {}, 1
  while at <= #text do
    local syntax, last = piece_at(text, at, syntaxes)
    last = last or at
    local piece = text:sub(at, last)
    local hidden = syntax and (syntax.comment or without_strings)
    out[#out + 1] = hidden and blank(piece) or piece
    at = last + 1
  end
  return table.concat(out)
end

local function lines_of(text)
  local number = 0
  local next_line = text:gmatch("([^\n]*)\n?")
  return function()
    number = number + 1
    local line = next_line()
    if line then return number, line end
  end
end

local function read_file(path)
  local handle = assert(io.open(path, "rb"))
  local text = handle:read("a")
  handle:close()
  return text
end

-- Files under root/folder whose names end in one of `endings`, relative to root and sorted.
local function list_files(root, folder, endings)
  local tests = {}
  for _, ending in ipairs(endings) do tests[#tests + 1] = ("-name '*%s'"):format(ending) end
  local command = ("cd '%s' && find %s -type f \\( %s \\) 2>/dev/null | LC_ALL=C sort")
    :format(root:gsub("'", "'\\''"), folder, table.concat(tests, " -o "))
  local files = {}
  local pipe = assert(io.popen(command))
  for path in pipe:lines() do files[#files + 1] = path end
  pipe:close()
  return files
end

-- ---- rules --------------------------------------------------------------------------------------

local function allowed(path, only)
  for _, prefix in ipairs(only) do
    if path == prefix or (prefix:sub(-1) == "/" and path:sub(1, #prefix) == prefix) then return true end
  end
  return false
end

local RANK = {}
for rank, floor in ipairs(FLOORS) do RANK[floor] = rank end

local function may_include(path, floor, header, target)
  if SEES_EVERY_FLOOR[path] or ALSO_SEES[path] == target then return true end
  if floor == "bind" then return target == "bind" or PUBLIC_HEADERS[header] == true end
  if floor == "fuzz" then return target ~= "bind" and header ~= "include/crucible_lua.h" end
  if floor == "include" then return target == "include" end
  if target == "include" then return header == "include/crucible.h" end
  return RANK[floor] ~= nil and RANK[target] ~= nil and RANK[target] <= RANK[floor]
end

local function check_quoted_include(path, floor, header)
  local target = header:match("^([%w_]+)/")
  -- Public headers lie side by side where they are installed.
  if floor == "include" and PUBLIC_HEADERS["include/" .. header] then return nil end
  if not target then return ('"%s": write the floor\'s name before the header'):format(header) end
  if may_include(path, floor, header, target) then return nil end
  if floor == "bind" then
    return ('"%s": bind/ includes crucible.h, Lua and its own headers only'):format(header)
  end
  return ('"%s": %s/ may not include %s/'):format(header, floor, target)
end

local function check_system_include(path, header)
  for _, owned in ipairs(OWNED_HEADERS) do
    for _, name in ipairs(owned.names) do
      if header == name and not allowed(path, owned.only) then
        return ("<%s>: only %s knows %s"):format(header, owned.only[1], owned.what)
      end
    end
  end
end

local function check_include(path, floor, line)
  local open, header = line:match('^%s*#%s*include%s*(["<])([^">]+)[">]')
  if not open then return nil end
  local problem = check_system_include(path, header)
  if problem or open == "<" then return problem end
  return check_quoted_include(path, floor, header)
end

-- A call is the bare name before "(": not a member, not part of a longer name.
local function calls(line, name)
  local at = 1
  while true do
    local first, last = line:find("%f[%w_]" .. name .. "%s*%(", at)
    if not first then return false end
    local before = line:sub(1, first - 1)
    if not before:find("%.$") and not before:find("%->$") then return true end
    at = last + 1
  end
end

local function check_calls(path, line, report)
  for _, owned in ipairs(OWNED_CALLS) do
    if not allowed(path, owned.only) then
      for _, name in ipairs(owned.names) do
        if calls(line, name) then report(owned.message:format(name)) end
      end
    end
  end
end

local function check_c_file(root, path, report)
  local text = read_file(root .. "/" .. path)
  local floor = path:match("^csrc/([%w_]+)/")
  local known = floor and (RANK[floor] or floor == "bind" or floor == "fuzz" or floor == "include")
  if not known then return report(path, 1, "not on a floor: csrc/README.md lists them") end
  for number, line in lines_of(code_of(text, C_SYNTAX, false)) do
    local problem = check_include(path, floor, line)
    if problem then report(path, number, problem) end
  end
  for number, line in lines_of(code_of(text, C_SYNTAX, true)) do
    check_calls(path, line, function(message) report(path, number, message) end)
  end
end

local function check_lua_file(root, path, report)
  if CORE_USERS[path] then return end
  for number, line in lines_of(code_of(read_file(root .. "/" .. path), LUA_SYNTAX, false)) do
    local name = line:match("%f[%w_]require%s*%(?%s*[\"'](crucible%.core[%w_.]*)[\"']")
    if name then
      report(path, number, ('require "%s": only the files listed in scripts/check_layers.lua may'):format(name))
    end
  end
end

local function check(root)
  local problems = {}
  local function report(path, number, message)
    problems[#problems + 1] = ("%s:%d: %s"):format(path, number, message)
  end
  local c_files = list_files(root, "csrc", { ".c", ".h", ".def" })
  local lua_files = list_files(root, "lua", { ".lua" })
  for _, path in ipairs(c_files) do check_c_file(root, path, report) end
  for _, path in ipairs(lua_files) do check_lua_file(root, path, report) end
  return problems, #c_files + #lua_files
end

local problems, count = check(arg[1] or ".")
for _, problem in ipairs(problems) do print(problem) end
if count == 0 then
  print("check_layers: no source file under " .. (arg[1] or "."))
  os.exit(1)
end
print(("check_layers: %d files, %d violations"):format(count, #problems))
os.exit(#problems == 0)
