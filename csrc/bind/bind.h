/* bind.h: what the files of this floor share: handles, failures, lists, records.
 *
 * What this floor is: the module crucible.core. One thin file a concept; a
 * function checks its arguments, makes one library call and pushes the result.
 * What it is not: a place for algorithms.
 *
 * Errors. Misuse raises through luaL_argerror and says what was expected: a
 * wrong type, an unknown or missing field, a number out of its range, lists of
 * lengths that do not fit each other, a closed handle. A failure of the world
 * returns nil, message, code word; so does CR_EARG, which the library alone can
 * find because it depends on the data (a token id outside the vocabulary).
 *
 * Memory. Lua may raise (and jump) in nearly every call, so nothing is held by
 * a C variable alone: a handle's userdata exists, closed, before the library
 * fills it; work space is userdata; memory that the library hands out goes
 * into a box that waits for it on the stack.
 *
 * Tables are read raw: metamethods are not consulted, so no Lua code runs
 * between a check and the use of what was checked, except finalizers during an
 * allocation; lengths are therefore taken once and elements are checked as
 * they are read.
 *
 * State. None outside the lua_State's registry (the metatables), but for what signals.c must keep for
 * its handler.
 */
#ifndef CR_BIND_H
#define CR_BIND_H

#include <lauxlib.h>
#include <lua.h>

#include "include/crucible.h"

/* ---- classes and handles -------------------------------------------------- */

typedef struct bind_class {
    const char *name; /* "crucible.model"; errors call it by what follows the dot */
    const luaL_Reg *methods;
    const luaL_Reg *metamethods;
} bind_class;

extern const bind_class bind_model_class;
extern const bind_class bind_tokenizer_class;
extern const bind_class bind_session_class;
extern const bind_class bind_generation_class;
extern const bind_class bind_constraint_class;
extern const bind_class bind_encoder_class;
extern const bind_class bind_tokens_class;
extern const bind_class bind_tokenwriter_class;
extern const bind_class bind_box_class;
extern const bind_class bind_http_class;
extern const bind_class bind_transfer_class;
extern const bind_class bind_lock_class;
extern const bind_class bind_rows_class;
extern const bind_class bind_watch_class;

/* The first member of every handle's userdata. */
typedef struct bind_handle {
    void *core; /* NULL = closed */
} bind_handle;

/* Creates the class's locked metatable; nothing is left on the stack. */
void bind_register(lua_State *L, const bind_class *type);

/* Pushes a zeroed (closed) handle of `size` bytes with that many user values. */
void *bind_new(lua_State *L, const bind_class *type, size_t size, int user_values);

/* The handle at `arg`; raises when it is another type, bind_check also when closed. */
void *bind_test(lua_State *L, int arg, const bind_class *type);
void *bind_check(lua_State *L, int arg, const bind_class *type);

/* What the open handle at `arg` holds. */
void *bind_core(lua_State *L, int arg, const bind_class *type);

/* Takes out what the handle holds and leaves it closed; NULL when it was closed. */
void *bind_take(lua_State *L, int arg, const bind_class *type);

/* ---- results ---------------------------------------------------------------- */

/* nil, the thread's message, the code's word: returns 3. */
int bind_failure(lua_State *L, int code);

/* The value on top of the stack (or true) when code is CR_OK, else the failure. */
int bind_result(lua_State *L, int code);
int bind_true(lua_State *L, int code);

/* ---- memory ------------------------------------------------------------------- */

/* Memory of the library while Lua values are made of it; released when the
 * calling function returns or raises. */
typedef struct bind_box {
    void *memory;
    size_t size; /* for `release`; its meaning is the caller's */
    void (*release)(struct bind_box *box);
} bind_box;

/* Pushes an empty box; without `release`, cr_free. */
bind_box *bind_push_box(lua_State *L, void (*release)(bind_box *box));

/* Pushes work space of count × size bytes, zeroed, that lives as long as its stack slot. */
void *bind_space(lua_State *L, size_t count, size_t size);

