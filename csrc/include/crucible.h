/* crucible.h: LoRA fine-tuning of language models on the CPU, from C.
 *
 * The whole of the library that a host sees. The Lua module is written against
 * this header alone; whatever Lua can do, a C program can do.
 *
 * A run in short:
 *
 *     cr_model *model;  cr_session *session;
 *     cr_model_open(&model, "smollm2.gguf");
 *     cr_session_config config = cr_session_config_default();
 *     cr_session_create(&session, model, &config);
 *     for (...) {
 *         cr_session_forward_backward(session, datums, n, &loss, &result);
 *         cr_session_optim_step(session, &adam, &step);
 *     }
 *     cr_session_save_lora(session, "adapter_model.safetensors");
 *     cr_session_close(session);  cr_model_close(model);
 *
 * examples/embed/train.c is the whole program. It is built with what pkg-config says of `crucible`, or with
 * CMake: find_package(crucible), then the target crucible::crucible (crucible::static for the archive).
 *
 * Contents, in the order of a run
 *     results                codes, messages, processor
 *     models                 open, describe, tokenizer
 *     tokens                 text to ids and back
 *     tokenised data         files of rows
 *     sessions               one LoRA on one model: forward, loss and gradients
 *     losses of one's own    what a loss looks at, and the way back from its slopes
 *     updates                AdamW; the matrices that are trained
 *     gradients              measured, scaled, frozen, watched
 *     files of a session     PEFT's layout; optimiser state; memory beforehand
 *     generation             sampling, constraints, scores
 *     files for others       GGUF adapters, merged models, what a merge changes
 *     encoders               vectors and labels of texts (BERT, RoBERTa)
 *     tensors                arrays for losses and statistics
 *     topology               persistent homology, assignments
 *
 * Results. Functions return CR_OK (0) or a negative code; the reason is
 * cr_error_message(), kept per thread: what was wrong, with which file or argument, what
 * was expected. Functions without a result cannot fail. A call that fails changes nothing
 * but where it says so, and may be tried again; what it wrote through `out` is NULL.
 *
 * Ownership. A handle written through `cr_x **out` is the caller's and is
 * released by cr_x_close (NULL is accepted). A returned pointer is borrowed from
 * the handle it came from. A session keeps its model open: closing the model
 * first is fine. What a function allocates for the caller (`char **text`) is released by
 * cr_free.
 *
 * Arguments. Pointers are to be valid, and NULL only where it is said; counts and shapes are the
 * caller's word. Token ids, sizes, names and settings are checked, as are files to their
 * last byte: hostile ones are CR_EFORMAT.
 *
 * Threads. Different sessions may be used from different threads at the same
 * time; one session by one thread at a time, except cr_session_cancel, which
 * may be called from any thread or signal handler. Models and tokenizers are
 * read-only and shared freely. Everything else (generations, constraints, encoders, tensors) is
 * used by one thread at a time. A session's own threads sleep between calls, take no
 * signals and end in cr_session_close. A forked child must not use its parent's handles.
 *
 * Determinism. The same seed and calls give the same bytes, at any number of threads.
 *
 * The library prints nothing, never exits or aborts, installs no signal
 * handlers, changes neither locale nor floating-point environment, and keeps no
 * mutable state outside its handles and the per-thread message.
 */
#ifndef CRUCIBLE_H
#define CRUCIBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CR_API __attribute__((visibility("default")))
#else
#define CR_API
#endif

#define CR_VERSION "0.1.0"

/* ---- results ---------------------------------------------------------- */

enum {
    CR_OK = 0,
    CR_EARG = -1,         /* "argument": the caller asked for something impossible */
    CR_ENOMEM = -2,       /* "memory": none left, or a size that cannot be */
    CR_EIO = -3,          /* "io": the file system or the network */
    CR_EFORMAT = -4,      /* "format": a file that is not what it claims to be */
    CR_EUNSUPPORTED = -5, /* "unsupported": well formed, but not something we do */
    CR_ENOTFOUND = -6,    /* "not_found" */
    CR_ECONTEXT = -7,     /* "context_overflow": more tokens than the model's context */
    CR_ECANCELLED = -8    /* "cancelled": cr_session_cancel was called */
};

/* The calling thread's last failure, never NULL; valid until its next one. */
CR_API const char *cr_error_message(void);

/* "argument", "memory", ...: the code as a stable word. */
CR_API const char *cr_code_name(int code);

/* Releases what a function of this header gave to the caller as memory. */
CR_API void cr_free(void *memory);

/* "avx2", "avx512", "neon" or "portable": the kernels this processor gets. */
CR_API const char *cr_kernel_name(void);

/* How many threads a session gets when its config says 0: processors allowed
 * by affinity and by the cgroup's CPU quota. */
CR_API int cr_available_threads(void);

/* ---- models ------------------------------------------------------------ */

typedef struct cr_model cr_model;
typedef struct cr_tokenizer cr_tokenizer;
typedef struct cr_session cr_session;
typedef struct cr_generation cr_generation;

/* Opens a .gguf file, or a folder as the Hugging Face hub has it (config.json, safetensors files,
 * tokenizer.json). The weights stay in the files, memory-mapped and quantised. CR_ENOTFOUND, CR_EIO,
 * CR_EFORMAT, CR_EUNSUPPORTED (architecture or tensor type). */
CR_API int cr_model_open(cr_model **out, const char *path);
CR_API void cr_model_close(cr_model *model);

typedef struct cr_model_info {
    const char *family;       /* "llama" */
    const char *name;         /* general.name, or "" */
    const char *quantisation; /* most frequent type of the projections: "Q4_1" */
    const char *chat_template; /* Jinja source, or "" */
    int layers;
    int width;          /* d, the hidden size */
    int heads, kv_heads;
    int head_size;      /* values a head */
    int ffn_width;
    int vocabulary;     /* rows of the embedding */
    int context;        /* the longest row the model was trained for */
    double rope_base;
    double norm_epsilon;
    bool tied_head;     /* the head is the embedding */
    uint64_t parameters;
    uint64_t file_bytes;
} cr_model_info;

/* Its texts are borrowed from the model. */
CR_API void cr_model_describe(const cr_model *model, cr_model_info *out);

/* What its file holds, tensor by tensor in the file's order. */
typedef struct cr_stored_tensor {
    const char *name; /* not terminated */
    size_t name_length;
    const char *type; /* "Q4_1" */
    int dims;
    uint64_t shape[4]; /* outermost first */
    uint64_t bytes;
} cr_stored_tensor;

CR_API size_t cr_model_stored_count(const cr_model *model);

/* false for a tensor that a folder's list says is in another of its files. */
CR_API bool cr_model_stored(const cr_model *model, size_t index, cr_stored_tensor *out);

/* Borrowed from the model. */
CR_API const cr_tokenizer *cr_model_tokenizer(const cr_model *model);

/* ---- tokens ------------------------------------------------------------- */

/* Encodes `length` bytes of any content. With parse_special, the text of
 * special tokens ("<|im_end|>") becomes their ids; without, it is ordinary text.
 * No BOS or EOS is added. *ids is the caller's: cr_free. */
CR_API int cr_tokenizer_encode(const cr_tokenizer *tokenizer, const char *text, size_t length,
                               bool parse_special, int32_t **ids, size_t *count);

