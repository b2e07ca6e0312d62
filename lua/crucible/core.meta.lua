---@meta crucible.core
-- The C module, as Lua sees it. Misuse raises; a failure of the world returns
-- nil, message, code, where code is one of "argument", "memory", "io", "format",
-- "unsupported", "not_found", "context_overflow", "cancelled".
-- Token ids are the model's own (from 0); everything else counts from 1.

---@class crucible.core
---@field _VERSION string
local core = {}

--- Opens a .gguf file; the weights stay memory-mapped and quantised.
---@param path string
---@return crucible.core.Model? model, string? message, string? code
function core.open_model(path) end

--- Name of the kernels in use: "avx512", "avx2", "neon" or "portable".
---@return string
function core.kernel_name() end

--- Threads that affinity and CPU quota allow.
---@return integer
function core.available_threads() end

--- Names of the projections that can carry a LoRA branch, in order.
---@return string[]
function core.targets() end

---@class crucible.core.Model  close, __gc, __close, __tostring
local Model = {}

--- family, name, quantisation, chat_template, layers, width, heads, kv_heads, head_size, ffn_width,
--- vocabulary, context, rope_base, norm_epsilon, tied_head, parameters, file_bytes.
---@return table<string, string|number|boolean>
function Model:info() end

---@return crucible.core.Tokenizer  keeps the model open
function Model:tokenizer() end

--- Creates a session: the model with one lora, its gradients and optimiser state.
---@param config { rank: integer, alpha: number, dropout: number, targets: string[], rslora: boolean?, seed: integer?, threads: integer?, micro_batch_tokens: integer?, recompute: boolean? }
---@return crucible.core.Session? session, string? message, string? code
function Model:session(config) end

function Model:close() end

---@class crucible.core.Tokenizer
local Tokenizer = {}

--- Token ids of any bytes. `parse_special`: the text of special tokens becomes their ids.
---@param text string
---@param parse_special boolean?
---@return integer[]
function Tokenizer:encode(text, parse_special) end

---@param ids integer[]
---@param skip_special boolean?
---@return string
function Tokenizer:decode(ids, skip_special) end

--- model, pretokenizer, size, bos?, eos?, pad?, unknown?, add_bos.
---@return table
function Tokenizer:info() end

--- The id whose text is exactly `text`, or nil.
---@param text string
---@return integer?
function Tokenizer:find(text) end

---@param id integer
---@return boolean
function Tokenizer:is_special(id) end

---@class crucible.core.Datum
---@field tokens integer[]
---@field targets integer[]?  without it tokens[2..n] are the targets of tokens[1..n-1]
---@field weights number[]?   one a target; 0 = not supervised; without it all 1

---@class crucible.core.Session  close, __gc, __close, __tostring
local Session = {}

--- Log-probabilities of the targets, one list per datum; NaN where the weight is 0.
---@param batch crucible.core.Datum[]
---@param options { base: boolean? }?
---@return number[][]? logprobs, string? message, string? code
function Session:forward(batch, options) end

--- Cross-entropy and its gradients, accumulated. scale nil: mean over the supervised tokens of this call.
---@param batch crucible.core.Datum[]
---@param options { scale: number?, logprobs: boolean? }?
---@return { loss: number, sum: number, supervised: integer, tokens: integer, logprobs: number[][]? }? result, string? message, string? code
function Session:forward_backward(batch, options) end

--- Clip, AdamW, zero the gradients.
---@param params { lr: number, beta1: number?, beta2: number?, eps: number?, weight_decay: number?, max_grad_norm: number? }
---@return { grad_norm: number, update_norm: number, skipped: boolean, step: integer }? result, string? message, string? code
function Session:optim_step(params) end

function Session:zero_gradients() end

--- Updates made so far; with an argument, sets it (resume).
---@param step integer?
---@return integer
function Session:step(step) end

--- The trained matrices in order of depth.
---@return { name: string, layer: integer, target: string, rows: integer, columns: integer }[]
function Session:parameters() end

--- A copy of a matrix as a flat row-major list. which: "value" (default), "gradient", "moment1", "moment2".
---@param name string
---@param which string?
---@return number[]
function Session:read(name, which) end

--- Overwrites a matrix from a flat row-major list.
---@param name string
---@param values number[]
---@param which string?
function Session:write(name, values, which) end

--- Euclidean norm of a matrix, in double.
---@param name string
---@param which string?
---@return number
function Session:norm(name, which) end

---@param path string  PEFT's adapter_model.safetensors
---@return true? ok, string? message, string? code
function Session:save_lora(path) end
---@return true? ok, string? message, string? code
function Session:load_lora(path) end
---@return true? ok, string? message, string? code
function Session:save_optimizer(path) end
---@return true? ok, string? message, string? code
function Session:load_optimizer(path) end

--- Planned bytes by kind for rows of these lengths: weights_mapped, lora, activations, scratch.
---@param lengths integer[]
---@return table
function Session:memory(lengths) end

--- Batched generation, one step at a time.
---@param prompts integer[][]
---@param params { temperature: number?, top_p: number?, top_k: integer?, max_tokens: integer?, seed: integer?, stop_ids: integer[]?, max_batch: integer?, base: boolean? }?
---@return crucible.core.Generation? generation, string? message, string? code
function Session:generate(prompts, params) end

--- Sum of log p of each continuation after each prompt: scores[i][c].
---@param prompts integer[][]
---@param continuations integer[][][]  continuations[i][c]: token ids; as many for every prompt
---@param options { base: boolean? }?
---@return number[][]? scores, string? message, string? code
function Session:score(prompts, continuations, options) end

--- Makes the running call return nil, message, "cancelled" at the next layer.
function Session:cancel() end
function Session:close() end

---@class crucible.core.Generation  close, __gc, __close; keeps its session
local Generation = {}

--- Events of one step: { {prompt, token?, logprob, finish?}, ... }, finish = "stop" | "length"; nil at the end.
---@return { prompt: integer, token: integer?, logprob: number, finish: string? }[]? events, string? message, string? code
function Generation:step() end

--- Ends a row early.
---@param prompt integer
function Generation:finish(prompt) end
function Generation:close() end

--- Durable file operations (checkpoints): each returns true, or nil, message, code.
---@class crucible.core.fs
core.fs = {}
--- Writes a whole file: temporary name, fsync, rename, fsync of the folder.
function core.fs.write_file(path, bytes) end
function core.fs.read_file(path) end
--- Appends bytes to a file (one write call).
function core.fs.append_file(path, bytes) end
function core.fs.make_folder(path) end
function core.fs.rename(from, to) end
function core.fs.remove_tree(path) end
function core.fs.sync_folder(path) end
--- Sorted names in a folder.
---@return string[]? names, string? message, string? code
function core.fs.list(path) end
--- { folder: boolean, size: integer, modified: number }, or nil when absent.
function core.fs.stat(path) end
--- Seconds from a clock that only moves forward, with sub-microsecond steps.
---@return number
function core.fs.clock() end
--- n random bytes from the system's source.
---@return string
function core.fs.random_bytes(n) end
--- true when the stream ("stdout" or "stderr") is a terminal.
function core.fs.is_terminal(stream) end
--- Peak resident memory of this process in bytes.
---@return integer
function core.fs.peak_memory() end
--- SHA-256 of bytes, or of a file's content with { file = path }, in hexadecimal.
function core.fs.sha256(bytes_or_table) end

return core
