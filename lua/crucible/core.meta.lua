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

--- Whether a key of PEFT's rank_pattern or alpha_pattern means a module: the key is a regular expression that
--- matches the name, such as "model.layers.12.self_attn.q_proj", as a whole or from behind a dot on.
---@param key string
---@param module string
---@return boolean? matches, string? message, string? code  "argument": the key is no regular expression
function core.module_matches(key, module) end

--- The value of a JSON text (RFC 8259, UTF-8, at most 200 deep). null is a light userdata of NULL, a number
--- without point and exponent an integer; of a key that occurs twice the later value counts.
---@param text string
---@return any value, string? message, string? code
function core.decode_json(text) end

---@class crucible.core.GgufTensor
---@field name string
---@field type string      "Q4_1"
---@field shape integer[]  outermost first
---@field offset integer   of its data in the file
---@field bytes integer    0 for a type that is not known

--- What stands in a GGUF file, whatever it is: keys by name (texts, numbers, booleans and lists of them) and the
--- table of tensors in the file's order.
---@param path string
---@return { keys: table<string, any>, tensors: crucible.core.GgufTensor[] }? file, string? message, string? code
function core.read_gguf(path) end

--- The values of a tensor in a GGUF file, row-major; at most 2^24 of them.
---@param path string
---@param name string
---@return number[]? values, string? message, string? code
function core.read_gguf_tensor(path, name) end

--- Overwrites the value of a key of type f64 in a GGUF file, in place: for a draft that has no name yet.
---@param path string
---@param key string
---@param value number
---@return true? ok, string? message, string? code
function core.set_gguf_number(path, key, value) end

---@class crucible.core.Model  an open model file; read-only, shared by its sessions
local Model = {}

--- family, name, quantisation, chat_template (strings, perhaps empty), layers, width, heads, kv_heads,
--- head_size, ffn_width, vocabulary, context, parameters, file_bytes (integers), rope_base,
--- norm_epsilon (numbers), tied_head (boolean).
---@return table<string, string|number|boolean>
function Model:info() end

--- What its file holds: every tensor with its type, shape (outermost first) and bytes, in the file's order.
---@return { name: string, type: string, shape: integer[], bytes: integer }[]
function Model:tensors() end

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
---@field micro_batch_tokens integer?  activations are kept for about so many tokens at a time; 0 (default) = 1024
---@field recompute boolean?           keep each layer's input alone and run it again in backward
---@field dora boolean?                train a magnitude a row beside directions (Liu et al. 2024)
---@field rank_pattern crucible.core.Pattern[]?   ranks of the modules that keys mean
---@field alpha_pattern crucible.core.Pattern[]?  their alphas

---@class crucible.core.Pattern  of several keys that mean a module, the first counts
---@field [1] string  a regular expression: see core.module_matches
---@field [2] number

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

--- The same for many texts at once, on several threads (0, the default: as many as may be used).
---@param texts string[]
---@param parse_special boolean?
---@param threads integer?
---@return integer[][]? ids, string? message, string? code
function Tokenizer:encode_all(texts, parse_special, threads) end

--- Where each token ends, in bytes of the text that decode gives. A byte that several tokens spell
--- ends with the last of them.
---@param ids integer[]
---@return integer[]? ends, string? message, string? code  "argument": an id outside the vocabulary
function Tokenizer:ends(ids) end

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
---@field space_prefix boolean and a space before its first word
---@field prefixes_each boolean and before the text behind each special token
---@field prefix_unless_spaced boolean but none where the text begins with a space
---@field composes boolean text becomes NFC between special tokens, and decode gives it so
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

--- What a generated text must become: one that the pattern means as a whole. Patterns are a subset of regular
--- expressions: characters, \n \r \t \f \xHH \x{H…}, classes, . \d \w \s, groups, |, * + ? {n,m}; what is not
--- known is refused by name, with the byte where it stands.
---@param pattern string
---@return crucible.core.Constraint? constraint, string? message, string? code
function Tokenizer:constraint(pattern) end

---@class crucible.core.Constraint  needs neither its tokenizer nor its model any more
local Constraint = {}