/* Encodes `count` texts on `threads` threads (0 = as many as the process may use), each as
 * cr_tokenizer_encode does. The ids of text i are ids[ends[i - 1]..ends[i]), from 0 for the first.
 * *ids and *ends [count] are the caller's: cr_free. */
CR_API int cr_tokenizer_encode_all(const cr_tokenizer *tokenizer, const char *const *texts,
                                   const size_t *lengths, size_t count, bool parse_special,
                                   int threads, int32_t **ids, size_t **ends);

/* Where each token ends in the text that cr_tokenizer_decode gives without skip_special:
 * ends[i] bytes in [count]. A byte that several tokens spell ends with the last of them and
 * belongs to the first. CR_EARG for an id outside the vocabulary. */
CR_API int cr_tokenizer_ends(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                             size_t *ends);

/* Bytes of the ids, special tokens as their text unless skip_special. *text is
 * terminated and the caller's: cr_free. CR_EARG for an id outside the
 * vocabulary. */
CR_API int cr_tokenizer_decode(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                               bool skip_special, char **text, size_t *length);

typedef struct cr_tokenizer_info {
    const char *model;         /* "gpt2": byte-level BPE; "llama": SentencePiece BPE */
    const char *pretokenizer;  /* "smollm"; "none" for SentencePiece */
    int size;                  /* ids are 0..size-1 */
    int32_t bos, eos, pad, unknown; /* -1 = none */
    bool add_bos;              /* the model expects a BOS before the text */
    bool space_prefix;         /* and a space before its first word, */
    bool prefixes_each;        /* and before the text behind each special token, */
    bool prefix_unless_spaced; /* but none where the text begins with a space */
    bool composes;             /* text becomes NFC between special tokens, and decode gives it so */
} cr_tokenizer_info;

/* Its texts are borrowed from the tokenizer. */
CR_API void cr_tokenizer_describe(const cr_tokenizer *tokenizer, cr_tokenizer_info *out);

/* The id whose text is exactly `text`, or -1. */
CR_API int32_t cr_tokenizer_find(const cr_tokenizer *tokenizer, const char *text, size_t length);
CR_API bool cr_tokenizer_is_special(const cr_tokenizer *tokenizer, int32_t id);

/* ---- tokenised data -------------------------------------------------------- */

/* Rows of tokens and weights in a file, made once and mapped afterwards. The file carries the digest
 * of what it was made of (the key) and a checksum, so that one that is cut short, damaged, of other
 * data or no such file at all is refused and can be made anew. It is in this machine's byte order. */

#define CR_TOKEN_KEY_BYTES 32

typedef struct cr_token_row {
    const int32_t *ids;   /* [count] */
    const float *weights; /* [count - 1], of the target ids[i + 1] */
    size_t count;         /* at least 1 */
    uint32_t number;      /* of the row it was made of */
    uint32_t prompt;      /* tokens before the answer, at most count */
    uint32_t seam;        /* bytes between prompt and answer */
    int32_t end;          /* the token that ends it, -1 = none */
} cr_token_row;

typedef struct cr_token_counts {
    uint64_t rows, truncated, dropped; /* given, cut, left out */
} cr_token_counts;

typedef struct cr_token_writer cr_token_writer;

/* Rows are kept in memory and written by commit, which puts the whole file in place of an older one at
 * once and makes its folder. Free it in either case. */
CR_API int cr_token_writer_create(cr_token_writer **out);
CR_API int cr_token_writer_add(cr_token_writer *writer, const cr_token_row *row);
CR_API int cr_token_writer_commit(cr_token_writer *writer, const char *path,
                                  const unsigned char key[CR_TOKEN_KEY_BYTES],
                                  const cr_token_counts *counts);
CR_API void cr_token_writer_free(cr_token_writer *writer);

typedef struct cr_token_file cr_token_file;

/* CR_ENOTFOUND where there is no file, CR_EFORMAT where it is not the whole file of that key. Rows are
 * borrowed and end with the file. */
CR_API int cr_token_file_open(cr_token_file **out, const char *path,
                              const unsigned char key[CR_TOKEN_KEY_BYTES]);
CR_API size_t cr_token_file_size(const cr_token_file *file);
CR_API void cr_token_file_counts(const cr_token_file *file, cr_token_counts *out);
CR_API int cr_token_file_row(const cr_token_file *file, size_t index, cr_token_row *out);
CR_API void cr_token_file_close(cr_token_file *file);

/* ---- sessions ------------------------------------------------------------ */

enum { /* projections that can carry a LoRA branch, as bits of `targets` */
    CR_TARGET_Q = 1,
    CR_TARGET_K = 2,
    CR_TARGET_V = 4,
    CR_TARGET_O = 8,
    CR_TARGET_GATE = 16,
    CR_TARGET_UP = 32,
    CR_TARGET_DOWN = 64,
    CR_TARGET_COUNT = 7
};

/* "q_proj" → CR_TARGET_Q; 0 when there is no such projection. */
CR_API unsigned cr_target_find(const char *name);

/* The name of target number `index` (0..CR_TARGET_COUNT-1), or NULL. */
CR_API const char *cr_target_name(int index);

/* A value for the modules that a key means: a regular expression that matches a module's name, such as
 * "model.layers.12.self_attn.q_proj", as a whole or from behind a dot on (PEFT's rank_pattern and
 * alpha_pattern). Of several keys that mean a module, the first counts. */
typedef struct cr_pattern {
    const char *key;
    double value;
} cr_pattern;

/* LoRA (Hu et al. 2021): y = W x + scale · B A drop(x), with A [rank, in],
 * B [out, rank], scale = alpha / rank, or alpha / sqrt(rank) with rslora
 * (Kalajdzievski 2023). A starts uniform in ±1/sqrt(in), B at zero.
 *
 * With dora (Liu et al. 2024), V = W + scale · B A gives directions alone and a magnitude m a row is
 * trained beside: y = m / ‖V‖ · V x, the norms those of V's rows. m starts as the norms of W, and no
 * gradient flows through ‖V‖ (section 4.3 there). Dropout as PEFT has it: of what DoRA changes, x is
 * dropped, of W x it is not. */
typedef struct cr_session_config {
    int rank;             /* >= 1 */
    double alpha;         /* > 0 */
    double dropout;       /* [0, 1), on the branch's input only */
    unsigned targets;     /* CR_TARGET_* bits */
    bool rslora;
    uint64_t seed;        /* of A, of dropout and of sampling without a seed */
    int threads;          /* 0 = cr_available_threads() */
    int micro_batch_tokens; /* activations are kept for at most about this many tokens
                               at a time; a longer batch runs in several pieces with the
                               same result to rounding. 0 = default (1024) */
    bool recompute;       /* keep only each layer's input and run it again in backward */
    bool dora;
    const cr_pattern *rank_pattern; /* ranks of single modules; read by cr_session_create alone */
    size_t rank_pattern_count;
    const cr_pattern *alpha_pattern;
    size_t alpha_pattern_count;
} cr_session_config;

/* Whether a key means a module of that name. CR_EARG when it is no regular expression. */
CR_API int cr_module_matches(bool *out, const char *key, const char *module);

/* Rank 16, alpha 32, dropout 0.05, on q, k, v and o; seed 0. */
CR_API cr_session_config cr_session_config_default(void);

/* Starts its threads; the model stays open while the session lives. CR_EARG for a setting out of its range,
 * CR_ENOMEM (also when a thread cannot be started). Closing waits for the threads to end. */
