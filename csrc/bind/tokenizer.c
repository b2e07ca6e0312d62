/* tokenizer.c: crucible.tokenizer: text to token ids and back. It borrows from its model, which
 * it holds as its user value. */
#include "bind/bind.h"

#include <string.h>

/* One tokenizer a model, kept as the model's user value. */
int bind_model_tokenizer(lua_State *L)
{
    bind_check(L, 1, &bind_model_class);
    if (lua_getiuservalue(L, 1, 1) != LUA_TNIL)
        return 1;
    bind_new(L, &bind_tokenizer_class, sizeof(bind_handle), 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, 1);
    return 1;
}

const cr_tokenizer *bind_tokenizer_core(lua_State *L, int arg)
{
    bind_test(L, arg, &bind_tokenizer_class);
    lua_getiuservalue(L, arg, 1);
    const cr_model *model = bind_core(L, -1, &bind_model_class);
    lua_pop(L, 1);
    return cr_model_tokenizer(model);
}

/* The tokenizer at argument 1. */
static const cr_tokenizer *check_tokenizer(lua_State *L)
{
    return bind_tokenizer_core(L, 1);
}

static int tokenizer_encode(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 2, &length);
    bool parse_special = lua_toboolean(L, 3) != 0;
    bind_box *box = bind_push_box(L, NULL);
    int32_t *ids = NULL;
    size_t count = 0;
    int code = cr_tokenizer_encode(check_tokenizer(L), text, length, parse_special, &ids, &count);
    box->memory = ids;
    if (code < 0)
        return bind_failure(L, code);
    bind_push_ids(L, ids, count);
    return 1;
}

/* Room is made before the pointers are taken: a finalizer that runs while it is made could
 * change the list. */
