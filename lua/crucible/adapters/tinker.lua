-- The remote engine: any server of the Tinker training API behind lora.adapter's contract.
--
--     local session <close> = assert(lora.create_session {
--       adapter = "tinker", base_url = "http://…", config = config })
--
-- What a config, a loss or a sampling parameter means is what it means on the local engine; where a server
-- cannot express it, it is refused with the reason. tinker/lane.lua tells how a lost answer is dealt with.
local client = require "crucible.adapters.tinker.client"
local config = require "crucible.lora.config"
local errors = require "crucible.errors"
local experiment = require "crucible.lora.experiment"
local json = require "crucible.json"
local lane = require "crucible.adapters.tinker.lane"
local model = require "crucible.model"
local models = require "crucible.models"
local profile = require "crucible.adapters.tinker.profile"
local schema = require "crucible.schema"
local session = require "crucible.adapters.tinker.session"
local suggest = require "crucible.suggest"

local adapter = experiment.adapter()

--- What lora.create_session takes besides for this engine.
adapter.session_options = {
  { name = "base_url", check = schema.nonempty_string, doc = "address of the server; default: $TINKER_BASE_URL" },
  { name = "api_key", check = schema.nonempty_string, doc = "default: $TINKER_API_KEY; it is never shown or written" },
  { name = "remote_model", check = schema.nonempty_string,
    doc = "the base model's name on the server; default: config.base_model or its hub name, as the server lists it" },
  { name = "tokenizer", check = schema.nonempty_string,
    doc = "name or path of the model whose tokenizer it is; default: config.base_model" },
  { name = "context", check = schema.integer { min = 2 },
    doc = "longest row in tokens; default: the model's, and the server's" },
  { name = "dialect", default = "auto", check = schema.one_of { "auto", "json", "protobuf" },
    doc = "of passes; auto: JSON, and protobuf once the server asks for it" },
  { name = "reduction", default = "auto", check = schema.one_of { "auto", "sum", "sequence_mean", "token_mean" },
    doc = "what the server's cross_entropy divides by; auto: by what the server is" },
  { name = "repeats", default = "auto", check = schema.one_of { "auto", "ignored", "deduplicated", "refused" },
    doc = "what the server makes of a submit that it has seen: does it again, knows it, or refuses it" },
  { name = "order", default = "auto", check = schema.one_of { "auto", "arrival", "number" },
    doc = "what the server does a model's operations by; by number and deduplicated, several are submitted at once" },
  { name = "differences", default = "refuse", check = schema.one_of { "refuse", "note" },
    doc = "what becomes of entries of the config that the server cannot express" },
  { name = "pipeline", default = 2, check = schema.integer { min = 1, max = 64 },
    doc = "steps that a training run has under way at once" },
  { name = "window", default = 64, check = schema.integer { min = 1 }, doc = "samples under way at once" },
  { name = "chunk_rows", default = 1024, check = schema.integer { min = 1 }, doc = "rows of a request at most" },
  { name = "chunk_bytes", default = 5000000, check = schema.integer { min = 1 },
    doc = "bytes of a request at most, by the reckoning of the SDK" },
  { name = "patience", default = 300, check = schema.number { above = 0 },
    doc = "seconds without success after which the server is given up" },
  { name = "retries", default = 8, check = schema.integer { min = 0 },
    doc = "attempts after the first at what fails with an answer of 5xx or one that cannot be read" },
  { name = "backoff", default = 0.5, check = schema.number { above = 0 },
    doc = "seconds before the second attempt; doubled, up to 30" },
  { name = "connect_timeout", default = 5, check = schema.number { above = 0 }, doc = "seconds" },
  { name = "timeout", default = 60, check = schema.number { above = 0 },
    doc = "seconds, of a request that is no poll" },
  { name = "poll_timeout", default = 45, check = schema.number { above = 0 },
    doc = "seconds that a poll is left pending" },
  { name = "max_bytes", default = 256 << 20, check = schema.integer { min = 1 }, doc = "of an answer" },
  { name = "ca_file", check = schema.nonempty_string, doc = "certificates to trust instead of the system's" },
  { name = "yield", check = schema.either(schema.boolean, schema.callable),
    doc = "true: waits inside a coroutine yield; a function is called instead" },
}