CR_API int cr_session_create(cr_session **out, cr_model *model, const cr_session_config *config);
CR_API void cr_session_close(cr_session *session);

/* Asks the running call to return CR_ECANCELLED at the next layer; the session
 * stays usable. Safe in a signal handler. */
CR_API void cr_session_cancel(cr_session *session);

/* One training or scoring row. Without `targets`, tokens[0..count-2] is the input and
 * tokens[1..count-1] the targets: T = count - 1. With `targets` (count values),
 * T = count. `weights` has T values: 0 = not supervised; any real number is allowed.
 * NULL weights: all 1. */
typedef struct cr_datum {
    const int32_t *tokens;
    const int32_t *targets; /* or NULL */
    const float *weights;   /* or NULL */
    size_t count;           /* tokens */
} cr_datum;

/* Log-probabilities of the targets, no gradient, dropout off. logprobs[i] receives T
 * values for datum i; positions of weight 0 are not computed and read NaN. With
 * `base`, the LoRA branches are left out. */
CR_API int cr_session_forward(cr_session *session, const cr_datum *datums, size_t count, bool base,
                              float *const *logprobs);

/* Cross-entropy: loss = scale · Σ weight · -log p(target), gradients accumulated
 * into the session's. With scale = 0, scale is 1 / (number of targets of weight
 * other than 0 in this call): the mean over supervised tokens. */
typedef struct cr_loss {
    double scale;
} cr_loss;

typedef struct cr_loss_result {
    double loss;     /* scaled as above; NaN or infinite if the numbers are */
    double sum;      /* Σ weight · -log p */
    uint64_t supervised; /* targets of weight other than 0 */
    uint64_t tokens; /* input positions */
} cr_loss_result;

/* logprobs may be NULL; otherwise as in cr_session_forward. */
CR_API int cr_session_forward_backward(cr_session *session, const cr_datum *datums, size_t count,
                                       const cr_loss *loss, cr_loss_result *out,
                                       float *const *logprobs);

/* ---- losses of one's own -------------------------------------------------------- */

/* A forward pass that keeps what backward needs, the outputs that a loss looks at, and a backward pass
 * from the loss's slopes with respect to them:
 *
 *     cr_prediction p;
 *     cr_session_predict(session, datums, n, &request, &p);
 *     ... loss from p.values, dL / d value into p.slopes ...
 *     cr_session_backward(session);
 *
 * A session has at most one prediction. It ends, and its pointers with it, with the next call that runs the
 * model, an update, a load, or cr_session_end_prediction. All datums run as one micro-batch. */

enum { /* outputs, as bits; log-probabilities are over the full vocabulary, in nats */
    CR_LOGPROBS = 1,         /* [T] log p(target) */
    CR_ENTROPY = 2,          /* [T] of the distribution at each position */
    CR_CANDIDATES = 4,       /* [K] log p of the tokens that the questions ask about */
    CR_HIDDEN = 8,           /* [S, d] mean over each span of the final hidden state, after the norm */
    CR_BASE_LOGPROBS = 16,   /* the same without the LoRA branches: no slopes */
    CR_BASE_CANDIDATES = 32,
    CR_MEAN_LOGPROBS = 64,   /* [T] mean of log p over the vocabulary: label smoothing */
    CR_LIKELIEST = 128       /* [T] log p of the likeliest token: no slopes */
};

/* How far the distribution (or the hidden state) at each position is from a teacher's, [T]. p is the
 * teacher's, q the session's, both of logits over the temperature; values are not multiplied by its
 * square. */
enum {
    CR_FORWARD_KL,     /* Σ p log(p / q) */
    CR_REVERSE_KL,     /* Σ q log(q / p) */
    CR_JENSEN_SHANNON, /* ½ KL(p|m) + ½ KL(q|m), m = (p + q) / 2 */
    CR_LOGIT_SQUARE,   /* mean over the vocabulary of (logit - teacher's)², at temperature 1 */
    CR_HIDDEN_SQUARE,  /* mean over d of the same of final hidden states, after the norm */
    CR_MOST_COMPARISONS = 8
};

typedef struct cr_comparison {
    int kind;
    double temperature;         /* > 0 */
    struct cr_session *teacher; /* another session, of a model with the same vocabulary (and width, for
                                   CR_HIDDEN_SQUARE), with its LoRA; NULL: this one without */
} cr_comparison;

/* What is asked of one datum beyond its targets. Position t (from 0) reads the inputs 0 to t and predicts
 * target t; any order, repetitions allowed. */
typedef struct cr_question {
    const int32_t *positions; /* [position_count] */
    const int32_t *counts;    /* [position_count] candidates at each */
    const int32_t *ids;       /* [K = sum of counts] */
    size_t position_count;
    const int32_t *spans;     /* [span_count, 2] first and last position, both included */
    size_t span_count;
} cr_question;

typedef struct cr_predict_request {
    unsigned outputs;
    bool every_position;          /* log-probabilities and entropy also where the weight is 0; otherwise
                                     they read 0 there and their slopes are ignored */
    bool train;                   /* keep for backward, with dropout */
    const cr_question *questions; /* one a datum, or NULL */
    const cr_comparison *comparisons;
    size_t comparison_count; /* at most CR_MOST_COMPARISONS */
} cr_predict_request;

/* Where the outputs of a datum begin in `values`. */
typedef struct cr_answer {
    size_t length, candidates, spans; /* T, K, S */
    size_t logprobs_at, entropy_at, candidates_at, hidden_at, base_logprobs_at, base_candidates_at;
    size_t likeliest_at, mean_logprobs_at, comparisons_at; /* of comparison c: comparisons_at + c · T */
} cr_answer;

typedef struct cr_prediction {
    const double *values; /* [count] */
    double *slopes;       /* [count], zero: dL / d value, for the caller to fill; NULL without train */
    size_t count;
    const cr_answer *answers; /* one a datum */
    size_t width;             /* d */
    bool finite;              /* all values are */
    uint64_t supervised, tokens;
} cr_prediction;

/* Counts as running the datums for dropout's masks when training: the masks of n datums are those
 * that cr_session_forward_backward would have used. */
CR_API int cr_session_predict(cr_session *session, const cr_datum *datums, size_t count,
                              const cr_predict_request *request, cr_prediction *out);

/* Adds the gradients that belong to the slopes; may be called again with others. CR_EARG when there is
 * no prediction. When it fails the gradients are zero. */
CR_API int cr_session_backward(cr_session *session);
CR_API void cr_session_end_prediction(cr_session *session);

/* What each of `count` terms of a loss adds to the gradients is kept apart from now on; 0 = no longer. The
 * memory of one more gradient a term, and of one beside. */
CR_API int cr_session_share_gradients(cr_session *session, size_t count);

/* cr_session_backward for the slopes of term `share` (from 0) alone. */
CR_API int cr_session_backward_share(cr_session *session, size_t share);

typedef struct cr_share {
    double norm;   /* of the term's gradient since the gradients were last zero */
    double cosine; /* with the first term's; NaN where either is zero */
} cr_share;

/* Of the gradients so far; CR_EARG for a term that is not kept apart. */
CR_API int cr_session_share(cr_session *session, size_t share, cr_share *out);

/* Counts datums as run that were not, for dropout's masks: a part of a batch that a loss has no
 * interest in. */
