-- Makes what examples/data/scifact holds out of SciFact's released files:
--
--     scripts/make_scifact.lua FOLDER [OUT]
--
-- FOLDER holds claims_train.jsonl, claims_dev.jsonl and corpus.jsonl. OUT (default: examples/data/scifact)
-- receives the claims as they are, abstracts.jsonl (the lines of the corpus that are evidence for a claim)
-- and the verification rows. Needs crucible on LUA_PATH and LUA_CPATH, as scripts/test sets them.
local json = require "crucible.json"
local scifact = require "crucible.datasets.scifact"

local folder, out = arg[1], arg[2] or "examples/data/scifact"
if not folder then
  io.stderr:write("usage: lua5.4 scripts/make_scifact.lua FOLDER [OUT]\n")
  os.exit(2)
end

local function read(name)
  local file = assert(io.open(folder .. "/" .. name, "rb"))
  return file:read "a", file:close()
end

local function write(name, lines)
  local file = assert(io.open(out .. "/" .. name, "wb"))
  assert(file:write(table.concat(lines)))
  assert(file:close())
  print(("%s/%s: %d rows"):format(out, name, #lines))
end

local function write_claims(split, evidence)
  local lines = {}
  for line in read("claims_" .. split .. ".jsonl"):gmatch "[^\n]+\n" do
    lines[#lines + 1] = line
    for id in pairs(json.decode(line).evidence) do evidence[math.tointeger(tonumber(id))] = true end
  end
  write("claims_" .. split .. ".jsonl", lines)
end

local function write_abstracts(evidence)
  local lines = {}
  for line in read("corpus.jsonl"):gmatch "[^\n]+\n" do
    if evidence[json.decode(line).doc_id] then lines[#lines + 1] = line end
  end
  write("abstracts.jsonl", lines)
end

local function write_rows(split)
  local rows = assert(scifact.from_release(folder .. "/claims_" .. split .. ".jsonl", folder .. "/corpus.jsonl"))
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = json.encode(row) .. "\n" end
  write("verification_" .. split .. ".jsonl", lines)
end

local evidence = {}
for _, split in ipairs { "train", "dev" } do
  write_claims(split, evidence)
  write_rows(split)
end
write_abstracts(evidence)
