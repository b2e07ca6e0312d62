/* session.c: crucible.session: a model with one lora: training, scoring, files. */
#include "bind/bind.h"

#include <limits.h>
#include <math.h>
#include <string.h>

typedef struct session {
    bind_handle handle;
    int rank;         /* for tostring */
    unsigned targets; /* for tostring */
} session;

static cr_session *session_core(lua_State *L)
{
    return bind_core(L, 1, &bind_session_class);
}

/* ---- creation ---------------------------------------------------------------- */

static const bind_field config_fields[] = {
    {"rank", BIND_INTEGER, offsetof(cr_session_config, rank), 1, INT_MAX, BIND_REQUIRED},
    {"alpha", BIND_NUMBER, offsetof(cr_session_config, alpha), 0, INFINITY,
     BIND_REQUIRED | BIND_ABOVE},
    {"dropout", BIND_NUMBER, offsetof(cr_session_config, dropout), 0, 1,
     BIND_REQUIRED | BIND_BELOW},
    {"targets", BIND_LIST, 0, 0, 0, BIND_REQUIRED},
    {"rslora", BIND_BOOLEAN, offsetof(cr_session_config, rslora), 0, 0, 0},
    {"seed", BIND_SEED, offsetof(cr_session_config, seed), 0, 0, 0},
    {"threads", BIND_INTEGER, offsetof(cr_session_config, threads), 0, 1024, 0},
    {"micro_batch_tokens", BIND_INTEGER, offsetof(cr_session_config, micro_batch_tokens), 0,
     INT_MAX, 0},
    {"recompute", BIND_BOOLEAN, offsetof(cr_session_config, recompute), 0, 0, 0},
    {"dora", BIND_BOOLEAN, offsetof(cr_session_config, dora), 0, 0, 0},
    {"rank_pattern", BIND_LIST, 0, 0, 0, 0},
    {"alpha_pattern", BIND_LIST, 0, 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

/* "q_proj, k_proj, ..." for every bit of `targets`, with `separator` between. */
static const char *target_names(lua_State *L, unsigned targets, const char *separator)
{
    luaL_Buffer names;
    luaL_buffinit(L, &names);
    const char *before = "";
    for (int i = 0; i < CR_TARGET_COUNT; i++) {
        if (!(targets & 1u << i))
            continue;
        luaL_addstring(&names, before);
        luaL_addstring(&names, cr_target_name(i));
        before = separator;
    }
    luaL_pushresult(&names);
    return lua_tostring(L, -1);
}

/* The bit of the projection named on top of the stack, the list's element `i`. */
static unsigned target_bit(lua_State *L, int arg, int i)
{
    bool text = lua_type(L, -1) == LUA_TSTRING;
    const char *name = text ? lua_tostring(L, -1) : luaL_typename(L, -1);
    unsigned bit = text ? cr_target_find(name) : 0;
    if (bit == 0)
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "targets[%d]: expected one of %s, got %s", i,
                                      target_names(L, (1u << CR_TARGET_COUNT) - 1, ", "), name));
    return bit;
}

static unsigned read_targets(lua_State *L, int arg)
{
    bind_get(L, arg, "targets");
    size_t count = bind_list_length(L, (bind_place){arg, "targets", {0, 0}});
    luaL_argcheck(L, count > 0, arg, "targets: expected at least one projection");
    unsigned targets = 0;
    for (size_t i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i);
        targets |= target_bit(L, arg, (int)i);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return targets;
}

/* The key and value of the pair on top of the stack, the list's element `i`; the key is copied to work space
 * that takes the pair's place. */
static cr_pattern read_pattern(lua_State *L, int arg, const char *name, int i)
{
    bool pair = lua_istable(L, -1);
    if (pair) {
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        pair = lua_type(L, -2) == LUA_TSTRING && lua_type(L, -1) == LUA_TNUMBER &&
               strlen(lua_tostring(L, -2)) == lua_rawlen(L, -2);
    }
    if (!pair)
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "%s[%d]: expected a pair of a key and a number", name, i));
    size_t bytes = lua_rawlen(L, -2) + 1;
    char *key = bind_space(L, bytes, 1);
    memcpy(key, lua_tostring(L, -3), bytes);
    cr_pattern pattern = {key, (double)lua_tonumber(L, -2)};
    lua_replace(L, -4);
    lua_pop(L, 2);
    return pattern;
}

