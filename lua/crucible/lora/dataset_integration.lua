-- Rows for training and evaluation, `{ input, output, metadata }`, out of a named data set, a
-- JSONL file or a table.
--
-- Which function turns a raw row into that shape: the option `transform`, else `formatter`, else
-- the data set's own, else rows must carry input and output already.
local chat = require "crucible.chat"
local download = require "crucible.download"
local errors = require "crucible.errors"
local jsonl = require "crucible.jsonl"
local paths = require "crucible.paths"
local random = require "crucible.random"
local rows_module = require "crucible.lora.rows"
local schema = require "crucible.schema"
local sources = require "crucible.datasets.sources"
local suggest = require "crucible.suggest"

local dataset_integration = {}

---@class crucible.lora.Row
---@field input string
---@field output string
---@field metadata table
---@field weight number?  of every token of the output; 1 if nil
---@field messages crucible.chat.Message[]?  of a conversation; input and output are then for readers
---@field template string?  name of a crucible.chat renderer
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
  if registry[name] then errors.raise('register_%s: "%s" is registered already', kind, name) end
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
  if not dataset.open and not dataset.files then errors.raise("register_dataset: open or files is missing") end
  dataset.name = name
  datasets[name] = dataset
end

-- ---- opening -------------------------------------------------------------------------------

local function contains(list, value)
  for _, member in ipairs(list) do
    if member == value then return true end
  end
  return false
end

local function folders_of(dataset, given_path)
  local name = dataset.folder or dataset.name
  if given_path then return { given_path, paths.join(given_path, name) } end
  local folders = {}
  for i, root in ipairs(paths.data()) do folders[i] = paths.join(root, name) end
  return folders
end

local function open_file(path)
  local next_row, message, code = jsonl.reader(path)
  return next_row, next_row and path or message, code
end

-- The reader of the first file of a split.
local function open_files(dataset, folder, split)
  local path = paths.join(folder, dataset.files[split][1].name)
  if paths.is_file(path) then return open_file(path) end
end

local function open_in(dataset, folder, options)
  if dataset.open then return dataset.open(folder, options.split, options) end
  return open_files(dataset, folder, options.split)
end

-- Its reader, fetched before; or nil, why that cannot be.
local function open_fetched(dataset, options)
  if not dataset.files or options.path then return nil end
  if not options.download then return nil, "; downloads are switched off" end
  local folder = paths.join(paths.cache(), "data", dataset.folder or dataset.name)
  if download.is_offline() then return nil, "; the network is switched off" end
  local ok, message = sources.fetch(dataset, options.split, folder)
  if not ok then return nil, "; it could not be fetched: " .. message end
  local next_row, path, code = open_in(dataset, folder, options)
  if not next_row and not code then return nil, "; what was fetched does not have it" end
  return next_row, path, code
end

local function advice_of(dataset, split)
  if dataset.advice then return "; " .. dataset.advice(split) end
  return dataset.files and "; " .. sources.advice(dataset, split) or ""
end

local function check_split(dataset, options)
  if contains(dataset.splits, options.split) then return true end
  if options.labels == "all" and contains(dataset.unlabelled or {}, options.split) then return true end
  return errors.failure("not_found", '%s has no labelled split "%s"; it has: %s', dataset.name, options.split,
    table.concat(dataset.splits, ", "))
end

local function open_named(dataset, options)
  if options.path and paths.is_file(options.path) then return open_file(options.path) end
  local ok, message, failed = check_split(dataset, options)
  if not ok then return nil, message, failed end
  local folders = folders_of(dataset, options.path)
  for _, folder in ipairs(folders) do
    local next_row, path, code = open_in(dataset, folder, options)
    if code then return nil, path, code end
    if next_row then return next_row, path end
  end
  local next_row, path, code = open_fetched(dataset, options)
  if next_row or code then return next_row, path, code end
  return errors.failure("not_found", "%s (%s) was not found in %s%s%s", dataset.name, options.split,
    table.concat(folders, ", "), path or "", advice_of(dataset, options.split))
end

local function open_table(rows)
  local index = 0
  return function()
    index = index + 1
    if rows[index] ~= nil then return rows[index], index end
  end, "the given table"
end

-- A reader of raw rows, what it reads in words, and the data set if it is a named one.
local function open(source, options)
  if type(source) == "table" then return open_table(source) end
  if type(source) ~= "string" then
    errors.raise("a dataset is a name, the path of a JSONL file or a table of rows, got %s", schema.show(source))
  end
  local dataset = dataset_integration.find(source)
  if dataset then
    local next_row, path, code = open_named(dataset, options)
    return next_row, path, code, dataset
  end
  if source:find("/", 1, true) or source:find("%.%w+$") or paths.is_file(source) then
    return open_file(source)
  end
  return errors.failure("not_found", 'unknown dataset "%s"%s (the path of a JSONL file works too)', source,
    suggest.phrase(source, sorted_names(datasets)))
end

-- ---- rows ----------------------------------------------------------------------------------

local function pass_through(example) return example end

