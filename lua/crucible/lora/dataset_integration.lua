-- Rows for training and evaluation, `{ input, output, metadata }`, out of a named data set, a data file
-- (JSON Lines, JSON, CSV, TSV, text; plain or compressed) or a table.
--
-- Which function turns a raw row into that shape: the option `transform`, else `formatter`, else
-- the data set's own, else rows must carry input and output already.
local chat = require "crucible.chat"
local errors = require "crucible.errors"
local files = require "crucible.datasets.files"
local lists = require "crucible.lists"
local opening = require "crucible.datasets.opening"
local paths = require "crucible.paths"
local random = require "crucible.random"
local rows_module = require "crucible.lora.rows"
local schema = require "crucible.schema"
local suggest = require "crucible.suggest"

local dataset_integration = {}

---@class crucible.lora.Row
---@field input string
---@field output string
---@field metadata table
---@field weight number?  of every token of the output; 1 if nil
---@field messages crucible.chat.Message[]?  of a conversation; input and output are then for readers
---@field template string?  of crucible.chat.templates()
---@field train_on string?  of crucible.chat.train_on

---@class crucible.lora.Dataset  a named data set
---@field name string
---@field formatter string|function|nil  used unless an option says otherwise
---@field labels string[]|(fun(options: table): string[])|nil  what outputs can be
---@field splits string[]
---@field unlabelled string[]?  splits that come with labels = "all" alone
---@field fallback table<string, string>?  split that evaluation takes when the asked one has no labels
---@field folder string?      in which it lies among the data folders; default: its name
---@field options string[]?    row options that it alone understands, given to open
---@field files table<string, crucible.datasets.File[]>?  what is fetched for a split that no folder has
---@field open (fun(folder: string, split: string, options: table): function?, string?, string?)?  reader of rows, its path; or nil; default: the first of `files`
---@field advice (fun(split: string): string)?  what to put where
---@field source string?   where it is published
---@field licence string?
---@field citation string?

local datasets = {
  scifact = "crucible.datasets.scifact", scifact_cns = "crucible.datasets.scifact_cns",
  fever = "crucible.datasets.fever", gsm8k = "crucible.datasets.gsm8k",
}
local formatters = {
  scifact = "crucible.formatters.scifact", fever = "crucible.formatters.fever", gsm8k = "crucible.formatters.gsm8k",
  scifact_cns = "crucible.formatters.scifact_cns", alpaca = "crucible.formatters.alpaca",
  chat = "crucible.formatters.chat", preference = "crucible.formatters.preference", text = "crucible.formatters.text",
}

local function sorted_names(registry)
  local names = {}
  for name in pairs(registry) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- Modules of the library are loaded when they are first asked for.
local function lookup(registry, name)
  local found = registry[name]
  if type(found) == "string" then
    found = require(found)
    registry[name] = found
  end
  return found
end

--- Names of the data sets, sorted.
---@return string[]
function dataset_integration.datasets() return sorted_names(datasets) end

--- Names of the formatters, sorted.
---@return string[]
function dataset_integration.formatters() return sorted_names(formatters) end

--- The formatter of a name: a function from a raw row to { input, output, metadata }. Raises on
--- an unknown name.
---@param name string
---@return fun(example: table): crucible.lora.Row
function dataset_integration.formatter(name)
  local found = lookup(formatters, name)
  if not found then
    errors.raise('unknown formatter "%s"%s', tostring(name), suggest.phrase(tostring(name), sorted_names(formatters)))
  end
  return found
end

--- The data set of a name, or nil.
---@param name any
---@return crucible.lora.Dataset?
function dataset_integration.find(name) return type(name) == "string" and lookup(datasets, name) or nil end

local function check_name(kind, name, registry)
  if type(name) ~= "string" or not name:find("^[%w_%-]+$") then
    errors.raise("register_%s: a name is letters, digits, '_' and '-', got %s", kind, schema.show(name))
  end
  if registry[name] then errors.raise('register_%s: "%s" is registered already, expected another name', kind, name) end
end

--- Registers a formatter. Raises when the name is taken.
---@param name string
---@param formatter fun(example: table): crucible.lora.Row
function dataset_integration.register_formatter(name, formatter)
  check_name("formatter", name, formatters)
  if not schema.callable.read(formatter) then
    errors.raise("register_formatter: expected a function, got %s", schema.show(formatter))
  end
  formatters[name] = formatter
end

