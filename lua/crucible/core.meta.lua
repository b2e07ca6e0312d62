---@meta crucible.core
-- The C module, as Lua sees it: `require "crucible.core"`.
--
-- Errors. Misuse raises and says what was expected: a wrong type, an unknown field, a number out of
-- its range, lists of lengths that do not fit each other, a closed handle ("session is closed"). A
-- failure of the world returns nil, message, code, where code is one of "argument" (data the engine
-- refuses, such as a token id outside the vocabulary), "memory", "io", "format", "unsupported",
-- "not_found", "context_overflow", "cancelled"; a caller that cannot go on wraps the call in assert.
--
-- Counting. Token ids are the model's own (from 0); everything else counts from 1.
--
-- Handles (model, session, generation) hold memory that Lua's collector does not see: close them, or
-- declare them `local session <close> = ...`. Closing twice is fine; a handle that is forgotten is
-- closed when it is collected. tostring shows a handle's state. Tables are read raw.

---@class crucible.core
---@field _VERSION string  "0.1.0"
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

--- Names of the projections that can carry a LoRA branch, in order: "q_proj" ... "down_proj".
---@return string[]
function core.targets() end

---@class crucible.core.Model  an open model file; read-only, shared by its sessions
local Model = {}

--- family, name, quantisation, chat_template (strings, perhaps empty), layers, width, heads, kv_heads,
--- head_size, ffn_width, vocabulary, context, parameters, file_bytes (integers), rope_base,
--- norm_epsilon (numbers), tied_head (boolean).
---@return table<string, string|number|boolean>
function Model:info() end

--- The model's tokenizer, the same one every time. It keeps the model from being collected, but
--- raises "model is closed" once the model was closed.
---@return crucible.core.Tokenizer
function Model:tokenizer() end

---@class crucible.core.SessionConfig
---@field rank integer                 >= 1
---@field alpha number                 > 0; the branch is scaled by alpha / rank
---@field dropout number               in [0, 1), on the branch's input
---@field targets string[]             at least one of core.targets()
---@field rslora boolean?              scale by alpha / sqrt(rank) instead
---@field seed integer?                any; of the first A, of dropout and of sampling without a seed
---@field threads integer?             at most 1024; 0 (default) = core.available_threads()
---@field micro_batch_tokens integer?  activations are kept for about so many tokens at a time; 0 (default) = 2048
---@field recompute boolean?           keep each layer's input alone and run it again in backward

--- Creates a session: the model with one lora, its gradients and optimiser state. The model may be
--- closed before the session.
---@param config crucible.core.SessionConfig
---@return crucible.core.Session? session, string? message, string? code
function Model:session(config) end

--- Releases the model; its sessions stay usable, its tokenizer does not.
function Model:close() end

---@class crucible.core.Tokenizer  part of its model; has nothing to close
local Tokenizer = {}

--- Token ids of any bytes; no BOS or EOS is added. `parse_special`: the text of special tokens
--- becomes their ids instead of ordinary text.
---@param text string
---@param parse_special boolean?
---@return integer[]? ids, string? message, string? code
function Tokenizer:encode(text, parse_special) end

--- The bytes of the ids; special tokens as their text unless `skip_special`.
---@param ids integer[]
---@param skip_special boolean?
---@return string? text, string? message, string? code  "argument": an id outside the vocabulary
function Tokenizer:decode(ids, skip_special) end

---@class crucible.core.TokenizerInfo
---@field model string         "gpt2": byte-level BPE
---@field pretokenizer string  "smollm"
---@field size integer         ids are 0 to size - 1
---@field add_bos boolean      the model expects a BOS before the text
---@field bos integer?         ids; nil where the model has none
---@field eos integer?
---@field pad integer?
---@field unknown integer?

--- What kind of tokenizer it is, and the ids with a role.
---@return crucible.core.TokenizerInfo
function Tokenizer:info() end

--- The id whose text is exactly `text`, or nil.
---@param text string
---@return integer?
function Tokenizer:find(text) end

--- Whether the id is a special token; false for an id outside the vocabulary.
---@param id integer
---@return boolean
function Tokenizer:is_special(id) end

