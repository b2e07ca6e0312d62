/* export.c: crucible.session: the lora as files for other programs, and what a merge changes. */
#include "bind/bind.h"

static cr_session *session_core(lua_State *L)
{
    return bind_core(L, 1, &bind_session_class);
}

/* ---- options ------------------------------------------------------------------------ */

typedef struct options {
    const char *type;
    double shard_bytes;
} options;

static const bind_field fields[] = {
    {"type", BIND_TEXT, offsetof(options, type), 0, 0, 0},
    {"shard_bytes", BIND_NUMBER, offsetof(options, shard_bytes), 1, 0x1p53, 0},
    {"notes", BIND_LIST, 0, 0, 0, 0},
    {"blanks", BIND_LIST, 0, 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

/* Texts of the list on top of the stack, borrowed from it, with a NULL behind them as work space left below
 * the list; `step` is what their number must be a multiple of. */
static const char **read_texts(lua_State *L, const char *name, size_t step)
{
    bind_place place = {3, name, {0, 0}};
    const size_t count = bind_list_length(L, place);
    const char **texts = bind_space(L, count + 1, sizeof *texts);
    lua_insert(L, -2);
    if (count % step != 0)
        bind_place_error(L, place, " has %d texts, expected pairs", (int)count);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            bind_place_error(L, place, "[%d]: expected a string, got %s", (int)i + 1,
                             luaL_typename(L, -1));
        texts[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    return texts;
}

/* The table at argument 3. What it borrows stays on the stack. */
static cr_export_options read_options(lua_State *L)
{
    options given = {NULL, 0};
    lua_settop(L, 3);
    bind_read_options(L, 3, fields, &given);
    cr_export_options out = {.type = given.type, .shard_bytes = (uint64_t)given.shard_bytes};
    if (!lua_istable(L, 3))
        return out;
    if (bind_get(L, 3, "notes") != LUA_TNIL)
        out.notes = read_texts(L, "notes", 2);
    if (bind_get(L, 3, "blanks") != LUA_TNIL)
        out.blanks = read_texts(L, "blanks", 1);
    return out;
}

/* ---- files ------------------------------------------------------------------------------ */

int bind_session_save_gguf_adapter(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    const cr_export_options given = read_options(L);
    return bind_true(L, cr_session_save_gguf_adapter(session_core(L), path, &given));
}

int bind_session_load_gguf_adapter(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    return bind_true(L, cr_session_load_gguf_adapter(session_core(L), path));
}

int bind_session_merge_to_gguf(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    const cr_export_options given = read_options(L);
    return bind_true(L, cr_session_merge_to_gguf(session_core(L), path, &given));
}

int bind_session_merge_to_folder(lua_State *L)
{
    session_core(L);
    const char *path = bind_path(L, 2);
    const cr_export_options given = read_options(L);
    return bind_true(L, cr_session_merge_to_folder(session_core(L), path, &given));
}

int bind_session_digest(lua_State *L)
{
    char text[CR_DIGEST_TEXT];
    int code = cr_session_digest(session_core(L), text);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushstring(L, text);
    return 1;
}

/* ---- what an export changes -------------------------------------------------------------- */

typedef struct difference_options {
    bool base;
} difference_options;

static const bind_field difference_fields[] = {
    {"base", BIND_BOOLEAN, offsetof(difference_options, base), 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

static void push_difference(lua_State *L, const cr_logit_difference *found)
{
    lua_createtable(L, 0, 6);
    lua_pushnumber(L, (lua_Number)found->largest);
    lua_setfield(L, -2, "largest");
    lua_pushnumber(L, (lua_Number)found->rms);
    lua_setfield(L, -2, "rms");
    lua_pushinteger(L, (lua_Integer)found->position + 1);
    lua_setfield(L, -2, "position");
    lua_pushinteger(L, found->token);
    lua_setfield(L, -2, "token");
    lua_pushinteger(L, (lua_Integer)found->positions);
    lua_setfield(L, -2, "positions");
    lua_pushinteger(L, (lua_Integer)found->likeliest_changed);
    lua_setfield(L, -2, "likeliest_changed");
}

int bind_session_logit_difference(lua_State *L)
{
    difference_options given = {false};
    cr_logit_difference found;
    session_core(L);
    bind_check(L, 2, &bind_session_class);
    lua_settop(L, 4);
    bind_read_options(L, 4, difference_fields, &given);
    bind_prompts rows = bind_read_prompts(L, 3);
    cr_session *other = bind_core(L, 2, &bind_session_class);
    int code = cr_session_logit_difference(session_core(L), other, given.base, rows.prompts,
                                           rows.rows, &found);
    if (code < 0)
        return bind_failure(L, code);
    push_difference(L, &found);
    return 1;
}
