/* debug.c: crucible.core.debug: what specs alone need: the counted allocator, and floors below
 * crucible.h that have no other way to Lua. Only in builds with CR_DEBUG_BINDING. */
#define _DEFAULT_SOURCE /* setitimer */
#include "bind/tensor.h"

#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "base/base.h"
#include "base/parallel.h"
#include "include/crucible_lua.h"
#include "text/constraint.h"
#include "text/pretokenize.h"

#ifdef CR_DEBUG_BINDING

/* ---- base ------------------------------------------------------------------------ */

/* allocations: calls that obtained memory so far; live: blocks not yet released. */
static int memory_count(lua_State *L)
{
    cr_memory_counters counters = cr_memory_count();
    lua_pushinteger(L, (lua_Integer)counters.allocations);
    lua_pushinteger(L, (lua_Integer)counters.live);
    return 2;
}

/* Makes the n-th allocation from now fail; 0 = never. */
static int memory_fail_at(lua_State *L)
{
    lua_Integer nth = luaL_checkinteger(L, 1);
    luaL_argcheck(L, nth >= 0, 1, "expected a count >= 0");
    cr_memory_fail_at((uint64_t)nth);
    return 0;
}

static void count_run(void *runs, size_t task, int thread)
{
    (void)thread;
    ((int *)runs)[task]++;
}

/* parallel(threads, count, loops): how often a task did not run once in `loops` loops of `count`. */
static int parallel(lua_State *L)
{
    size_t count = (size_t)luaL_checkinteger(L, 2), wrong = 0;
    lua_Integer loops = luaL_checkinteger(L, 3);
    int *runs = bind_space(L, count, sizeof *runs);
    cr_pool *pool;
    int code = cr_pool_create(&pool, (int)luaL_checkinteger(L, 1));
    if (code < 0)
        return bind_failure(L, code);
    for (lua_Integer loop = 0; loop < loops; loop++) {
        memset(runs, 0, count * sizeof *runs);
        cr_parallel_for(pool, count, count_run, runs);
        for (size_t i = 0; i < count; i++)
            wrong += runs[i] != 1;
    }
    cr_pool_free(pool);
    lua_pushinteger(L, (lua_Integer)wrong);
    return 1;
}

/* ---- constraints ------------------------------------------------------------------- */

/* constraint_mask(constraint, ids): how many tokens may follow the ids, and for how many the set and the
 * plain walk differ. */
static int constraint_mask(lua_State *L)
{
    cr_constraint *constraint = bind_core(L, 1, &bind_constraint_class);
    int32_t state = CR_CONSTRAINT_START;
    lua_Integer allowed = 0, different = 0;
    const uint64_t *mask;
    int code = CR_OK;
    for (lua_Integer i = 1; i <= luaL_len(L, 2) && code == CR_OK; i++) {
        lua_rawgeti(L, 2, i);
        code = cr_constraint_advance(constraint, state, (int32_t)lua_tointeger(L, -1), &state);
        lua_pop(L, 1);
    }
    if (code == CR_OK)
        code = cr_constraint_mask(constraint, state, &mask);
    for (int32_t id = 0; id < (int32_t)cr_constraint_vocabulary(constraint) && code == CR_OK;
         id++) {
        bool in = mask[id / 64] >> (id % 64) & 1, plain;
        code = cr_constraint_allows_plain(constraint, state, id, &plain);
        allowed += in;
        different += in != plain;
    }
    if (code < 0)
        return bind_failure(L, code);
    lua_pushinteger(L, allowed);
    lua_pushinteger(L, different);
    return 2;
}

/* ---- sessions ---------------------------------------------------------------------- */

/* write(session, name, values, which): Session:write that takes NaN and infinities. */
static int write_any(lua_State *L)
{
    static const char *const arrays[] = {"value", "gradient", "moment1", "moment2", NULL};
    cr_session *session = bind_core(L, 1, &bind_session_class);
    const char *name = luaL_checkstring(L, 2);
    int array = luaL_checkoption(L, 4, "value", arrays);
    cr_parameter found = {0};
    for (size_t i = 0; found.name == NULL || strcmp(found.name, name) != 0; i++)
        if (cr_session_parameter(session, i, &found) < 0)
            return luaL_error(L, "%s", cr_error_message());
    float *const values[] = {found.value, found.gradient, found.moment1, found.moment2};
    for (int i = 0; i < found.rows * found.columns; i++) {
        lua_rawgeti(L, 3, i + 1);
        values[array][i] = (float)luaL_checknumber(L, -1);
        lua_pop(L, 1);
    }
    return 0;
}

static cr_session *volatile to_cancel;

static void on_alarm(int signal_number)
{
    (void)signal_number;
    if (to_cancel)
        cr_session_cancel(to_cancel);
}

/* cancel_every(session, microseconds): cancels it from a signal handler again and again;
 * cancel_every() ends that. The session must stay open meanwhile. */
static int cancel_every(lua_State *L)
{
    bool on = !lua_isnoneornil(L, 1);
    lua_Integer microseconds = on ? luaL_checkinteger(L, 2) : 0;
    luaL_argcheck(L, microseconds >= 0 && microseconds < 1000000, 2, "expected less than a second");
    to_cancel = on ? bind_core(L, 1, &bind_session_class) : NULL;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    struct timeval period = {.tv_usec = (suseconds_t)microseconds};
    setitimer(ITIMER_REAL, &(struct itimerval){period, period}, NULL);
    return 0;
}

/* ---- text ------------------------------------------------------------------------- */

/* pretokenize(name, text): bytes of each piece. */
static int pretokenize(lua_State *L)
{
    size_t length, count = 0, start = 0;
    const char *name = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &length);
    bind_box *box = bind_push_box(L, NULL);
    size_t *ends = NULL;
    int code = cr_pretokenize(&ends, &count, name, text, length);
    box->memory = ends;
    if (code < 0)
        return bind_failure(L, code);
    lua_createtable(L, (int)(count < 1024 ? count : 1024), 0);
    for (size_t i = 0; i < count; start = ends[i++]) {
        lua_pushinteger(L, (lua_Integer)(ends[i] - start));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* ---- the module -------------------------------------------------------------------- */

static const luaL_Reg functions[] = {
    /* base */
    {"constraint_mask", constraint_mask},
    {"memory_count", memory_count},
    {"memory_fail_at", memory_fail_at},
    {"parallel", parallel},
    /* sessions */
    {"write", write_any},
    {"cancel_every", cancel_every},
    /* text */
    {"pretokenize", pretokenize},
    {NULL, NULL},
};

int luaopen_crucible_core_debug(lua_State *L)
{
    luaL_checkversion(L);
    luaL_newlib(L, functions);
    lua_newtable(L);
    luaL_setfuncs(L, bind_debug_math_functions, 0);
    lua_setfield(L, -2, "math");
    lua_newtable(L);
    luaL_setfuncs(L, bind_debug_tensor_functions, 0);
    lua_setfield(L, -2, "tensor");
    return 1;
}

#endif
