/* crucible_lua.h: the Lua module, for hosts that link it statically.
 *
 *     luaL_requiref(L, "crucible.core", luaopen_crucible_core, 0);
 */
#ifndef CRUCIBLE_LUA_H
#define CRUCIBLE_LUA_H

struct lua_State;

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int luaopen_crucible_core(struct lua_State *L);

#endif
