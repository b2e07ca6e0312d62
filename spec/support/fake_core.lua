-- A stand-in for crucible.core that keeps its contract without a model: bytes for tokens, a toy
-- loss that a few numbers can lower, completions and scores that the spec dictates. Everything is
-- a function of its inputs, so that runs can be compared byte by byte.
--
--     local fake = require("spec.support.fake_core").install()
--
-- before anything that requires crucible.core. fs, tensor, files and transfers are the real one's.
local real = require "crucible.core"

local fake = {
  fs = real.fs, tensor = real.tensor, _VERSION = real._VERSION, open_rows = real.open_rows, open_http = real.open_http,
  open_tokens = real.open_tokens, write_tokens = real.write_tokens, module_matches = real.module_matches,
  decode_json = real.decode_json,
}

fake.EOS, fake.BOS = 256, 257
fake.POISON = 0 -- a supervised target of this byte makes the loss NaN

--- What the model writes after a prompt, and how likely it finds a choice. Specs replace them.
---@param prompt string
---@param base boolean
---@return string
function fake.reply(prompt, base) return base and "" or " " .. #prompt end

---@param prompt string
---@param choice string
---@param base boolean
---@return number
function fake.likelihood(prompt, choice, base) return -#choice end -- luacheck: ignore prompt base

--- Options that sessions were made with and calls of generate, newest last.
fake.sessions, fake.generations = {}, {}

local function class(name)
  local members = { __name = name }
  members.__index = members
  members.__close = function(self) self:close() end
  return members
end

-- ---- tokenizer -----------------------------------------------------------------------------

local Tokenizer = class "fake.tokenizer"
local specials = { ["<eos>"] = fake.EOS, ["<bos>"] = fake.BOS }
local special_texts = { [fake.EOS] = "<eos>", [fake.BOS] = "<bos>" }

function Tokenizer:encode(text) return { text:byte(1, -1) } end -- luacheck: ignore self

function Tokenizer:encode_all(texts)
  local all = {}
  for i, text in ipairs(texts) do all[i] = self:encode(text) end
  return all
end

function Tokenizer:ends(ids)
  local ends, at = {}, 0
  for i, id in ipairs(ids) do
    at = at + #self:decode { id }
    ends[i] = at
  end
  return ends
end

function Tokenizer:decode(ids, skip_special) -- luacheck: ignore self
  local parts = {}
  for i, id in ipairs(ids) do
    parts[i] = special_texts[id] and (skip_special and "" or special_texts[id]) or string.char(id)
  end
  return table.concat(parts)
end

function Tokenizer:info()
  return { model = "bytes", pretokenizer = "none", size = 258, eos = fake.EOS, bos = fake.BOS, add_bos = self.add_bos }
end