--- Whether a whole text is one that the pattern means.
---@param text string
---@return boolean? matches, string? message, string? code
function Constraint:matches(text) end

--- Releases the constraint; generations that use it go on.
function Constraint:close() end

---@class crucible.core.TokenCounts
---@field rows integer       given
---@field truncated integer  cut
---@field dropped integer    left out

---@class crucible.core.TokenRow
---@field tokens integer[]
---@field weights number[]  one a target: one fewer than tokens
---@field row integer            of what it was made of
---@field prompt_length integer  tokens before the answer
---@field seam integer           bytes between prompt and answer
---@field end_id integer?        the token that ends it

---@class crucible.core.Tokens  a file of tokenised rows, memory-mapped
local Tokens = {}

--- A row by its place, from 1.
---@param index integer
---@return crucible.core.TokenRow row
function Tokens:row(index) end

--- What was counted while it was made.
---@return crucible.core.TokenCounts
function Tokens:counts() end

--- Releases the mapping.
function Tokens:close() end

---@class crucible.core.TokenWriter  rows on their way into a file
local TokenWriter = {}

--- Adds a row.
---@param row crucible.core.TokenRow
---@return true? ok, string? message, string? code
function TokenWriter:add(row) end

--- Writes the file, whole or not at all; folders are made.
---@param path string
---@param key string  64 hexadecimal digits: the SHA-256 of what the rows were made of
---@param counts crucible.core.TokenCounts
---@return true? ok, string? message, string? code
function TokenWriter:commit(path, key, counts) end

--- Drops what was not written.
function TokenWriter:close() end

--- Starts a file of tokenised rows, in memory.
---@return crucible.core.TokenWriter? writer, string? message, string? code
function core.write_tokens() end

--- Opens a file of tokenised rows; "format" when it is cut short, damaged, of another key or no such file.
---@param path string
---@param key string  64 hexadecimal digits
---@return crucible.core.Tokens? tokens, string? message, string? code
function core.open_tokens(path, key) end

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

---@class crucible.core.Question  what is asked of a datum; positions count from 1
---@field positions integer[]?  where candidates are asked for
---@field counts integer[]?     how many at each
---@field ids integer[]?        the candidates, one position after another
---@field spans integer[]?      first and last position of each span

---@class crucible.core.PredictRequest
---@field outputs string[]        logprobs, entropy, candidates, hidden, likeliest, mean_logprobs, base_logprobs, base_candidates
---@field comparisons { kind: string, temperature: number?, teacher: crucible.core.Session? }[]?  at most 8; kind is
--- forward_kl, reverse_kl, jensen_shannon, logit_square or hidden_square; without a teacher, the base
---@field every_position boolean? log-probabilities and entropy where the weight is 0 as well
---@field train boolean?          keep for backward, with dropout
---@field questions crucible.core.Question[]?  one a datum

---@class crucible.core.Prediction
---@field answers table<string, integer>[]  for each datum length (T), spans, and where each output begins in the values
---@field width integer       of hidden states
---@field finite boolean      all values are
---@field supervised integer
---@field tokens integer

--- A forward pass of all datums at once that waits for slopes. It ends with the next call that runs the model,
--- an update or end_prediction.
---@param batch crucible.core.Datum[]
---@param request crucible.core.PredictRequest
---@return crucible.core.Prediction? prediction, string? message, string? code
function Session:predict(batch, request) end

--- The prediction's values, or its slopes (which begin at 0), [n] f64, where they lie: gone when it ends.
---@param which "values"|"slopes"
---@return crucible.core.Array? array, string? message, string? code
function Session:prediction_tensor(which) end

--- Adds the gradients that belong to the prediction's slopes; with `term`, they are that term's, whose
--- gradients are kept apart.
---@param term integer?  from 1, after share_gradients
---@return true? ok, string? message, string? code
function Session:backward(term) end

--- From now on keeps apart what each of so many terms adds to the gradients; 0 = no longer.
---@param terms integer
---@return true? ok, string? message, string? code
function Session:share_gradients(terms) end

--- Norm of a term's gradient since the gradients were last zero, and its cosine with the first term's.
---@param term integer
---@return number? norm, number|string cosine_or_message, string? code
function Session:share(term) end

