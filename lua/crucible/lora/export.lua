-- Sessions to files that other programs load: PEFT folders, GGUF adapters, and the base with the lora merged into it
-- as a Hugging Face folder or as a GGUF file.
--
-- A merged model is written beside its target under a name that begins with ".writing-", opened, compared with the
-- session logit by logit, given the figures found, and only then renamed. Whatever fails leaves nothing behind.
local adapter_files = require "crucible.lora.adapter_files"
local checkpoints = require "crucible.lora.checkpoints"
local errors = require "crucible.errors"
local fs = require "crucible.fs"
local gguf = require "crucible.gguf"
local hub_config = require "crucible.export.hub_config"
local hub_tokenizer = require "crucible.export.hub_tokenizer"
local json = require "crucible.json"
local paths = require "crucible.paths"
local schema = require "crucible.schema"

local export = {}

--- Formats, and types of values; "base" = the base's own.
export.formats = { "peft", "gguf", "merged-safetensors", "merged-gguf" }
export.types = {
  "base", "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k",
  "q6_k",
}

--- The file in a merged folder that says what it was made of.
export.manifest_file = "crucible_merge.json"

-- Texts of several kinds: what an export changes shows where the model is sure and where it is not.
local probe = {
  "The capital of France is Paris, and the capital of Japan is Tokyo. Both are large cities",
  "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
  "Abstract: We studied 34 patients (mean age 61.5 years) and found no significant difference, p = 0.12.",
  "Question: If a train travels 60 miles in 1.5 hours, what is its speed?\nAnswer: 60 / 1.5 = 40 miles per hour.",
  "It was a dark night; \u{201C}who goes there?\u{201D} cried the na\u{00EF}ve caf\u{00E9} owner \u{2014} "
    .. "\u{4F60}\u{597D} \u{1F642}",
}
local MOST_PROBE_TOKENS = 256 -- of a text

--- Options of session:export.
export.options = schema.new("session:export", {
  { name = "format", default = "peft", check = schema.one_of(export.formats),
    doc = "peft: a folder for PEFT; gguf: an adapter for llama.cpp; merged-…: base and lora in one" },
  { name = "type", check = schema.one_of(export.types),
    doc = "of the values written; default: f32 of adapters, f16 of merged models, of a folder its own" },
  { name = "shard_bytes", check = schema.integer { min = 1 },
    doc = "merged-safetensors: most bytes a file; default: 5 GB" },
  { name = "overwrite", default = false, check = schema.boolean, doc = "replace a merged model that is there" },
  { name = "probe", check = schema.list(schema.nonempty_string),
    doc = "texts on which a merged model's logits are compared with the session's; default: five short ones" },
})

---@class crucible.lora.ExportReport
---@field path string
---@field format string
---@field type string
---@field bytes integer        of the files
---@field difference crucible.core.LogitDifference?  of merged models: logits before and after
---@field notes string[]       what is not as in the base, in words

-- ---- common ------------------------------------------------------------------------------------------

local function bytes_of(path)
  local total = 0
  local names = paths.is_folder(path) and fs.list(path)
  if not names then return paths.stat(path).size end
  for _, name in ipairs(names) do total = total + paths.stat(paths.join(path, name)).size end
  return total
end

local function report_of(path, format, type, found)
  found = found or {}
  return { path = path, format = format, type = type, bytes = bytes_of(path), difference = found.difference,
    notes = found.notes or {} }
end

local function make_parent(path) return fs.make_folder(paths.dirname(path)) end

-- ---- adapters -------------------------------------------------------------------------------------------

local writers = {}

function writers.peft(session, path, given)
  if given.type and given.type ~= "f32" and given.type ~= "base" then
    return errors.failure("unsupported", "a PEFT folder is written as f32, not as %s", given.type)
  end
  local ok, message, code = fs.make_folder(path)
  if ok then ok, message, code = session:save_adapter(path) end
  if not ok then return nil, message, code end
  return report_of(path, "peft", "f32")
end

