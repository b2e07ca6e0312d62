/* parameter.c: the trained matrices of a session by name: listing, reading, writing, norms; the modules that
 * they belong to and what these are made into. */
#include "bind/bind.h"

#include <limits.h>
#include <math.h>
#include <string.h>

static cr_session *session_core(lua_State *L)
{
    return bind_core(L, 1, &bind_session_class);
}

static void push_parameter(lua_State *L, size_t index)
{
    static const char *const parts[] = {"A", "B", "magnitude"};
    lua_createtable(L, 0, 6);
    cr_parameter parameter = {0};
    cr_session_parameter(session_core(L), index, &parameter);
    lua_pushstring(L, parameter.name);
    lua_setfield(L, -2, "name");
    lua_pushinteger(L, parameter.layer + 1);
    lua_setfield(L, -2, "layer");
    lua_pushstring(L, cr_target_name(parameter.target));
    lua_setfield(L, -2, "target");
    lua_pushstring(L, parts[parameter.part]);
    lua_setfield(L, -2, "part");
    lua_pushinteger(L, parameter.rows);
    lua_setfield(L, -2, "rows");
    lua_pushinteger(L, parameter.columns);
    lua_setfield(L, -2, "columns");
}

int bind_session_parameters(lua_State *L)
{
    size_t count = cr_session_parameter_count(session_core(L));
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        push_parameter(L, i);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* The values of a matrix; a finalizer that closes the session ends their life. */
typedef struct matrix {
    float *values; /* [count], row-major */
    size_t count;
} matrix;

bool bind_find_parameter(cr_session *session, const char *name, size_t *index, cr_parameter *out)
{
    size_t count = cr_session_parameter_count(session);
    for (*index = 0; *index < count; ++*index)
        if (cr_session_parameter(session, *index, out) == CR_OK && strcmp(out->name, name) == 0)
            return true;
    return false;
}

/* The matrix named by argument 2; argument `which` says which of its four arrays. */
static matrix check_matrix(lua_State *L, int which)
{
    static const char *const arrays[] = {"value", "gradient", "moment1", "moment2", NULL};
    const char *name = luaL_checkstring(L, 2);
    int array = luaL_checkoption(L, which, "value", arrays);
    cr_parameter found;
    size_t index;
    if (!bind_find_parameter(session_core(L), name, &index, &found))
        luaL_argerror(L, 2, lua_pushfstring(L, "no parameter is named '%s'", name));
    float *const values[] = {found.value, found.gradient, found.moment1, found.moment2};
    return (matrix){values[array], (size_t)found.rows * (size_t)found.columns};
}

int bind_session_read(lua_State *L)
{
    session_core(L);
    lua_settop(L, 3);
    size_t count = check_matrix(L, 3).count;
    float *copy = bind_space(L, count, sizeof *copy);
    memcpy(copy, check_matrix(L, 3).values, count * sizeof *copy);
    bind_push_floats(L, copy, count);
    return 1;
}

int bind_session_write(lua_State *L)
{
    bind_place place = {3, "values", {0, 0}};
    session_core(L);
    lua_settop(L, 4);
    size_t count = check_matrix(L, 4).count;
    float *copy = bind_space(L, count, sizeof *copy);
    lua_pushvalue(L, 3);
    size_t length = bind_list_length(L, place);
    if (length != count)
        bind_place_error(L, place, ": expected %I numbers, got %I", (LUAI_UACINT)count,
                         (LUAI_UACINT)length);
    bind_read_floats(L, place, copy, count);
    memcpy(check_matrix(L, 4).values, copy, count * sizeof *copy);
    return 0;
}

int bind_session_norm(lua_State *L)
{
    session_core(L);
    matrix found = check_matrix(L, 3);
    double sum = 0;
    for (size_t i = 0; i < found.count; i++)
        sum += (double)found.values[i] * (double)found.values[i];
    lua_pushnumber(L, (lua_Number)sqrt(sum));
    return 1;
}

/* ---- modules --------------------------------------------------------------------------- */

static void push_module(lua_State *L, size_t index)
{
    lua_createtable(L, 0, 6);
    cr_module module = {0};
    cr_session_module(session_core(L), index, &module);
    lua_pushstring(L, module.name);
    lua_setfield(L, -2, "name");
    lua_pushinteger(L, module.layer + 1);
    lua_setfield(L, -2, "layer");
    lua_pushstring(L, cr_target_name(module.target));
    lua_setfield(L, -2, "target");
    lua_pushinteger(L, module.rank);
    lua_setfield(L, -2, "rank");
    lua_pushnumber(L, (lua_Number)module.alpha);
    lua_setfield(L, -2, "alpha");
    lua_pushnumber(L, (lua_Number)module.scale);
    lua_setfield(L, -2, "scale");
}

int bind_session_modules(lua_State *L)
{
    size_t count = cr_session_module_count(session_core(L));
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        push_module(L, i);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

int bind_module_matches(lua_State *L)
{
    bool found;
    const char *key = bind_path(L, 1), *module = bind_path(L, 2);
    int code = cr_module_matches(&found, key, module);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushboolean(L, found);
    return 1;
}

/* The shape of a projection's weight. */
typedef struct shape {
    int layer, target;
    size_t rows, columns;
} shape;

static shape check_shape(lua_State *L)
{
    shape found = {0, 0, 0, 0};
    session_core(L);
    lua_Integer layer = luaL_checkinteger(L, 2);
    const char *name = luaL_checkstring(L, 3);
    while (found.target < CR_TARGET_COUNT && strcmp(cr_target_name(found.target), name) != 0)
        found.target++;
    if (found.target == CR_TARGET_COUNT)
        luaL_argerror(L, 3, lua_pushfstring(L, "no projection is named '%s'", name));
    found.layer = layer >= 1 && layer <= INT_MAX ? (int)layer - 1 : -1;
    if (cr_session_shape(session_core(L), found.layer, found.target, &found.rows,
                         &found.columns) < 0)
        luaL_argerror(L, 2, cr_error_message());
    return found;
}

int bind_session_merge_rows(lua_State *L)
{
    lua_settop(L, 5);
    shape found = check_shape(L);
    lua_Integer first = luaL_optinteger(L, 4, 1);
    lua_Integer count = luaL_optinteger(L, 5, (lua_Integer)found.rows - first + 1);
    luaL_argcheck(L, first >= 1 && first <= (lua_Integer)found.rows, 4, "no such row");
    luaL_argcheck(L, count >= 1 && count <= (lua_Integer)found.rows - first + 1, 5,
                  "not so many rows");
    float *rows = bind_space(L, (size_t)count * found.columns, sizeof *rows);
    int code = cr_session_merge_rows(session_core(L), found.layer, found.target, (size_t)first - 1,
                                     (size_t)count, rows);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushlstring(L, (const char *)rows, (size_t)count * found.columns * sizeof *rows);
    return 1;
}

int bind_session_row_norms(lua_State *L)
{
    lua_settop(L, 3);
    shape found = check_shape(L);
    float *norms = bind_space(L, found.rows, sizeof *norms);
    int code = cr_session_row_norms(session_core(L), found.layer, found.target, norms);
    if (code < 0)
        return bind_failure(L, code);
    bind_push_floats(L, norms, found.rows);
    return 1;
}
