-- Feeds broken templates to the interpreter for a while: every one must give a text or one error, in bounded time
-- and memory.
--
--   lua5.4 scripts/fuzz_templates.lua [seconds] [seed]      default: 60, of the clock; needs a build, $CRUCIBLE_BUILD or
--                                                           build/release
--
-- Seeds are the templates of spec/fixtures/chat and spec/support/hostile_templates.lua. What fails is kept in
-- build/fuzz/crashes/, named after its seed, and the exit status is 1.
package.path = "lua/?.lua;lua/?/init.lua;./?.lua;" .. package.path
package.cpath = (os.getenv "CRUCIBLE_BUILD" or "build/release") .. "/lua5.4/?.so;" .. package.cpath

local hostile = require "spec.support.hostile_templates"
local jinja = require "crucible.jinja"
local json = require "crucible.json"

local seconds, seed = tonumber(arg[1] or 60), math.tointeger(tonumber(arg[2] or os.time()))
math.randomseed(seed)

local LIMITS = { steps = 50000, bytes = 1 << 23, depth = 400, output = 1 << 20 }
local MOST_SECONDS, MOST_KB, MOST_BYTES = 5, 256 * 1024, 20000

local function read(name)
  local file <close> = assert(io.open("spec/fixtures/chat/" .. name, "rb"))
  return assert(json.decode(file:read "a"))
end

local language, families = read "language.json", read "families.json"

local function seeds()
  local list = {}
  for _, case in ipairs(language.cases) do list[#list + 1] = case[1] end
  for _, family in ipairs(families.families) do list[#list + 1] = family.source end
  for _, source in pairs(hostile) do
    if #source < MOST_BYTES then list[#list + 1] = source end
  end
  return list
end

local words = {
  "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "|", "(", ")", "[", "]", "{", "}", "'", '"', "~", "**", "//", ".",
  "for x in messages", "endfor", "if true", "else", "elif x", "endif", "set x = 1", "set ns.x = 1", "endset",
  "macro f(a=1)", "endmacro", "f()", "loop.index", "messages", "row", "range(9)", "namespace(x=1)", "tojson", "trim",
  "[::-1]", "is defined", "not", "in", "and", "or", "none", "raw", "endraw", "break", "continue", "generation",
  "endgeneration", "\\u00e9", "1e308", "9223372036854775807", "'a' * 99999", "\n", "\0", "\xFF", "é",
}

local changes = {
  function(text, at) return text:sub(1, at - 1) .. text:sub(at + math.random(8)) end,
  function(text, at) return text:sub(1, at - 1) .. words[math.random(#words)] .. text:sub(at) end,
  function(text, at) return text:sub(1, at - 1) .. " " .. words[math.random(#words)] .. " " .. text:sub(at) end,
  function(text, at) return text:sub(1, at - 1) .. string.char(math.random(0, 255)) .. text:sub(at + 1) end,
  function(text, at)
    local last = math.min(#text, at + math.random(40))
    return text:sub(1, last) .. text:sub(at, last):rep(math.random(3)) .. text:sub(last + 1)
  end,
  function(text, at, other)
    local from = math.random(#other + 1)
    return text:sub(1, at - 1) .. other:sub(from, from + math.random(60)) .. text:sub(at)
  end,
}

local function mutated(list)
  local text = list[math.random(#list)]
  for _ = 1, math.random(6) do
    text = changes[math.random(#changes)](text, math.random(#text + 1), list[math.random(#list)])
  end
  return text:sub(1, MOST_BYTES)
end

local codes = { format = true, unsupported = true, data = true }

-- What is wrong with how a template ended, or nil.
local function fault_of(source)
  local template, message, code = jinja.compile(source)
  local text
  if template then text, message, code = template:render(language.given, { limits = LIMITS }) end
  if text then return type(text) ~= "string" and "gave a " .. type(text) or nil end
  if not codes[code] then return "code " .. tostring(code) end
  if type(message) ~= "string" or message:find "\n" or #message > 600 then return "message " .. tostring(message) end
end

local function keep(source, number, why)
  os.execute "mkdir -p build/fuzz/crashes"
  local path = ("build/fuzz/crashes/template-%d-%d"):format(seed, number)
  local file <close> = assert(io.open(path, "wb"))
  file:write(source)
  io.stderr:write(("%s: %s\n"):format(path, why))
end

local list, count, texts, began = seeds(), 0, 0, os.time()
while os.time() - began < seconds do
  local source = mutated(list)
  count = count + 1
  collectgarbage "step"
  local start = os.clock()
  local ok, why = xpcall(fault_of, debug.traceback, source)
  if not why and os.clock() - start > MOST_SECONDS then why = ("took %.1f s"):format(os.clock() - start) end
  if not why and collectgarbage "count" > MOST_KB then why = "held more than its memory" end
  if not ok or why then
    keep(source, count, why)
    os.exit(1)
  end
  texts = texts + 1
end
print(("templates: %d inputs of seed %d, no finding"):format(texts, seed))
