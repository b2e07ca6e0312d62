/* starve_test.c: Lua's allocator refuses the 1st, 2nd, 3rd … request of each part of a session's life: an
 * error each time, the next try works, nothing leaks. Run by spec/embed/starve_spec.lua.
 *
 *   starve_test start STRIDE [SCRIPT]        opening the state and the module, and running the script in it
 *   starve_test phases SCRIPT STRIDE ARGUMENT...
 *
 * SCRIPT returns a list of { name, prepare, call, finish }: call(prepare()) is starved, tried again, and
 * finish(state) follows. With STRIDE n only every nth request is refused.
 *
 * A refusal alone is no failure to Lua: it collects garbage and asks again. So each is refused twice.
 */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "include/crucible_lua.h"

#if LUA_VERSION_NUM >= 505 /* a third argument: the seed of string hashes */
#define new_state_with(allocate, data) lua_newstate(allocate, data, 1)
#else
#define new_state_with(allocate, data) lua_newstate(allocate, data)
#endif

typedef struct heap {
    size_t live;      /* blocks */
    uint64_t seen;    /* requests for more */
    uint64_t fail_at; /* 0 = never */
    int left;         /* refusals still to come */
    int refused;
} heap;

static int failures;

static void broken(const char *promise, const char *phase, uint64_t nth, const char *detail)
{
    printf("not kept: %s (%s, request %llu: %s)\n", promise, phase, (unsigned long long)nth, detail);
    failures++;
}

static bool refuses(heap *given)
{
    if (++given->seen == given->fail_at)
        given->left = 2;
    if (given->left == 0)
        return false;
    given->left--;
    given->refused++;
    return true;
}

static void *allocate(void *data, void *block, size_t old_size, size_t size)
{
    heap *given = data;
    if (size == 0) {
        given->live -= block != NULL;
        free(block);
        return NULL;
    }
    if ((block == NULL || size > old_size) && refuses(given))
        return NULL;
    void *moved = realloc(block, size);
    given->live += moved != NULL && block == NULL;
    return moved;
}

static void starve_at(heap *given, uint64_t nth)
{
    given->fail_at = nth ? given->seen + nth : 0;
    given->left = given->refused = 0;
}

/* ---- the beginning ---------------------------------------------------------------------- */

static const char *start_script; /* or NULL */

static int open_module(lua_State *L)
{
    luaL_openlibs(L);
    luaL_requiref(L, "crucible.core", luaopen_crucible_core, 0);
    return 0;
}

static int open_and_run(lua_State *L)
{
    open_module(L);
    if (start_script != NULL && luaL_loadfile(L, start_script) != LUA_OK)
        return lua_error(L);
    if (start_script != NULL)
        lua_call(L, 0, 0);
    return 0;
}

/* Whether the state and all that is wanted in it came to be. */
static bool begin(heap *given)
{
    lua_State *L = new_state_with(allocate, given);
    if (L == NULL)
        return false;
    lua_pushcfunction(L, open_and_run); /* a light C function: no memory */
    bool opened = lua_pcall(L, 0, 0, 0) == LUA_OK;
    lua_close(L);
    return opened;
}

static void starve_start(uint64_t stride)
{
    uint64_t errors = 0, nth = 1, requests = 0;
    heap given;
    for (bool more = true; more; nth += stride) {
        given = (heap){.fail_at = nth};
        bool opened = begin(&given);
        errors += !opened;
        if (given.refused == 0 && !opened)
            broken("the module opens where there is memory", "start", nth, "it did not");
        if (given.live != 0)
            broken("nothing leaks", "start", nth, "blocks are left");
        more = given.refused > 0;
        requests += more;
    }
    given = (heap){0};
    if (!begin(&given))
        broken("the next try works", "start", nth, "it failed");
    printf("start: %llu requests, %llu errors\n", (unsigned long long)requests,
           (unsigned long long)errors);
}

/* ---- the parts of a script ------------------------------------------------------------------ */

/* Runs function `name` of the phase at 1 with the state at 2; what it returns (or raises) is on top. True unless
 * it raised or its first result was nil or false. */
