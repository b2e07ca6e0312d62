rockspec_format = "3.0"
package = "crucible"
version = "scm-1"

-- `luarocks make` in a checkout builds the files beside this one and never looks here. There is no published archive;
-- `git archive --prefix=crucible-scm-1/ -o crucible-scm-1.tar.gz HEAD` makes the one that `luarocks build` and
-- `luarocks pack` of this file take.
source = { url = "file://crucible-scm-1.tar.gz", dir = "crucible-scm-1" }

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
}

-- By their libraries alone: Debian keeps some headers in a folder of the architecture, where CMake finds them by
-- pkg-config and luarocks does not look.
external_dependencies = {
  PCRE2 = { header = "pcre2.h", library = "pcre2-8" },
  CURL = { library = "curl" },
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

test_dependencies = { "busted", "luasocket", "lua-cjson" }
test = { type = "command", command = "scripts/specs build.luarocks" }