/* Tells the collector that a handle holds `bytes` which it cannot see. */
void bind_charge(lua_State *L, uint64_t bytes);

/* ---- lists ---------------------------------------------------------------------- */

/* A list's place in an argument, for messages: {arg, "continuations[%d][%d]", {2, 1}}. */
typedef struct bind_place {
    int arg;
    const char *format; /* for lua_pushfstring */
    int at[2];          /* from 1 */
} bind_place;

/* Raises "bad argument #arg (<place><rest>)"; `rest` is a lua_pushfstring format. */
int bind_place_error(lua_State *L, bind_place place, const char *rest, ...);

/* Length of the list on top of the stack; raises when it is no table. */
size_t bind_list_length(lua_State *L, bind_place place);

/* Read elements 1..count of the list on top of the stack. Token ids and counts are integers
 * of 32 bits; floats are finite. */
void bind_read_ids(lua_State *L, bind_place place, int32_t *out, size_t count);
void bind_read_floats(lua_State *L, bind_place place, float *out, size_t count);

/* Pushes the field of the table at `index`; returns its type. */
int bind_get(lua_State *L, int index, const char *name);

/* Push a list. */
void bind_new_list(lua_State *L, size_t count);
void bind_push_ids(lua_State *L, const int32_t *values, size_t count);
void bind_push_floats(lua_State *L, const float *values, size_t count);
void bind_push_doubles(lua_State *L, const double *values, size_t count);

/* ---- records of options ------------------------------------------------------------ */

typedef enum bind_kind {
    BIND_INTEGER, /* int */
    BIND_SEED,    /* uint64_t: any Lua integer */
    BIND_NUMBER,  /* double, finite */
    BIND_BOOLEAN, /* bool */
    BIND_TEXT,    /* const char *, without NUL, borrowed from the table */
    BIND_LIST,    /* known, read by the caller */
    BIND_HANDLE   /* the same: a handle */
} bind_kind;

enum { BIND_REQUIRED = 1, BIND_ABOVE = 2 /* > least */, BIND_BELOW = 4 /* < most */ };

typedef struct bind_field {
    const char *name; /* NULL ends the table */
    bind_kind kind;
    size_t offset; /* in the C struct */
    double least, most;
    unsigned flags;
} bind_field;

/* Reads the table at `arg` into the struct `out`, whose values are the defaults. Refuses
 * unknown fields by name. bind_read_options accepts none and nil as an empty table. */
void bind_read_record(lua_State *L, int arg, const bind_field *fields, void *out);
void bind_read_options(lua_State *L, int arg, const bind_field *fields, void *out);

/* ---- strings ------------------------------------------------------------------------ */

/* A path: a string without NUL. */
const char *bind_path(lua_State *L, int arg);

/* ---- batches (batch.c) ---------------------------------------------------------------- */

typedef struct bind_batch {
    cr_datum *datums;
    size_t count;
} bind_batch;

/* Reads the list of datums at `arg`; leaves its work space on the stack. */
bind_batch bind_read_batch(lua_State *L, int arg);

/* Rows for the log-probabilities of the batch's targets, as work space left on
 * the stack; and such rows pushed as a list of lists. */
float **bind_logprob_rows(lua_State *L, bind_batch batch);
void bind_push_logprobs(lua_State *L, bind_batch batch, float *const *rows);

typedef struct bind_prompts {
    cr_prompt *prompts; /* [rows, columns] */
    size_t rows, columns;
} bind_prompts;

/* Reads the list of token lists at `arg` (columns = 1), or the list of lists of token lists
 * with as many in each as in the first; leaves its work space on the stack. */
bind_prompts bind_read_prompts(lua_State *L, int arg);
bind_prompts bind_read_continuations(lua_State *L, int arg, size_t rows);

/* ---- matrices (parameter.c) ---------------------------------------------------------------- */

/* The session's matrix of that name and its number; false when there is none. */
bool bind_find_parameter(cr_session *session, const char *name, size_t *index, cr_parameter *out);