function writers.gguf(session, path, given)
  if session.config.dora then
    return errors.failure("unsupported", "a GGUF adapter cannot hold DoRA's magnitudes: llama.cpp has no such tensors; "
      .. "export as merged-gguf or merged-safetensors, or as peft")
  end
  local type = given.type and given.type ~= "base" and given.type or "f32"
  local ok, message, code = errors.in_order {
    function() return make_parent(path) end,
    function()
      return session.core:save_gguf_adapter(path, {
        type = type, notes = { adapter_files.base_key, session.model:hub_name() },
      })
    end,
  }
  if not ok then return nil, message, code end
  return report_of(path, "gguf", type)
end

-- ---- merged models ------------------------------------------------------------------------------------------

local function is_same_file(a, b) return a:gsub("/+$", "") == b:gsub("/+$", "") end

local function check_target(session, path, given)
  if is_same_file(path, session.model.path) then
    return errors.failure("argument", "%s is the base model itself: export to another place", path)
  end
  if paths.stat(path) and not given.overwrite then
    return errors.failure("argument", "%s is there already: give another place, or overwrite = true", path)
  end
  return true
end

local function draft_of(path)
  local whole = path:gsub("(.)/+$", "%1")
  return paths.join(paths.dirname(whole), ".writing-" .. paths.basename(whole))
end

-- Puts the draft at its place. A folder cannot be renamed over another one.
local function publish(draft, path)
  return errors.in_order {
    function() return not paths.is_folder(path) or fs.remove_tree(path) end,
    function() return fs.rename(draft, path) end,
  }
end

local function lineage(session)
  local base, message, code = session.model:digest()
  if not base then return nil, message, code end
  local lora
  lora, message, code = session.core:digest()
  if not lora then return nil, message, code end
  return { base = session.model:hub_name(), base_sha256 = base, lora_sha256 = lora }
end

