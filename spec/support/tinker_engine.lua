-- What a Tinker server does behind its wire, for spec/support/tinker_server.lua: models under a lora that
-- really train, on this library's own local engine. Operations raise a text when they cannot be done.
local crucible = require "crucible"
local fs = require "crucible.fs"
local json = require "crucible.json"

local lora = crucible.lora
local ATTENTION = { "q_proj", "k_proj", "v_proj", "o_proj" }
local MLP = { "gate_proj", "up_proj", "down_proj" }

local Engine = {}
Engine.__index = Engine

local engine = {}

--- options: folder (checkpoints and the log), path and name of the base model, reduction ("sum",
--- "sequence_mean", "token_mean"), alpha or alpha_by_rank, targets (default: by the request's flags), clips (whether
--- grad_clip_norm counts), most_rank, fresh_optimizer (whether load_weights heeds `optimizer`).
function engine.new(options)
  local self = setmetatable({ options = options, models = {}, samplers = {}, applied = 0 }, Engine)
  self.base = assert(crucible.model.open(options.path))
  assert(fs.make_folder(options.folder))
  return self
end

local function must(value, message, code)
  if value == nil then error(("%s (%s)"):format(message, code), 0) end
  return value
end

-- ---- models --------------------------------------------------------------------------------------

local function targets_of(self, asked)
  if self.options.targets then return self.options.targets end
  local list = {}
  if asked.train_attn ~= false then table.move(ATTENTION, 1, #ATTENTION, 1, list) end
  if asked.train_mlp ~= false then table.move(MLP, 1, #MLP, #list + 1, list) end
  return list
end

local function new_session(self, info)
  return must(lora.create_session {
    adapter = "local", model = self.base, seed = info.seed, runs = self.options.folder,
    config = { lora_rank = info.rank, lora_alpha = info.alpha, lora_dropout = 0, target_modules = info.targets,
      threads = 1 },
  })
end

function Engine:create_model(id, asked)
  local rank = asked.rank or 32
  if rank < 1 or rank > (self.options.most_rank or 64) then
    error(("LoRA rank %d must be between 1 and %d"):format(rank, self.options.most_rank or 64), 0)
  end
  local seed = type(asked.seed) == "number" and asked.seed or 0
  local by_rank = self.options.alpha_by_rank
  local alpha = self.options.alpha or by_rank and by_rank * rank or 32
  local info = { rank = rank, seed = seed, alpha = alpha, targets = targets_of(self, asked) }
  self.models[id] = { id = id, info = info, session = new_session(self, info), history = {}, sequences = 0 }
  return info
end

local function model_of(self, id)
  return self.models[id] or error(("Model %s not found"):format(id), 0)
end

function Engine:unload_model(id)
  model_of(self, id).session:close()
  self.models[id] = nil
end

-- What was applied to a model's weights, in order; a load takes back what came after the save.
local function note(self, model, entry)
  self.applied = self.applied + 1
  model.history[#model.history + 1] = entry
  fs.append_file(self.options.folder .. "/applied.jsonl",
    json.encode { n = self.applied, model = model.id, entry = entry } .. "\n")
end

function Engine:history(id) return model_of(self, id).history end

-- ---- passes --------------------------------------------------------------------------------------

local function tokens_of(input)
  local tokens = {}
  for _, chunk in ipairs(input.chunks) do table.move(chunk.tokens, 1, #chunk.tokens, #tokens + 1, tokens) end
  return tokens
end

local function values(datum, name, default)
  local tensor = datum.loss_fn_inputs[name]
  if not tensor then
    if default == nil then error(("%s is missing"):format(name), 0) end
    return default
  end
  return tensor.data
end

local function filled(count, value)
  local list = {}
  for i = 1, count do list[i] = value end
  return list
end

local function rows_of(data)
  local rows = {}
  for i, datum in ipairs(data) do
    local tokens = tokens_of(datum.model_input)
    rows[i] = { tokens = tokens, targets = values(datum, "target_tokens"), weights = filled(#tokens, 1) }
  end
  return rows
end

-- Log-probabilities of every target, whatever its weight.
local function logprobs_of(model, data)
  return must(model.session:forward(rows_of(data))).logprobs
end

local function sum_of(list)
  local sum = 0
  for _, value in ipairs(list) do sum = sum + value end
  return sum
end

-- The weights by which each loss is a weighted cross-entropy: minus its slope.
local losses = {}

function losses.cross_entropy(datum, logprobs) return values(datum, "weights", filled(#logprobs, 1)) end

function losses.importance_sampling(datum, logprobs)
  local old, advantages, weights = values(datum, "logprobs"), values(datum, "advantages"), {}
  for i, logprob in ipairs(logprobs) do weights[i] = math.exp(logprob - old[i]) * advantages[i] end
  return weights
end

local reductions = {
  sum = function() return 1 end,
  -- Each sequence by its own sum, which is floored; the number of sequences is divided by at the step.
  sequence_mean = function(weights) return 1 / math.max(sum_of(weights), 1e-9) end,
  token_mean = function(_, total) return 1 / math.max(total, 1) end,
}

local function scaled(weights, factor)
  local list = {}
  for i, weight in ipairs(weights) do list[i] = weight * factor end
  return list
end

local function all_zero(list)
  for _, value in ipairs(list) do
    if value ~= 0 then return false end
  end
  return true
end

local function weighted_rows(self, data, logprobs, loss_fn)
  local rows, all, total = rows_of(data), {}, 0
  for i, datum in ipairs(data) do
    all[i] = losses[loss_fn](datum, logprobs[i])
    total = total + sum_of(all[i])
  end
  local kept, loss = {}, 0
  for i, row in ipairs(rows) do
    for t, weight in ipairs(all[i]) do loss = loss - weight * logprobs[i][t] end
    row.weights = scaled(all[i], reductions[self.options.reduction](all[i], total))
    if not all_zero(row.weights) then kept[#kept + 1] = row end
  end
  return kept, loss, total
end

-- Of everything a pass is made of, so that two logs can be compared.
local function digest_of(input)
  local parts = { input.loss_fn }
  for _, datum in ipairs(input.data) do
    parts[#parts + 1] = table.concat(tokens_of(datum.model_input), " ")
    local names = {}
    for name in pairs(datum.loss_fn_inputs) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do
      local list = {}
      for i, value in ipairs(datum.loss_fn_inputs[name].data) do list[i] = ("%.6g"):format(value) end
      parts[#parts + 1] = name .. " " .. table.concat(list, " ")
    end
  end
  return fs.sha256(table.concat(parts, "\n")):sub(1, 16)
end

function Engine:forward(id, input) return logprobs_of(model_of(self, id), input.data) end

function Engine:forward_backward(id, input)
  local model = model_of(self, id)
  local logprobs = logprobs_of(model, input.data)
  local rows, loss, total = weighted_rows(self, input.data, logprobs, input.loss_fn)
  if #rows > 0 then
    must(model.session:forward_backward(rows, "cross_entropy", { counts = { cross_entropy = 1 } }))
    model.gradients = true
  end
  model.sequences = model.sequences + #input.data
  note(self, model, "forward_backward " .. digest_of(input))
  return logprobs, { ["loss:sum"] = loss, ["num_tokens:sum"] = total }
end

function Engine:optim_step(id, adam)
  local model = model_of(self, id)
  if self.options.reduction == "sequence_mean" and model.gradients then
    model.session:scale_gradients(1 / model.sequences)
  end
  local result = must(model.session:optim_step {
    lr = adam.learning_rate or 1e-4, beta1 = adam.beta1 or 0.9, beta2 = adam.beta2 or 0.95, eps = adam.eps or 1e-12,
    weight_decay = adam.weight_decay or 0, max_grad_norm = self.options.clips and adam.grad_clip_norm or 0,
  })
  model.sequences, model.gradients = 0, false
  note(self, model, ("optim_step %.9g"):format(adam.learning_rate or 1e-4))
  return { grad_norm = result.grad_norm, step = result.step }
end

-- ---- checkpoints -----------------------------------------------------------------------------------

local function place_of(self, id, kind, name)
  return ("%s/%s/%s"):format(self.options.folder, id, kind), name
end

function Engine:exists(id, kind, name)
  local folder = place_of(self, id, kind, name)
  return fs.stat(folder .. "/" .. name) ~= nil
end

function Engine:save(id, kind, name)
  local model = model_of(self, id)
  local folder = place_of(self, id, kind, name)
  must(fs.make_folder(folder))
  must(fs.remove_tree(folder .. "/" .. name))
  must(model.session:save_checkpoint(name, { folder = folder }))
  must(fs.write_file(("%s/%s.json"):format(folder, name),
    json.encode { info = model.info, history = json.array(model.history), kind = kind }))
end

--- Folder and record of what was saved; kinds are tried in turn when the path names none.
function Engine:find(path)
  local id, rest = path:match("^tinker://([^/]+)/(.+)$")
  if not id then error(("%s is no tinker:// path"):format(path), 0) end
  for _, kind in ipairs { "", "weights/", "checkpoints/", "sampler_weights/" } do
    local folder = ("%s/%s/%s%s"):format(self.options.folder, id, kind, rest)
    local bytes = fs.stat(folder) and fs.read_file(folder .. ".json")
    if bytes then return folder, json.decode(bytes), id end
  end
  error(("Checkpoint %s not found"):format(path), 0)
end

function Engine:load(id, path, with_optimizer)
  local model = model_of(self, id)
  local folder, record = self:find(path)
  local weights_only = self.options.fresh_optimizer and not with_optimizer
  must(model.session:load_checkpoint(folder, { weights_only = weights_only }))
  model.history, model.sequences, model.gradients = {}, 0, false
  for i, entry in ipairs(record.history) do model.history[i] = entry end
end

--- { name, kind, id } of everything saved for a model.
function Engine:checkpoints(id)
  local found = {}
  for _, kind in ipairs(fs.list(self.options.folder .. "/" .. id) or {}) do
    for _, name in ipairs(fs.list(("%s/%s/%s"):format(self.options.folder, id, kind)) or {}) do
      local base = name:match("^(.*)%.json$")
      if base then found[#found + 1] = { name = base, kind = kind } end
    end
  end
  return found
end

--- Ids of models that something was saved for.
function Engine:saved_models()
  local found = {}
  for _, name in ipairs(fs.list(self.options.folder) or {}) do
    if name:find("^model") then found[#found + 1] = name end
  end
  return found
end

--- The PEFT files of a checkpoint, as tar.gz.
function Engine:archive(path)
  local folder = self:find(path)
  local pipe = assert(io.popen(("tar -czf - -C '%s' adapter_config.json adapter_model.safetensors"):format(folder)))
  local bytes = pipe:read "a"
  pipe:close()
  return bytes
end

-- ---- sampling ----------------------------------------------------------------------------------------

local function sampler_of(self, path)
  local key = path or "base"
  if self.samplers[key] then return self.samplers[key] end
  local session
  if path then
    local folder, record = self:find(path)
    session = new_session(self, record.info)
    must(session:load_checkpoint(folder, { weights_only = true }))
  else
    session = new_session(self, { rank = 1, seed = 0, alpha = 1, targets = { "q_proj" } })
  end
  self.samplers[key] = session
  return session
end

local function split_stops(stop)
  local ids, texts = {}, {}
  for _, one in ipairs(type(stop) == "table" and stop or { stop }) do
    if type(one) == "number" then ids[#ids + 1] = math.tointeger(one) else texts[#texts + 1] = one end
  end
  return #ids > 0 and ids or nil, #texts > 0 and texts or nil
end

local function prompt_logprobs(session, tokens)
  local row = { tokens = tokens, weights = filled(#tokens - 1, 1) }
  return must(session:forward { row }).logprobs[1]
end

--- path: of the weights, nil for the base model. { sequences, prompt_logprobs? } without an entry for the first token.
function Engine:sample(path, asked)
  local session = sampler_of(self, path)
  local params, tokens = asked.sampling_params or {}, tokens_of(asked.prompt)
  local prompts = {}
  for i = 1, asked.num_samples or 1 do prompts[i] = tokens end
  local stop_ids, stop_texts = split_stops(params.stop)
  local made = must(session:sample(prompts, {
    temperature = params.temperature or 1, top_p = params.top_p or 1, max_tokens = params.max_tokens or 16,
    trim = false,
    top_k = params.top_k and params.top_k > 0 and params.top_k or nil, seed = params.seed, stop_ids = stop_ids,
    stop_sequences = stop_texts,
  }))
  local result = { sequences = {} }
  for i, one in ipairs(made) do
    result.sequences[i] = { stop_reason = one.finish == "length" and "length" or "stop",
      tokens = json.array(one.tokens), logprobs = json.array(one.logprobs) }
  end
  if asked.prompt_logprobs == true and #tokens > 1 then result.prompt_logprobs = prompt_logprobs(session, tokens) end
  return result
end

return engine