CR_API void cr_session_pass_over(cr_session *session, size_t datums);

/* ---- updates ------------------------------------------------------------------- */

/* AdamW (Loshchilov and Hutter 2019) with bias correction; decay is decoupled, of magnitudes too.
 * Gradients are scaled to norm max_grad_norm over all matrices when above it
 * (0 = never), then zeroed. A gradient that is not finite leaves weights and
 * moments as they are: skipped.
 *
 * LoRA+ (Hayou et al. 2024): B, and with it DoRA's magnitudes, learn at loraplus_lr_ratio · lr and decay at
 * that rate, as PEFT's create_loraplus_optimizer groups them; A learns at lr. 0 means the ratio of the update
 * before, which cr_session_save_optimizer keeps; 1 at first. */
typedef struct cr_adam_params {
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm;
    double loraplus_lr_ratio;
} cr_adam_params;

typedef struct cr_optim_result {
    double grad_norm;   /* before clipping */
    double update_norm; /* of the change of all weights */
    bool skipped;
    uint64_t step;      /* updates made so far */
} cr_optim_result;

/* One update with the gradients added since the last. CR_EARG for parameters that no update has. */
CR_API int cr_session_optim_step(cr_session *session, const cr_adam_params *params,
                                 cr_optim_result *out);

/* Zeroes the accumulated gradients. */
CR_API void cr_session_zero_gradients(cr_session *session);

/* Updates made so far, which also keys dropout. Setting it is for resuming. */
CR_API uint64_t cr_session_step(const cr_session *session);
CR_API void cr_session_set_step(cr_session *session, uint64_t step);

enum { CR_PART_A, CR_PART_B, CR_PART_MAGNITUDE };

/* The trained matrices, in order of depth, then projection, then A, B and magnitudes [out, 1].
 * Names read "layers.12.self_attn.q_proj.lora_A", "....lora_B", "....lora_magnitude_vector". Values are
 * row-major f32 in the
 * engine's row order (GGUF llama files permute the rows of q and k; files
 * written by cr_session_save_lora do not). All pointers are borrowed; writing to
 * value or gradient is allowed between calls (with dora, not between the steps of a generation). */
typedef struct cr_parameter {
    const char *name;
    int layer;
    int target;   /* index: cr_target_name */
    int part;     /* CR_PART_* */
    int rows, columns;
    float *value, *gradient, *moment1, *moment2;
} cr_parameter;

/* index from 0 to the count; CR_ENOTFOUND beyond. */
CR_API size_t cr_session_parameter_count(const cr_session *session);
CR_API int cr_session_parameter(const cr_session *session, size_t index, cr_parameter *out);

/* The projections that carry a branch, in that order. */
typedef struct cr_module {
    const char *name; /* "model.layers.12.self_attn.q_proj" */
    int layer;
    int target;       /* index: cr_target_name */
    int rank;
    double alpha;
    double scale;     /* that B A is multiplied with */
} cr_module;

CR_API size_t cr_session_module_count(const cr_session *session);
CR_API int cr_session_module(const cr_session *session, size_t index, cr_module *out);

/* Rows and columns of a projection's weight: [out, in]. `target` is an index. CR_EARG for one that is not. */
CR_API int cr_session_shape(const cr_session *session, int layer, int target, size_t *rows,
                            size_t *columns);

/* Rows first..first+count of a projection's weight with its branch merged into it: W + scale · B A or,
 * with dora, m / ‖V‖ · V. out [count, in] f32, in the row order of the base's file; a projection without
 * a branch gives W. CR_EARG for rows that do not exist, and when a value is not
 * finite. Any number of threads may call this at once. */
CR_API int cr_session_merge_rows(const cr_session *session, int layer, int target, size_t first,
                                 size_t count, float *out);

/* ‖W + scale · B A‖ of each row of a projection: out [out]. */
CR_API int cr_session_row_norms(const cr_session *session, int layer, int target, float *out);

/* ---- gradients, measured and changed ----------------------------------------- */

/* Nothing below is done, and no memory held, until it is asked for; what only reads leaves
 * training as it was, to the bit.
 *
 * Within a step the order is: forward_backward (any number of times); look at the gradients, change
 * or freeze; clip, if clipped gradients are to be seen; optim_step; look at the updates. */

enum { CR_ARRAY_VALUE, CR_ARRAY_GRADIENT, CR_ARRAY_MOMENT1, CR_ARRAY_MOMENT2 };

enum {
    CR_LEAST_EXPONENT = -149, /* of the smallest denormal */
    CR_EXPONENTS = 277,       /* -149 to 127 */
    CR_MOST_QUANTILES = 16
};

/* What is known of a list of values, as NumPy has it in float64. A NaN among them makes the figures
 * from norm to max, and the quantiles, NaN; an infinity makes norm and rms infinite and std NaN. Unlike
 * there, a quantile between a number and an infinity is the infinity. */
typedef struct cr_statistics {
    uint64_t count;
    uint64_t zeros;     /* exactly 0 */
    uint64_t nonfinite; /* NaN or infinite */
    double norm, rms, mean;
    double std;         /* of these values, not of a population they are drawn from */
    double min, max;
    double quantiles[CR_MOST_QUANTILES];  /* in the order asked for */
    uint64_t magnitudes[CR_EXPONENTS]; /* finite values other than 0 by floor(log2 |x|), from
                                          CR_LEAST_EXPONENT; denormals in bins of their own */
} cr_statistics;

/* What is wanted beyond the moments; all zero = nothing. */
typedef struct cr_statistics_request {
    const double *quantiles; /* in [0, 1]; exact, linear between neighbouring order statistics */
    size_t quantile_count;   /* at most CR_MOST_QUANTILES */
    bool magnitudes;
} cr_statistics_request;

/* Of any values, at least one. */
CR_API int cr_statistics_of(cr_statistics *out, const float *values, size_t count,
                            const cr_statistics_request *request);

/* Of `count` matrices from number `first` on, all in one pass over the threads; `array` is a CR_ARRAY_*.
 * *out, one for each, is borrowed until the session's next call of this function. The same figures at any
 * number of threads. */
CR_API int cr_session_statistics(cr_session *session, int array, size_t first, size_t count,
                                 const cr_statistics_request *request, const cr_statistics **out);

/* Gradient of matrix `index` times a number, plus factor · values (as many as the matrix has), and
 * the sum of products with values. CR_ENOTFOUND for an index that does not exist. */
CR_API int cr_session_scale_gradient(cr_session *session, size_t index, double factor);
CR_API int cr_session_add_gradient(cr_session *session, size_t index, double factor,
                                   const float *values);
CR_API int cr_session_dot_gradient(const cr_session *session, size_t index, const float *values,
                                   double *out);

/* A frozen matrix keeps value and moments, and its gradient reads zero, from this call on. */
CR_API int cr_session_freeze(cr_session *session, size_t index, bool frozen);
CR_API bool cr_session_is_frozen(const cr_session *session, size_t index);

typedef struct cr_clip_result {
    double grad_norm; /* before */
    double scale;     /* that the gradients were multiplied with: 1 = left alone */
} cr_clip_result;

/* What cr_session_optim_step does first, made visible: gradients above max_grad_norm (0 = never) are
 * scaled where they lie. The step that follows is given max_grad_norm = 0 and reaches the same bytes.
 * Gradients that are not finite stay as they are. */
