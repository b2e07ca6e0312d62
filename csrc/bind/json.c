/* json.c: values of JSON (file/values.h) as Lua values. */
#include "bind/bind.h"

#include <string.h>

#include "file/values.h"

static size_t push_array(lua_State *L, const cr_value *values, size_t at)
{
    const uint32_t count = values[at].length;
    bind_new_list(L, count);
    at++;
    for (uint32_t i = 1; i <= count; i++) {
        at = bind_push_json(L, values, at);
        lua_rawseti(L, -2, i);
    }
    return at;
}

static size_t push_object(lua_State *L, const cr_value *values, size_t at)
{
    const uint32_t count = values[at].length;
    lua_createtable(L, 0, count < 1024 ? (int)count : 1024);
    at++;
    for (uint32_t i = 0; i < count; i++) {
        lua_pushlstring(L, values[at].as.text, values[at].length);
        at = bind_push_json(L, values, at + 1);
        lua_rawset(L, -3);
    }
    return at;
}

size_t bind_push_json(lua_State *L, const cr_value *values, size_t at)
{
    const cr_value *value = &values[at];
    switch ((cr_value_kind)value->kind) {
    case CR_VALUE_NULL:
        lua_pushlightuserdata(L, NULL); /* json.null, as lua-cjson has it */
        return at + 1;
    case CR_VALUE_FALSE:
    case CR_VALUE_TRUE:
        lua_pushboolean(L, value->kind == CR_VALUE_TRUE);
        return at + 1;
    case CR_VALUE_INTEGER:
        lua_pushinteger(L, (lua_Integer)value->as.integer);
        return at + 1;
    case CR_VALUE_NUMBER:
        lua_pushnumber(L, (lua_Number)value->as.number);
        return at + 1;
    case CR_VALUE_STRING:
        lua_pushlstring(L, value->as.text, value->length);
        return at + 1;
    case CR_VALUE_ARRAY:
    case CR_VALUE_OBJECT:
        break;
    }
    luaL_checkstack(L, 4, "values nest too deeply");
    return value->kind == CR_VALUE_ARRAY ? push_array(L, values, at) : push_object(L, values, at);
}

static void release_values(bind_box *box)
{
    cr_values_free(&(cr_values){.list = box->memory});
}

/* decode_json(text): the value of a JSON text; null is a light userdata of NULL. */
int bind_decode_json(lua_State *L)
{
    size_t size;
    const char *text = luaL_checklstring(L, 1, &size);
    char *copy = bind_space(L, size + 1, 1); /* the parser writes into its text */
    memcpy(copy, text, size);
    bind_box *box = bind_push_box(L, release_values);
    cr_values values = {NULL, 0, 0};
    const int code = cr_values_parse(&values, copy, size);
    box->memory = values.list;
    if (code < 0)
        return bind_failure(L, code);
    bind_push_json(L, values.list, 0);
    return 1;
}
