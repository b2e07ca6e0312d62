/* threads.c: several threads of one process, each with a Lua state of its own, train at once.
 *
 *     cc -std=c11 threads.c $(pkg-config --cflags --libs lua5.4 crucible-lua) -o threads
 *     ./threads examples/embed/worker.lua MODEL.gguf [THREADS [STEPS]]
 *
 * Each worker trains with another seed, first one after the other, then all at once. You will see the SHA-256 of
 * each lora; the second round's are the first round's, byte for byte, or this program ends with status 1.
 */
#include <crucible_lua.h>
#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16 };

typedef struct job {
    const char *script, *model;
    int seed, steps;
    bool failed;
    char result[128]; /* digest, or why there is none */
} job;

static int work(lua_State *L)
{
    const job *given = lua_touserdata(L, 1);
    luaL_openlibs(L);
    luaL_requiref(L, "crucible.core", luaopen_crucible_core, 0);
    if (luaL_loadfile(L, given->script) != LUA_OK)
        return lua_error(L);
    lua_pushstring(L, given->model);
    lua_pushinteger(L, given->seed);
    lua_pushinteger(L, given->steps);
    lua_call(L, 3, 1);
    return 1;
}

static void *run(void *argument)
{
    job *given = argument;
    lua_State *L = luaL_newstate();
    given->failed = true;
    if (L == NULL)
        return NULL;
    lua_pushcfunction(L, work);
    lua_pushlightuserdata(L, given);
    given->failed = lua_pcall(L, 1, 1, 0) != LUA_OK;
    snprintf(given->result, sizeof given->result, "%s", luaL_tolstring(L, -1, NULL));
    lua_close(L);
    return NULL;
}

int main(int argc, char **argv)
{
    int count = argc > 3 ? atoi(argv[3]) : 2, steps = argc > 4 ? atoi(argv[4]) : 5, different = 0;
    job alone[MOST], together[MOST];
    pthread_t threads[MOST];
    if (argc < 3 || count < 1 || count > MOST) {
        fprintf(stderr, "usage: %s SCRIPT.lua MODEL.gguf [THREADS [STEPS]]\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        alone[i] = together[i] = (job){.script = argv[1], .model = argv[2], .seed = i, .steps = steps};
        run(&alone[i]);
    }
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, run, &together[i]) != 0)
            abort();
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < count; i++) {
        bool same = !alone[i].failed && !together[i].failed &&
                    strcmp(alone[i].result, together[i].result) == 0;
        printf("seed %d  alone %s\n        at once %s%s\n", i, alone[i].result, together[i].result,
               same ? "" : "  DIFFERS");
        different += !same;
    }
    return different == 0 ? 0 : 1;
}