CR_API int cr_session_clip(cr_session *session, double max_grad_norm, cr_clip_result *out);

enum {
    CR_WATCH_UPDATES = 1, /* cr_session_updates; a copy of the weights each step */
    CR_WATCH_PIECES = 2,  /* cr_session_pieces; a copy of the gradients each piece */
    CR_WATCH_TURNS = 4    /* cr_session_turns; a copy of the gradients each step */
};

/* What to keep an eye on from now on, as bits; what is left out is forgotten and its memory released. */
CR_API int cr_session_watch(cr_session *session, unsigned what);

/* Norms of a matrix in the last update. */
typedef struct cr_update {
    double change; /* of new weights less old ones */
    double before; /* of the old weights */
} cr_update;

/* One entry a matrix, borrowed until the next update; CR_EARG without CR_WATCH_UPDATES or before the
 * first update. */
CR_API int cr_session_updates(const cr_session *session, const cr_update **out);

/* What one micro-batch added to the gradients: the pieces of which a gradient noise scale is estimated
 * (McCandlish et al. 2018, appendix A.1). */
typedef struct cr_piece {
    double norm;         /* of its share of the gradient, over all matrices */
    uint64_t rows;       /* datums with a target of weight other than 0 */
    uint64_t supervised; /* targets of weight other than 0 */
} cr_piece;

/* Pieces since the gradients were last zero, borrowed until the next forward_backward; CR_EARG without
 * CR_WATCH_PIECES. */
CR_API int cr_session_pieces(const cr_session *session, const cr_piece **out, size_t *count);

/* Cosine between the gradients of each matrix now and at the previous call, and between all of them as one
 * vector; NaN at the first call and where either is zero. out has one value a matrix. CR_EARG without
 * CR_WATCH_TURNS. */
CR_API int cr_session_turns(cr_session *session, double *out, double *overall);

/* Singular values of scale · B A, largest first, for the branch that matrix `index` belongs to: as many
 * as the least of rank, in and out. `out` has room for the rank. */
CR_API int cr_session_singular_values(const cr_session *session, size_t index, double *out,
                                      size_t *count);

/* ---- files of a session -------------------------------------------------------- */

/* The LoRA matrices as PEFT's adapter_model.safetensors (names, shapes and row order
 * of Hugging Face checkpoints), and back. Loading refuses a missing, an
 * unexpected or a differently shaped tensor and leaves the session unchanged
 * when it fails. */
CR_API int cr_session_save_lora(const cr_session *session, const char *path);
CR_API int cr_session_load_lora(cr_session *session, const char *path);

/* Moments and step as safetensors, bit-exact, and back. */
CR_API int cr_session_save_optimizer(const cr_session *session, const char *path);
CR_API int cr_session_load_optimizer(cr_session *session, const char *path);

typedef struct cr_memory_plan {
    uint64_t weights_mapped; /* bytes of the file, shared and reclaimable */
    uint64_t lora;           /* matrices, gradients and moments; with dora, norms and a copy of the values */
    uint64_t activations;    /* kept from forward for backward */
    uint64_t scratch;        /* work space */
} cr_memory_plan;

/* What a step over rows of `lengths` tokens will hold, before it runs. */
CR_API int cr_session_memory(cr_session *session, const size_t *lengths, size_t count,
                             cr_memory_plan *out);

/* ---- generation ----------------------------------------------------------- */

/* What a generated text must become: a text that a regular expression means as a whole. The patterns are
 * those of csrc/text/regex.h, which refuses what it does not know by name. At each step only tokens may
 * follow whose bytes can still lead there, and an end only where the text is complete; a text that cannot
 * go on ends by itself. */
typedef struct cr_constraint cr_constraint;

/* Copies what it needs of the tokenizer. CR_EFORMAT, CR_EUNSUPPORTED, CR_ENOMEM. Used by one thread at a
 * time; generations keep it open. */
CR_API int cr_constraint_create(cr_constraint **out, const cr_tokenizer *tokenizer,
                                const char *pattern, size_t length);
CR_API void cr_constraint_close(cr_constraint *constraint);

/* Whether a whole text is one that the pattern means. */
CR_API int cr_constraint_matches(cr_constraint *constraint, const char *text, size_t length,
                                 bool *out);

/* The filters are those of Hugging Face's generate, in its order: repetition penalty, temperature, top-k,
 * top-p, min-p; a constraint comes before all of them. */
typedef struct cr_sampling_params {
    double temperature;    /* 0 = greedy */
    double top_p;          /* (0, 1]: the likeliest tokens that carry this share; 1 = off */
    int top_k;             /* so many likeliest tokens; 0 = off */
    double min_p;          /* [0, 1): tokens at least this times as likely as the likeliest; 0 = off */
    double repetition_penalty; /* > 0: logits of tokens in the row so far, prompt included, are divided by it
                                  (multiplied where negative); 1 = off */
    int max_tokens;        /* new tokens a prompt, >= 0 */
    uint64_t seed;         /* prompt i draws from its own stream (seed, i) */
    const int32_t *stop_ids; /* any of these ends a row; it is not part of the output */
    size_t stop_count;
    int max_batch;         /* rows decoded together; 0 = 16. A finished row's place is
                              taken by the next prompt */
    bool base;             /* leave the LoRA branches out */
    uint64_t cache_bytes;  /* of keys and values: as many rows are decoded together as fit, CR_ENOMEM when not
                              one does; 0 = 1 GiB, but always one row */
    cr_constraint *constraint; /* or NULL */
} cr_sampling_params;

/* Greedy (temperature 0), no filter, 64 new tokens. */
CR_API cr_sampling_params cr_sampling_params_default(void);

typedef struct cr_prompt {
    const int32_t *tokens;
    size_t count; /* >= 1 */
} cr_prompt;

/* Prompts are copied. CR_ECONTEXT when a prompt and max_tokens exceed the context. */
CR_API int cr_generation_start(cr_generation **out, cr_session *session, const cr_prompt *prompts,
                               size_t count, const cr_sampling_params *params);
CR_API void cr_generation_close(cr_generation *generation);

typedef struct cr_generation_info {
    size_t rows;               /* decoded together at most */
    uint64_t cache_bytes;      /* of keys and values */
    uint64_t prompt_positions; /* of prompts begun so far */
    uint64_t reused_positions; /* of these, taken over from another prompt that begins alike */
} cr_generation_info;

/* At any time. */
CR_API void cr_generation_describe(const cr_generation *generation, cr_generation_info *out);

enum { CR_RUNNING = 0, CR_STOP = 1, CR_LENGTH = 2 }; /* why a row ended */

typedef struct cr_generated {
    size_t prompt;   /* index into prompts */
    int32_t token;   /* -1 when the row ended without a further token */
    float logprob;   /* of the token under the model, before temperature and filters */
    int finish;      /* CR_RUNNING, CR_STOP, CR_LENGTH */
} cr_generated;

/* One decoding step over the active rows; *events is borrowed until the next call, with one
 * entry per active row. *count = 0 when all prompts are finished. */
CR_API int cr_generation_step(cr_generation *generation, const cr_generated **events,
                              size_t *count);

/* Ends a row early (a stop string was found), its place is free at the next step; a prompt that has
 * not begun never begins. */
CR_API int cr_generation_finish(cr_generation *generation, size_t prompt);