local function environment(name)
  local value = os and os.getenv(name)
  return value ~= "" and value or nil
end

local function check_options(given)
  given.base_url = given.base_url or environment "TINKER_BASE_URL"
  given.api_key = given.api_key or environment "TINKER_API_KEY"
  given.ca_file = given.ca_file or environment "CURL_CA_BUNDLE" or environment "SSL_CERT_FILE"
  if not given.base_url then
    errors.raise('lora.create_session: adapter "tinker" needs base_url, or TINKER_BASE_URL in the environment')
  end
end

-- ---- the tokenizer ---------------------------------------------------------------------------

-- The model whose tokenizer and context are used, and whether it is to be closed.
local function open_model(given)
  if given.model then
    if not model.is(given.model) then errors.raise("lora.create_session: model must be a crucible.model") end
    return given.model, false
  end
  local opened, message, code = model.open(given.tokenizer or given.config.base_model)
  if not opened then return nil, message, code end
  return opened, true
end

-- ---- the model on the server -----------------------------------------------------------------

local function hub_name(name)
  local known = models.find(name)
  return known and known.hub or name
end

local function is_in(list, name)
  for _, one in ipairs(list) do
    if one == name then return true end
  end
  return false
end

-- The base model's name there.
local function remote_name(given, capabilities, url)
  local listed, base = profile.models(capabilities), given.config.base_model
  local wanted = given.remote_model
  for _, name in ipairs { wanted or base, wanted or hub_name(base) } do
    if is_in(listed, name) then return name end
  end
  if #listed == 0 then return wanted or hub_name(base) end
  local is_path = given.tokenizer or given.model or base:find("/", 1, true)
  if not wanted and #listed == 1 and is_path then return listed[1] end
  return errors.failure("not_found", '%s has no base model "%s"%s; it lists: %s', url, wanted or hub_name(base),
    suggest.phrase(wanted or hub_name(base), listed), table.concat(listed, ", "))
end

local function read_created(value) return value end

-- Creates a model like the config's lora: the future of { model_id, … }, and what the submit had answered.
local function create_model(http, given, name)
  local switches, submitted = profile.switches(given.config.target_modules), {}
  local pending = http:operation("create_model", function()
    return json.encode {
      session_id = http.session_id, model_seq_id = http:number "model_number", base_model = name, type = "create_model",
      lora_config = {
        rank = given.config.lora_rank, seed = given.seed & 0x7fffffff, train_unembed = switches.train_unembed,
        train_mlp = switches.train_mlp, train_attn = switches.train_attn,
      },
    }
  end, { what = "create_model", read = read_created, submitted = function(value) submitted.value = value end })
  return pending, submitted
end

local function id_of(created, submitted)
  local id = created.model_id or submitted.value and submitted.value.model_id
  return type(id) == "string" and id or nil
end

-- Some servers take the model's id from the query alone.
local function unload(http, model_id)
  return http:operation("unload_model?model_id=" .. model_id, function()
    return json.encode { model_id = model_id, type = "unload_model" }
  end, { what = "unload_model", gone = true })
end

local function when_settled(pending, action)
  pending.listener = action
  if pending.state ~= "pending" then action() end
end

-- For a lane: another model in the place of one that is lost. Where there is no place for it, the lost one is
-- unloaded first.
local function recreator(http, given, name)
  return function(old, on_made)
    local function create(on_failure)
      local pending, submitted = create_model(http, given, name)
      when_settled(pending, function()
        if pending.state == "failed" then return on_failure(pending.message, pending.code) end
        on_made(id_of(pending.value, submitted), "the answer to create_model names no model_id", "format")
      end)
    end
    create(function(message, code)
      if code ~= "argument" then return on_made(nil, message, code) end
      when_settled(unload(http, old), function()
        create(function(why, kind) on_made(nil, why, kind) end)
      end)
    end)
  end
end

-- ---- sessions --------------------------------------------------------------------------------

