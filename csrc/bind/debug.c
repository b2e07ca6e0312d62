/* debug.c: crucible.core.debug: what specs alone need: the counted allocator, and floors below
 * crucible.h that have no other way to Lua. Only in builds with CR_DEBUG_BINDING. */
#include "bind/bind.h"

#include "base/base.h"
#include "include/crucible_lua.h"

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

/* ---- the module -------------------------------------------------------------------- */

static const luaL_Reg functions[] = {
    /* base */
    {"memory_count", memory_count},
    {"memory_fail_at", memory_fail_at},
    {NULL, NULL},
};

int luaopen_crucible_core_debug(lua_State *L)
{
    luaL_checkversion(L);
    luaL_newlib(L, functions);
    return 1;
}

#endif
