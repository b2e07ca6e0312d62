/* host.c: a C program with Lua inside and crucible linked in.
 *
 *     cc -std=c11 host.c $(pkg-config --cflags --libs lua5.4 crucible-lua) -o host
 *     ./host examples/embed/host.lua MODEL.gguf [STEPS]
 *
 * The script trains with the engine that this program carries, and hands what it finds to a function of
 * this program. Nothing has to be installed for it, and no file of the library's Lua tree is used.
 */
#include <crucible_lua.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>

/* report(step, loss): the program's own idea of progress. */
static int report(lua_State *L)
{
    printf("host: step %d, loss %.4f\n", (int)luaL_checkinteger(L, 1), luaL_checknumber(L, 2));
    return 0;
}

static int add_traceback(lua_State *L)
{
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

/* Everything that may raise happens in a protected call. */
static int run(lua_State *L)
{
    int argc = (int)lua_tointeger(L, 1);
    char **argv = lua_touserdata(L, 2);
    luaL_openlibs(L);
    luaL_requiref(L, "crucible.core", luaopen_crucible_core, 0);
    lua_register(L, "report", report);
    if (luaL_loadfile(L, argv[1]) != LUA_OK)
        return lua_error(L);
    for (int i = 2; i < argc; i++)
        lua_pushstring(L, argv[i]);
    lua_call(L, argc - 2, 0);
    return 0;
}

int main(int argc, char **argv)
{
    lua_State *L = argc > 1 ? luaL_newstate() : NULL;
    if (L == NULL) {
        fprintf(stderr, "usage: %s SCRIPT.lua [ARGUMENT...]\n", argv[0]);
        return 2;
    }
    lua_pushcfunction(L, add_traceback);
    lua_pushcfunction(L, run);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int status = lua_pcall(L, 2, 0, 1);
    if (status != LUA_OK)
        fprintf(stderr, "host: %s\n", lua_tostring(L, -1));
    lua_close(L); /* ends sessions that the script left open, and their threads */
    return status == LUA_OK ? 0 : 1;
}
