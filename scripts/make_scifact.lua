-- Makes the verification rows of SciFact out of the released files:
--
--     scripts/make_scifact.lua FOLDER [OUT]
--
-- FOLDER holds claims_train.jsonl, claims_dev.jsonl and corpus.jsonl; OUT (default:
-- examples/data/scifact) receives verification_train.jsonl and verification_dev.jsonl. Needs
-- crucible on LUA_PATH and LUA_CPATH, as scripts/test sets them.
local json = require "crucible.json"
local scifact = require "crucible.datasets.scifact"

local folder, out = arg[1], arg[2] or "examples/data/scifact"
if not folder then
  io.stderr:write("usage: lua5.4 scripts/make_scifact.lua FOLDER [OUT]\n")
  os.exit(2)
end

for _, split in ipairs(scifact.splits) do
  local rows = assert(scifact.from_release(folder .. "/claims_" .. split .. ".jsonl", folder .. "/corpus.jsonl"))
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = json.encode(row) .. "\n" end
  local path = ("%s/verification_%s.jsonl"):format(out, split)
  local file = assert(io.open(path, "wb"))
  assert(file:write(table.concat(lines)))
  assert(file:close())
  print(("%s: %d rows"):format(path, #rows))
end