---@class crucible.core.Datum  other fields are ignored
---@field tokens integer[]
---@field targets integer[]?  as many as tokens; without it tokens[2..n] are the targets of tokens[1..n-1]
---@field weights number[]?   one a target; 0 = not supervised; without it all 1

---@class crucible.core.Session  a model with one lora; keeps the model from being collected
local Session = {}

--- Log-probabilities of the targets, one list per datum; NaN where the weight is 0. No gradient,
--- no dropout. `base`: without the lora.
---@param batch crucible.core.Datum[]
---@param options { base: boolean? }?
---@return number[][]? logprobs, string? message, string? code
function Session:forward(batch, options) end

---@class crucible.core.LossResult
---@field loss number           scaled; NaN or infinite if the numbers are
---@field sum number            Σ weight · -log p
---@field supervised integer    targets of weight other than 0
---@field tokens integer        input positions
---@field logprobs number[][]?  on request, as from forward (but with dropout)

--- Cross-entropy, scale · Σ weight · -log p, and its gradients, added to the session's. Without
--- scale, the mean over the supervised tokens of this call.
---@param batch crucible.core.Datum[]
---@param options { scale: number?, logprobs: boolean? }?
---@return crucible.core.LossResult? result, string? message, string? code
function Session:forward_backward(batch, options) end

---@class crucible.core.AdamParams
---@field lr number              >= 0
---@field beta1 number?          0.9
---@field beta2 number?          0.999
---@field eps number?            1e-8
---@field weight_decay number?   0.01, decoupled
---@field max_grad_norm number?  1.0, over all matrices; 0 = never clip

---@class crucible.core.OptimResult
---@field grad_norm number    before clipping
---@field update_norm number  of the change of all weights
---@field skipped boolean     a gradient was not finite: nothing was updated
---@field step integer        updates made so far

--- Clips the gradients, updates by AdamW and zeroes the gradients.
---@param params crucible.core.AdamParams
---@return crucible.core.OptimResult? result, string? message, string? code
function Session:optim_step(params) end

--- Forgets the gradients added so far.
function Session:zero_gradients() end

--- Updates made so far, which also key dropout; with an argument, sets it (resume).
---@param step integer?
---@return integer
function Session:step(step) end

---@class crucible.core.Parameter
---@field name string
---@field layer integer
---@field target string
---@field rows integer
---@field columns integer

--- The trained matrices in order of depth, then projection, then A before B. Names are those of
--- checkpoints and count layers from 0: layer 1 is "layers.0.self_attn.q_proj.lora_A".
---@return crucible.core.Parameter[]
function Session:parameters() end

--- A copy of a matrix as a flat row-major list. which: "value" (default), "gradient", "moment1", "moment2".
---@param name string
---@param which string?
---@return number[]
function Session:read(name, which) end

--- Overwrites a matrix from a flat row-major list of finite numbers; a list that is refused changes nothing.
---@param name string
---@param values number[]
---@param which string?
function Session:write(name, values, which) end

--- Euclidean norm of a matrix, in double.
---@param name string
---@param which string?
---@return number
function Session:norm(name, which) end

---@class crucible.core.Statistics  as NumPy has them in float64: a NaN makes norm to max and the quantiles NaN
---@field count integer
---@field zeros integer      exactly 0
---@field nonfinite integer  NaN or infinite
---@field norm number
---@field rms number
---@field mean number
---@field std number         of these values, divided by count
---@field min number
---@field max number
---@field quantiles number[]?                  in the order asked for
---@field magnitudes crucible.core.Magnitudes?

---@class crucible.core.Magnitudes  counts of finite values other than 0 by floor(log2 |x|), denormals included
---@field least integer?  exponent of the first count; nil when there is none
---@field [integer] integer

---@class crucible.core.StatisticsOptions
---@field quantiles number[]?   at most 16, each from 0 to 1; exact, linear between order statistics
---@field magnitudes boolean?

--- Statistics of a list of numbers or of a string of 4-byte floats, NaN and infinities among them.
---@param values number[]|string
---@param options crucible.core.StatisticsOptions?
---@return crucible.core.Statistics? statistics, string? message, string? code
function core.statistics(values, options) end

