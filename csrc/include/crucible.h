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
 * Results. Functions return CR_OK (0) or a negative code; the reason is
 * cr_error_message(), kept per thread. Functions without a result cannot fail.
 *
 * Ownership. A handle written through `cr_x **out` is the caller's and is
 * released by cr_x_close (NULL is accepted). A returned pointer is borrowed from
 * the handle it came from. A session keeps its model open: closing the model
 * first is fine.
 *
 * Threads. Different sessions may be used from different threads at the same
 * time; one session by one thread at a time, except cr_session_cancel, which
 * may be called from any thread or signal handler. Models and tokenizers are
 * read-only and shared freely.
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

/* Opens a .gguf file. The weights stay in the file, memory-mapped and
 * quantised. CR_ENOTFOUND, CR_EIO, CR_EFORMAT, CR_EUNSUPPORTED (architecture or
 * tensor type). */
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

CR_API void cr_model_describe(const cr_model *model, cr_model_info *out);

/* Borrowed from the model. */
CR_API const cr_tokenizer *cr_model_tokenizer(const cr_model *model);

/* ---- tokens ------------------------------------------------------------- */

/* Encodes `length` bytes of any content. With parse_special, the text of
 * special tokens ("<|im_end|>") becomes their ids; without, it is ordinary text.
 * No BOS or EOS is added. *ids is the caller's: cr_free. */
CR_API int cr_tokenizer_encode(const cr_tokenizer *tokenizer, const char *text, size_t length,
                               bool parse_special, int32_t **ids, size_t *count);

/* Bytes of the ids, special tokens as their text unless skip_special. *text is
 * terminated and the caller's: cr_free. CR_EARG for an id outside the
 * vocabulary. */
CR_API int cr_tokenizer_decode(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                               bool skip_special, char **text, size_t *length);

typedef struct cr_tokenizer_info {
    const char *model;         /* "gpt2": byte-level BPE */
    const char *pretokenizer;  /* "smollm" */
    int size;                  /* ids are 0..size-1 */
    int32_t bos, eos, pad, unknown; /* -1 = none */
    bool add_bos;              /* the model expects a BOS before the text */
} cr_tokenizer_info;

CR_API void cr_tokenizer_describe(const cr_tokenizer *tokenizer, cr_tokenizer_info *out);

/* The id whose text is exactly `text`, or -1. */
CR_API int32_t cr_tokenizer_find(const cr_tokenizer *tokenizer, const char *text, size_t length);
CR_API bool cr_tokenizer_is_special(const cr_tokenizer *tokenizer, int32_t id);

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

/* LoRA (Hu et al. 2021): y = W x + scale · B A drop(x), with A [rank, in],
 * B [out, rank], scale = alpha / rank, or alpha / sqrt(rank) with rslora
 * (Kalajdzievski 2023). A starts uniform in ±1/sqrt(in), B at zero. */
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
} cr_session_config;

CR_API cr_session_config cr_session_config_default(void);
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
CR_API int cr_session_forward(cr_session *session, const cr_datum *datums, size_t count,
                              bool base, float *const *logprobs);

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

/* AdamW (Loshchilov and Hutter 2019) with bias correction; decay is decoupled.
 * Gradients are scaled to norm max_grad_norm over all matrices when above it
 * (0 = never), then zeroed. A gradient that is not finite leaves weights and
 * moments as they are: skipped. */
typedef struct cr_adam_params {
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm;
} cr_adam_params;

typedef struct cr_optim_result {
    double grad_norm;   /* before clipping */
    double update_norm; /* of the change of all weights */
    bool skipped;
    uint64_t step;      /* updates made so far */
} cr_optim_result;

CR_API int cr_session_optim_step(cr_session *session, const cr_adam_params *params,
                                 cr_optim_result *out);

/* Zeroes the accumulated gradients. */
CR_API void cr_session_zero_gradients(cr_session *session);

/* Updates made so far, which also keys dropout. Setting it is for resuming. */
CR_API uint64_t cr_session_step(const cr_session *session);
CR_API void cr_session_set_step(cr_session *session, uint64_t step);

/* The trained matrices, in order of depth, then projection, then A before B.
 * Names read "layers.12.self_attn.q_proj.lora_A". Values are row-major f32 in the
 * engine's row order (GGUF llama files permute the rows of q and k; files
 * written by cr_session_save_lora do not). All pointers are borrowed; writing to
 * value or gradient is allowed between calls. */
typedef struct cr_parameter {
    const char *name;
    int layer;
    int target;   /* index: cr_target_name */
    int rows, columns;
    float *value, *gradient, *moment1, *moment2;
} cr_parameter;

CR_API size_t cr_session_parameter_count(const cr_session *session);
CR_API int cr_session_parameter(const cr_session *session, size_t index, cr_parameter *out);

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
    uint64_t lora;           /* matrices, gradients and moments */
    uint64_t activations;    /* kept from forward for backward */
    uint64_t scratch;        /* work space */
} cr_memory_plan;

/* What a step over rows of `lengths` tokens will hold, before it runs. */
CR_API int cr_session_memory(cr_session *session, const size_t *lengths, size_t count,
                             cr_memory_plan *out);

/* ---- generation ----------------------------------------------------------- */

typedef struct cr_sampling_params {
    double temperature;    /* 0 = greedy */
    double top_p;          /* (0, 1]; 1 = off */
    int top_k;             /* 0 = off */
    int max_tokens;        /* new tokens a prompt, >= 0 */
    uint64_t seed;         /* prompt i draws from its own stream (seed, i) */
    const int32_t *stop_ids; /* any of these ends a row; it is not part of the output */
    size_t stop_count;
    int max_batch;         /* rows decoded together; 0 = 16. A finished row's place is
                              taken by the next prompt */
    bool base;             /* leave the LoRA branches out */
} cr_sampling_params;

CR_API cr_sampling_params cr_sampling_params_default(void);

typedef struct cr_prompt {
    const int32_t *tokens;
    size_t count; /* >= 1 */
} cr_prompt;

/* Prompts are copied. CR_ECONTEXT when a prompt and max_tokens exceed the context. */
CR_API int cr_generation_start(cr_generation **out, cr_session *session, const cr_prompt *prompts,
                               size_t count, const cr_sampling_params *params);
CR_API void cr_generation_close(cr_generation *generation);

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

/* Σ log p of each continuation after each prompt; the prompt runs once.
 * continuations[i] lists `choices` prompts of tokens for prompt i (row-major
 * array of count × choices). out has count × choices values. */
CR_API int cr_session_score(cr_session *session, const cr_prompt *prompts, size_t count,
                            const cr_prompt *continuations, size_t choices, bool base,
                            double *out);

#ifdef __cplusplus
}
#endif

#endif
