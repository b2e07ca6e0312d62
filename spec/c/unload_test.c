/* unload_test.c: a host that loads the module by `require` and unloads it with its state, again and again.
 * Run by spec/embed/host_spec.lua.
 *
 *   unload_test SCRIPT MODEL FOLDER STAYS    LUA_CPATH finds the module; STAYS: a build that stays loaded
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <lualib.h>
#include <stdlib.h>

#include "host.h"

static volatile sig_atomic_t heard;

static void hear(int number)
{
    heard = number;
}

static bool is_mapped(void)
{
    char line[4096];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        found = found || strstr(line, "/crucible/core.so");
    if (maps)
        fclose(maps);
    return found;
}

static void live(char **argv)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    lua_pushstring(L, argv[1]);
    lua_pushstring(L, argv[2]);
    run_script(L, argv[0], 2, 0);
    /* A script that asked for the signals and forgot to give them back. */
    if (luaL_dostring(L, "assert(require('crucible.core').signals.install())") != LUA_OK)
        check(false, "signals are noted", lua_tostring(L, -1));
    check(is_mapped(), "the module is loaded", "/proc/self/maps");
    lua_close(L);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: unload_test SCRIPT MODEL FOLDER STAYS\n");
        return 2;
    }
    const bool stays = strcmp(argv[4], "true") == 0;
    signal(SIGINT, hear);
    process_state before = look_at_process();
    for (int i = 0; i < 3; i++) {
        live(argv + 1);
        check(stays || !is_mapped(), "the module is unloaded with its state", "/proc/self/maps");
        check(one_thread_is_left(), "no thread is left", "/proc/self/task");
        heard = 0;
        raise(SIGINT);
        check(heard == SIGINT, "the host's signals are its own again", "SIGINT");
    }
    before.descriptors = look_at_process().descriptors; /* TLS libraries may keep one open for good */
    check_process(&before);
    printf("%d broken\n", failures);
    return failures == 0 ? 0 : 1;
}