--- Ends the prediction, if there is one.
function Session:end_prediction() end

--- Counts datums as run that were not, for dropout's masks.
---@param datums integer
function Session:pass_over(datums) end

---@class crucible.core.AdamParams
---@field lr number              >= 0
---@field beta1 number?          0.9
---@field beta2 number?          0.999
---@field eps number?            1e-8
---@field weight_decay number?   0.01, decoupled
---@field max_grad_norm number?  1.0, over all matrices; 0 = never clip
---@field loraplus_lr_ratio number?  > 0: the rate of B and magnitudes over A's (LoRA+, Hayou et al. 2024); default: that
--- of the update before, which save_optimizer keeps; 1 at first

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
---@field part "A"|"B"|"magnitude"
---@field rows integer
---@field columns integer  of magnitudes 1

--- The trained matrices in order of depth, then projection, then A, B and, with DoRA, magnitudes. Names are
--- those of checkpoints and count layers from 0: layer 1 is "layers.0.self_attn.q_proj.lora_A", with "….lora_B" and
--- "….lora_magnitude_vector".
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

---@class crucible.core.Module
---@field name string     in a Hugging Face model: "model.layers.0.self_attn.q_proj"
---@field layer integer   from 1
---@field target string
---@field rank integer
---@field alpha number
---@field scale number    that B A is multiplied with

--- The projections that carry a branch, in the order of parameters().
---@return crucible.core.Module[]
function Session:modules() end

--- Rows of a projection's weight with its branch merged into it, W + scale · B A or, with DoRA, magnitude times the
--- direction: [count, in] as 4-byte floats, in the row order of the base's file. All rows, unless given.
---@param layer integer   from 1
---@param target string
---@param first integer?  from 1
---@param count integer?
---@return string? rows, string? message, string? code  "argument": a value is not finite
function Session:merge_rows(layer, target, first, count) end

--- Norms of the rows of W + scale · B A.
---@param layer integer   from 1
---@param target string
---@return number[]? norms, string? message, string? code
function Session:row_norms(layer, target) end

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

--- Statistics of a list of numbers, a string of 4-byte floats or an array of core.tensor (as f32), NaN and
--- infinities among them.
---@param values number[]|string|crucible.core.Array
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
---@param values number[]|string|crucible.core.Array  as many as the matrix has; a string of 4-byte floats
---@return true
function Session:add_gradient(name, factor, values) end

--- Σ gradient · values, in double.
---@param name string
---@param values number[]|string|crucible.core.Array
---@return number
function Session:dot_gradient(name, values) end

--- A matrix's gradient as an array of core.tensor [rows, columns], f32: a copy or, borrowed, the session's own
--- memory, which is gone with the next optim_step or zero_gradients.
---@param name string
---@param borrowed boolean?
---@return crucible.core.Array? array, string? message, string? code
function Session:gradient_tensor(name, borrowed) end

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

--- Writes the lora as an adapter in a GGUF file, as llama.cpp loads it. type: "f32" (default), "f16" or "bf16";
--- notes: further metadata, a name and a text in turn.
---@param path string
---@param options { type: string?, notes: string[]? }?
---@return true? ok, string? message, string? code
function Session:save_gguf_adapter(path, options) end

--- Reads such a file into a session of the same targets and ranks; a failure leaves the session as it was.
---@param path string
---@return true? ok, string? message, string? code
function Session:load_gguf_adapter(path) end

--- Writes the base with the lora merged into it as a GGUF file. type: "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1",
--- "q5_0", "q5_1", "iq4_nl", "q2_k" to "q6_k", or "base" (default): the base's own. blanks: names of keys that
--- wait for core.set_gguf_number.
---@param path string
---@param options { type: string?, notes: string[]?, blanks: string[]? }?
---@return true? ok, string? message, string? code
function Session:merge_to_gguf(path, options) end

--- Writes the same as safetensors into a folder that is there: one file, or shards of at most shard_bytes (5e9) and
--- their index. type: "f32", "f16", "bf16" or, where the base is such a folder, "base" (default).
---@param folder string
---@param options { type: string?, notes: string[]?, shard_bytes: integer? }?
---@return true? ok, string? message, string? code
function Session:merge_to_folder(folder, options) end

