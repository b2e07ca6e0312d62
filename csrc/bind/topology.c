/* topology.c: persistent homology of graphs, assignments, distances of diagrams. Vertices, edges and
 * rows count from 1. */
#include "bind/bind.h"

#include <math.h>

/* Length of the list at `arg`, which must be a multiple of `step`; the list is on top afterwards. */
static size_t push_list(lua_State *L, int arg, size_t step)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_pushvalue(L, arg);
    size_t length = bind_list_length(L, (bind_place){arg, "the list", {0, 0}});
    if (length % step != 0)
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "expected a multiple of %d numbers, got %I", (int)step,
                                      (LUAI_UACINT)length));
    return length;
}

static double *read_doubles(lua_State *L, int arg, size_t step, size_t *length)
{
    *length = push_list(L, arg, step);
    double *values = bind_space(L, *length, sizeof *values);
    for (size_t i = 0; i < *length; i++) {
        lua_rawgeti(L, -2, (lua_Integer)i + 1);
        if (lua_type(L, -1) != LUA_TNUMBER)
            luaL_argerror(L, arg,
                          lua_pushfstring(L, "[%d]: expected a number, got %s", (int)i + 1,
                                          luaL_typename(L, -1)));
        values[i] = (double)lua_tonumber(L, -1);
        lua_pop(L, 1);
    }
    return values;
}

static int32_t *read_ends(lua_State *L, int arg, size_t *length)
{
    *length = push_list(L, arg, 2);
    int32_t *ends = bind_space(L, *length, sizeof *ends);
    lua_insert(L, -2);
    bind_read_ids(L, (bind_place){arg, "ends", {0, 0}}, ends, *length);
    for (size_t i = 0; i < *length; i++)
        ends[i] -= 1;
    return ends;
}

static void set_place(lua_State *L, const char *name, int32_t index)
{
    if (index < 0)
        return;
    lua_pushinteger(L, index + 1);
    lua_setfield(L, -2, name);
}

static void push_interval(lua_State *L, const cr_interval *interval)
{
    lua_createtable(L, 0, 5);
    lua_pushinteger(L, interval->dimension);
    lua_setfield(L, -2, "dimension");
    lua_pushnumber(L, (lua_Number)interval->birth);
    lua_setfield(L, -2, "birth");
    lua_pushnumber(L, (lua_Number)interval->death);
    lua_setfield(L, -2, "death");
    set_place(L, "birth_edge", interval->birth_edge);
    set_place(L, "death_edge", interval->death_edge);
}

/* persistence(vertices, ends, values, filled) → intervals */
static int topology_persistence(lua_State *L)
{
    lua_settop(L, 4);
    size_t ends_length, edges, count;
    lua_Integer vertices = luaL_checkinteger(L, 1);
    luaL_argcheck(L, vertices >= 0 && vertices <= 1 << 16, 1,
                  "expected a number of vertices up to 65536");
    int32_t *ends = read_ends(L, 2, &ends_length);
    double *values = read_doubles(L, 3, 1, &edges);
    luaL_argcheck(L, 2 * edges == ends_length, 3, "expected a value for each edge");
    cr_interval *out = bind_space(L, (size_t)vertices + edges, sizeof *out);
    int code = cr_persistence(out, &count, (size_t)vertices, ends, values, edges,
                              lua_toboolean(L, 4) != 0);
    if (code < 0)
        return bind_failure(L, code);
    bind_new_list(L, count);
    for (size_t i = 0; i < count; i++) {
        push_interval(L, &out[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* Numbers from 1; false for -1. */
static void push_places(lua_State *L, const int32_t *places, size_t count)
{
    bind_new_list(L, count);
    for (size_t i = 0; i < count; i++) {
        if (places[i] < 0)
            lua_pushboolean(L, false);
        else
            lua_pushinteger(L, places[i] + 1);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* assignment(n, costs) → total, columns */
static int topology_assignment(lua_State *L)
{
    lua_settop(L, 2);
    size_t cells;
    double total = 0;
    lua_Integer n = luaL_checkinteger(L, 1);
    double *cost = read_doubles(L, 2, 1, &cells);
    luaL_argcheck(L, n >= 0 && n <= 1 << 15 && (size_t)(n * n) == cells, 2,
                  "expected n times n costs");
    int32_t *columns = bind_space(L, (size_t)n, sizeof *columns);
    int code = cr_assignment(columns, &total, cost, (size_t)n);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushnumber(L, (lua_Number)total);
    push_places(L, columns, (size_t)n);
    return 2;
}

/* wasserstein(a, b) → squared distance, match */
static int topology_wasserstein(lua_State *L)
{
    lua_settop(L, 2);
    size_t n, m;
    double squared = 0;
    double *a = read_doubles(L, 1, 2, &n);
    double *b = read_doubles(L, 2, 2, &m);
    int32_t *match = bind_space(L, n / 2, sizeof *match);
    int code = cr_wasserstein(&squared, match, a, n / 2, b, m / 2);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushnumber(L, (lua_Number)squared);
    push_places(L, match, n / 2);
    return 2;
}

const luaL_Reg bind_topology_functions[] = {
    {"persistence", topology_persistence},
    {"assignment", topology_assignment},
    {"wasserstein", topology_wasserstein},
    {NULL, NULL},
};
