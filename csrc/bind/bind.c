/* bind.c: handles, failures, boxes, lists and option records for the binding. */
#include "bind/bind.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- classes and handles -------------------------------------------------- */

void bind_register(lua_State *L, const bind_class *type)
{
    if (luaL_newmetatable(L, type->name)) {
        luaL_setfuncs(L, type->metamethods, 0);
        lua_pushstring(L, type->name);
        lua_setfield(L, -2, "__metatable");
        lua_newtable(L);
        luaL_setfuncs(L, type->methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
}

void *bind_new(lua_State *L, const bind_class *type, size_t size, int user_values)
{
    void *handle = lua_newuserdatauv(L, size, user_values);
    memset(handle, 0, size);
    luaL_setmetatable(L, type->name);
    return handle;
}

void *bind_test(lua_State *L, int arg, const bind_class *type)
{
    return luaL_checkudata(L, arg, type->name);
}

void *bind_check(lua_State *L, int arg, const bind_class *type)
{
    bind_handle *handle = bind_test(L, arg, type);
    if (handle->core == NULL)
        luaL_error(L, "%s is closed", strchr(type->name, '.') + 1);
    return handle;
}

void *bind_core(lua_State *L, int arg, const bind_class *type)
{
    bind_handle *handle = bind_check(L, arg, type);
    return handle->core;
}

void *bind_take(lua_State *L, int arg, const bind_class *type)
{
    bind_handle *handle = bind_test(L, arg, type);
    void *core = handle->core;
    handle->core = NULL;
    return core;
}

/* ---- results ---------------------------------------------------------------- */

int bind_failure(lua_State *L, int code)
{
    luaL_pushfail(L);
    lua_pushstring(L, cr_error_message());
    lua_pushstring(L, cr_code_name(code));
    return 3;
}

int bind_result(lua_State *L, int code)
{
    return code < 0 ? bind_failure(L, code) : 1;
}

int bind_true(lua_State *L, int code)
{
    lua_pushboolean(L, 1);
    return bind_result(L, code);
}

/* ---- memory ------------------------------------------------------------------- */

static void free_memory(bind_box *box)
{
    cr_free(box->memory);
}

bind_box *bind_push_box(lua_State *L, void (*release)(bind_box *box))
{
    bind_box *box = bind_new(L, &bind_box_class, sizeof *box, 0);
    box->release = release ? release : free_memory;
    lua_toclose(L, -1);
    return box;
}

static int box_close(lua_State *L)
{
    bind_box *box = bind_test(L, 1, &bind_box_class);
    if (box->memory != NULL)
        box->release(box);
    box->memory = NULL;
    return 0;
}

static const luaL_Reg box_methods[] = {{NULL, NULL}};

static const luaL_Reg box_metamethods[] = {
    {"__gc", box_close},
    {"__close", box_close},
    {NULL, NULL},
};

const bind_class bind_box_class = {"crucible.box", box_methods, box_metamethods};

void *bind_space(lua_State *L, size_t count, size_t size)
{
    if (count > SIZE_MAX / 2 / size)
        luaL_error(L, "not enough memory");
    void *space = lua_newuserdatauv(L, count * size, 0);
    memset(space, 0, count * size);
    return space;
}

void bind_charge(lua_State *L, uint64_t bytes)
{
    if (!lua_gc(L, LUA_GCISRUNNING))
        return;
#if LUA_VERSION_NUM >= 505
    lua_gc(L, LUA_GCSTEP, (size_t)bytes);
#else
    uint64_t kilobytes = bytes / 1024;
    lua_gc(L, LUA_GCSTEP, kilobytes < INT_MAX ? (int)kilobytes : INT_MAX);
#endif
}

/* ---- lists ---------------------------------------------------------------------- */

int bind_place_error(lua_State *L, bind_place place, const char *rest, ...)
{
    lua_pushfstring(L, place.format, place.at[0], place.at[1]);
    va_list arguments;
    va_start(arguments, rest);
    lua_pushvfstring(L, rest, arguments);
    va_end(arguments);
    lua_concat(L, 2);
    return luaL_argerror(L, place.arg, lua_tostring(L, -1));
}

/* A number as itself, anything else as its type's name. */
static const char *describe(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TNUMBER)
        return luaL_typename(L, index);
    return luaL_tolstring(L, index, NULL);
}

size_t bind_list_length(lua_State *L, bind_place place)
{
    if (lua_type(L, -1) != LUA_TTABLE)
        bind_place_error(L, place, ": expected a list, got %s", luaL_typename(L, -1));
    lua_Unsigned length = lua_rawlen(L, -1);
    if (length > INT_MAX)
        bind_place_error(L, place, ": a list of %I values is too long", (LUAI_UACINT)length);
    return (size_t)length;
}

/* An integer, or a float that is one; strings are not converted. */
static bool to_integer(lua_State *L, int index, lua_Integer *out)
{
    int exact = 0;
    if (lua_type(L, index) == LUA_TNUMBER)
        *out = lua_tointegerx(L, index, &exact);
    return exact != 0;
}

void bind_read_ids(lua_State *L, bind_place place, int32_t *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        lua_Integer value = 0;
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        if (!to_integer(L, -1, &value) || value < INT32_MIN || value > INT32_MAX)
            bind_place_error(L, place, "[%d]: expected an integer of 32 bits, got %s", (int)i + 1,
                             describe(L, -1));
        out[i] = (int32_t)value;
        lua_pop(L, 1);
    }
}

