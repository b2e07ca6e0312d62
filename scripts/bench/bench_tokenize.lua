-- The Lua half of bench_tokenize: runs crucible and asks the Python half to take its turn.
local datums = require "crucible.lora.datums"
local dataset_integration = require "crucible.lora.dataset_integration"
local fs = require "crucible.fs"
local terminal = require "crucible.terminal"
local tokenizer = require "crucible.tokenizer"
local models = require "crucible.models"

local threads, repeats = math.tointeger(tonumber(os.getenv "BENCH_THREADS")), tonumber(os.getenv "BENCH_REPEATS")
local MODEL = "smollm2-135m-instruct"

local rows = assert(dataset_integration.prepare_dataset(os.getenv "BENCH_DATA", { formatter = "gsm8k" }))
local tok = assert(tokenizer.open(MODEL))
local texts, bytes = {}, 0
for _, row in ipairs(rows) do
  texts[#texts + 1] = row.input
  texts[#texts + 1] = tokenizer.seam(row.input, row.output) .. row.output
  bytes = bytes + #row.input + #texts[#texts]
end

local texts_path = os.tmpname()
local file = assert(io.open(texts_path, "wb"))
for _, text in ipairs(texts) do file:write(string.pack("<s4", text)) end
file:close()

local command = ("RAYON_NUM_THREADS=%d TOKENIZERS_PARALLELISM=true %s scripts/bench/bench_tokenize.py %s %s"):format(
  threads, os.getenv "PYTHON" or "python3", assert(models.resolve(MODEL)), texts_path)

local digest
local elapsed, busy = {}, {}

local function add(name, seconds, processor)
  elapsed[name], busy[name] = elapsed[name] or {}, busy[name] or {}
  table.insert(elapsed[name], seconds)
  table.insert(busy[name], processor)
end

-- os.clock counts the processor time of all threads.
local function timed(name, run)
  collectgarbage()
  local started, started_busy = fs.clock(), os.clock()
  local value = run()
  add(name, fs.clock() - started, os.clock() - started_busy)
  return value
end

local function peer()
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do
    local name, seconds, processor = line:match "^(.-)\t([%d.]+)\t([%d.]+)$"
    if name then add(name, tonumber(seconds), tonumber(processor)) else digest = line:match "^digest\t(.*)$" end
  end
  pipe:close()
end

local ids
for _ = 1, repeats do
  ids = timed("crucible: ids in hand", function() return assert(tok:encode_all(texts, false, threads)) end)
  timed("crucible: datums", function() return (assert(datums.build(tok, rows, { threads = threads }))) end)
  peer()
end
os.remove(texts_path)

local count, parts = 0, {}
for i, list in ipairs(ids) do
  count = count + #list
  parts[i] = table.concat(list, " ") .. "\n"
end
print(("%d rows, %d texts, %.2f MB, %d tokens, %d threads"):format(#rows, #texts, bytes / 1e6, count, threads))
print("ids are " .. (fs.sha256(table.concat(parts)) == digest and "the same" or "NOT the same"))
local names, shown = {}, {}
for name in pairs(elapsed) do names[#names + 1] = name end
table.sort(names)
for i, name in ipairs(names) do
  table.sort(elapsed[name])
  table.sort(busy[name])
  local best, middle = elapsed[name][1], (#elapsed[name] + 1) // 2
  shown[i] = { name, best * 1e3, elapsed[name][middle] * 1e3, busy[name][1] * 1e3, count / best / 1e6 }
end
io.write(terminal.table({ "", "best ms", "median ms", "best CPU ms", "M tokens/s" }, shown))