--- Statistics of every matrix in the order of parameters(), in one pass over the threads; with options.name of
--- that matrix alone. which: "gradient" (default), "value", "moment1", "moment2".
---@param which string?
---@param options { quantiles: number[]?, magnitudes: boolean?, name: string? }?
---@return crucible.core.Statistics[]|crucible.core.Statistics|nil statistics, string? message, string? code
function Session:statistics(which, options) end

--- Multiplies a matrix's gradient with a finite number.
---@param name string
---@param factor number
---@return true
function Session:scale_gradient(name, factor) end

--- Adds factor · values to a matrix's gradient; nothing to a frozen one.
---@param name string
---@param factor number
---@param values number[]|string  as many as the matrix has; a string of 4-byte floats
---@return true
function Session:add_gradient(name, factor, values) end

--- Σ gradient · values, in double.
---@param name string
---@param values number[]|string
---@return number
function Session:dot_gradient(name, values) end

--- Freezes a matrix or, with false, thaws it: a frozen one keeps value and moments, its gradient reads zero.
---@param name string
---@param frozen boolean?  true
---@return true
function Session:freeze(name, frozen) end

--- Names of the frozen matrices, in order.
---@return string[]
function Session:frozen() end

--- Scales the gradients where they lie to norm max_grad_norm when above it (0 = never), as optim_step would.
--- An optim_step with max_grad_norm = 0 then reaches the same bytes.
---@param max_grad_norm number
---@return number grad_norm  before
---@return number scale      1 = left alone
function Session:clip(max_grad_norm) end

--- What to keep an eye on from now on; what is left out is forgotten.
---   "updates"  a copy of the weights each update
---   "pieces"   a copy of the gradients each micro-batch
---   "turns"    a copy of the gradients each call of turns()
---@param what string[]
---@return true? ok, string? message, string? code
function Session:watch(what) end

--- Of the last update, for each matrix: norm of its change, and norm of what it was before.
---@return number[]? change, number[]|string before, string? code  "argument": not watched, or no update yet
function Session:updates() end

--- What each micro-batch since the last update added: norm of its share of the gradient, rows with a supervised
--- target, supervised targets.
---@return { norm: number, rows: integer, supervised: integer }[]? pieces, string? message, string? code
function Session:pieces() end

--- Cosine between each matrix's gradient now and at the previous call, and between all of them as one vector;
--- NaN at the first call and where either is zero.
---@return number[]? cosines, number|string overall, string? code
function Session:turns() end

--- Singular values of scale · B A, largest first, of the branch that a matrix belongs to.
---@param name string
---@return number[]? values, string? message, string? code
function Session:singular_values(name) end

--- Writes the lora as PEFT's adapter_model.safetensors.
---@param path string
---@return true? ok, string? message, string? code
function Session:save_lora(path) end

--- Reads what save_lora or PEFT wrote; a failure leaves the session as it was.
---@param path string
---@return true? ok, string? message, string? code
function Session:load_lora(path) end

--- Writes moments and step as safetensors, bit for bit.
---@param path string
---@return true? ok, string? message, string? code
function Session:save_optimizer(path) end

--- Reads what save_optimizer wrote; a failure leaves the session as it was.
---@param path string
---@return true? ok, string? message, string? code
function Session:load_optimizer(path) end

---@class crucible.core.MemoryPlan
---@field weights_mapped integer  bytes of the file, shared and reclaimable
---@field lora integer            matrices, gradients and moments
---@field activations integer     kept from forward for backward
---@field scratch integer         work space

--- Bytes that a step over rows of these lengths (>= 1) will hold, before it runs.
---@param lengths integer[]
---@return crucible.core.MemoryPlan? plan, string? message, string? code
function Session:memory(lengths) end

---@class crucible.core.SamplingParams
---@field temperature number?   0 = greedy
---@field top_p number?         in (0, 1]; 1 = off
---@field top_k integer?        0 = off
---@field max_tokens integer?   new tokens a prompt
---@field seed integer?         each prompt draws from a stream of its own
---@field stop_ids integer[]?   any of these ends a row and is left out
---@field max_batch integer?    rows decoded together; 0 = 16
---@field base boolean?         without the lora

