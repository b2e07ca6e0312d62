/* core.c: luaopen_crucible_core: the classes and functions of the module, by file. */
#include "bind/tensor.h"

#include <lualib.h>

#include "include/crucible_lua.h"

static int kernel_name(lua_State *L)
{
    lua_pushstring(L, cr_kernel_name());
    return 1;
}

static int available_threads(lua_State *L)
{
    lua_pushinteger(L, cr_available_threads());
    return 1;
}

static int targets(lua_State *L)
{
    lua_createtable(L, CR_TARGET_COUNT, 0);
    for (int i = 0; i < CR_TARGET_COUNT; i++) {
        lua_pushstring(L, cr_target_name(i));
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static const luaL_Reg functions[] = {
    /* core.c */
    {"kernel_name", kernel_name},
    {"available_threads", available_threads},
    {"targets", targets},
    /* model.c */
    {"open_model", bind_model_open},
    /* parameter.c */
    {"module_matches", bind_module_matches},
    /* gradient.c */
    {"statistics", bind_statistics},
    /* tokens.c */
    {"open_tokens", bind_open_tokens},
    {"write_tokens", bind_write_tokens},
    /* http.c */
    {"open_http", bind_open_http},
    /* rows.c */
    {"open_rows", bind_open_rows},
    /* json.c */
    {"decode_json", bind_decode_json},
    /* encoder.c */
    {"open_encoder", bind_encoder_open},
    /* tinker.c */
    {"tinker_encode", bind_tinker_encode},
    {"tinker_decode", bind_tinker_decode},
    /* gguf.c */
    {"read_gguf", bind_read_gguf},
    {"read_gguf_tensor", bind_read_gguf_tensor},
    {"set_gguf_number", bind_set_gguf_number},
    {NULL, NULL},
};

static const bind_class *const classes[] = {
    &bind_box_class,        /* bind.c */
    &bind_model_class,      /* model.c */
    &bind_tokenizer_class,  /* tokenizer.c */
    &bind_session_class,    /* session.c, parameter.c, gradient.c */
    &bind_generation_class, /* generation.c */
    &bind_constraint_class, /* constraint.c */
    &bind_encoder_class,    /* encoder.c */
    &bind_tensor_class,     /* tensor.c, tensor_ops.c */
    &bind_lock_class,       /* fs.c */
    &bind_rows_class,       /* rows.c */
    &bind_tokens_class,     /* tokens.c */
    &bind_tokenwriter_class,
    &bind_http_class,       /* http.c */
    &bind_transfer_class,
    &bind_watch_class,      /* signals.c */
};

/* ---- for hosts in C ------------------------------------------------------------------ */

/* Pushes what a session or model of the library in Lua keeps as `core`, or the value itself. */
static void push_handle(lua_State *L, int index)
{
    if (lua_istable(L, index))
        bind_get(L, index, "core");
    else
        lua_pushvalue(L, index);
}

static void *handle_core(lua_State *L, int index, const bind_class *type)
{
    push_handle(L, index);
    const bind_handle *handle = luaL_testudata(L, -1, type->name);
    lua_pop(L, 1);
    return handle ? handle->core : NULL;
}

cr_session *cr_lua_session(lua_State *L, int index)
{
    return handle_core(L, index, &bind_session_class);
}

cr_model *cr_lua_model(lua_State *L, int index)
{
    return handle_core(L, index, &bind_model_class);
}

/* ---- the module ---------------------------------------------------------------------- */

#ifdef CR_DEBUG_BINDING
/* `require "crucible.core.debug"` finds the second module of this file once the first is loaded. */
static void preload_debug(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_crucible_core_debug);
    lua_setfield(L, -2, "crucible.core.debug");
    lua_pop(L, 1);
}
#endif

int luaopen_crucible_core(lua_State *L)
{
    luaL_checkversion(L);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        bind_register(L, classes[i]);
    luaL_newlib(L, functions);
    lua_newtable(L);
    luaL_setfuncs(L, bind_fs_functions, 0);
    lua_setfield(L, -2, "fs");
    lua_newtable(L);
    luaL_setfuncs(L, bind_signals_functions, 0);
    lua_setfield(L, -2, "signals");
    lua_newtable(L);
    luaL_setfuncs(L, bind_tensor_functions, 0);
    luaL_setfuncs(L, bind_tensor_op_functions, 0);
    bind_tensor_families(L);
    lua_setfield(L, -2, "tensor");
    lua_newtable(L);
    luaL_setfuncs(L, bind_topology_functions, 0);
    lua_setfield(L, -2, "topology");
    lua_pushliteral(L, CR_VERSION);
    lua_setfield(L, -2, "_VERSION");
#ifdef CR_DEBUG_BINDING
    preload_debug(L);
#endif
    return 1;
}