void bind_read_floats(lua_State *L, bind_place place, float *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        out[i] = (float)lua_tonumber(L, -1);
        if (lua_type(L, -1) != LUA_TNUMBER || !isfinite(out[i]))
            bind_place_error(L, place, "[%d]: expected a finite number, got %s", (int)i + 1,
                             describe(L, -1));
        lua_pop(L, 1);
    }
}

int bind_get(lua_State *L, int index, const char *name)
{
    index = lua_absindex(L, index);
    lua_pushstring(L, name);
    return lua_rawget(L, index);
}

void bind_new_list(lua_State *L, size_t count)
{
    lua_createtable(L, count < INT_MAX ? (int)count : INT_MAX, 0);
}

void bind_push_ids(lua_State *L, const int32_t *values, size_t count)
{
    bind_new_list(L, count);
    for (size_t i = 0; i < count; i++) {
        lua_pushinteger(L, values[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

void bind_push_floats(lua_State *L, const float *values, size_t count)
{
    bind_new_list(L, count);
    for (size_t i = 0; i < count; i++) {
        lua_pushnumber(L, (lua_Number)values[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

void bind_push_doubles(lua_State *L, const double *values, size_t count)
{
    bind_new_list(L, count);
    for (size_t i = 0; i < count; i++) {
        lua_pushnumber(L, (lua_Number)values[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* ---- records of options ------------------------------------------------------------ */

static const bind_field *find_field(const bind_field *fields, const char *name)
{
    while (fields->name != NULL && strcmp(fields->name, name) != 0)
        fields++;
    return fields->name != NULL ? fields : NULL;
}

static const char *known_names(lua_State *L, const bind_field *fields)
{
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    for (const bind_field *field = fields; field->name != NULL; field++) {
        if (field != fields)
            luaL_addstring(&text, ", ");
        luaL_addstring(&text, field->name);
    }
    luaL_pushresult(&text);
    return lua_tostring(L, -1);
}

static void refuse_unknown(lua_State *L, int arg, const bind_field *fields)
{
    for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TSTRING && find_field(fields, lua_tostring(L, -2)))
            continue;
        lua_pop(L, 1);
        bool text = lua_type(L, -1) == LUA_TSTRING;
        const char *name = text ? lua_tostring(L, -1) : describe(L, -1);
        luaL_argerror(
            L, arg,
            lua_pushfstring(L, "unknown field '%s'; known: %s", name, known_names(L, fields)));
    }
}

/* "an integer >= 1", "a finite number >= 0 and < 1", "a boolean" */
static const char *expectation(lua_State *L, const bind_field *field)
{
    static const char *const nouns[] = {"an integer", "an integer", "a finite number", "a boolean",
                                        "a string",   "a list",     "a handle"};
    char least[40] = "", most[40] = "";
    bool bounded = field->kind == BIND_INTEGER || field->kind == BIND_NUMBER;
    bool below = bounded && isfinite(field->most) && field->most < INT_MAX;
    if (bounded && isfinite(field->least))
        snprintf(least, sizeof least, " %s %.10g",
                 field->flags & BIND_ABOVE ? ">" : ">=", field->least);
    if (below)
        snprintf(most, sizeof most, "%s %s %.10g", *least ? " and" : "",
                 field->flags & BIND_BELOW ? "<" : "<=", field->most);
    return lua_pushfstring(L, "%s%s%s", nouns[field->kind], least, most);
}

static bool within(const bind_field *field, double value)
{
    bool above = field->flags & BIND_ABOVE ? value > field->least : value >= field->least;
    bool below = field->flags & BIND_BELOW ? value < field->most : value <= field->most;
    return above && below;
}

/* Stores the value on top of the stack; false when it is not what the field expects. */
static bool store(lua_State *L, const bind_field *field, void *place)
{
    lua_Integer integer = 0;
    double number = (double)lua_tonumber(L, -1);
    switch (field->kind) {
    case BIND_INTEGER:
        if (!to_integer(L, -1, &integer) || !within(field, (double)integer))
            return false;
        *(int *)place = (int)integer;
        return true;
    case BIND_SEED:
        if (!to_integer(L, -1, &integer))
            return false;
        *(uint64_t *)place = (uint64_t)integer;
        return true;
    case BIND_NUMBER:
        if (lua_type(L, -1) != LUA_TNUMBER || !isfinite(number) || !within(field, number))
            return false;
        *(double *)place = number;
        return true;
    case BIND_BOOLEAN:
        if (!lua_isboolean(L, -1))
            return false;
        *(bool *)place = lua_toboolean(L, -1) != 0;
        return true;
    case BIND_TEXT:
        if (lua_type(L, -1) != LUA_TSTRING || strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1))
            return false;
        *(const char **)place = lua_tostring(L, -1);
        return true;
    case BIND_LIST:
        return lua_istable(L, -1);
    case BIND_HANDLE:
        return lua_isuserdata(L, -1);
    }
    return false;
}

static void read_field(lua_State *L, int arg, const bind_field *field, void *out)
{
    bool given = bind_get(L, arg, field->name) != LUA_TNIL;
    int value = lua_gettop(L);
    if (!given && field->flags & BIND_REQUIRED)
        luaL_argerror(
            L, arg,
            lua_pushfstring(L, "%s is missing: expected %s", field->name, expectation(L, field)));
    if (given && !store(L, field, (char *)out + field->offset))
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "%s: expected %s, got %s", field->name,
                                      expectation(L, field), describe(L, value)));
    lua_pop(L, 1);
}

void bind_read_record(lua_State *L, int arg, const bind_field *fields, void *out)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    refuse_unknown(L, arg, fields);
    for (const bind_field *field = fields; field->name != NULL; field++)
        read_field(L, arg, field, out);
}

void bind_read_options(lua_State *L, int arg, const bind_field *fields, void *out)
{
    if (!lua_isnoneornil(L, arg))
        bind_read_record(L, arg, fields, out);
}

/* ---- strings ------------------------------------------------------------------------ */

const char *bind_path(lua_State *L, int arg)
{
    size_t length;
    const char *path = luaL_checklstring(L, arg, &length);
    luaL_argcheck(L, strlen(path) == length, arg, "a path holds no NUL byte");
    return path;
}