/* The list of pairs in the field; its keys stay on the stack as work space. */
static const cr_pattern *read_patterns(lua_State *L, int arg, const char *name, size_t *count)
{
    *count = 0;
    if (bind_get(L, arg, name) == LUA_TNIL)
        return NULL;
    int list = lua_gettop(L);
    *count = bind_list_length(L, (bind_place){arg, name, {0, 0}});
    cr_pattern *patterns = bind_space(L, *count, sizeof *patterns);
    luaL_checkstack(L, (int)*count + 8, name);
    for (size_t i = 0; i < *count; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        patterns[i] = read_pattern(L, arg, name, (int)i + 1);
    }
    return patterns;
}

/* Bytes of the matrices, their gradients and both moments. */
static uint64_t held_bytes(cr_session *core)
{
    uint64_t values = 0;
    cr_parameter parameter;
    for (size_t i = 0; i < cr_session_parameter_count(core); i++)
        if (cr_session_parameter(core, i, &parameter) == CR_OK)
            values += (uint64_t)parameter.rows * (uint64_t)parameter.columns;
    return values * 4 * sizeof(float);
}

int bind_model_session(lua_State *L)
{
    bind_check(L, 1, &bind_model_class);
    cr_session_config config = cr_session_config_default();
    bind_read_record(L, 2, config_fields, &config);
    config.targets = read_targets(L, 2);
    config.rank_pattern = read_patterns(L, 2, "rank_pattern", &config.rank_pattern_count);
    config.alpha_pattern = read_patterns(L, 2, "alpha_pattern", &config.alpha_pattern_count);
    session *self = bind_new(L, &bind_session_class, sizeof *self, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    self->rank = config.rank;
    self->targets = config.targets;
    cr_session *core = NULL;
    int code = cr_session_create(&core, bind_core(L, 1, &bind_model_class), &config);
    self->handle.core = core;
    if (code == CR_OK)
        bind_charge(L, held_bytes(core));
    return bind_result(L, code);
}

static int session_close(lua_State *L)
{
    cr_session *core = bind_take(L, 1, &bind_session_class);
    bind_signals_forget(core);
    cr_session_close(core);
    return 0;
}

static int session_tostring(lua_State *L)
{
    session *self = bind_test(L, 1, &bind_session_class);
    if (self->handle.core == NULL) {
        lua_pushliteral(L, "crucible.session(closed)");
        return 1;
    }
    lua_Integer step = (lua_Integer)cr_session_step(self->handle.core);
    lua_pushfstring(L, "crucible.session(rank %d on %s; step %I)", self->rank,
                    target_names(L, self->targets, ","), (LUAI_UACINT)step);
    return 1;
}

/* ---- training ------------------------------------------------------------------ */

typedef struct forward_options {
    bool base;
} forward_options;

static const bind_field forward_fields[] = {
    {"base", BIND_BOOLEAN, offsetof(forward_options, base), 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

static int session_forward(lua_State *L)
{
    session_core(L);
    lua_settop(L, 3);
    forward_options options = {false};
    bind_read_options(L, 3, forward_fields, &options);
    bind_batch batch = bind_read_batch(L, 2);
    float **rows = bind_logprob_rows(L, batch);
    int code = cr_session_forward(session_core(L), batch.datums, batch.count, options.base, rows);
    if (code < 0)
        return bind_failure(L, code);
    bind_push_logprobs(L, batch, rows);
    return 1;
}

typedef struct loss_options {
    double scale;
    bool logprobs;
} loss_options;

static const bind_field loss_fields[] = {
    {"scale", BIND_NUMBER, offsetof(loss_options, scale), -INFINITY, INFINITY, 0},
    {"logprobs", BIND_BOOLEAN, offsetof(loss_options, logprobs), 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

/* The library's scale 0 asks for the mean; in Lua the mean is asked for by leaving scale out. */
static loss_options read_loss_options(lua_State *L, int arg)
{
    loss_options options = {0, false};
    bind_read_options(L, arg, loss_fields, &options);
    bool given = lua_istable(L, arg) && bind_get(L, arg, "scale") != LUA_TNIL;
    luaL_argcheck(L, !given || options.scale != 0, arg,
                  "scale: expected a number other than 0; leave it out for the mean");
    return options;
}

static void push_loss(lua_State *L, const cr_loss_result *result)
{
    lua_createtable(L, 0, 5);
    lua_pushnumber(L, (lua_Number)result->loss);
    lua_setfield(L, -2, "loss");
    lua_pushnumber(L, (lua_Number)result->sum);
    lua_setfield(L, -2, "sum");
    lua_pushinteger(L, (lua_Integer)result->supervised);
    lua_setfield(L, -2, "supervised");
    lua_pushinteger(L, (lua_Integer)result->tokens);
    lua_setfield(L, -2, "tokens");
}

static int session_forward_backward(lua_State *L)
{
    session_core(L);
    lua_settop(L, 3);
    loss_options options = read_loss_options(L, 3);
    bind_batch batch = bind_read_batch(L, 2);
    float **rows = options.logprobs ? bind_logprob_rows(L, batch) : NULL;
    cr_loss loss = {options.scale};
    cr_loss_result result;
    int code = cr_session_forward_backward(session_core(L), batch.datums, batch.count, &loss,
                                           &result, rows);
    if (code < 0)
        return bind_failure(L, code);
    push_loss(L, &result);
    if (rows != NULL) {
        bind_push_logprobs(L, batch, rows);
        lua_setfield(L, -2, "logprobs");
    }
    return 1;
}

static const bind_field adam_fields[] = {
    {"lr", BIND_NUMBER, offsetof(cr_adam_params, lr), 0, INFINITY, BIND_REQUIRED},
    {"beta1", BIND_NUMBER, offsetof(cr_adam_params, beta1), 0, 1, BIND_BELOW},
    {"beta2", BIND_NUMBER, offsetof(cr_adam_params, beta2), 0, 1, BIND_BELOW},
    {"eps", BIND_NUMBER, offsetof(cr_adam_params, eps), 0, INFINITY, BIND_ABOVE},
    {"weight_decay", BIND_NUMBER, offsetof(cr_adam_params, weight_decay), 0, INFINITY, 0},
    {"max_grad_norm", BIND_NUMBER, offsetof(cr_adam_params, max_grad_norm), 0, INFINITY, 0},
    {"loraplus_lr_ratio", BIND_NUMBER, offsetof(cr_adam_params, loraplus_lr_ratio), 0, INFINITY,
     BIND_ABOVE},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

static void push_optim(lua_State *L, const cr_optim_result *result)
{
    lua_createtable(L, 0, 4);
    lua_pushnumber(L, (lua_Number)result->grad_norm);
    lua_setfield(L, -2, "grad_norm");
    lua_pushnumber(L, (lua_Number)result->update_norm);
    lua_setfield(L, -2, "update_norm");
    lua_pushboolean(L, result->skipped);
    lua_setfield(L, -2, "skipped");
    lua_pushinteger(L, (lua_Integer)result->step);
    lua_setfield(L, -2, "step");
}

static int session_optim_step(lua_State *L)
{
    session_core(L);
    cr_adam_params params = {0, 0.9, 0.999, 1e-8, 0.01, 1.0, 0};
    bind_read_record(L, 2, adam_fields, &params);
    cr_optim_result result;
    int code = cr_session_optim_step(session_core(L), &params, &result);
    if (code < 0)
        return bind_failure(L, code);
    push_optim(L, &result);
    return 1;
}

static int session_zero_gradients(lua_State *L)
{
    cr_session_zero_gradients(session_core(L));
    return 0;
}

static int session_step(lua_State *L)
{
    cr_session *core = session_core(L);
    if (!lua_isnoneornil(L, 2)) {
        lua_Integer step = luaL_checkinteger(L, 2);
        luaL_argcheck(L, step >= 0, 2, "expected a step >= 0");
        cr_session_set_step(core, (uint64_t)step);
    }
    lua_pushinteger(L, (lua_Integer)cr_session_step(core));
    return 1;
}

static int session_cancel(lua_State *L)
{
    cr_session_cancel(session_core(L));
    return 0;
}

/* ---- files ---------------------------------------------------------------------- */

static int session_save_lora(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    return bind_true(L, cr_session_save_lora(session_core(L), path));
}

static int session_load_lora(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    return bind_true(L, cr_session_load_lora(session_core(L), path));
}

static int session_save_optimizer(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    return bind_true(L, cr_session_save_optimizer(session_core(L), path));
}

static int session_load_optimizer(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    return bind_true(L, cr_session_load_optimizer(session_core(L), path));
}

/* ---- planning --------------------------------------------------------------------- */

static void push_plan(lua_State *L, const cr_memory_plan *plan)
{
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, (lua_Integer)plan->weights_mapped);
    lua_setfield(L, -2, "weights_mapped");
    lua_pushinteger(L, (lua_Integer)plan->lora);
    lua_setfield(L, -2, "lora");
    lua_pushinteger(L, (lua_Integer)plan->activations);
    lua_setfield(L, -2, "activations");
    lua_pushinteger(L, (lua_Integer)plan->scratch);
    lua_setfield(L, -2, "scratch");
}

/* Reads the row lengths at argument 2 as work space left on the stack. */
static size_t *read_lengths(lua_State *L, size_t *count)
{
    bind_place place = {2, "lengths", {0, 0}};
    lua_settop(L, 2);
    *count = bind_list_length(L, place);
    int32_t *given = bind_space(L, *count, sizeof *given);
    size_t *lengths = bind_space(L, *count, sizeof *lengths);
    lua_pushvalue(L, 2);
    bind_read_ids(L, place, given, *count);
    for (size_t i = 0; i < *count; i++) {
        if (given[i] < 1)
            bind_place_error(L, place, "[%d]: expected a length >= 1, got %d", (int)i + 1,
                             (int)given[i]);
        lengths[i] = (size_t)given[i];
    }
    return lengths;
}

static int session_memory(lua_State *L)
{
    session_core(L);
    size_t count;
    size_t *lengths = read_lengths(L, &count);
    cr_memory_plan plan;
    int code = cr_session_memory(session_core(L), lengths, count, &plan);
    if (code < 0)
        return bind_failure(L, code);
    push_plan(L, &plan);
    return 1;
}

/* ---- the class ---------------------------------------------------------------------- */

static const luaL_Reg methods[] = {
    /* session.c */
    {"forward", session_forward},
    {"forward_backward", session_forward_backward},
    {"optim_step", session_optim_step},
    {"zero_gradients", session_zero_gradients},
    {"step", session_step},
    {"cancel", session_cancel},
    {"save_lora", session_save_lora},
    {"load_lora", session_load_lora},
    {"save_optimizer", session_save_optimizer},
    {"load_optimizer", session_load_optimizer},
    {"memory", session_memory},
    {"close", session_close},
    /* parameter.c */
    {"parameters", bind_session_parameters},
    {"read", bind_session_read},
    {"write", bind_session_write},
    {"norm", bind_session_norm},
    {"modules", bind_session_modules},
    {"merge_rows", bind_session_merge_rows},
    {"row_norms", bind_session_row_norms},
    /* gradient.c */
    {"statistics", bind_session_statistics},
    {"scale_gradient", bind_session_scale_gradient},
    {"add_gradient", bind_session_add_gradient},
    {"dot_gradient", bind_session_dot_gradient},
    {"gradient_tensor", bind_session_gradient_tensor},
    {"freeze", bind_session_freeze},
    {"frozen", bind_session_frozen},
    {"clip", bind_session_clip},
    {"watch", bind_session_watch},
    {"updates", bind_session_updates},
    {"pieces", bind_session_pieces},
    {"turns", bind_session_turns},
    {"singular_values", bind_session_singular_values},
    /* prediction.c */
    {"predict", bind_session_predict},
    {"prediction_tensor", bind_session_prediction_tensor},
    {"backward", bind_session_backward},
    {"end_prediction", bind_session_end_prediction},
    {"pass_over", bind_session_pass_over},
    {"share_gradients", bind_session_share_gradients},
    {"share", bind_session_share},
    /* generation.c */
    {"generate", bind_session_generate},
    {"score", bind_session_score},
    {"top", bind_session_top},
    /* export.c */
    {"save_gguf_adapter", bind_session_save_gguf_adapter},
    {"load_gguf_adapter", bind_session_load_gguf_adapter},
    {"merge_to_gguf", bind_session_merge_to_gguf},
    {"merge_to_folder", bind_session_merge_to_folder},
    {"digest", bind_session_digest},
    {"logit_difference", bind_session_logit_difference},
    {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", session_close},
    {"__close", session_close},
    {"__tostring", session_tostring},
    {NULL, NULL},
};

const bind_class bind_session_class = {"crucible.session", methods, metamethods};