--- SHA-256 of the matrices as a PEFT folder holds them, in hexadecimal.
---@return string? digest, string? message, string? code
function Session:digest() end

---@class crucible.core.LogitDifference
---@field largest number             of two logits; NaN where one is
---@field position integer           where that was, in its row
---@field token integer
---@field rms number                 over all logits of all positions
---@field positions integer
---@field likeliest_changed integer  positions whose likeliest token differs

--- How far this session's logits are from another's, with `base` without its lora, on rows of token ids.
---@param other crucible.core.Session
---@param rows integer[][]
---@param options { base: boolean? }?
---@return crucible.core.LogitDifference? difference, string? message, string? code
function Session:logit_difference(other, rows, options) end

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
---@field min_p number?         in [0, 1): tokens at least this times as likely as the likeliest; 0 = off
---@field repetition_penalty number?  > 0; 1 = off
---@field max_tokens integer?   new tokens a prompt
---@field seed integer?         each prompt draws from a stream of its own
---@field stop_ids integer[]?   any of these ends a row and is left out
---@field max_batch integer?    rows decoded together; 0 = 16
---@field base boolean?         without the lora
---@field cache_bytes integer?  of keys and values: as many rows as fit are decoded together, a "memory" failure when
--- not one fits; 0 = 1 GiB, but always one row
---@field constraint crucible.core.Constraint?  of the same vocabulary; the generation keeps it

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

--- The k likeliest tokens after every position of a text, best first: ids[i][j] and their log-probabilities,
--- where row i is what may follow tokens 1 to i.
---@param tokens integer[]
---@param k integer
---@param options { base: boolean? }?
---@return integer[][]? ids, number[][]|string logprobs_or_message, string? code
function Session:top(tokens, k, options) end

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

--- rows (decoded together at most), cache_bytes, prompt_positions begun so far, reused_positions: how many of these
--- were taken over from another prompt that begins alike.
---@return { rows: integer, cache_bytes: integer, prompt_positions: integer, reused_positions: integer }
function Generation:info() end

--- Releases the generation, finished or not.
function Generation:close() end

--- Opens a BERT or RoBERTa model of a Hugging Face folder: config.json, model.safetensors, and tokenizer.json or
--- vocab.txt.
---@param path string  the folder
---@param options { threads: integer? }?  0 (default) = core.available_threads()
---@return crucible.core.Encoder? encoder, string? message, string? code
function core.open_encoder(path, options) end

---@class crucible.core.Encoder  crucible.encoder is the face for everyday use
local Encoder = {}

--- family, tokenizer, pooling (strings), normalises (boolean), layers, width, heads, ffn_width, vocabulary, context,
--- parameters (integers), labels (strings by number, from 1).
---@return table<string, string|integer|boolean|string[]>
function Encoder:info() end

--- A vector of `width` numbers for each text.
---@param texts string[]
---@return number[][]? vectors, string? message, string? code
function Encoder:embed(texts) end

--- Logits of the labels for each text or pair of texts.
---@param texts (string|string[])[]
---@return number[][]? logits, string? message, string? code  "argument": no classifier
function Encoder:classify(texts) end

--- Ids of a text or of two, special ones included, and how many tokens were cut at the end.
---@param text string
---@param second string?
---@return integer[]? ids, integer|string cut, string? code
function Encoder:tokens(text, second) end

--- Releases the encoder.
function Encoder:close() end

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

--- Unpacks a tar or zip archive, whatever its compression, into a folder, which is made. An entry that would leave the
--- folder or is a link fails with "unsupported" and its name; so does more than the limits (16 GiB, 100000 entries).
---@param path string
---@param folder string
---@param limits { most_bytes: integer?, most_entries: integer? }?
---@return true? ok, string? message, string? code
function core.fs.unpack(path, folder, limits) end

---@class crucible.core.Lock  held until close, __gc or the end of the process
local Lock = {}

--- Lets the next one in. Closing twice is fine.
function Lock:close() end