/* Σ log p of continuations after the prompts that the latest step began, without running those
 * again: `choices` of them for each of that step's events in turn, whose order it shares; out has
 * events × choices values. CR_EARG when the latest step began none (it decoded). */
CR_API int cr_generation_score(cr_generation *generation, const cr_prompt *continuations,
                               size_t choices, double *out);

/* Σ log p of each continuation after each prompt; the prompt runs once.
 * continuations[i] lists `choices` prompts of tokens for prompt i (row-major
 * array of count × choices). out has count × choices values. */
CR_API int cr_session_score(cr_session *session, const cr_prompt *prompts, size_t count,
                            const cr_prompt *continuations, size_t choices, bool base, double *out);

/* The k likeliest tokens after every position of a text, best first, and their log-probabilities:
 * ids and logprobs [text->count, k]; row i is what may follow tokens 0 to i. No dropout; nothing
 * is kept. CR_EARG for a k outside 1 to the vocabulary, CR_ECONTEXT, CR_ENOMEM, CR_ECANCELLED. */
CR_API int cr_session_top(cr_session *session, const cr_prompt *text, size_t k, bool base, int32_t *ids,
                          float *logprobs);

/* ---- files for others ------------------------------------------------------------ */

/* What is written beside the tensors, and how. */
typedef struct cr_export_options {
    const char *type; /* "f32", "f16", "bf16"; of a merged GGUF file also "q8_0", "q4_0", "q4_1", "q5_0",
                         "q5_1", "iq4_nl", "q2_k" to "q6_k"; NULL or "base": the base's own types, of an
                         adapter f32 */
    const char *const *notes;  /* further metadata: name, text, name, text, NULL; or NULL */
    const char *const *blanks; /* of a GGUF file: names of numbers that are NaN until
                                  cr_gguf_set_number; NULL ends them; or NULL */
    uint64_t shard_bytes;      /* of a folder: most bytes a file; 0 = 5 GB */
} cr_export_options;

/* The lora as an adapter in a GGUF file, as llama.cpp loads it beside the base: rows of B in the order of
 * the base's GGUF files, and whatever its alpha / rank does not express multiplied into B. Loading takes
 * such a file, of whatever origin, into a session of the same targets and ranks: a missing, an unexpected
 * or a differently shaped tensor is refused, and so is a file whose tensors do not give the digest that it
 * records; the session then stays as it was. */
CR_API int cr_session_save_gguf_adapter(const cr_session *session, const char *path,
                                        const cr_export_options *options);
CR_API int cr_session_load_gguf_adapter(cr_session *session, const char *path);

/* SHA-256 of the matrices as a PEFT folder holds them, as hexadecimal digits with a NUL behind: what is
 * loaded can so be compared with what was saved. */
enum { CR_DIGEST_TEXT = 65 };
CR_API int cr_session_digest(const cr_session *session, char text[CR_DIGEST_TEXT]);

/* The base with the lora merged into it: W + scale · B A, in f32 on the dequantised weights, then stored in
 * the type asked for. Other matrices follow to that type where it makes them smaller; tensors to which
 * nothing happens are copied byte for byte, and the embedding is never merged into, tied head or not.
 * A few megabytes are in memory at a time. Of a GGUF base all metadata are kept; a file is written under
 * a temporary name first. The folder must exist and gets model.safetensors alone, or shards and their
 * index. CR_EARG where a merged weight is not finite or too large for its type, CR_EUNSUPPORTED for what
 * the other kind of file cannot express, CR_EIO. */
CR_API int cr_session_merge_to_gguf(cr_session *session, const char *path,
                                    const cr_export_options *options);
CR_API int cr_session_merge_to_folder(cr_session *session, const char *folder,
                                      const cr_export_options *options);

/* Gives a number that a GGUF file left blank its value, in place. */
CR_API int cr_gguf_set_number(const char *path, const char *key, double value);

typedef struct cr_logit_difference {
    double largest;          /* |difference| of two logits; NaN where one is */
    size_t position;         /* where that was, in its row */
    int32_t token;
    double rms;              /* over all logits of all positions */
    uint64_t positions;
    uint64_t likeliest_changed; /* positions whose likeliest token differs */
} cr_logit_difference;

/* How far the logits of a session are from those of another one (with `other_base`, without its lora) on some
 * rows of tokens: what an export changes. Both models have one vocabulary. */
CR_API int cr_session_logit_difference(cr_session *session, cr_session *other, bool other_base,
                                       const cr_prompt *prompts, size_t count,
                                       cr_logit_difference *out);

/* ---- encoders ------------------------------------------------------------------- */

/* A BERT or RoBERTa model of a Hugging Face folder (config.json, model.safetensors, tokenizer.json or
 * vocab.txt): vectors of texts, and labels of texts or pairs of texts. It has threads and work space
 * of its own; one thread at a time uses it. */
typedef struct cr_encoder cr_encoder;

/* threads: 0 = cr_available_threads(). CR_ENOTFOUND, CR_EIO, CR_EFORMAT, CR_EUNSUPPORTED (another family,
 * tokenizer or pooling), CR_ENOMEM. */
CR_API int cr_encoder_open(cr_encoder **out, const char *folder, int threads);
CR_API void cr_encoder_close(cr_encoder *encoder);

typedef struct cr_encoder_info {
    const char *family;    /* "bert", "roberta" */
    const char *tokenizer; /* "wordpiece", "bpe" */
    const char *pooling;   /* "mean", "cls", "max": how a text's positions become its vector */
    bool normalises;       /* vectors have length 1 */
    int layers, width, heads, ffn_width, vocabulary;
    int context; /* tokens a row, special ones included; longer texts are cut at their end */
    int labels;  /* 0 = no classifier */
    uint64_t parameters;
} cr_encoder_info;

/* Its texts are borrowed from the encoder. */
CR_API void cr_encoder_describe(const cr_encoder *encoder, cr_encoder_info *out);

/* "entailment"; NULL where there is no such label. */
CR_API const char *cr_encoder_label(const cr_encoder *encoder, int index);

typedef struct cr_text_pair {
    const char *first;
    size_t first_length;
    const char *second; /* NULL = one text */
    size_t second_length;
} cr_text_pair;

/* What the network sees of a text: *ids (the caller's: cr_free) and how many tokens were cut. */
CR_API int cr_encoder_tokens(const cr_encoder *encoder, const cr_text_pair *text, int32_t **ids,
                             size_t *count, size_t *cut);

/* out [count, width]. A text's vector does not depend on the others. */
CR_API int cr_encoder_embed(cr_encoder *encoder, const cr_text_pair *texts, size_t count,
                            float *out);

/* out [count, labels]: logits, before softmax. CR_EARG without a classifier. */
CR_API int cr_encoder_classify(cr_encoder *encoder, const cr_text_pair *texts, size_t count,
                               float *out);

/* ---- tensors -------------------------------------------------------------------- */

/* Dense arrays of f32 or f64, rank 0 to CR_MAX_RANK, for losses and statistics: values and shapes,
 * no gradients (the reverse walk over them is the caller's; what it multiplies with is here, as
 * functions named _slope).
 *
 * Each function makes a new tensor, released by cr_tensor_close. What is called a view shares the
 * memory of the tensor it was made of, which lives until the last of them is closed. Tensors of
 * one memory belong to one thread at a time.
 *
 * Shapes broadcast as NumPy's do. Operands of different types meet in f64. Sums are made in double.
 * NaN is contagious, also in max, min and their like. Axes count from 0. Positions (of max, sort,
 * gather ...) are f64 tensors and count from `first`: 0, or 1 for hosts that count so.
 *
 * CR_EARG: shapes that do not fit (the message says both), an axis that is not there, a tensor
 * that is NULL (closed) or whose loan is over. CR_ENOMEM. Nothing changes then and *out is NULL. */