-- Rows of ids of the texts, as far as both models can see.
local function probe_rows(session, texts, context)
  local rows = {}
  for i, text in ipairs(texts) do
    local ids = session.tokenizer:prompt_ids(text)
    rows[i] = table.move(ids, 1, math.min(#ids, context, MOST_PROBE_TOKENS), 1, {})
  end
  return rows
end

-- The draft as a model, and a session on it without effect of its own.
local function with_draft(session, draft, look)
  local model, message, code = require("crucible.model").open(draft)
  if not model then return errors.failure(code, "what was written cannot be read back: %s", message) end
  local core
  core, message, code = model:handle():session {
    rank = 1, alpha = 1, dropout = 0, targets = { "q_proj" }, threads = session.config.threads,
  }
  if not core then
    model:close()
    return nil, message, code
  end
  local found
  found, message, code = look(model, core)
  core:close()
  model:close()
  return found, message, code
end

-- How far the draft's logits are from the session's; { difference, notes }.
local function measure(session, draft, given)
  local texts = given.probe or probe
  return with_draft(session, draft, function(model, core)
    local rows = probe_rows(session, texts, math.min(session.context, model.info.context))
    local difference, message, code = session.core:logit_difference(core, rows, { base = true })
    if not difference then return nil, message, code end
    local notes = {}
    for i, text in ipairs(texts) do
      local ours, theirs = session.tokenizer:prompt_ids(text), model.tokenizer:prompt_ids(text)
      if table.concat(ours, " ") ~= table.concat(theirs, " ") then
        notes[1] = ("the tokenizer written is not exactly the base's: text %d of the probe has other ids"):format(i)
      end
    end
    return { difference = difference, notes = notes }
  end)
end

-- Names in a GGUF file's metadata of what is known only once the file is there.
local figures = {
  ["crucible.merge.largest_logit_difference"] = "largest", ["crucible.merge.rms_logit_difference"] = "rms",
  ["crucible.merge.probe_positions"] = "positions", ["crucible.merge.likeliest_changed"] = "likeliest_changed",
}

local function blanks()
  local names = {}
  for name in pairs(figures) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function write_figures(draft, difference)
  for name, field in pairs(figures) do
    local ok, message, code = gguf.set_number(draft, name, difference[field])
    if not ok then return nil, message, code end
  end
  return true
end

-- Fills a draft, looks at it, publishes it; removes it on any failure.
local function by_draft(session, path, given, fill, finish)
  local draft, found = draft_of(path), nil
  local ok, message, code = errors.in_order {
    function() return check_target(session, path, given) end,
    function() return make_parent(path) end,
    function() return fs.remove_tree(draft) end,
    function() return fill(draft) end,
    function()
      local why, kind
      found, why, kind = measure(session, draft, given)
      return found, why, kind
    end,
    function() return finish(draft, found) end,
    function() return publish(draft, path) end,
  }
  if ok then return found end
  if paths.stat(draft) then fs.remove_tree(draft) end
  return nil, message, code
end

writers["merged-gguf"] = function(session, path, given)
  local from, message, code = lineage(session)
  if not from then return nil, message, code end
  local type = given.type or "f16"
  local found
  found, message, code = by_draft(session, path, given, function(draft)
    return session.core:merge_to_gguf(draft, {
      type = type, blanks = blanks(), notes = {
        "crucible.merge.base", from.base, "crucible.merge.base_sha256", from.base_sha256,
        "crucible.merge.lora_sha256", from.lora_sha256, "crucible.merge.type", type,
      },
    })
  end, function(draft, measured) return write_figures(draft, measured.difference) end)
  if not found then return nil, message, code end
  return report_of(path, "merged-gguf", type, found)
end

-- ---- folders ------------------------------------------------------------------------------------------------

-- What of a base's folder goes along: all that is text, but weights' indices and what a training left.
local function is_companion(name)
  if name:find "%.index%.json$" or name:find "^adapter_" or name == export.manifest_file then return false end
  return name:find "%.json$" or name:find "%.jinja$" or name:find "%.txt$" or name:find "%.model$"
    or name:find "^LICENSE" or name:find "^NOTICE" or name:find "^USE_POLICY"
end

local function copy_companions(from, draft, type)
  local names, message, code = fs.list(from)
  if not names then return nil, message, code end
  for _, name in ipairs(names) do
    if is_companion(name) and paths.is_file(paths.join(from, name)) then
      local text
      text, message, code = fs.read_file(paths.join(from, name))
      if text and name == "config.json" and type ~= "base" then text = hub_config.retype(text, type) end
      local ok
      if text then ok, message, code = fs.write_file(paths.join(draft, name), text) end
      if not ok then return nil, message, code end
    end
  end
  return true
end

local function make_companions(model, draft, type)
  local file, message, code = gguf.read(model.path)
  if not file then return nil, message, code end
  local fields
  fields, message, code = hub_config.fields(model, file, type)
  if not fields then return nil, message, code end
  local texts = hub_tokenizer.files(model, file.keys)
  texts["config.json"] = json.encode_pretty(fields)
  for name, text in pairs(texts) do
    local ok
    ok, message, code = fs.write_file(paths.join(draft, name), text)
    if not ok then return nil, message, code end
  end
  return true
end

local rebuilt = "config.json and tokenizer.json were made from the GGUF file, which does not say what added tokens "
  .. "do with the white space beside them"

local function fill_folder(session, draft, type, from, given)
  local model = session.model
  local notes = { "format", "pt", "crucible.base_sha256", from.base_sha256, "crucible.lora_sha256", from.lora_sha256 }
  return errors.in_order {
    function() return fs.make_folder(draft) end,
    function()
      if paths.is_folder(model.path) then return copy_companions(model.path, draft, type) end
      return make_companions(model, draft, type)
    end,
    function()
      return session.core:merge_to_folder(draft, { type = type, shard_bytes = given.shard_bytes, notes = notes })
    end,
  }
end

local function write_manifest(draft, type, from, found)
  return fs.write_file(paths.join(draft, export.manifest_file), json.encode_pretty {
    base = from.base, base_sha256 = from.base_sha256, lora_sha256 = from.lora_sha256, type = type,
    logit_difference = found.difference, notes = json.array(found.notes),
    versions = { crucible = require("crucible")._VERSION },
  })
end

writers["merged-safetensors"] = function(session, path, given)
  local from, message, code = lineage(session)
  if not from then return nil, message, code end
  local copied = paths.is_folder(session.model.path)
  local type = given.type or (copied and "base" or "f16")
  local found
  found, message, code = by_draft(session, path, given, function(draft)
    return fill_folder(session, draft, type, from, given)
  end, function(draft, measured)
    if not copied then table.insert(measured.notes, 1, rebuilt) end
    return write_manifest(draft, type, from, measured)
  end)
  if not found then return nil, message, code end
  return report_of(path, "merged-safetensors", type, found)
end

-- ---- the doors ------------------------------------------------------------------------------------------------

--- Writes a session's lora, alone or merged into its base, for other programs. Fails with "unsupported" where the
--- format cannot hold it, "argument" where a merged model's place is taken, "io" (a full disk leaves nothing behind).
---@param session crucible.Session
---@param path string  a folder (peft, merged-safetensors) or a file
---@param options table?  of export.options
---@return string? path, crucible.lora.ExportReport|string report_or_message, string? code
function export.write(session, path, options)
  local given = export.options:resolve(options)
  if type(path) ~= "string" or path == "" then
    errors.raise("session:export: expected a path, got %s", schema.show(path))
  end
  local report, message, code = writers[given.format](session, path, given)
  if not report then return nil, message, code end
  return path, report
end

--- What was written, in a few lines.
---@param report crucible.lora.ExportReport
---@return string
function export.text(report)
  local lines = { ("%s: %s, %s, %.1f MB"):format(report.path, report.format, report.type, report.bytes / 1e6) }
  local difference = report.difference
  if difference then
    lines[2] = ("logits before and after, %d positions: largest difference %.4g, rms %.3g; the likeliest token "
      .. "changed at %d"):format(difference.positions, difference.largest, difference.rms,
      difference.likeliest_changed)
  end
  for _, note in ipairs(report.notes) do lines[#lines + 1] = "note: " .. note end
  return table.concat(lines, "\n") .. "\n"
end

local open_options = schema.new("export.open", {
  { name = "model", check = schema.nonempty_string, doc = "the base; default: what the adapter names" },
  { name = "checkpoint", default = "best", check = schema.nonempty_string,
    doc = "of a run folder: a name, best or latest" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
})

local function open_session(settings, given, base, load)
  settings.base_model = given.model or base
  settings.threads = given.threads
  if not settings.base_model then
    return errors.failure("argument", "the adapter does not say what its base model is: give model")
  end
  local lora = require "crucible.lora"
  local session, message, code = lora.create_session { config = lora.config.new(settings) }
  if not session then return nil, message, code end
  local ok
  ok, message, code = load(session)
  if ok then return session end
  session:close()
  return nil, message, code
end

--- A session on the base with an adapter loaded: of a run folder its best checkpoint, a checkpoint, a PEFT folder or a
--- GGUF adapter. To be closed by the caller.
---@param source string
---@param options { model: string?, checkpoint: string?, threads: integer? }?
---@return crucible.Session? session, string? message, string? code
function export.open(source, options)
  local given = open_options:resolve(options)
  local runs = paths.join(source, "checkpoints")
  if paths.is_folder(runs) then source = checkpoints.locate(runs, given.checkpoint) end
  if paths.is_file(paths.join(source, checkpoints.state_file)) then
    local state, message, code = checkpoints.read(source)
    if not state then return nil, message, code end
    return open_session(state.config, given, state.config.base_model, function(session)
      return session:load_checkpoint(source)
    end)
  end
  local adapter, message, code = adapter_files.describe(source)
  if not adapter then return nil, message, code end
  return open_session(adapter.options, given, adapter.base_model, function(session)
    return session:load_adapter(source)
  end)
end

--- An adapter in another form, or merged: export.open and export.write in one, for engines that give their adapters as
--- PEFT folders and for the shell.
---@param source string
---@param path string
---@param options table?  of export.options
---@param from { model: string?, checkpoint: string?, threads: integer? }?  of export.open
---@return string? path, crucible.lora.ExportReport|string report_or_message, string? code
function export.convert(source, path, options, from)
  local session, message, code = export.open(source, from)
  if not session then return nil, message, code end
  local guard <close> = session -- luacheck: ignore guard
  return session:export(path, options)
end

return export