--- A lock on a file, which is made when absent and stays; nil alone when somebody else holds it. Does not wait.
---@param path string
---@return crucible.core.Lock? lock, string? message, string? code
function core.fs.lock(path) end

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

--- Seconds since 1970 began, UTC.
---@return integer
function core.fs.time() end

--- n (at most 1048576) random bytes from the system's source.
---@param n integer
---@return string? bytes, string? message, string? code
function core.fs.random_bytes(n) end

--- true when the stream is a terminal.
---@param stream "stdout"|"stderr"|"stdin"
---@return boolean
function core.fs.is_terminal(stream) end

--- Columns and rows of the terminal behind a stream; nil where there is none.
---@param stream "stdout"|"stderr"|"stdin"
---@return integer? columns, integer? rows
function core.fs.terminal_size(stream) end

--- Peak resident memory of this process in bytes.
---@return integer
function core.fs.peak_memory() end

---@class crucible.core.Rows  the rows of a data file, parsed ahead on a thread of its own, in constant memory
local Rows = {}

--- Opens JSON Lines, a JSON array, CSV, TSV or lines of text; plain or compressed by gzip, zstd, bzip2 or xz. A row of
--- CSV or TSV is a table of strings by the first line's names, of text { text = line }.
---@param path string
---@param options { format: "jsonl"|"json"|"csv"|"tsv"|"text"|nil, ahead: boolean?, longest: integer?, keep: string[]? }?  format: by name and content unless given; longest: bytes of a row, 16 MiB; keep: members of objects to make, the others are left out
---@return crucible.core.Rows? rows, string? message, string? code
function core.open_rows(path, options) end

--- The next row and the line it begins in; nil alone at the end. A row that cannot be parsed gives nil, message, code and
--- its line, and the next call goes on behind it; nil, message, code without a line is the end of what can be read.
---@return any row, integer|string|nil line_or_message, string? code, integer? line
function Rows:next() end

--- Ends the thread and closes the file. Closing twice is fine.
function Rows:close() end

---@class crucible.core.HttpRequest
---@field url string               http or https
---@field method string?           GET, or POST with a body
---@field headers string[]?        "Name: value"
---@field ca_file string?          certificates to trust instead of the system's
---@field connect_seconds number?  30
---@field idle_seconds number?     without a byte before it counts as broken; 60; 0: for ever
---@field total_seconds number?    0: for ever
---@field redirects integer?       followed at most; 10
---@field most integer?            bytes of the body that are accepted; 0: any number
---@field file string?             the body of a 200 replaces this file, of a 206 it goes on at its end; else it stays in memory
---@field size integer?            bytes that the file must have in the end
---@field html boolean?            whether an HTML page may go into the file
---@field compressed boolean?      the body may come compressed; `most` counts its bytes when that is undone
---@field once boolean?            a body leaves at most once; else libcurl repeats it, POST too, when a kept connection breaks before the answer

---@class crucible.core.HttpState
---@field done boolean
---@field status integer      0 until the answer's head is in
---@field received integer    bytes of the body
---@field expected integer?   bytes of the body, when the server says
---@field url string          after redirects, without a password
---@field code string?        of a transfer that failed; an answer of any status is none
---@field message string?
---@field transient boolean?  whether it may pass: refused, reset, cut short, timed out
---@field unreachable boolean?  whether no connection was made
---@field sent boolean?       of a failure: whether any byte of the request left

---@class crucible.core.Http  HTTP transfers, as many at once as one likes
local Http = {}

---@class crucible.core.Transfer
local Transfer = {}

--- A set of transfers over libcurl.
---@return crucible.core.Http? http, string? message, string? code
function core.open_http() end

--- Begins a request and returns at once.
---@param request crucible.core.HttpRequest
---@param body string?
---@return crucible.core.Transfer? transfer, string? message, string? code
function Http:start(request, body) end

--- Moves bytes for at most that many seconds, and returns early when a transfer ends; without transfers it sleeps.
---@param seconds number
---@return integer? running, string? message, string? code
function Http:wait(seconds) end

--- Cancels what is under way. Closing twice is fine.
function Http:close() end

--- How far it is.
---@return crucible.core.HttpState
function Transfer:state() end