typedef struct cr_tensor cr_tensor;

enum { CR_F32 = 0, CR_F64 = 1 };
enum { CR_MAX_RANK = 6, CR_ALL_AXES = -1 };

/* Zeros, or the same value everywhere. */
CR_API int cr_tensor_create(cr_tensor **out, int type, int rank, const size_t *shape);
CR_API int cr_tensor_full(cr_tensor **out, int type, int rank, const size_t *shape, double value);

/* start, start + step, ...: [count]. */
CR_API int cr_tensor_range(cr_tensor **out, int type, double start, double step, size_t count);

enum { CR_UNIFORM = 0 /* [0, 1) */, CR_NORMAL = 1 /* mean 0, deviation 1 */ };

/* The same numbers for the same seed, type and count. */
CR_API int cr_tensor_random(cr_tensor **out, int type, int rank, const size_t *shape,
                            int distribution, uint64_t seed);

/* Its memory goes with the last view of it. NULL is accepted. */
CR_API void cr_tensor_close(cr_tensor *tensor);

/* Where tensors leave their memory for the next ones: up to most_spare bytes of released blocks are
 * kept, because a large block that comes from the system costs as much as the operation that fills
 * it. A heap belongs to one thread, like its tensors. Closing it gives the spare blocks back; its
 * tensors stay usable. */
typedef struct cr_tensor_heap cr_tensor_heap;

CR_API int cr_tensor_heap_create(cr_tensor_heap **out, size_t most_spare);
CR_API void cr_tensor_heap_close(cr_tensor_heap *heap);

/* Bytes of the tensors that use it. */
CR_API size_t cr_tensor_heap_held(const cr_tensor_heap *heap);

/* The tensor's memory goes to the heap when it is released, and what is computed from the tensor
 * takes its memory there and leaves it there. */
CR_API int cr_tensor_use_heap(cr_tensor *tensor, cr_tensor_heap *heap);

/* Memory of somebody else, lent for a while. Its owner makes a loan, lends any memory under it and
 * ends it before the memory changes hands or goes: every tensor lent so far, and every view of
 * one, is refused from then on with "tensor is gone: <reason>". What is lent afterwards is valid.
 * cr_loan_close ends the loan for good. A loan may be closed before its tensors are. */
typedef struct cr_loan cr_loan;

CR_API int cr_loan_create(cr_loan **out, const char *reason);
CR_API void cr_loan_end(cr_loan *loan);
CR_API void cr_loan_close(cr_loan *loan);

/* A tensor over `data` [shape], row-major, which stays its owner's. Writing goes through. */
CR_API int cr_tensor_borrow(cr_tensor **out, int type, int rank, const size_t *shape, void *data,
                            cr_loan *loan);

/* The gradient of matrix `index` [rows, columns], f32, where it lies. Gone with the next
 * optim_step, zero_gradients, failed forward_backward or the session's end. */
CR_API int cr_session_gradient_tensor(cr_tensor **out, cr_session *session, size_t index);

/* The values or the slopes [count], f64, of the session's prediction where they lie. Gone when it
 * ends. */
CR_API int cr_session_prediction_tensor(cr_tensor **out, cr_session *session, bool slopes);

typedef struct cr_tensor_info {
    int type; /* CR_F32, CR_F64 */
    int rank;
    size_t shape[CR_MAX_RANK];
    size_t count;     /* values */
    bool contiguous;  /* row-major without gaps */
    bool borrowed;    /* under a loan */
    bool shared;      /* other tensors see the same memory */
    uint64_t bytes;   /* of the memory it keeps alive, 0 when borrowed */
    uint64_t version; /* changes with every write into its memory, through whatever view */
} cr_tensor_info;

/* CR_EARG when its loan is over. */
CR_API int cr_tensor_describe(const cr_tensor *tensor, cr_tensor_info *out);

/* One value; index [rank]. */
CR_API int cr_tensor_at(const cr_tensor *tensor, const size_t *index, double *out);

/* All values, row-major, as `type`; and back. */
CR_API int cr_tensor_read(const cr_tensor *tensor, int type, void *values);
CR_API int cr_tensor_write(cr_tensor *tensor, int type, const void *values);

/* Views. permute: axis i of the result is axes[i]. expand: axes of size 1, and new ones in front,
 * take the given size. slice: `count` positions from `start`, `step` (>= 1) apart. */
CR_API int cr_tensor_view(cr_tensor **out, const cr_tensor *tensor);
CR_API int cr_tensor_permute(cr_tensor **out, const cr_tensor *tensor, const int *axes);
CR_API int cr_tensor_expand(cr_tensor **out, const cr_tensor *tensor, int rank,
                            const size_t *shape);
CR_API int cr_tensor_slice(cr_tensor **out, const cr_tensor *tensor, int axis, size_t start,
                           size_t count, size_t step);

/* A view where the tensor is contiguous or where only axes of size 1 come or go, else a copy. */
CR_API int cr_tensor_reshape(cr_tensor **out, const cr_tensor *tensor, int rank,
                             const size_t *shape);

/* A view where the tensor is contiguous, else a copy. */
CR_API int cr_tensor_contiguous(cr_tensor **out, const cr_tensor *tensor);

/* A contiguous copy, converted where the type differs. */
CR_API int cr_tensor_copy(cr_tensor **out, const cr_tensor *tensor, int type);

/* In place; the source broadcasts to the tensor's shape. add: tensor += factor · source. */
CR_API int cr_tensor_fill(cr_tensor *tensor, double value);
CR_API int cr_tensor_assign(cr_tensor *tensor, const cr_tensor *source);
CR_API int cr_tensor_add(cr_tensor *tensor, const cr_tensor *source, double factor);
CR_API int cr_tensor_scale(cr_tensor *tensor, double factor);

typedef enum cr_unary {
    CR_NEG,
    CR_ABS,
    CR_SIGN, /* -1, 0, 1 */
    CR_EXP,
    CR_EXPM1,
    CR_LOG,
    CR_LOG1P,
    CR_SQRT,
    CR_SIN,
    CR_COS,
    CR_ASIN,
    CR_ACOS,
    CR_TANH,
    CR_SIGMOID,
    CR_RELU,
    CR_SOFTPLUS, /* log(1 + e^x) */
    CR_UNARY_COUNT
} cr_unary;

/* "exp"; NULL when there is no such operation. */
CR_API const char *cr_unary_name(cr_unary op);
CR_API int cr_tensor_unary(cr_tensor **out, cr_unary op, const cr_tensor *x);

/* dy · (derivative at x, where y = op(x)), all of one shape and type. 0 where abs, sign and relu
 * have no derivative. */
CR_API int cr_tensor_unary_slope(cr_tensor **out, cr_unary op, const cr_tensor *dy,
                                 const cr_tensor *x, const cr_tensor *y);

