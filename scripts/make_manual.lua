-- Writes the manual page of the program and the completions of bash and zsh into a folder, for `cmake --install`.
--
--   lua5.4 scripts/make_manual.lua FOLDER [folder of crucible/core.so]
local folder, core = arg[1], arg[2] or "build/release/lua5.4"
if not folder then
  io.stderr:write "usage: lua5.4 scripts/make_manual.lua FOLDER [folder of crucible/core.so]\n"
  os.exit(2)
end
local root = arg[0]:match "^(.*)/scripts/[^/]*$" or "."
package.path = ("%s/lua/?.lua;%s/lua/?/init.lua;%s"):format(root, root, package.path)
package.cpath = ("%s/?.so;%s"):format(core, package.cpath)

local fs = require "crucible.fs"
local manual = require "crucible.manual"

local made = { ["crucible.1"] = manual.page, ["crucible.bash"] = manual.bash, ["_crucible"] = manual.zsh }
assert(fs.make_folder(folder))
for name, text in pairs(made) do assert(fs.write_file(folder .. "/" .. name, text())) end