--- Whether it is: state().done without a table.
---@return boolean
function Transfer:done() end

--- A field of the answer's head, by its name in any case.
---@param name string
---@return string?
function Transfer:header(name) end

--- What of the body stayed in memory: all of it, or with `file` the start of an answer that is neither 200 nor 206.
---@return string
function Transfer:body() end

--- Cancels it if it is under way. Closing twice is fine.
function Transfer:close() end

---@class crucible.core.TinkerTensor  shape [#values]
---@field dtype "float32"|"int64"
---@field values number[]

---@class crucible.core.TinkerPass
---@field model_id string
---@field seq_id integer                                 from 1
---@field loss_fn string
---@field loss_fn_config table<string, number>?
---@field forward_only boolean?
---@field data { tokens: integer[], inputs: table<string, crucible.core.TinkerTensor> }[]

--- A request of the Tinker API's protobuf dialect, as the official writer has it byte for byte.
---@param kind "forward_backward"
---@param request crucible.core.TinkerPass
---@return string? bytes, string? message, string? code
function core.tinker_encode(kind, request) end

--- An answer of that dialect. "forward_backward_output": { type, metrics = { name = number }, outputs = { { name =
--- number[] } } }, one of outputs a datum; "sample_response": { sequences = { { stop_reason = "stop"|"length", tokens,
--- logprobs? } }, prompt_logprobs? }, NaN where there is none. Damaged bytes fail with "format".
---@param kind "forward_backward_output"|"sample_response"
---@param bytes string
---@return table? answer, string? message, string? code
function core.tinker_decode(kind, bytes) end

---@class crucible.core.signals  SIGINT and SIGTERM of this process; crucible.signals is their face
core.signals = {}

--- Notes both from now on. Once `patience` of them came (1, the default), the next ends the process. False when
--- someone in this process does already.
---@param patience integer?  1 to 100
---@return boolean installed
function core.signals.install(patience) end

--- Puts back what was there before install; so does the end of this Lua state. Like the functions below it does
--- nothing in a state that has not installed.
function core.signals.restore() end

--- The first signal since install or rearm.
---@return "SIGINT"|"SIGTERM"|nil
function core.signals.pending() end

--- Forgets it: the next signal is again the first.
function core.signals.rearm() end

--- The sessions, at most 64, whose calls in progress a signal cancels from now on; nil: none.
---@param session crucible.core.Session?
---@param ... crucible.core.Session
function core.signals.cancels(session, ...) end

---@class crucible.core.Array  a dense array of f32 or f64; crucible.tensor is the face for everyday use
--- Its functions are those of core.tensor. It has __gc and __close; tostring says type and count.

---@class crucible.core.tensor  arrays in C: values, shapes and slopes; lua/crucible/tensor puts differentiation around them
---@field unary table<string, fun(x: crucible.core.Array): crucible.core.Array>  neg abs sign exp expm1 log log1p sqrt sin cos asin acos tanh sigmoid relu softplus
---@field unary_slope table<string, fun(dy: crucible.core.Array, x: crucible.core.Array, y: crucible.core.Array): crucible.core.Array>  dy times the derivative of unary[name] at x, where it is y
---@field binary table<string, fun(a: crucible.core.Array|number, b: crucible.core.Array|number): crucible.core.Array>  add sub mul div pow maximum minimum eq ne lt le gt ge pow_base_slope pow_exponent_slope; one may be a number
---@field reduce table<string, fun(x: crucible.core.Array, axis: integer?, keep: boolean?): crucible.core.Array>  sum mean prod max min norm1 norm2
---@field softmax table<string, fun(x: crucible.core.Array, axis: integer): crucible.core.Array>  softmax log_softmax logsumexp (which keeps the axis with size 1)
---@field softmax_slope table<string, fun(dy: crucible.core.Array, x: crucible.core.Array, y: crucible.core.Array, axis: integer): crucible.core.Array>
--- Arguments of a wrong type raise; everything else (shapes that do not fit, a closed array, one whose
--- memory was lent and is gone, no memory) returns nil, message, code. dtype is "f32" or "f64". Axes,
--- positions and indices count from 1, axes and indices also back from -1.
core.tensor = {}

--- An array of nested lists of numbers or booleans, or of one number.
---@param values table|number
---@param dtype string
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.new(values, dtype) end

--- The same value everywhere.
---@param shape integer[]
---@param value number
---@param dtype string
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.full(shape, value, dtype) end

--- start, start + step, ...: count values.
---@param start number
---@param step number
---@param count integer
---@param dtype string
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.range(start, step, count, dtype) end

--- Random numbers, the same for the same seed, dtype and count. distribution: "uniform" in [0, 1) or "normal".
---@param shape integer[]
---@param distribution string
---@param seed integer
---@param dtype string
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.random(shape, distribution, seed, dtype) end

--- Releases the array; views of it keep their memory. Closing twice is fine.
---@param x crucible.core.Array
function core.tensor.close(x) end

--- The values as nested lists; of rank 0 as a number.
---@param x crucible.core.Array
---@return table|number|nil values, string? message, string? code
function core.tensor.totable(x) end

--- Sizes of the axes.
---@param x crucible.core.Array
---@return integer[]? shape, string? message, string? code
function core.tensor.shape(x) end

--- dtype, rank, number of values, whether they lie row after row, whether the memory is lent by somebody else.
---@param x crucible.core.Array
---@return string? dtype, integer|string rank_or_message, integer|string count_or_code, boolean contiguous, boolean borrowed
function core.tensor.info(x) end

--- A number that changes with every write into the array's memory, through whatever view.
---@param x crucible.core.Array
---@return integer? version, string? message, string? code
function core.tensor.version(x) end

--- One value, by a position on every axis.
---@param x crucible.core.Array
---@param ... integer
---@return number? value, string? message, string? code
function core.tensor.item(x, ...) end

--- A view of the whole.
---@param x crucible.core.Array
---@return crucible.core.Array? view, string? message, string? code
function core.tensor.view(x) end

--- A view with the axes in another order: axis i is axes[i] of x.
---@param x crucible.core.Array
---@param axes integer[]
---@return crucible.core.Array? view, string? message, string? code
function core.tensor.permute(x, axes) end

--- A view in which axes of size 1, and new ones in front, have the given sizes.
---@param x crucible.core.Array
---@param shape integer[]
---@return crucible.core.Array? view, string? message, string? code
function core.tensor.expand(x, shape) end

--- The values in another shape: a view where x is contiguous or only axes of size 1 come or go, else a copy.
---@param x crucible.core.Array
---@param shape integer[]
---@return crucible.core.Array? view, string? message, string? code
function core.tensor.reshape(x, shape) end

--- A view of positions first to last of an axis, counted as string.sub does, step apart.
---@param x crucible.core.Array
---@param axis integer
---@param first integer
---@param last integer
---@param step integer
---@return crucible.core.Array? view, string? message, string? code
function core.tensor.slice(x, axis, first, last, step) end

--- A view where x is contiguous, else a copy.
---@param x crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.contiguous(x) end

--- A contiguous copy of the given dtype.
---@param x crucible.core.Array
---@param dtype string
---@return crucible.core.Array? copy, string? message, string? code
function core.tensor.copy(x, dtype) end

--- Sets every value, in place.
---@param x crucible.core.Array
---@param value number
---@return crucible.core.Array? x, string? message, string? code
function core.tensor.fill(x, value) end

--- Multiplies every value, in place.
---@param x crucible.core.Array
---@param factor number
---@return crucible.core.Array? x, string? message, string? code
function core.tensor.scale(x, factor) end

--- Takes over the values of source, which broadcasts, in place.
---@param x crucible.core.Array
---@param source crucible.core.Array
---@return crucible.core.Array? x, string? message, string? code
function core.tensor.assign(x, source) end

--- Adds factor times source, which broadcasts, in place.
---@param x crucible.core.Array
---@param source crucible.core.Array
---@param factor number
---@return crucible.core.Array? x, string? message, string? code
function core.tensor.add(x, source, factor) end

--- a where the condition is not 0, else b.
---@param condition crucible.core.Array
---@param a crucible.core.Array
---@param b crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.where(condition, a, b) end

--- x kept between low and high.
---@param x crucible.core.Array
---@param low number
---@param high number
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.clamp(x, low, high) end

--- dy where x lies between low and high, else 0.
---@param dy crucible.core.Array
---@param x crucible.core.Array
---@param low number
---@param high number
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.clamp_slope(dy, x, low, high) end

--- The "max" or "min" along an axis (nil: of all, in row-major order) and the position of the first such value.
---@param x crucible.core.Array
---@param name string
---@param axis integer?
---@param keep boolean?
---@return crucible.core.Array? values, crucible.core.Array|string positions_or_message, string? code
function core.tensor.extreme(x, name, axis, keep) end

--- x summed over the axes along which `like` was broadcast to its shape, in the dtype of `like`.
---@param x crucible.core.Array
---@param like crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.sum_to(x, like) end

--- dy times the product of the other values along the axis (nil: of all).
---@param dy crucible.core.Array
---@param x crucible.core.Array
---@param axis integer?
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.prod_slope(dy, x, axis) end

--- The matrix product over the last two axes; the others broadcast, vectors count as row or column.
---@param a crucible.core.Array
---@param b crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.matmul(a, b) end

--- Values along an axis by positions, which have x's sizes on the other axes.
---@param x crucible.core.Array
---@param axis integer
---@param positions crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.gather(x, axis, positions) end

--- Values along an axis by one list of positions.
---@param x crucible.core.Array
---@param axis integer
---@param positions crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.select(x, axis, positions) end

--- A copy of x with source added where gather would read it.
---@param x crucible.core.Array
---@param axis integer
---@param positions crucible.core.Array
---@param source crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.scatter_add(x, axis, positions, source) end

--- A copy of x with source added where select would read it.
---@param x crucible.core.Array
---@param axis integer
---@param positions crucible.core.Array
---@param source crucible.core.Array
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.select_add(x, axis, positions, source) end

--- Positions of the values that are not 0, in row-major order.
---@param x crucible.core.Array
---@return crucible.core.Array? positions, string? message, string? code
function core.tensor.nonzero(x) end

--- Sums along an axis from its start to each place, or from each place to its end.
---@param x crucible.core.Array
---@param axis integer
---@param from_end boolean?
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.cumsum(x, axis, from_end) end

--- Values in order along an axis and where they came from; equal ones keep their order, NaN comes last.
---@param x crucible.core.Array
---@param axis integer
---@param descending boolean?
---@return crucible.core.Array? values, crucible.core.Array|string positions_or_message, string? code
function core.tensor.sort(x, axis, descending) end

--- Arrays one after another along an axis.
---@param list crucible.core.Array[]
---@param axis integer
---@return crucible.core.Array? array, string? message, string? code
function core.tensor.concat(list, axis) end

---@class crucible.core.Interval
---@field dimension integer    0: a component, 1: a loop
---@field birth number
---@field death number         math.huge: never
---@field birth_edge integer?  nil: a vertex
---@field death_edge integer?  nil: never

---@class crucible.core.topology
core.topology = {}

--- Persistent homology of a weighted graph in dimensions 0 and 1, over Z/2; `filled` adds the triangles of
--- its edges. Vertices and edges count from 1; ends are pairs, one after another. Fails with "argument"
--- for a loop, a repeated edge, a value below 0 or not finite.
---@param vertices integer
---@param ends integer[]
---@param values number[]
---@param filled boolean?
---@return crucible.core.Interval[]? intervals, string? message, string? code
function core.topology.persistence(vertices, ends, values, filled) end

--- The cheapest assignment of n rows to n columns: its total, and the column of each row. Costs are
--- row-major and finite.
---@param n integer
---@param costs number[]
---@return number? total, integer[]|string columns_or_message, string? code
function core.topology.assignment(n, costs) end

--- The square of the 2-Wasserstein distance of two diagrams (births and deaths, one after another, all finite), and
--- the point of b that each point of a is matched to; false: the diagonal.
---@param a number[]
---@param b number[]
---@return number? squared, (integer|false)[]|string match_or_message, string? code
function core.topology.wasserstein(a, b) end

return core