local function row_function(options, dataset)
  local chosen = options.transform or options.formatter or (dataset and dataset.formatter) or pass_through
  if type(chosen) == "string" then return dataset_integration.formatter(chosen) end
  return chosen
end

local common_entries = {
  { name = "split", default = "train", check = schema.nonempty_string, doc = "of a named data set" },
  { name = "path", check = schema.nonempty_string, doc = "file or folder of a named data set" },
  { name = "transform", check = schema.callable, doc = "(raw row) → { input, output, metadata }" },
  { name = "formatter", check = schema.either(schema.nonempty_string, schema.callable), doc = "the same, by name" },
  { name = "filter", check = schema.callable, doc = "(raw row) → false to leave it out" },
  { name = "limit", check = schema.integer { min = 0 }, doc = "rows at most" },
  { name = "template", check = schema.one_of(chat.renderers()), doc = "of messages; default: that of the tokenizer" },
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
    if options[name] ~= nil and not (dataset and contains(dataset.options or {}, name)) then
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
  { name = "batch_size", default = 8, check = schema.integer { min = 1 }, doc = "rows a batch; the last may be short" },
}))

--- The options that say which rows, for functions that hand them on to prepare_dataset.
dataset_integration.row_options = schema.new("rows", common_entries)

-- Whether a row passes the filter; nil, why when the filter raised.
local function passes(filter, example)
  if not filter then return true end
  local ok, kept = pcall(filter, example)
  if not ok then return nil, "the filter failed: " .. tostring(kept) end
  return kept and true or false
end

-- A reader of finished rows over a reader of raw ones.
local function converter(next_raw, where, options, dataset)
  local transform, waiting, given = row_function(options, dataset), {}, 0
  return function()
    while true do
      if given < #waiting then
        given = given + 1
        return waiting[given]
      end
      local example, number, code = next_raw()
      if code then return nil, number, code end
      if example == nil then return nil end
      local kept, why = passes(options.filter, example)
      if kept then waiting, why = rows_module.convert(example, transform, number, options) end
      if why then return errors.failure("data", "%s: row %s: %s", where, number, why) end
      if kept then given = 0 end
    end
  end
end

local function start(source, options)
  check_special_options(source, dataset_integration.find(source), options)
  local next_raw, where, code, dataset = open(source, options)
  if not next_raw then return nil, where, code end
  return converter(next_raw, where, options, dataset), where
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

---@class crucible.lora.RowOptions
---@field split string?      of a named data set; "train"
---@field path string?       file or folder of a named data set
---@field transform (fun(row: table): crucible.lora.Row)?
---@field formatter string|function|nil
---@field filter (fun(row: table): boolean)?  of raw rows
---@field limit integer?     rows at most
---@field download boolean?  fetch a named data set that is not here; true
---@field labels "evidence"|"all"|nil  of scifact: the rows with evidence (default), or all
---@field shuffle boolean?   prepare_dataset alone, before the limit
---@field seed integer?      of the shuffle; 0
---@field batch_size integer?  stream_dataset alone; 8

---@class crucible.lora.DatasetInfo
---@field name string    of the data set, or the file's path, or "table"
---@field source string  where the rows came from
---@field split string?
---@field labels string[]?

local function labels_of(dataset, options)
  local labels = dataset and dataset.labels
  if type(labels) == "function" then return labels(options) end
  return labels
end

--- All rows of a data set (by name), of a JSONL file (by path) or of a table of raw rows.
--- Second value: what was read. Fails with "not_found", "io", "format" (a line that is not JSON,
--- with file and line) or "data" (a row of the wrong shape or a formatter that raised, with the
--- row's number).
---@param source string|table[]
---@param options crucible.lora.RowOptions?
---@return crucible.lora.Row[]? rows, crucible.lora.DatasetInfo|string|nil info_or_message, string? code
function dataset_integration.prepare_dataset(source, options)
  local given = prepare_options:resolve(options)
  local next_row, where, code = start(source, given)
  if not next_row then return nil, where, code end
  local rows, message
  rows, message, code = collect(next_row, not given.shuffle and given.limit or nil)
  if not rows then return nil, message, code end
  if given.shuffle then rows = reorder(rows, given) end
  local dataset = dataset_integration.find(source)
  return rows, {
    name = type(source) == "string" and source or "table", source = where,
    split = dataset and given.split or nil, labels = labels_of(dataset, given),
  }
end

--- An iterator of batches in constant memory: `for batch in stream_dataset(source) do … end`. A
--- source that cannot be opened gives nil, message, code; a bad row met on the way raises its
--- message, which names it.
---@param source string|table[]
---@param options crucible.lora.RowOptions?
---@return (fun(): crucible.lora.Row[]?)? next_batch, string? message, string? code
function dataset_integration.stream_dataset(source, options)
  local given = stream_options:resolve(options)
  local next_row, where, code = start(source, given)
  if not next_row then return nil, where, code end
  local left = given.limit or math.maxinteger
  return function()
    local batch, message, failed = collect(next_row, math.min(given.batch_size, left))
    if failed then errors.raise("%s", message) end
    left = left - #batch
    return #batch > 0 and batch or nil
  end
end

return dataset_integration
