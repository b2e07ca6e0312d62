-- Loads what a training run needs of the library: for spec/c/starve_test.c, in the root of the tree.
package.path, package.cpath = "lua/?.lua;lua/?/init.lua", ""
local lora = require("crucible").lora
for _, room in ipairs {
  "config", "adapter", "dataset_integration", "datums", "loss_functions", "gradient_hooks", "training_loop",
  "evaluation",
} do
  assert(lora[room])
end
assert(lora.loss_functions.get "focal")
