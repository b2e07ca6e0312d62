-- help(x): functions, rooms, values and names, from the lines of documentation and the tables of options.
local crucible = require "crucible"
local docs = require "crucible.docs"
local help = require "crucible.help"
local lora = crucible.lora
local schema = require "crucible.schema"

local function holds(text, parts)
  for _, part in ipairs(parts) do assert.truthy(text:find(part, 1, true), part .. " in\n" .. text) end
end

describe("help", function()
  it("says where to begin", function()
    holds(help.text(), { "lora.config.new", "session:peek", "Rooms of crucible:", "training_loop" })
  end)

  it("explains a function with parameters, results and options", function()
    local text = help.text(lora.training_loop.run)
    holds(text, { "training_loop.run(session, dataset, options)", "session: crucible.Session", "→ table? results",
      "options\n", "  batch_size = 8\n", "rows a batch (an integer of at least 1)" })
    for _, entry in ipairs(lora.training_loop.options.entries) do holds(text, { "  " .. entry.name .. " = " }) end
  end)

  it("finds the options of functions that are called otherwise than their schema", function()
    holds(help.text(lora.create_session), { "experiment_id = -" })
    holds(help.text(lora.config.new), { "lora_rank = 16" })
    holds(help.text(lora.training_loop.steps), { "batch_size = 8" })
    assert.is_nil(help.text(lora.generate_id):find("options", 1, true))
  end)

  it("explains functions of a registry and of the C module", function()
    holds(help.text(lora.loss_functions.register_topological_loss), { 'Registers "topological"' })
    holds(help.text(crucible.core.kernel_name), { "core.kernel_name()", "Name of the kernels in use" })
  end)

  it("explains a room", function()
    holds(help.text(lora.config), { "crucible.lora.config", "adam_params(self)", "The hyperparameters of a run" })
    holds(help.text(crucible), { "tokenizer", "models" })
    holds(help.text(lora), { "training_loop", "generate_id()" })
  end)

  it("explains an option, a metric, a loss and a method by name", function()
    holds(help.text "learning_rate", { "learning_rate = 0.0001", "peak learning rate", "option of lora.config.new" })
    holds(help.text "accuracy", { 'metric "accuracy"', "share of rows that are right" })
    holds(help.text "focal", { 'loss "focal"' })
    holds(help.text "session:sample", { "session:sample(prompts, params, on_token, choices)" })
    holds(help.text "peek", { "session:peek(what, options)" })
    holds(help.text "training_loop.run", { "training_loop.run(session, dataset, options)" })
  end)

  it("suggests the nearest name for an unknown one", function()
    holds(help.text "learning_rat", { 'nothing is called "learning_rat"; did you mean "learning_rate"?' })
  end)

  it("explains a value with its fields and methods", function()
    holds(help.text(crucible.tensor.new { 1, 2 }), { "methods", ":exp(" })
    local config = lora.config.new {}
    holds(help.text(config), { "lora_rank" })
  end)

  it("writes to standard output when it is called", function()
    local tostring_of = tostring(help)
    assert.equal('help(x), or help "name"', tostring_of)
    assert.is_function(getmetatable(help).__call)
  end)
end)

describe("documentation out of the sources", function()
  it("has signature, text, parameters and results", function()
    local entry = docs.of(lora.create_session)
    assert.equal("lora.create_session", entry.name)
    assert.same({ "options" }, entry.arguments)
    assert.equal("options", entry.parameters[1].name)
    assert.truthy(entry.text[1]:find("^A session: one base model"))
    assert.equal("lora.create_session(options)", docs.signature(entry))
    assert.equal("A session: one base model, one named lora, its optimiser state and its random numbers.",
      docs.summary(entry))
  end)

  it("is nil for what is not of this library", function()
    assert.is_nil(docs.of(print))
    assert.is_nil(docs.of(function() end))
    assert.is_nil(docs.of(3))
  end)
end)

describe("schemas", function()
  it("are found by the functions that they belong to", function()
    assert.equal(lora.training_loop.options, schema.by_owner["training_loop.run"])
    assert.equal(lora.training_loop.options, schema.by_owner["training_loop.steps"])
  end)
end)