local dataset_options = schema.new("register_dataset", {
  { name = "open", check = schema.callable, doc = "(folder, split) → reader of rows, path" },
  { name = "files", check = schema.table, doc = "split → list of { name, url, sha256, size }, fetched when absent" },
  { name = "splits", default = { "train" }, check = schema.list(schema.string, { nonempty = true }), doc = "names" },
  { name = "formatter", check = schema.either(schema.string, schema.callable), doc = "of its rows" },
  { name = "folder", check = schema.nonempty_string, doc = "its own among the data folders; default: its name" },
  { name = "options", check = schema.list(schema.string), doc = "row options that it alone understands" },
  { name = "labels", check = schema.list(schema.string), doc = "what outputs can be" },
  { name = "fallback", check = schema.table, doc = "split taken by evaluation for another without labels" },
  { name = "advice", check = schema.callable, doc = "(split) → what to put where" },
  { name = "source", check = schema.string, doc = "where it is published" },
  { name = "licence", check = schema.string, doc = "shown when it is fetched" },
  { name = "citation", check = schema.string, doc = "shown when it is fetched" },
})

--- Registers a data set. `open(folder, split)` is asked for each folder searched and returns a
--- reader (a function that returns a row and its number, nil at the end, or nil, message, code)
--- and the path it reads; or nil when the folder does not have it. With `files` (by split; the first
--- is the one that holds rows) `open` may be left out, and what no folder has is fetched.
---@param name string
---@param spec table
function dataset_integration.register_dataset(name, spec)
  check_name("dataset", name, datasets)
  local dataset = dataset_options:resolve(spec)
  if not dataset.open and not dataset.files then
    errors.raise('register_dataset: "%s" has neither open nor files: one of them says where its rows are', name)
  end
  dataset.name = name
  datasets[name] = dataset
end

-- ---- opening -------------------------------------------------------------------------------

-- A reader of raw rows, what it reads in words, and the data set if it is a named one.
local function open(source, options)
  if type(source) == "table" then return opening.table(source) end
  if type(source) ~= "string" then
    errors.raise("a dataset is a name, the path of a data file or a table of rows, got %s", schema.show(source))
  end
  local dataset = dataset_integration.find(source)
  if dataset then
    local next_row, path, code = opening.named(dataset, options)
    return next_row, path, code, dataset
  end
  if source:find("/", 1, true) or source:find("%.%w+$") or paths.is_file(source) then
    return opening.file(source, options)
  end
  return errors.failure("not_found", 'unknown dataset "%s"%s (the path of a data file works too)', source,
    suggest.phrase(source, sorted_names(datasets)))
end

-- ---- rows ----------------------------------------------------------------------------------

local function pass_through(example) return example end

local function row_function(options, dataset)
  local chosen = options.transform or options.formatter or (dataset and dataset.formatter) or pass_through
  if type(chosen) == "string" then return dataset_integration.formatter(chosen) end
  return chosen
end

local function is_columns(value)
  if type(value) ~= "table" or next(value) == nil then return false end
  for key, path in pairs(value) do
    if type(path) ~= "string" or path == "" then return false end
    if type(key) ~= "string" and math.type(key) ~= "integer" then return false end
  end
  return true
end

local common_entries = {
  { name = "split", default = "train", check = schema.nonempty_string, doc = "of a named data set" },
  { name = "path", check = schema.nonempty_string, doc = "file or folder of a named data set" },
  { name = "transform", check = schema.callable, doc = "(raw row) → { input, output, metadata }" },
  { name = "formatter", check = schema.either(schema.nonempty_string, schema.callable), doc = "the same, by name" },
  { name = "columns", check = schema.test("a list of keys, or a table of new key → key", is_columns),
    doc = "keys to keep of raw rows; a key may be a path: answers.0.text" },
  { name = "format", check = schema.one_of(files.formats), doc = "of a file; default: by its name or content" },
  { name = "max_row_bytes", check = schema.integer { min = 1, max = 1 << 31 },
    doc = "of a file: a longer row is a bad one; default: 16 MiB" },
  { name = "on_bad_row", default = "stop", check = schema.one_of { "stop", "skip" },
    doc = "what a row that cannot be read or formatted does; skipped ones are counted" },
  { name = "filter", check = schema.callable, doc = "(raw row) → false to leave it out" },
  { name = "limit", check = schema.integer { min = 0 }, doc = "rows at most" },
  { name = "template", check = schema.one_of(chat.templates()), doc = "of messages; default: the model's own" },
  { name = "train_on", check = chat.train_on, doc = "of messages; default: last_assistant" },
  { name = "download", default = true, check = schema.boolean, doc = "fetch a named data set that is not here" },
  { name = "labels", check = schema.one_of { "evidence", "all" },
    doc = "of scifact: the rows with evidence, or all; default: evidence" },
  { name = "distractors", check = schema.integer { min = 0 }, doc = "of scifact_cns: other abstracts in each prompt" },
  { name = "distractors_seed", check = schema.integer(), doc = "of the choice of distractors; default: 0" },
}