static int tokenizer_encode_all(lua_State *L)
{
    bind_place place = {2, "texts", {0, 0}};
    bool parse_special = lua_toboolean(L, 3) != 0;
    lua_Integer threads = luaL_optinteger(L, 4, 0);
    luaL_argcheck(L, threads >= 0 && threads <= 1024, 4, "threads: expected 0 to 1024");
    lua_settop(L, 2);
    size_t count = bind_list_length(L, place);
    const char **texts = bind_space(L, count, sizeof *texts);
    size_t *lengths = bind_space(L, count, sizeof *lengths);
    bind_box *ids_box = bind_push_box(L, NULL), *ends_box = bind_push_box(L, NULL);
    luaL_checkstack(L, 4, NULL);
    for (size_t i = 0; i < count; i++) {
        if (lua_rawgeti(L, 2, (lua_Integer)i + 1) != LUA_TSTRING)
            bind_place_error(L, place, "[%I]: expected a string, got %s", (LUAI_UACINT)i + 1,
                             luaL_typename(L, -1));
        texts[i] = lua_tolstring(L, -1, &lengths[i]);
        lua_pop(L, 1);
    }
    int32_t *ids = NULL;
    size_t *ends = NULL;
    int code = cr_tokenizer_encode_all(check_tokenizer(L), texts, lengths, count, parse_special,
                                       (int)threads, &ids, &ends);
    ids_box->memory = ids;
    ends_box->memory = ends;
    if (code < 0)
        return bind_failure(L, code);
    bind_new_list(L, count);
    for (size_t i = 0, from = 0; i < count; from = ends[i++]) {
        bind_push_ids(L, ids + from, ends[i] - from);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int tokenizer_ends(lua_State *L)
{
    bind_place place = {2, "ids", {0, 0}};
    lua_settop(L, 2);
    size_t count = bind_list_length(L, place);
    int32_t *ids = bind_space(L, count, sizeof *ids);
    size_t *ends = bind_space(L, count, sizeof *ends);
    lua_pushvalue(L, 2);
    bind_read_ids(L, place, ids, count);
    int code = cr_tokenizer_ends(check_tokenizer(L), ids, count, ends);
    if (code < 0)
        return bind_failure(L, code);
    bind_new_list(L, count);
    for (size_t i = 0; i < count; i++) {
        lua_pushinteger(L, (lua_Integer)ends[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int tokenizer_decode(lua_State *L)
{
    bind_place place = {2, "ids", {0, 0}};
    bool skip_special = lua_toboolean(L, 3) != 0;
    lua_settop(L, 2);
    size_t count = bind_list_length(L, place);
    int32_t *ids = bind_space(L, count, sizeof *ids);
    bind_box *box = bind_push_box(L, NULL);
    lua_pushvalue(L, 2);
    bind_read_ids(L, place, ids, count);
    char *text = NULL;
    size_t length = 0;
    int code = cr_tokenizer_decode(check_tokenizer(L), ids, count, skip_special, &text, &length);
    box->memory = text;
    if (code < 0)
        return bind_failure(L, code);
    lua_pushlstring(L, text, length);
    return 1;
}

static void set_id(lua_State *L, const char *name, int32_t id)
{
    if (id < 0)
        return;
    lua_pushinteger(L, id);
    lua_setfield(L, -2, name);
}

static int tokenizer_info(lua_State *L)
{
    cr_tokenizer_info info;
    lua_createtable(L, 0, 8);
    cr_tokenizer_describe(check_tokenizer(L), &info);
    lua_pushstring(L, info.model);
    lua_setfield(L, -2, "model");
    /* Anew: making the text above may have run a finalizer that closed the model. */
    cr_tokenizer_describe(check_tokenizer(L), &info);
    lua_pushstring(L, info.pretokenizer);
    lua_setfield(L, -2, "pretokenizer");
    lua_pushinteger(L, info.size);
    lua_setfield(L, -2, "size");
    lua_pushboolean(L, info.add_bos);
    lua_setfield(L, -2, "add_bos");
    lua_pushboolean(L, info.space_prefix);
    lua_setfield(L, -2, "space_prefix");
    lua_pushboolean(L, info.prefixes_each);
    lua_setfield(L, -2, "prefixes_each");
    lua_pushboolean(L, info.prefix_unless_spaced);
    lua_setfield(L, -2, "prefix_unless_spaced");
    lua_pushboolean(L, info.composes);
    lua_setfield(L, -2, "composes");
    set_id(L, "bos", info.bos);
    set_id(L, "eos", info.eos);
    set_id(L, "pad", info.pad);
    set_id(L, "unknown", info.unknown);
    return 1;
}

static int tokenizer_find(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 2, &length);
    int32_t id = cr_tokenizer_find(check_tokenizer(L), text, length);
    if (id < 0)
        luaL_pushfail(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

static int tokenizer_is_special(lua_State *L)
{
    const cr_tokenizer *tokenizer = check_tokenizer(L);
    lua_Integer id = luaL_checkinteger(L, 2);
    bool possible = id >= 0 && id <= INT32_MAX;
    lua_pushboolean(L, possible && cr_tokenizer_is_special(tokenizer, (int32_t)id));
    return 1;
}

static int tokenizer_tostring(lua_State *L)
{
    bind_test(L, 1, &bind_tokenizer_class);
    lua_getiuservalue(L, 1, 1);
    bind_handle *model = bind_test(L, -1, &bind_model_class);
    if (model->core == NULL) {
        lua_pushliteral(L, "crucible.tokenizer(model closed)");
        return 1;
    }
    cr_tokenizer_info info;
    cr_tokenizer_describe(cr_model_tokenizer(model->core), &info);
    lua_pushfstring(L, "crucible.tokenizer(%s, %s; %d tokens)", info.model, info.pretokenizer,
                    info.size);
    return 1;
}

static const luaL_Reg methods[] = {
    {"encode", tokenizer_encode},
    {"encode_all", tokenizer_encode_all},
    {"decode", tokenizer_decode},
    {"ends", tokenizer_ends},
    {"info", tokenizer_info},
    {"find", tokenizer_find},
    {"is_special", tokenizer_is_special},
    {"constraint", bind_tokenizer_constraint},
    {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__tostring", tokenizer_tostring},
    {NULL, NULL},
};

const bind_class bind_tokenizer_class = {"crucible.tokenizer", methods, metamethods};