/* ---- tokenizers (tokenizer.c) --------------------------------------------------------------- */

/* The tokenizer at `arg`; raises "model is closed" when it is. */
const cr_tokenizer *bind_tokenizer_core(lua_State *L, int arg);

/* ---- JSON (json.c) ----------------------------------------------------------------------------- */

struct cr_value;

/* Pushes the value whose nodes begin at `at` (file/values.h); returns the index of the node behind them. */
size_t bind_push_json(lua_State *L, const struct cr_value *values, size_t at);

/* ---- functions that stand in another concept's table ------------------------------------ */

int bind_model_open(lua_State *L);         /* model.c */
int bind_open_tokens(lua_State *L);        /* tokens.c */
int bind_write_tokens(lua_State *L);
int bind_model_tokenizer(lua_State *L);    /* tokenizer.c */
int bind_model_session(lua_State *L);      /* session.c */
int bind_session_parameters(lua_State *L); /* parameter.c */
int bind_session_read(lua_State *L);
int bind_session_write(lua_State *L);
int bind_session_norm(lua_State *L);
int bind_session_modules(lua_State *L);
int bind_session_merge_rows(lua_State *L);
int bind_session_row_norms(lua_State *L);
int bind_module_matches(lua_State *L);
int bind_session_statistics(lua_State *L); /* gradient.c */
int bind_session_scale_gradient(lua_State *L);
int bind_session_add_gradient(lua_State *L);
int bind_session_dot_gradient(lua_State *L);
int bind_session_gradient_tensor(lua_State *L);
int bind_session_freeze(lua_State *L);
int bind_session_frozen(lua_State *L);
int bind_session_clip(lua_State *L);
int bind_session_watch(lua_State *L);
int bind_session_updates(lua_State *L);
int bind_session_pieces(lua_State *L);
int bind_session_turns(lua_State *L);
int bind_session_singular_values(lua_State *L);
int bind_statistics(lua_State *L);
int bind_session_predict(lua_State *L); /* prediction.c */
int bind_session_prediction_tensor(lua_State *L);
int bind_session_backward(lua_State *L);
int bind_session_end_prediction(lua_State *L);
int bind_session_pass_over(lua_State *L);
int bind_session_share_gradients(lua_State *L);
int bind_session_share(lua_State *L);
int bind_session_generate(lua_State *L); /* generation.c */
int bind_session_score(lua_State *L);
int bind_session_top(lua_State *L);
int bind_tokenizer_constraint(lua_State *L); /* constraint.c */
int bind_session_save_gguf_adapter(lua_State *L); /* export.c */
int bind_session_load_gguf_adapter(lua_State *L);
int bind_session_merge_to_gguf(lua_State *L);
int bind_session_merge_to_folder(lua_State *L);
int bind_session_digest(lua_State *L);
int bind_session_logit_difference(lua_State *L);
int bind_read_gguf(lua_State *L);        /* gguf.c */
int bind_read_gguf_tensor(lua_State *L);
int bind_set_gguf_number(lua_State *L);
int bind_encoder_open(lua_State *L);     /* encoder.c */
int bind_open_http(lua_State *L);        /* http.c */
int bind_open_rows(lua_State *L);            /* rows.c */
int bind_tinker_encode(lua_State *L);    /* tinker.c */
int bind_tinker_decode(lua_State *L);
int bind_decode_json(lua_State *L);          /* json.c */
extern const luaL_Reg bind_fs_functions[];      /* fs.c */
extern const luaL_Reg bind_signals_functions[]; /* signals.c */
extern const luaL_Reg bind_topology_functions[]; /* topology.c */

/* No signal cancels that session any more (signals.c); before it is closed. */
void bind_signals_forget(cr_session *session);

#ifdef CR_DEBUG_BINDING
CR_API int luaopen_crucible_core_debug(lua_State *L); /* debug.c */
extern const luaL_Reg bind_debug_math_functions[];    /* debug_math.c */
#endif

#endif
