/* generation.c: crucible.generation: batched decoding a step at a time; scores of continuations. */
#include "bind/bind.h"

#include <limits.h>
#include <math.h>

typedef struct generation {
    bind_handle handle;
    size_t prompts;
    size_t events;   /* of the latest step */
    uint64_t tokens; /* produced so far, for tostring */
} generation;

static cr_session *session_core(lua_State *L)
{
    return bind_core(L, 1, &bind_session_class);
}

/* ---- starting ---------------------------------------------------------------- */

static const bind_field sampling_fields[] = {
    {"temperature", BIND_NUMBER, offsetof(cr_sampling_params, temperature), 0, INFINITY, 0},
    {"top_p", BIND_NUMBER, offsetof(cr_sampling_params, top_p), 0, 1, BIND_ABOVE},
    {"top_k", BIND_INTEGER, offsetof(cr_sampling_params, top_k), 0, INT_MAX, 0},
    {"min_p", BIND_NUMBER, offsetof(cr_sampling_params, min_p), 0, 1, BIND_BELOW},
    {"repetition_penalty", BIND_NUMBER, offsetof(cr_sampling_params, repetition_penalty), 0,
     INFINITY, BIND_ABOVE},
    {"max_tokens", BIND_INTEGER, offsetof(cr_sampling_params, max_tokens), 0, INT_MAX, 0},
    {"seed", BIND_SEED, offsetof(cr_sampling_params, seed), 0, 0, 0},
    {"stop_ids", BIND_LIST, 0, 0, 0, 0},
    {"max_batch", BIND_INTEGER, offsetof(cr_sampling_params, max_batch), 0, INT_MAX, 0},
    {"base", BIND_BOOLEAN, offsetof(cr_sampling_params, base), 0, 0, 0},
    {"cache_bytes", BIND_SEED, offsetof(cr_sampling_params, cache_bytes), 0, 0, 0},
    {"constraint", BIND_HANDLE, 0, 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

/* Reads stop_ids of the table at `arg`; leaves their space on the stack. */
static void read_stop_ids(lua_State *L, int arg, cr_sampling_params *params)
{
    bind_place place = {arg, "stop_ids", {0, 0}};
    if (!lua_istable(L, arg) || bind_get(L, arg, "stop_ids") == LUA_TNIL)
        return;
    int list = lua_gettop(L);
    size_t count = bind_list_length(L, place);
    int32_t *ids = bind_space(L, count, sizeof *ids);
    lua_pushvalue(L, list);
    bind_read_ids(L, place, ids, count);
    params->stop_ids = ids;
    params->stop_count = count;
}

/* Reads constraint of the table at `arg`, which stays on the stack. */
static void read_constraint(lua_State *L, int arg, cr_sampling_params *params)
{
    if (lua_istable(L, arg) && bind_get(L, arg, "constraint") != LUA_TNIL)
        params->constraint = bind_core(L, lua_gettop(L), &bind_constraint_class);
}

int bind_session_generate(lua_State *L)
{
    session_core(L);
    lua_settop(L, 3);
    cr_sampling_params params = cr_sampling_params_default();
    bind_read_options(L, 3, sampling_fields, &params);
    if ((int64_t)params.cache_bytes < 0)
        luaL_argerror(L, 3, "cache_bytes: expected a number of bytes >= 0");
    read_stop_ids(L, 3, &params);
    bind_prompts all = bind_read_prompts(L, 2);
    generation *self = bind_new(L, &bind_generation_class, sizeof *self, 1);
    int handle = lua_gettop(L);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    self->prompts = all.rows;
    read_constraint(L, 3, &params);
    cr_generation *core = NULL;
    int code = cr_generation_start(&core, session_core(L), all.prompts, all.rows, &params);
    self->handle.core = core;
    if (code < 0)
        return bind_failure(L, code);
    lua_settop(L, handle);
    return 1;
}

/* ---- stepping ------------------------------------------------------------------ */

/* The generation at argument 1, open and of an open session. */
static generation *check_generation(lua_State *L)
{
    generation *self = bind_check(L, 1, &bind_generation_class);
    lua_getiuservalue(L, 1, 1);
    bind_check(L, -1, &bind_session_class);
    lua_pop(L, 1);
    return self;
}

static void push_event(lua_State *L, const cr_generated *event)
{
    static const char *const reasons[] = {NULL, "stop", "length"};
    lua_pushinteger(L, (lua_Integer)event->prompt + 1);
    lua_setfield(L, -2, "prompt");
    if (event->token >= 0) {
        lua_pushinteger(L, event->token);
        lua_setfield(L, -2, "token");
        lua_pushnumber(L, (lua_Number)event->logprob);
        lua_setfield(L, -2, "logprob");
    }
    if (event->finish == CR_STOP || event->finish == CR_LENGTH) {
        lua_pushstring(L, reasons[event->finish]);
        lua_setfield(L, -2, "finish");
    }
}

/* The events are the generation's: it is checked again after each allocation, which may have run
 * a finalizer that closed it. */
static void push_events(lua_State *L, const cr_generated *events, size_t count)
{
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        lua_createtable(L, 0, 4);
        generation *self = check_generation(L);
        self->tokens += events[i].token >= 0;
        push_event(L, &events[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static int generation_step(lua_State *L)
{
    generation *self = check_generation(L);
    const cr_generated *events;
    size_t count;
    int code = cr_generation_step(self->handle.core, &events, &count);
    self->events = code < 0 ? 0 : count;
    if (code < 0)
        return bind_failure(L, code);
    if (count == 0)
        luaL_pushfail(L);
    else
        push_events(L, events, count);
    return 1;
}

static int generation_finish(lua_State *L)
{
    generation *self = check_generation(L);
    lua_Integer prompt = luaL_checkinteger(L, 2);
    if (prompt < 1 || (lua_Unsigned)prompt > self->prompts)
        luaL_argerror(L, 2,
                      lua_pushfstring(L, "expected a prompt from 1 to %I, got %I",
                                      (LUAI_UACINT)self->prompts, (LUAI_UACINT)prompt));
    return bind_true(L, cr_generation_finish(self->handle.core, (size_t)prompt - 1));
}

static int generation_info(lua_State *L)
{
    cr_generation_info info;
    cr_generation_describe(check_generation(L)->handle.core, &info);
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {{"rows", info.rows},
                  {"cache_bytes", info.cache_bytes},
                  {"prompt_positions", info.prompt_positions},
                  {"reused_positions", info.reused_positions}};
    lua_createtable(L, 0, 4);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        lua_pushinteger(L, (lua_Integer)fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
    return 1;
}

static int generation_close(lua_State *L)
{
    cr_generation_close(bind_take(L, 1, &bind_generation_class));
    return 0;
}

static int generation_tostring(lua_State *L)
{
    generation *self = bind_test(L, 1, &bind_generation_class);
    if (self->handle.core == NULL)
        lua_pushliteral(L, "crucible.generation(closed)");
    else
        lua_pushfstring(L, "crucible.generation(%I prompts; %I tokens)", (LUAI_UACINT)self->prompts,
                        (LUAI_UACINT)self->tokens);
    return 1;
}

/* ---- scoring -------------------------------------------------------------------- */

typedef struct score_options {
    bool base;
} score_options;

static const bind_field score_fields[] = {
    {"base", BIND_BOOLEAN, offsetof(score_options, base), 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

static void push_scores(lua_State *L, const double *scores, size_t rows, size_t columns)
{
    lua_createtable(L, (int)rows, 0);
    for (size_t i = 0; i < rows; i++) {
        bind_push_doubles(L, scores + i * columns, columns);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

int bind_session_score(lua_State *L)
{
    session_core(L);
    lua_settop(L, 4);
    score_options options = {false};
    bind_read_options(L, 4, score_fields, &options);
    bind_prompts all = bind_read_prompts(L, 2);
    bind_prompts choices = bind_read_continuations(L, 3, all.rows);
    double *scores = bind_space(L, all.rows, choices.columns * sizeof *scores);
    int code = cr_session_score(session_core(L), all.prompts, all.rows, choices.prompts,
                                choices.columns, options.base, scores);
    if (code < 0)
        return bind_failure(L, code);
    push_scores(L, scores, all.rows, choices.columns);
    return 1;
}

enum { MOST_TOP = 65536 };

/* top(tokens, k, { base }): ids[i][j], logprobs[i][j]. */
int bind_session_top(lua_State *L)
{
    session_core(L);
    lua_settop(L, 4);
    score_options options = {false};
    bind_read_options(L, 4, score_fields, &options);
    lua_Integer k = luaL_checkinteger(L, 3);
    luaL_argcheck(L, k >= 1 && k <= MOST_TOP, 3, "expected how many tokens, from 1 to 65536");
    lua_pushvalue(L, 2);
    const bind_place place = {2, "tokens", {0, 0}};
    size_t count = bind_list_length(L, place);
    int32_t *tokens = bind_space(L, count, sizeof *tokens);
    lua_pushvalue(L, 2);
    bind_read_ids(L, place, tokens, count);
    const cr_prompt text = {tokens, count};
    int32_t *ids = bind_space(L, count * (size_t)k, sizeof *ids);
    float *logprobs = bind_space(L, count * (size_t)k, sizeof *logprobs);
    int code = cr_session_top(session_core(L), &text, (size_t)k, options.base, ids, logprobs);
    if (code < 0)
        return bind_failure(L, code);
    bind_new_list(L, count);
    bind_new_list(L, count);
    for (size_t i = 0; i < count; i++) {
        bind_push_ids(L, ids + i * (size_t)k, (size_t)k);
        lua_rawseti(L, -3, (lua_Integer)i + 1);
        bind_push_floats(L, logprobs + i * (size_t)k, (size_t)k);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 2;
}

static int generation_score(lua_State *L)
{
    size_t rows = check_generation(L)->events;
    bind_prompts choices = bind_read_continuations(L, 2, rows);
    double *scores = bind_space(L, rows, choices.columns * sizeof *scores);
    int code = cr_generation_score(check_generation(L)->handle.core, choices.prompts,
                                   choices.columns, scores);
    if (code < 0)
        return bind_failure(L, code);
    push_scores(L, scores, rows, choices.columns);
    return 1;
}

/* ---- the class ------------------------------------------------------------------- */

static const luaL_Reg methods[] = {
    {"step", generation_step}, {"finish", generation_finish}, {"score", generation_score},
    {"info", generation_info}, {"close", generation_close},   {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", generation_close},
    {"__close", generation_close},
    {"__tostring", generation_tostring},
    {NULL, NULL},
};

const bind_class bind_generation_class = {"crucible.generation", methods, metamethods};