static bool run(lua_State *L, const char *name)
{
    lua_settop(L, 2);
    lua_getfield(L, 1, name);
    lua_pushvalue(L, 2);
    if (lua_pcall(L, 1, 3, 0) != LUA_OK)
        return false;
    bool fine = lua_toboolean(L, -3);
    if (fine)
        lua_pop(L, 2);
    else
        lua_pop(L, 1); /* the message is on top */
    return fine;
}

static const char *top(lua_State *L)
{
    const char *text = lua_tostring(L, -1);
    return text ? text : luaL_typename(L, -1);
}

typedef struct tally {
    uint64_t requests, errors;
} tally;

/* One turn; false when no request was left to refuse. */
static bool starve_once(lua_State *L, heap *given, const char *phase, uint64_t nth, tally *counted)
{
    lua_pushnil(L);
    if (!run(L, "prepare"))
        broken("a beginning", phase, nth, top(L));
    lua_replace(L, 2);
    lua_settop(L, 2);
    starve_at(given, nth);
    bool fine = run(L, "call");
    const int refused = given->refused;
    starve_at(given, 0);
    counted->requests += refused > 0;
    counted->errors += !fine;
    if (!fine && refused == 0)
        broken("it works where there is memory", phase, nth, top(L));
    if (!fine && strstr(top(L), "memory") == NULL)
        broken("the error says that it is memory", phase, nth, top(L));
    if (refused > 0 && !run(L, "call"))
        broken("the next try works", phase, nth, top(L));
    if (!run(L, "finish"))
        broken("an end", phase, nth, top(L));
    lua_settop(L, 1);
    return refused > 0;
}

static void collect(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT);
    lua_gc(L, LUA_GCCOLLECT);
}

/* The phase on top of the stack. */
static void starve_phase(lua_State *L, heap *given, uint64_t stride)
{
    tally counted = {0, 0};
    lua_getfield(L, 1, "name");
    char name[64];
    snprintf(name, sizeof name, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    collect(L);
    const uint64_t live = cr_memory_count().live;
    for (uint64_t nth = 1; starve_once(L, given, name, nth, &counted); nth += stride)
        continue;
    collect(L);
    if (cr_memory_count().live != live)
        broken("nothing of the engine is left", name, counted.requests, "blocks are");
    printf("%s: %llu requests, %llu errors\n", name, (unsigned long long)counted.requests,
           (unsigned long long)counted.errors);
}

static int starve_script(lua_State *L)
{
    heap *given = lua_touserdata(L, 1);
    char **argv = lua_touserdata(L, 2);
    const int argc = (int)lua_tointeger(L, 3);
    open_module(L);
    lua_settop(L, 0);
    if (luaL_loadfile(L, argv[2]) != LUA_OK)
        return lua_error(L);
    for (int i = 4; i < argc; i++)
        lua_pushstring(L, argv[i]);
    lua_call(L, argc - 4, 1);
    const lua_Integer count = luaL_len(L, 1);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_settop(L, 1);
        lua_geti(L, 1, i);
        lua_State *turn = lua_newthread(L); /* the phase at 1, its state at 2 */
        lua_pushvalue(L, 2);
        lua_xmove(L, turn, 1);
        starve_phase(turn, given, (uint64_t)atoll(argv[3]));
    }
    return 0;
}

static void starve_phases(int argc, char **argv)
{
    heap given = {0};
    lua_State *L = new_state_with(allocate, &given);
    lua_pushcfunction(L, starve_script);
    lua_pushlightuserdata(L, &given);
    lua_pushlightuserdata(L, argv);
    lua_pushinteger(L, argc);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK)
        broken("the script runs", argv[2], 0, top(L));
    lua_close(L);
    if (given.live != 0)
        broken("nothing of Lua is left", argv[2], 0, "blocks are");
    if (cr_memory_count().live != 0)
        broken("nothing of the engine is left", argv[2], 0, "blocks are");
}

int main(int argc, char **argv)
{
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "start") == 0) {
        start_script = argv[3]; /* NULL ends the list */
        starve_start((uint64_t)atoll(argv[2]));
    } else if (argc >= 4 && strcmp(argv[1], "phases") == 0) {
        starve_phases(argc, argv);
    } else {
        fprintf(stderr, "usage: starve_test start STRIDE [SCRIPT] | phases SCRIPT STRIDE ARGUMENT...\n");
        return 2;
    }
    printf("%d broken\n", failures);
    return failures == 0 ? 0 : 1;
}
