-- A loss of one's own beside cross-entropy: the right verdict must be likelier than the wrong one by a factor e.
--
--     lua5.4 examples/custom_loss.lua [model] [steps] [folder for run folders]
--
-- The loss is the table below; it is first held against finite differences through the whole model, then trained
-- with. You will see both terms fall and how often the right verdict leads.
local lora = require("crucible").lora
local loss_functions = lora.loss_functions

loss_functions.register("margin", {
  outputs = { "candidates" },
  count = function() return 1 end, -- units of a row: the loss is a mean over rows
  request = function(datum)        -- log p of the first tokens in which the verdicts differ
    local one, other, k = datum.tokenizer:encode " SUPPORT", datum.tokenizer:encode " CONTRADICT", 1
    while one[k] == other[k] do k = k + 1 end
    return { candidates = { verdict = { positions = { datum.prompt_length + k - 1 }, ids = { one[k], other[k] } } } }
  end,
  compute = function(predictions, targets)
    local loss, leads = 0, 0
    for i, target in ipairs(targets) do
      local verdict = predictions.candidates[i].verdict
      local right = target.ids[verdict.positions[1]] == verdict.ids[1][1] and 1 or 2
      local margin = verdict[1][right] - verdict[1][3 - right]
      loss, leads = loss + (1 - margin):relu(), leads + (margin:item() > 0 and 1 or 0)
    end
    return { loss = loss, leads = leads / #targets }
  end,
})

local model, steps = arg[1] or "smollm2-135m-instruct", math.tointeger(tonumber(arg[2] or 20))
local config = lora.config.new { base_model = model, learning_rate = 2e-4, warmup_steps = 0 }
local session <close> = assert(lora.create_session { config = config, runs = arg[3] })

local rows = assert(lora.dataset_integration.prepare_dataset("scifact", { limit = 2 }))
local batch = assert(lora.datums.build(session.tokenizer, rows))
print(loss_functions.check_gradient("margin", session, batch, { directions = 1 }))

assert(lora.training_loop.run(session, "scifact", {
  max_steps = steps, checkpoint_every = 0,
  loss_fn = loss_functions.composite({ "cross_entropy", "margin" }, { 1, 0.5 }),
  callbacks = { on_step_end = function(step)
    local seen = step.components
    print(("step %d  loss %.4f  cross-entropy %.4f  margin %.4f  right verdict leads %.2f"):format(step.step, step.loss,
      seen.cross_entropy, seen.margin, seen["margin.leads"]))
  end },
}))
