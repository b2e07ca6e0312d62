/* constraint.c: crucible.constraint: what a generated text must become. */
#include "bind/bind.h"

int bind_tokenizer_constraint(lua_State *L)
{
    size_t length;
    bind_tokenizer_core(L, 1);
    const char *pattern = luaL_checklstring(L, 2, &length);
    bind_handle *handle = bind_new(L, &bind_constraint_class, sizeof *handle, 0);
    cr_constraint *core = NULL;
    int code = cr_constraint_create(&core, bind_tokenizer_core(L, 1), pattern, length);
    handle->core = core;
    return bind_result(L, code);
}

static int constraint_matches(lua_State *L)
{
    size_t length;
    bool matches;
    cr_constraint *core = bind_core(L, 1, &bind_constraint_class);
    const char *text = luaL_checklstring(L, 2, &length);
    int code = cr_constraint_matches(core, text, length, &matches);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushboolean(L, matches);
    return 1;
}

static int constraint_close(lua_State *L)
{
    cr_constraint_close(bind_take(L, 1, &bind_constraint_class));
    return 0;
}

static int constraint_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_constraint_class);
    lua_pushstring(L, handle->core ? "crucible.constraint" : "crucible.constraint(closed)");
    return 1;
}

static const luaL_Reg methods[] = {
    {"matches", constraint_matches},
    {"close", constraint_close},
    {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", constraint_close},
    {"__close", constraint_close},
    {"__tostring", constraint_tostring},
    {NULL, NULL},
};

const bind_class bind_constraint_class = {"crucible.constraint", methods, metamethods};
