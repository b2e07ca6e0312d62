-- What `require "crucible"` shows: the rooms, each loaded when it is first looked at.
local crucible = {
  _VERSION = "crucible 0.1.0",
  _DESCRIPTION = "LoRA fine-tuning of language models on the CPU, from Lua",
}

local rooms = {
  constraint = "crucible.constraint",
  core = "crucible.core",
  encoder = "crucible.encoder",
  help = "crucible.help",
  lora = "crucible.lora",
  model = "crucible.model",
  models = "crucible.models",
  signals = "crucible.signals",
  sweep = "crucible.sweep",
  report = "crucible.report",
  telemetry = "crucible.telemetry",
  tensor = "crucible.tensor",
  tokenizer = "crucible.tokenizer",
}

---@class crucible
---@field constraint crucible.constraint  patterns that generated text must keep
---@field core crucible.core            the C module
---@field encoder crucible.encoder      crucible.encoder(name_or_path): vectors of texts, entailment
---@field help crucible.help          what a function, an option or a value is: crucible.help(x)
---@field lora crucible.lora            experiments, sessions, training, evaluation
---@field model crucible.model          crucible.model(name_or_path) opens a base model
---@field models crucible.models        names of models and where their files lie
---@field signals crucible.signals      SIGINT and SIGTERM, for programs that ask
---@field sweep fun(options: table): crucible.sweep.Result?, string?, string?  runs over a table of configs
---@field report crucible.report        pages of runs: crucible.report.write { "runs/first" }
---@field telemetry crucible.telemetry  events of training: crucible.telemetry.attach(fn)
---@field tensor crucible.tensor        tensors with reverse-mode differentiation, for losses and statistics
---@field tokenizer crucible.tokenizer  crucible.tokenizer(name_or_path)
return setmetatable(crucible, {
  __index = function(self, name)
    local room = rooms[name]
    if not room then return nil end
    local loaded = require(room)
    rawset(self, name, loaded)
    return loaded
  end,
  __tostring = function() return crucible._VERSION end,
  rooms = rooms,
})