local function open_client(given, id)
  local options = { client_id = id }
  for _, entry in ipairs(adapter.session_options) do options[entry.name] = given[entry.name] end
  return client.new(options)
end

local function check_differences(found, given, url)
  local refused, noted = profile.differences(found, given.config, config.defaults().lora_dropout)
  if #refused > 0 and given.differences == "refuse" then return profile.refusal(found, url, refused) end
  return table.move(refused, 1, #refused, #noted + 1, noted)
end

local function context_of(given, opened, capabilities)
  local context = given.context or opened.info.context
  for _, one in ipairs(type(capabilities.supported_models) == "table" and capabilities.supported_models or {}) do
    local most = type(one) == "table" and math.tointeger(one.max_context_length)
    if most and one.model_name == given.remote_name then context = math.min(context, most) end
  end
  local most = math.tointeger(capabilities.max_context_length)
  return most and math.min(context, most) or context
end

-- Everything up to a session, on an open client.
local function connect(given, http, opened)
  local capabilities, message, code = http:capabilities()
  if not capabilities then return nil, message, code end
  given.remote_name, message, code = remote_name(given, capabilities, http.url)
  if not given.remote_name then return nil, message, code end
  local early = profile.of(capabilities, http.url, nil, given)
  if not early.assumed then
    local ok, why, kind = check_differences(early, given, http.url)
    if not ok then return nil, why, kind end
  end
  local notices
  notices, message, code = http:open_session()
  if not notices then return nil, message, code end
  local pending, submitted = create_model(http, given, given.remote_name)
  local created
  created, message, code = pending:wait()
  if not created then return nil, message, code end
  local model_id = id_of(created, submitted)
  if not model_id then
    return errors.failure("format", "%s: the answer to create_model names no model_id", http.url)
  end
  local found = profile.of(capabilities, http.url, type(created.lora_config) == "table" and created
    or submitted.value, given)
  local differences
  differences, message, code = check_differences(found, given, http.url)
  if not differences then
    unload(http, model_id):wait()
    return nil, message, code
  end
  return {
    model_id = model_id, profile = found, differences = differences, notices = notices,
    context = context_of(given, opened, capabilities),
  }
end

local function prefix_of(id) return (id:gsub("[^%w_-]", "_"):sub(1, 100)) end

local function new_session(given, http, opened, made, owned)
  local incidents = made.notices
  local self_lane = lane.new {
    client = http, model_id = made.model_id, repeats = made.profile.repeats, order = made.profile.order,
    prefix = prefix_of(given.experiment_id) .. "-" .. experiment.generate_id():sub(1, 6),
    recreate = recreator(http, given, given.remote_name),
    unload = function(model_id) unload(http, model_id) end,
    report = function(message) incidents[#incidents + 1] = message end,
  }
  return session.new {
    experiment_id = given.experiment_id, config = given.config, adapter_name = given.adapter_name, seed = given.seed,
    client = http, lane = self_lane, profile = made.profile, differences = made.differences, incidents = incidents,
    tokenizer = opened.tokenizer, context = made.context, model_info = opened.info, options = http.options,
    runs = given.runs, remote_model = given.remote_name, loss_functions = given.loss_functions,
    owned_model = owned and opened or nil,
    unload = function(model_id) return unload(http, model_id) end,
    again = function()
      local copy = {}
      for key, value in pairs(given) do copy[key] = value end
      copy.model = opened
      return adapter.create_session(copy)
    end,
  }
end

--- A session on a server: create_session and create_model there, after what the config says was held beside what the
--- server can do. `given` is what lora.create_session has checked.
---@param given table
---@return crucible.RemoteSession? session, string? message, string? code
function adapter.create_session(given)
  check_options(given)
  given.experiment_id = given.experiment_id or experiment.generate_id()
  local opened, owned, code = open_model(given)
  if not opened then return nil, owned, code end
  local http, message
  http, message, code = open_client(given, experiment.generate_id())
  local made
  if http then made, message, code = connect(given, http, opened) end
  if made then return new_session(given, http, opened, made, owned) end
  if http then http:close() end
  if owned then opened:close() end
  return nil, message, code
end

return adapter
