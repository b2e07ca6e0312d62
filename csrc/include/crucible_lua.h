/* crucible_lua.h: the Lua module, for C hosts that bring their own Lua.
 *
 * Linked statically (libcrucible_lua.a and libcrucible.a, or the target crucible::lua of the CMake package):
 *
 *     lua_State *L = luaL_newstate();
 *     luaL_openlibs(L);
 *     luaL_requiref(L, "crucible.core", luaopen_crucible_core, 0);
 *     lua_pop(L, 1);
 *
 * After that `require "crucible.core"` finds the engine in this program, and `require "crucible"` finds the
 * library's Lua files where package.path has them (share/lua/5.4 of the installation). No other C module is
 * needed. examples/embed/ has whole programs.
 *
 * What it needs of the host. The module: nothing but the Lua API, luaL_checkversion included; no standard
 * library has to be open. The Lua files: the base library, string, table, math, utf8, coroutine and a
 * function `require`; they do without io, os, package and debug, and then say less (no progress on a
 * terminal, no environment variables, errors without a position). examples/embed/sandbox.lua shows
 * such a host.
 *
 * States and threads. Any number of states, each with its own models and sessions; each may run on its own
 * thread. Nothing is shared between states but the pages of model files. A handle must not be passed to
 * another state. lua_close ends every thread and frees everything; afterwards the module may be unloaded.
 *
 * Memory. Lua's own goes through the host's allocator, the engine's does not: a limit on the allocator
 * bounds tables and strings, session:memory(lengths) says beforehand what a step will hold in C.
 * Where the allocator refuses, Lua raises its memory error and nothing leaks; where the system refuses, a
 * call returns nil, message, "memory". Either way the next call works.
 *
 * Blocking. A call runs until it is done; cr_session_cancel of what cr_lua_session gives, from any
 * thread or signal handler, ends it at the next layer with nil, message, "cancelled". Between calls, a coroutine
 * may yield from any callback and from steps (examples/embed/event_loop.lua).
 *
 * fork. A child must not touch the handles of its parent: the threads behind them are not there.
 */
#ifndef CRUCIBLE_LUA_H
#define CRUCIBLE_LUA_H

#include "crucible.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lua_State;

/* The module crucible.core, for luaL_requiref or package.preload. */
CR_API int luaopen_crucible_core(struct lua_State *L);

/* The session (model) behind the Lua value at `index`: a handle of crucible.core, or the object that the Lua
 * library keeps it in. NULL when it is something else or closed. Borrowed: it lives until Lua closes it,
 * so the host that cancels from another thread sees to it that the call is still running. */
CR_API cr_session *cr_lua_session(struct lua_State *L, int index);
CR_API cr_model *cr_lua_model(struct lua_State *L, int index);

#ifdef __cplusplus
}
#endif

#endif