-- Options that only some data sets understand.
local special_options = { "labels", "distractors", "distractors_seed" }

local function check_special_options(source, dataset, options)
  for _, name in ipairs(special_options) do
    if options[name] ~= nil and not (dataset and lists.contains(dataset.options or {}, name)) then
      errors.raise('%s is no option of the dataset %s', name, type(source) == "string" and source or "given as a table")
    end
  end
end

local function with(entries, more)
  local joined = table.move(entries, 1, #entries, 1, {})
  return table.move(more, 1, #more, #joined + 1, joined)
end

local prepare_options = schema.new("prepare_dataset", with(common_entries, {
  { name = "shuffle", default = false, check = schema.boolean, doc = "in an order of the seed, before the limit" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of the shuffle" },
}))
local stream_options = schema.new("stream_dataset", with(common_entries, {
  { name = "shuffle", default = false, check = schema.boolean, doc = "within a buffer that moves along the rows" },
  { name = "seed", default = 0, check = schema.integer(), doc = "of the shuffle" },
  { name = "shuffle_buffer", default = 1024, check = schema.integer { min = 1 }, doc = "rows in it" },
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a batch; the last may be short" },
}))

--- The options that say which rows, for functions that hand them on to prepare_dataset.
dataset_integration.row_options = schema.new("rows", common_entries)

-- Whether a row passes the filter; nil, why when the filter raised.
local function passes(filter, example)
  local ok, kept = pcall(filter, example)
  if not ok then return nil, "the filter failed: " .. tostring(kept) end
  return kept and true or false
end

local KEPT_MESSAGES = 10

-- Counts a bad row that may be skipped; else nil, its message and code.
local function skip(info, options, message, code)
  if options.on_bad_row ~= "skip" then return nil, message, code end
  info.skipped = info.skipped + 1
  if #info.skipped_rows < KEPT_MESSAGES then info.skipped_rows[#info.skipped_rows + 1] = message end
  return true
end

-- The finished rows of a raw one: none when it is filtered out; nil, why when it is bad.
local function finish(example, number, pick, transform, options)
  if pick then
    local picked, why = pick(example)
    if not picked then return nil, why end
    example = picked
  end
  if options.filter then
    local kept, why = passes(options.filter, example)
    if why then return nil, why end
    if not kept then return {} end
  end
  return rows_module.convert(example, transform, number, options)
end

-- A reader of finished rows over a reader of raw ones, of which each may give several.
local function converter(next_raw, info, options, dataset)
  local transform, waiting, given = row_function(options, dataset), {}, 0
  local pick = options.columns and files.picker(options.columns)
  return function()
    while given >= #waiting do
      local example, number, code, bad_line = next_raw()
      if code and not bad_line then return nil, number, code end
      if example == nil and not code then return nil end
      local made, why
      if code then why = number else made, why = finish(example, number, pick, transform, options) end
      if made then
        if #made == 1 then return made[1] end
        waiting, given = made, 0
      else
        if not code then why, code = ("%s: row %s: %s"):format(info.source, number, why), "data" end
        local ok, message, failed = skip(info, options, why, code)
        if not ok then return nil, message, failed end
      end
    end
    given = given + 1
    return waiting[given]
  end
end

local function labels_of(dataset, options)
  local labels = dataset and dataset.labels
  if type(labels) == "function" then return labels(options) end
  return labels
end

local function describe(source, where, dataset, options)
  return {
    name = type(source) == "string" and source or "table", source = where,
    split = dataset and options.split or nil, labels = labels_of(dataset, options), skipped = 0, skipped_rows = {},
  }
end

-- A reader of finished rows, and what is read.
local function start(source, options)
  check_special_options(source, dataset_integration.find(source), options)
  local next_raw, where, code, dataset = open(source, options)
  if not next_raw then return nil, where, code end
  local info = describe(source, where, dataset, options)
  return converter(next_raw, info, options, dataset), info
end

local function collect(next_row, limit)
  local rows = {}
  while not limit or #rows < limit do
    local row, message, code = next_row()
    if code then return nil, message, code end
    if not row then break end
    rows[#rows + 1] = row
  end
  return rows
end

local function reorder(rows, options)
  local order, shuffled = random.permutation(#rows, options.seed, 0), {}
  for i = 1, math.min(#rows, options.limit or #rows) do shuffled[i] = rows[order[i]] end
  return shuffled
end

-- A reader in another order: a buffer is filled, and each row that leaves it, drawn at random, is replaced
-- by the next. A row comes at most `size` places early, and about as far late as it is unlucky.
local function buffer_shuffle(next_row, size, seed)
  local draw, buffer, ended = random.generator(seed, 0), {}, false
  local function refill()
    while not ended and #buffer < size do
      local row, message, code = next_row()
      if code then return nil, message, code end
      ended = row == nil
      buffer[#buffer + 1] = row
    end
    return true
  end
  return function()
    local ok, message, code = refill()
    if not ok then return nil, message, code end
    if #buffer == 0 then return nil end
    local place = draw(#buffer)
    local row = buffer[place]
    buffer[place] = buffer[#buffer]
    buffer[#buffer] = nil
    return row
  end
end

---@class crucible.lora.RowOptions
---@field split string?      of a named data set; "train"
---@field path string?       file or folder of a named data set
---@field transform (fun(row: table): crucible.lora.Row)?
---@field formatter string|function|nil
---@field columns string[]|table<string, string>|nil  keys to keep of raw rows, or new key → key; "answers.0.text" is a path
---@field format string?     of a file: jsonl, json, csv, tsv, text; by its name or content
---@field max_row_bytes integer?  of a file: a longer row is a bad one; 16 MiB
---@field on_bad_row "stop"|"skip"|nil  what a row that cannot be read or formatted does; "stop"
---@field filter (fun(row: table): boolean)?  of raw rows, after columns
---@field limit integer?     rows at most
---@field download boolean?  fetch a named data set that is not here; true
---@field labels "evidence"|"all"|nil  of scifact: the rows with evidence (default), or all
---@field shuffle boolean?   before the limit; in a stream within a buffer
---@field shuffle_buffer integer?  stream_dataset alone; 1024 rows
---@field seed integer?      of the shuffle; 0
---@field batch_size integer?  stream_dataset alone; 8

---@class crucible.lora.DatasetInfo
---@field name string    of the data set, or the file's path, or "table"
---@field source string  where the rows came from
---@field split string?
---@field labels string[]?
---@field skipped integer         bad rows left out, with on_bad_row = "skip"
---@field skipped_rows string[]   what was wrong with the first ten

--- All rows of a data set (by name), of a data file (by path) or of a table of raw rows.
--- Second value: what was read, with the number of bad rows that were skipped. Fails with "not_found",
--- "io", "format" (a row that cannot be parsed, with file and line; a damaged file) or "data" (a row of
--- the wrong shape or a formatter that raised, with the row's number: its line in a file).
---@param source string|table[]
---@param options crucible.lora.RowOptions?
---@return crucible.lora.Row[]? rows, crucible.lora.DatasetInfo|string|nil info_or_message, string? code
function dataset_integration.prepare_dataset(source, options)
  local given = prepare_options:resolve(options)
  local next_row, info, code = start(source, given)
  if not next_row then return nil, info, code end
  local rows, message
  rows, message, code = collect(next_row, not given.shuffle and given.limit or nil)
  if not rows then return nil, message, code end
  if given.shuffle then rows = reorder(rows, given) end
  return rows, info
end

--- An iterator of batches in constant memory: `for batch in stream_dataset(source) do … end`. Second
--- value: what is read; its count of skipped rows grows on the way. Files are read and parsed ahead on
--- a thread of their own. `shuffle` draws from a buffer of `shuffle_buffer` rows: the same order for the
--- same seed, but rows far apart in the file stay far apart; prepare_dataset shuffles all. A source that
--- cannot be opened gives nil, message, code; a bad row met on the way raises its message, which names it.
---@param source string|table[]
---@param options crucible.lora.RowOptions?
---@return (fun(): crucible.lora.Row[]?)? next_batch, crucible.lora.DatasetInfo|string|nil info_or_message, string? code
function dataset_integration.stream_dataset(source, options)
  local given = stream_options:resolve(options)
  local next_row, info, code = start(source, given)
  if not next_row then return nil, info, code end
  if given.shuffle then next_row = buffer_shuffle(next_row, given.shuffle_buffer, given.seed) end
  local left = given.limit or math.maxinteger
  return function()
    local batch, message, failed = collect(next_row, math.min(given.batch_size, left))
    if failed then errors.raise("%s", message) end
    left = left - #batch
    return #batch > 0 and batch or nil
  end, info
end

return dataset_integration
