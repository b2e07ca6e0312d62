rockspec_format = "3.0"
package = "crucible"
version = "scm-1"

-- There is no public archive yet: `luarocks make` in a checkout builds and installs it.
source = { url = "git+file://." }

description = {
  summary = "LoRA fine-tuning of language models on the CPU",
  detailed = [[
A fast C core (transformer forward and backward over quantised, memory-mapped weights, LoRA branches,
AdamW, generation) behind one Lua module, with experiments, data sets, losses, training loop and
evaluation as Lua scripts.]],
  license = "Apache-2.0",
  labels = { "machine-learning", "llm", "lora" },
}

supported_platforms = { "linux", "macosx" }

dependencies = {
  "lua >= 5.4, < 5.5",
  "lua-cjson >= 2.1",
}

external_dependencies = {
  PCRE2 = { header = "pcre2.h", library = "pcre2-8" },
  CURL = { header = "curl/curl.h", library = "curl" },
  ARCHIVE = { header = "archive.h", library = "archive" },
  UTF8PROC = { header = "utf8proc.h", library = "utf8proc" },
}

build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "Release",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    CR_LUA_LIBDIR = "$(LIBDIR)",
    CR_LUA_SHAREDIR = "$(LUADIR)",
  },
}

test_dependencies = { "busted", "luasocket" }
test = { type = "command", command = "scripts/specs build.luarocks" }