--- Starts batched generation.
---@param prompts integer[][]  none empty
---@param params crucible.core.SamplingParams?
---@return crucible.core.Generation? generation, string? message, string? code
function Session:generate(prompts, params) end

--- Sum of log p of each continuation after each prompt: scores[i][c].
---@param prompts integer[][]
---@param continuations integer[][][]  continuations[i][c]: token ids; as many for every prompt
---@param options { base: boolean? }?
---@return number[][]? scores, string? message, string? code
function Session:score(prompts, continuations, options) end

--- Makes the running call return nil, message, "cancelled" at the next layer. A call blocks the Lua
--- state it is made from, so this serves hosts that reach the session from another thread.
function Session:cancel() end

--- Releases the session; its generations can then only be closed.
function Session:close() end

---@class crucible.core.Generation  keeps its session from being collected
local Generation = {}

---@class crucible.core.Event
---@field prompt integer    from 1
---@field token integer?    nil when the row ended without a further token
---@field logprob number?   of the token under the model, before temperature and filters
---@field finish string?    "stop" or "length" in a row's last event

--- Decodes one token of every active row: an event each, or nil alone at the end.
---@return crucible.core.Event[]? events, string? message, string? code
function Generation:step() end

--- Sum of log p of continuations after the prompts that the latest step began (all prompts of that
--- step's events), on the keys it kept: scores[e][c] for event e. An "argument" failure after any
--- other step.
---@param continuations integer[][][]  continuations[e][c]: token ids; as many for every event
---@return number[][]? scores, string? message, string? code
function Generation:score(continuations) end

--- Ends a row early (a stop string was found), its place is free at the next step; a prompt that has
--- not begun never begins.
---@param prompt integer
---@return true? ok, string? message, string? code
function Generation:finish(prompt) end

--- Releases the generation, finished or not.
function Generation:close() end

---@class crucible.core.fs  durable files for checkpoints, and the few facts of the system that Lua does not tell
core.fs = {}

--- Writes a whole file: temporary name, fsync, rename, fsync of the folder.
---@param path string
---@param bytes string
---@return true? ok, string? message, string? code
function core.fs.write_file(path, bytes) end

--- The content of a regular file.
---@param path string
---@return string? bytes, string? message, string? code
function core.fs.read_file(path) end

--- Appends bytes in one write call; the file is created when absent.
---@param path string
---@param bytes string
---@return true? ok, string? message, string? code
function core.fs.append_file(path, bytes) end

--- Makes a folder and its parents; an existing one is fine.
---@param path string
---@return true? ok, string? message, string? code
function core.fs.make_folder(path) end

--- Renames a file or folder, replacing a file, and syncs the folder it goes to.
---@param from string
---@param to string
---@return true? ok, string? message, string? code
function core.fs.rename(from, to) end

--- Removes a file or a folder with all it holds; an absent one is fine. Links are not followed.
---@param path string
---@return true? ok, string? message, string? code
function core.fs.remove_tree(path) end

--- Makes renames and new names in a folder durable.
---@param path string
---@return true? ok, string? message, string? code
function core.fs.sync_folder(path) end

--- Sorted names in a folder, without "." and "..".
---@param path string
---@return string[]? names, string? message, string? code
function core.fs.list(path) end

--- What stands at a path, or nil alone when nothing does. modified: seconds since 1970.
---@param path string
---@return { folder: boolean, size: integer, modified: number }? status, string? message, string? code
function core.fs.stat(path) end

--- SHA-256 of bytes, or of a file's content with { file = path }, in hexadecimal.
---@param bytes_or_table string|{ file: string }
---@return string? digest, string? message, string? code
function core.fs.sha256(bytes_or_table) end

--- Seconds from a clock that only moves forward, with sub-microsecond steps.
---@return number
function core.fs.clock() end

--- n (at most 1048576) random bytes from the system's source.
---@param n integer
---@return string? bytes, string? message, string? code
function core.fs.random_bytes(n) end

--- true when the stream ("stdout" or "stderr") is a terminal.
---@param stream string
---@return boolean
function core.fs.is_terminal(stream) end

--- Peak resident memory of this process in bytes.
---@return integer
function core.fs.peak_memory() end

return core