function Tokenizer:find(text) return specials[text] or (#text == 1 and text:byte() or nil) end -- luacheck: ignore self
function Tokenizer:is_special(id) return id >= 256 end -- luacheck: ignore self

local function text_of(ids) return Tokenizer:decode(ids, true) end

-- ---- generation ----------------------------------------------------------------------------

local Generation = class "fake.generation"

local function start_generation(session, prompts, params)
  local rows = {}
  for i, prompt in ipairs(prompts) do
    if #prompt + params.max_tokens > session.context then
      return nil, ("prompt %d: %d tokens and %d new ones exceed the context of %d"):format(i, #prompt,
        params.max_tokens,
        session.context), "context_overflow"
    end
    rows[i] = { prompt = prompt, text = fake.reply(text_of(prompt), params.base or false), at = 0 }
  end
  fake.generations[#fake.generations + 1] = { prompts = prompts, params = params }
  return setmetatable({ rows = rows, max_tokens = params.max_tokens, base = params.base or false, steps = 0 },
    Generation)
end

local function scores_of(prompts, continuations, base)
  local scores = {}
  for i, prompt in ipairs(prompts) do
    scores[i] = {}
    for c, ids in ipairs(continuations[i]) do
      scores[i][c] = fake.likelihood(text_of(prompt), text_of(ids), base)
    end
  end
  return scores
end

local function next_event(row, prompt, max_tokens)
  if row.at >= #row.text or max_tokens == 0 then
    row.done = true
    return { prompt = prompt, finish = max_tokens == 0 and "length" or "stop" }
  end
  row.at = row.at + 1
  row.done = row.at == max_tokens
  return { prompt = prompt, token = row.text:byte(row.at), logprob = -0.5, finish = row.done and "length" or nil }
end

function Generation:step()
  assert(not self.closed, "the generation is closed")
  self.steps = self.steps + 1
  local events = {}
  for i, row in ipairs(self.rows) do
    if not row.done then events[#events + 1] = next_event(row, i, self.max_tokens) end
  end
  if #events > 0 then return events end
end

-- All rows begin with the first step.
function Generation:score(continuations)
  if self.steps ~= 1 then return nil, "the latest step began no prompt", "argument" end
  local prompts = {}
  for i, row in ipairs(self.rows) do prompts[i] = row.prompt end
  return scores_of(prompts, continuations, self.base)
end

function Generation:finish(prompt) self.rows[prompt].done = true end
function Generation:close() self.closed = true end

-- ---- session -------------------------------------------------------------------------------

local Session = class "fake.session"

local function hash(...)
  local h = 1469598103934665603
  for _, value in ipairs { ... } do h = ((h ~ value) * 1099511628211) ~ (h >> 29) end
  return h
end

local function unit(...) return (hash(...) >> 11) / (1 << 53) end

local function make_parameter(session, layer, target, kind, rows, columns)
  local parameter = { name = ("layers.%d.self_attn.%s.lora_%s"):format(layer, target, kind), layer = layer,
    target = target,
    rows = rows, columns = columns, value = {}, gradient = {}, moment1 = {}, moment2 = {} }
  for i = 1, rows * columns do
    parameter.value[i] = kind == "A" and (unit(session.seed, layer, i) - 0.5) or 0.0
    parameter.gradient[i], parameter.moment1[i], parameter.moment2[i] = 0.0, 0.0, 0.0
  end
  return parameter
end

local function make_session(config, context)
  local self = setmetatable({ config = config, seed = config.seed or 0, context = context, updates = 0, list = {} },
    Session)
  for layer = 0, 1 do
    for _, target in ipairs(config.targets) do
      self.list[#self.list + 1] = make_parameter(self, layer, target, "A", config.rank, 4)
      self.list[#self.list + 1] = make_parameter(self, layer, target, "B", 4, config.rank)
    end
  end
  fake.sessions[#fake.sessions + 1] = config
  return self
end

local function open(self)
  if self.closed then error("the session is closed", 3) end
  return self
end

-- One number of the parameters, chosen by a token and what came before it.
local function feature(self, token, before)
  local parameter = self.list[(token * 7 + before) % #self.list + 1]
  return parameter, (token * 3 + before) % #parameter.value + 1
end

local function targets_of(datum)
  if datum.targets then return datum.targets end
  return table.move(datum.tokens, 2, #datum.tokens, 1, {})
end

-- Each target's negative log-probability; `visit` hears of the supervised ones.
local function each_target(self, datum, visit)
  for i, target in ipairs(targets_of(datum)) do
    local weight = datum.weights and datum.weights[i] or 1
    if weight ~= 0 then
      local parameter, at = feature(self, target, datum.tokens[i])
      local z = parameter.value[at] * 3
      visit(i, target, weight, target == fake.POISON and 0 / 0 or math.log(1 + math.exp(-z)), parameter, at, z)
    end
  end
end

function Session:forward(batch, options)
  open(self)
  local all = {}
  for d, datum in ipairs(batch) do
    local row = {}
    for i in ipairs(targets_of(datum)) do row[i] = 0 / 0 end
    each_target(self, datum, function(i, _, _, nll) row[i] = options and options.base and -1 or -nll end)
    all[d] = row
  end
  return all
end

function Session:forward_backward(batch, options)
  open(self)
  local supervised, tokens, sum = 0, 0, 0
  for _, datum in ipairs(batch) do
    tokens = tokens + #targets_of(datum)
    each_target(self, datum, function() supervised = supervised + 1 end)
  end
  local scale = options and options.scale or 1 / math.max(1, supervised)
  for _, datum in ipairs(batch) do
    each_target(self, datum, function(_, target, weight, nll, parameter, at, z)
      local keep = self.config.dropout > 0 and (0.5 + unit(self.seed, self.updates, target, at)) or 1
      sum = sum + weight * nll
      parameter.gradient[at] = parameter.gradient[at] - scale * weight * keep * 3 / (1 + math.exp(z)) + (nll - nll)
    end)
  end
  return { loss = sum * scale, sum = sum, supervised = supervised, tokens = tokens,
    logprobs = options and options.logprobs and self:forward(batch) or nil }
end

local function total_norm(self, which)
  local sum = 0
  for _, parameter in ipairs(self.list) do
    for _, value in ipairs(parameter[which]) do sum = sum + value * value end
  end
  return math.sqrt(sum)
end

local function adamw(parameter, params, scale, step)
  if parameter.frozen then return end
  for i, gradient in ipairs(parameter.gradient) do
    local g = gradient * scale
    local m = params.beta1 * parameter.moment1[i] + (1 - params.beta1) * g
    local v = params.beta2 * parameter.moment2[i] + (1 - params.beta2) * g * g
    parameter.moment1[i], parameter.moment2[i] = m, v
    local rate = params.lr / (1 - params.beta1 ^ step)
    local change = rate * m / (math.sqrt(v / (1 - params.beta2 ^ step)) + params.eps)
    parameter.value[i] = parameter.value[i] * (1 - params.lr * params.weight_decay) - change
  end
end

function Session:optim_step(params)
  open(self)
  local norm = total_norm(self, "gradient")
  local skipped = norm ~= norm or norm == math.huge
  if not skipped then
    self.updates = self.updates + 1
    local limit = params.max_grad_norm
    local scale = limit > 0 and norm > limit and limit / norm or 1
    for _, parameter in ipairs(self.list) do adamw(parameter, params, scale, self.updates) end
  end
  self:zero_gradients()
  return { grad_norm = norm, update_norm = skipped and 0 or params.lr, skipped = skipped, step = self.updates }
end

function Session:zero_gradients()
  for _, parameter in ipairs(open(self).list) do
    for i = 1, #parameter.gradient do parameter.gradient[i] = 0.0 end
  end
end

function Session:step(step)
  self.updates = step or self.updates
  return self.updates
end

function Session:parameters()
  local list = {}
  for i, p in ipairs(open(self).list) do
    list[i] = { name = p.name, layer = p.layer, target = p.target, part = p.name:sub(-1), rows = p.rows,
      columns = p.columns }
  end
  return list
end

function Session:modules()
  local list, config = {}, open(self).config
  for _, p in ipairs(self.list) do
    local module = p.name:match "^(.*)%.lora_A$"
    if module then
      list[#list + 1] = { name = "model." .. module, layer = p.layer, target = p.target, rank = config.rank,
        alpha = config.alpha, scale = config.alpha / config.rank }
    end
  end
  return list
end

-- Plain moments; quantiles and magnitudes are the real core's business.
local function statistics(values)
  local count, sum, squares, zeros, nonfinite, least, most = #values, 0, 0, 0, 0, math.huge, -math.huge
  for _, value in ipairs(values) do
    sum, squares, zeros = sum + value, squares + value * value, zeros + (value == 0 and 1 or 0)
    nonfinite = nonfinite + (value - value ~= 0 and 1 or 0)
    least, most = math.min(least, value), math.max(most, value)
  end
  local mean = sum / count
  return { count = count, zeros = zeros, nonfinite = nonfinite, norm = math.sqrt(squares), mean = mean,
    rms = math.sqrt(squares / count), std = math.sqrt(math.max(0, squares / count - mean * mean)), min = least,
    max = most, quantiles = { mean, mean, mean, mean, mean, mean, mean }, magnitudes = {} }
end

function Session:statistics(which, options)
  local list = {}
  for i, parameter in ipairs(open(self).list) do
    list[i] = statistics(parameter[which or "gradient"])
    if options and options.name == parameter.name then return list[i] end
  end
  return list
end

local function find(self, name)
  for _, parameter in ipairs(open(self).list) do
    if parameter.name == name then return parameter end
  end
  error("no parameter " .. tostring(name), 3)
end

function Session:read(name, which) return table.move(find(self, name)[which or "value"], 1, #find(self, name).value,
  1, {}) end
function Session:write(name, values, which) find(self, name)[which or "value"] = table.move(values, 1, #values, 1,
  {}) end

function Session:scale_gradient(name, factor)
  local gradient = find(self, name).gradient
  for i, value in ipairs(gradient) do gradient[i] = value * factor end
  return true
end

function Session:clip(limit)
  local norm = total_norm(open(self), "gradient")
  local scale = limit > 0 and norm > limit and limit / norm or 1
  for _, parameter in ipairs(self.list) do self:scale_gradient(parameter.name, scale) end
  return norm, scale
end

function Session:freeze(name, frozen)
  find(self, name).frozen = frozen ~= false
  if frozen ~= false then self:scale_gradient(name, 0) end
  return true
end

function Session:frozen()
  local names = {}
  for _, parameter in ipairs(open(self).list) do
    if parameter.frozen then names[#names + 1] = parameter.name end
  end
  return names
end

function Session:watch(what)
  self.watched = what
  return true
end

function Session:updates()
  local change, before = {}, {}
  for i, parameter in ipairs(open(self).list) do change[i], before[i] = 0, self:norm(parameter.name) end
  return change, before
end

function Session:norm(name, which)
  local sum = 0
  for _, value in ipairs(find(self, name)[which or "value"]) do sum = sum + value * value end
  return math.sqrt(sum)
end

-- One line a matrix: name, field, values in hexadecimal, so that nothing is rounded.
local function save(self, path, fields)
  local lines = { ("updates 0 %d"):format(fields[1] == "value" and 0 or self.updates) }
  for _, parameter in ipairs(self.list) do
    for _, field in ipairs(fields) do
      local values = {}
      for i, value in ipairs(parameter[field]) do values[i] = ("%a"):format(value) end
      lines[#lines + 1] = ("%s %s %s"):format(parameter.name, field, table.concat(values, " "))
    end
  end
  return fake.fs.write_file(path, table.concat(lines, "\n") .. "\n")
end

local function parse(bytes)
  local found = {}
  for line in bytes:gmatch("[^\n]+") do
    local name, field, rest = line:match("^(%S+) (%S+) (.*)$")
    local values = {}
    for word in rest:gmatch("%S+") do values[#values + 1] = tonumber(word) end
    found[name .. " " .. field] = values
  end
  return found
end

local function load(self, path, fields)
  local bytes, message, code = fake.fs.read_file(path)
  if not bytes then return nil, message, code end
  local found = parse(bytes)
  for _, parameter in ipairs(self.list) do
    for _, field in ipairs(fields) do
      local values = found[parameter.name .. " " .. field]
      if not values or #values ~= #parameter.value then
        return nil, ("%s: %s is missing or of another shape"):format(path, parameter.name), "format"
      end
      parameter[field] = values
    end
  end
  if fields[1] ~= "value" then self.updates = math.tointeger(found["updates 0"][1]) end
  return true
end

function Session:save_lora(path) return save(open(self), path, { "value" }) end
function Session:load_lora(path) return load(open(self), path, { "value" }) end
function Session:save_optimizer(path) return save(open(self), path, { "moment1", "moment2" }) end
function Session:load_optimizer(path) return load(open(self), path, { "moment1", "moment2" }) end

function Session:generate(prompts, params) return start_generation(open(self), prompts, params) end

function Session:score(prompts, continuations, options)
  open(self)
  return scores_of(prompts, continuations, options and options.base or false)
end

function Session:memory() -- luacheck: ignore self
  return { weights_mapped = 0, lora = 0, activations = 0, scratch = 0 }
end

function Session:cancel() self.cancelled = true end
function Session:close() self.closed = true end

-- ---- model ---------------------------------------------------------------------------------

local Model = class "fake.model"

function Model:info() -- luacheck: ignore self
  return { family = "toy", name = "toy", quantisation = "F64", chat_template = "", layers = 2, width = 4, heads = 1,
    kv_heads = 1, head_size = 4, ffn_width = 4, vocabulary = 258, context = 512, rope_base = 1e4, norm_epsilon = 1e-5,
    tied_head = true, parameters = 64, file_bytes = 4 }
end

function Model:tokenizer() return setmetatable({ add_bos = self.add_bos }, Tokenizer) end
function Model:session(config) return make_session(config, 512) end -- luacheck: ignore self
function Model:close() self.closed = true end

--- Opens any file; one whose text holds "bos" wants a BOS before texts.
function fake.open_model(path)
  local bytes, message, code = fake.fs.read_file(path)
  if not bytes then return nil, message, code end
  return setmetatable({ add_bos = bytes:find("bos", 1, true) ~= nil }, Model)
end

function fake.kernel_name() return "toy" end
function fake.available_threads() return 1 end
function fake.targets() return { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" } end

--- Puts this in the place of crucible.core; modules of the library loaded so far are forgotten.
---@return table fake
function fake.install()
  for name in pairs(package.loaded) do
    if name == "crucible" or name:find("^crucible%.") then package.loaded[name] = nil end
  end
  package.loaded["crucible.core"] = fake
  return fake
end

return fake
