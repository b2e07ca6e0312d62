/* rows.c: crucible.rows: the rows of a data file (file/rows.h) as Lua tables. */
#include "bind/bind.h"

#include <string.h>

#include "file/rows.h"

typedef struct rows_handle {
    bind_handle base;
    int keep; /* user value 1 holds that many names of the members to make; 0 = all */
} rows_handle;

typedef struct rows_options {
    const char *format;
    bool ahead;
    double longest;
} rows_options;

static const bind_field fields[] = {
    {"format", BIND_TEXT, offsetof(rows_options, format), 0, 0, 0},
    {"ahead", BIND_BOOLEAN, offsetof(rows_options, ahead), 0, 0, 0},
    {"longest", BIND_NUMBER, offsetof(rows_options, longest), 1, 0x1p31, 0},
    {"keep", BIND_LIST, 0, 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

static cr_rows_format read_format(lua_State *L, const char *name)
{
    static const char *const names[] = {"jsonl", "json", "csv", "tsv", "text"};
    static const cr_rows_format formats[] = {CR_ROWS_JSONL, CR_ROWS_JSON, CR_ROWS_CSV, CR_ROWS_TSV,
                                             CR_ROWS_TEXT};
    if (!name)
        return CR_ROWS_GUESS;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return formats[i];
    luaL_argerror(
        L, 2, lua_pushfstring(L, "unknown format '%s'; known: jsonl, json, csv, tsv, text", name));
    return CR_ROWS_GUESS;
}

/* Copies the list `keep` of the table at `arg` into the handle's user value as a set. */
static int read_keep(lua_State *L, int arg, int handle)
{
    bind_place place = {arg, "keep", {0, 0}};
    if (bind_get(L, arg, "keep") == LUA_TNIL)
        return 0;
    const int list = lua_gettop(L);
    const int count = (int)bind_list_length(L, place);
    lua_createtable(L, 0, count);
    for (int i = 1; i <= count; i++) {
        place = (bind_place){arg, "keep[%d]", {i, 0}};
        if (lua_rawgeti(L, list, i) != LUA_TSTRING)
            bind_place_error(L, place, ": expected a string, got %s", luaL_typename(L, -1));
        lua_pushboolean(L, 1);
        lua_rawset(L, -3);
    }
    lua_setiuservalue(L, handle, 1);
    return count;
}

int bind_open_rows(lua_State *L)
{
    cr_rows_options given = cr_rows_options_default();
    rows_options options = {NULL, given.ahead, (double)given.longest};
    const char *path = bind_path(L, 1);
    lua_settop(L, 2);
    bind_read_options(L, 2, fields, &options);
    given =
        (cr_rows_options){read_format(L, options.format), options.ahead, (size_t)options.longest};
    rows_handle *handle = bind_new(L, &bind_rows_class, sizeof *handle, 1);
    const int index = lua_gettop(L);
    if (lua_istable(L, 2))
        handle->keep = read_keep(L, 2, index);
    lua_settop(L, index);
    cr_rows *rows = NULL;
    const int code = cr_rows_open(&rows, path, &given);
    handle->base.core = rows;
    return bind_result(L, code);
}

/* ---- values ------------------------------------------------------------------------------------- */

static size_t behind(const cr_value *values, size_t at)
{
    const uint32_t kind = values[at].kind;
    return kind == CR_VALUE_ARRAY || kind == CR_VALUE_OBJECT ? (size_t)values[at].as.end : at + 1;
}

/* An object's members that are in the set at the top of the stack; the others are not made. */
static void push_kept(lua_State *L, const cr_value *values, size_t at, int keep)
{
    const int set = lua_gettop(L);
    const uint32_t count = values[at].length;
    lua_createtable(L, 0, keep);
    at++;
    for (uint32_t i = 0; i < count; i++) {
        lua_pushlstring(L, values[at].as.text, values[at].length);
        lua_pushvalue(L, -1);
        const bool wanted = lua_rawget(L, set) != LUA_TNIL;
        lua_pop(L, 1);
        at++;
        if (wanted) {
            at = bind_push_json(L, values, at);
            lua_rawset(L, -3);
        } else {
            lua_pop(L, 1);
            at = behind(values, at);
        }
    }
}

static int push_bad(lua_State *L, const cr_row *row)
{
    luaL_pushfail(L);
    lua_pushstring(L, row->error);
    lua_pushstring(L, cr_code_name(CR_EFORMAT));
    lua_pushinteger(L, (lua_Integer)row->line);
    return 4;
}

static int rows_next(lua_State *L)
{
    cr_row row;
    rows_handle *handle = bind_check(L, 1, &bind_rows_class);
    const int code = cr_rows_next(handle->base.core, &row);
    if (code < 0)
        return bind_failure(L, code);
    if (code == CR_ROWS_END) {
        luaL_pushfail(L);
        return 1;
    }
    if (row.error)
        return push_bad(L, &row);
    if (handle->keep > 0 && row.values[row.first].kind == CR_VALUE_OBJECT) {
        lua_getiuservalue(L, 1, 1);
        push_kept(L, row.values, row.first, handle->keep);
    } else {
        bind_push_json(L, row.values, row.first);
    }
    lua_pushinteger(L, (lua_Integer)row.line);
    return 2;
}

static int rows_close(lua_State *L)
{
    cr_rows_close(bind_take(L, 1, &bind_rows_class));
    return 0;
}

static int rows_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_rows_class);
    lua_pushstring(L, handle->core ? "crucible.rows" : "crucible.rows (closed)");
    return 1;
}

static const luaL_Reg methods[] = {{"next", rows_next}, {"close", rows_close}, {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", rows_close},
    {"__close", rows_close},
    {"__tostring", rows_tostring},
    {NULL, NULL},
};

const bind_class bind_rows_class = {"crucible.rows", methods, metamethods};