typedef enum cr_binary {
    CR_ADD,
    CR_SUB,
    CR_MUL,
    CR_DIV,
    CR_POW,
    CR_MAXIMUM,
    CR_MINIMUM,
    CR_EQ, /* comparisons give 0 or 1 */
    CR_NE,
    CR_LT,
    CR_LE,
    CR_GT,
    CR_GE,
    CR_POW_BASE_SLOPE,     /* b · a^(b-1), 0 for b = 0 */
    CR_POW_EXPONENT_SLOPE, /* a^b · log a, 0 for a = 0 and b >= 0 */
    CR_BINARY_COUNT
} cr_binary;

/* "add"; NULL when there is no such operation. Operands broadcast. */
CR_API const char *cr_binary_name(cr_binary op);
CR_API int cr_tensor_binary(cr_tensor **out, cr_binary op, const cr_tensor *a, const cr_tensor *b);

/* The same with a number, which takes the tensor's type: x op number, or number op x. */
CR_API int cr_tensor_binary_number(cr_tensor **out, cr_binary op, const cr_tensor *x, double number,
                                   bool number_first);

/* a where the condition is not 0, else b. */
CR_API int cr_tensor_where(cr_tensor **out, const cr_tensor *condition, const cr_tensor *a,
                           const cr_tensor *b);

/* x kept in [low, high]; dy where x is in it, else 0. */
CR_API int cr_tensor_clamp(cr_tensor **out, const cr_tensor *x, double low, double high);
CR_API int cr_tensor_clamp_slope(cr_tensor **out, const cr_tensor *dy, const cr_tensor *x,
                                 double low, double high);

typedef enum cr_reduction {
    CR_SUM,
    CR_MEAN, /* NaN of nothing */
    CR_PROD,
    CR_MAX, /* of nothing: CR_EARG */
    CR_MIN,
    CR_NORM1,
    CR_NORM2,
    CR_REDUCTION_COUNT
} cr_reduction;

/* "sum"; NULL when there is no such reduction. */
CR_API const char *cr_reduction_name(cr_reduction op);

/* Over one axis or CR_ALL_AXES; with `keep` the axes stay with size 1. */
CR_API int cr_tensor_reduce(cr_tensor **out, cr_reduction op, const cr_tensor *x, int axis,
                            bool keep);

/* CR_MAX or CR_MIN with the position of the first such value on the axis (over all axes: in
 * row-major order). */
CR_API int cr_tensor_extreme(cr_tensor **out, cr_tensor **positions, cr_reduction op,
                             const cr_tensor *x, int axis, bool keep, int first);

/* Summed over the axes along which the shape of `like` was broadcast to x's, in the type of `like`:
 * what belongs to `like` of a slope of x. */
CR_API int cr_tensor_sum_to(cr_tensor **out, const cr_tensor *x, const cr_tensor *like);

/* dy [x's shape with `axis` 1] · product of the other values along the axis. */
CR_API int cr_tensor_prod_slope(cr_tensor **out, const cr_tensor *dy, const cr_tensor *x, int axis);

typedef enum cr_softmax {
    CR_SOFTMAX,
    CR_LOG_SOFTMAX,
    CR_LOGSUMEXP /* keeps the axis with size 1 */
} cr_softmax;

/* Along an axis, shifted by the maximum so that nothing overflows. */
CR_API int cr_tensor_softmax(cr_tensor **out, cr_softmax op, const cr_tensor *x, int axis);
CR_API int cr_tensor_softmax_slope(cr_tensor **out, cr_softmax op, const cr_tensor *dy,
                                   const cr_tensor *x, const cr_tensor *y, int axis);

/* The matrix product over the last two axes; the others broadcast. A vector counts as a row on the
 * left and as a column on the right, and its axis is dropped from the result. f32 sums in f32. */
CR_API int cr_tensor_matmul(cr_tensor **out, const cr_tensor *a, const cr_tensor *b);

/* gather: out[.., j, ..] = x[.., positions[.., j, ..], ..] along the axis; on the other axes
 * positions has x's shape. select: the same with one list of positions [m] for all. scatter_add
 * and select_add: a copy of x to which the values of `source` were added at the places where
 * gather or select would read them. */
CR_API int cr_tensor_gather(cr_tensor **out, const cr_tensor *x, int axis,
                            const cr_tensor *positions, int first);
CR_API int cr_tensor_scatter_add(cr_tensor **out, const cr_tensor *x, int axis,
                                 const cr_tensor *positions, const cr_tensor *source, int first);
CR_API int cr_tensor_select(cr_tensor **out, const cr_tensor *x, int axis,
                            const cr_tensor *positions, int first);
CR_API int cr_tensor_select_add(cr_tensor **out, const cr_tensor *x, int axis,
                                const cr_tensor *positions, const cr_tensor *source, int first);

/* Positions of the values other than 0 in row-major order: [m]. */
CR_API int cr_tensor_nonzero(cr_tensor **out, const cr_tensor *x, int first);

/* Sums from the start of the axis to each place, or from each place to the end. */
CR_API int cr_tensor_cumsum(cr_tensor **out, const cr_tensor *x, int axis, bool from_end);

/* Equal values keep their order, descending too; NaN comes last. `values` may be NULL. */
CR_API int cr_tensor_sort(cr_tensor **values, cr_tensor **positions, const cr_tensor *x, int axis,
                          bool descending, int first);

/* One after another along an axis; at least one, alike on the other axes. */
CR_API int cr_tensor_concat(cr_tensor **out, const cr_tensor *const *tensors, size_t count,
                            int axis);

/* ---- topology --------------------------------------------------------------------- */

/* Persistent homology of a weighted graph, in dimensions 0 (components) and 1 (loops) over Z/2.
 *
 * A class is born with an edge and dies with one; the interval names both, so that the caller can
 * follow their values. Components are born with their vertex, at 0. */
typedef struct cr_interval {
    int dimension;
    double birth, death; /* death INFINITY: never */
    int32_t birth_edge;  /* from 0; -1: a vertex */
    int32_t
        death_edge; /* from 0; -1: never; in dimension 0 these edges are a minimum spanning forest */
} cr_interval;

/* Vertices stand from 0, an edge from its value, and, when `filled`, each triangle whose three edges
 * are given from the largest of their values: with all pairs of a point cloud and their distances
 * that is the Vietoris-Rips complex. `ends` [edges, 2] are vertices from 0, without loops and repetition;
 * values are finite and at least 0; equal ones keep the order of the list. `out` has room for
 * vertices + edges intervals; they are ordered by dimension, death, birth. Intervals of length 0
 * are among them. CR_EARG for edges that break these rules. */
CR_API int cr_persistence(cr_interval *out, size_t *count, size_t vertices, const int32_t *ends,
                          const double *values, size_t edges, bool filled);

/* columns[i] is the column given to row i of cost [n, n], all finite, each column once, so that
 * the sum of what is chosen is least. */
CR_API int cr_assignment(int32_t *columns, double *total, const double *cost, size_t n);

/* The square of the 2-Wasserstein distance of two diagrams of points (birth, death), a [n, 2] and
 * b [m, 2], all finite: Euclidean ground distance, and any point may go to its nearest on the
 * diagonal. match[i] is the point of b that point i of a goes to, -1 for the diagonal. */
CR_API int cr_wasserstein(double *squared, int32_t *match, const double *a, size_t n,
                          const double *b, size_t m);

#ifdef __cplusplus
}
#endif

#endif
