/* gradient.c: gradients of a session measured, changed and watched; statistics of any values. */
#include "bind/tensor.h"

#include <math.h>
#include <string.h>

static cr_session *session_core(lua_State *L)
{
    return bind_core(L, 1, &bind_session_class);
}

static size_t matrix_count(lua_State *L)
{
    return cr_session_parameter_count(session_core(L));
}

static double check_finite(lua_State *L, int arg)
{
    double value = (double)luaL_checknumber(L, arg);
    luaL_argcheck(L, isfinite(value), arg, "expected a finite number");
    return value;
}

/* ---- values: a list of numbers, a string of f32 or a tensor --------------------------- */

typedef struct values {
    const float *at;
    size_t count;
} values;

static values read_bytes(lua_State *L, int arg)
{
    size_t size;
    const char *bytes = lua_tolstring(L, arg, &size);
    luaL_argcheck(L, size % sizeof(float) == 0, arg, "expected a string of whole 4-byte floats");
    float *copy = bind_space(L, size / sizeof *copy, sizeof *copy);
    memcpy(copy, bytes, size);
    return (values){copy, size / sizeof *copy};
}

static values read_list(lua_State *L, int arg)
{
    bind_place place = {arg, "values", {0, 0}};
    lua_pushvalue(L, arg);
    size_t count = bind_list_length(L, place);
    float *copy = bind_space(L, count, sizeof *copy);
    for (size_t i = 0; i < count; i++) {
        if (lua_rawgeti(L, arg, (lua_Integer)i + 1) != LUA_TNUMBER)
            bind_place_error(L, place, "[%d]: expected a number, got %s", (int)i + 1,
                             luaL_typename(L, -1));
        copy[i] = (float)lua_tonumber(L, -1);
        lua_pop(L, 1);
    }
    return (values){copy, count};
}

static values read_tensor(lua_State *L, int arg)
{
    cr_tensor_info info;
    if (cr_tensor_describe(bind_tensor(L, arg), &info) < 0)
        luaL_argerror(L, arg, cr_error_message());
    float *copy = bind_space(L, info.count, sizeof *copy);
    if (cr_tensor_read(bind_tensor(L, arg), CR_F32, copy) < 0)
        luaL_argerror(L, arg, cr_error_message());
    return (values){copy, info.count};
}

/* Any numbers, NaN and infinities among them; the work space stays on the stack. */
static values read_values(lua_State *L, int arg)
{
    if (lua_type(L, arg) == LUA_TUSERDATA)
        return read_tensor(L, arg);
    return lua_type(L, arg) == LUA_TSTRING ? read_bytes(L, arg) : read_list(L, arg);
}

/* As many as the matrix at `index` has. */
static const float *read_matrix_values(lua_State *L, int arg, size_t index)
{
    cr_parameter parameter;
    values given = read_values(L, arg);
    cr_session_parameter(session_core(L), index, &parameter);
    size_t expected = (size_t)parameter.rows * (size_t)parameter.columns;
    if (given.count != expected)
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "%s has %I values, got %I", parameter.name,
                                      (LUAI_UACINT)expected, (LUAI_UACINT)given.count));
    return given.at;
}

/* ---- statistics ------------------------------------------------------------------------ */

typedef struct options {
    cr_statistics_request request;
    const char *name;
} options;

static const bind_field options_fields[] = {
    {"quantiles", BIND_LIST, 0, 0, 0, 0},
    {"magnitudes", BIND_BOOLEAN,
     offsetof(options, request) + offsetof(cr_statistics_request, magnitudes), 0, 0, 0},
    {"name", BIND_TEXT, offsetof(options, name), 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

static void read_quantiles(lua_State *L, int arg, cr_statistics_request *request)
{
    if (!lua_istable(L, arg) || bind_get(L, arg, "quantiles") == LUA_TNIL)
        return;
    int list = lua_gettop(L);
    size_t count = (size_t)lua_rawlen(L, list);
    double *quantiles = bind_space(L, count, sizeof *quantiles);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        quantiles[i] = lua_type(L, -1) == LUA_TNUMBER ? (double)lua_tonumber(L, -1) : NAN;
        if (!(quantiles[i] >= 0 && quantiles[i] <= 1))
            luaL_argerror(
                L, arg,
                lua_pushfstring(L, "quantiles[%d]: expected a number from 0 to 1", (int)i + 1));
        lua_pop(L, 1);
    }
    luaL_argcheck(L, count <= CR_MOST_QUANTILES, arg, "quantiles: expected at most 16");
    request->quantiles = quantiles;
    request->quantile_count = count;
}

static options read_options(lua_State *L, int arg)
{
    options given = {{NULL, 0, false}, NULL};
    bind_read_options(L, arg, options_fields, &given);
    read_quantiles(L, arg, &given.request);
    return given;
}

static void set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, (lua_Number)value);
    lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

/* The bins between the first and the last that hold something, and the exponent of the first. */
static void push_magnitudes(lua_State *L, const cr_statistics *found)
{
    int first = 0, last = CR_EXPONENTS - 1;
    while (first < CR_EXPONENTS && found->magnitudes[first] == 0)
        first++;
    while (last > first && found->magnitudes[last] == 0)
        last--;
    bool none = first == CR_EXPONENTS;
    lua_createtable(L, none ? 0 : last - first + 1, none ? 0 : 1);
    if (none)
        return;
    for (int bin = first; bin <= last; bin++) {
        lua_pushinteger(L, (lua_Integer)found->magnitudes[bin]);
        lua_rawseti(L, -2, bin - first + 1);
    }
    set_count(L, "least", (uint64_t)(int64_t)(first + CR_LEAST_EXPONENT));
}

static void push_statistics(lua_State *L, const cr_statistics *found,
                            const cr_statistics_request *request)
{
    lua_createtable(L, 0, 11);
    set_count(L, "count", found->count);
    set_count(L, "zeros", found->zeros);
    set_count(L, "nonfinite", found->nonfinite);
    set_number(L, "norm", found->norm);
    set_number(L, "rms", found->rms);
    set_number(L, "mean", found->mean);
    set_number(L, "std", found->std);
    set_number(L, "min", found->min);
    set_number(L, "max", found->max);
    if (request->quantile_count > 0) {
        bind_push_doubles(L, found->quantiles, request->quantile_count);
        lua_setfield(L, -2, "quantiles");
    }
    if (request->magnitudes) {
        push_magnitudes(L, found);
        lua_setfield(L, -2, "magnitudes");
    }
}

/* core.statistics(values, options) */
int bind_statistics(lua_State *L)
{
    lua_settop(L, 2);
    options given = read_options(L, 2);
    values list = read_values(L, 1);
    luaL_argcheck(L, list.count > 0, 1, "expected at least one value");
    cr_statistics found;
    int code = cr_statistics_of(&found, list.at, list.count, &given.request);
    if (code < 0)
        return bind_failure(L, code);
    push_statistics(L, &found, &given.request);
    return 1;
}

static size_t index_of(lua_State *L, int arg, const char *name)
{
    size_t index;
    cr_parameter parameter;
    if (!bind_find_parameter(session_core(L), name, &index, &parameter))
        luaL_argerror(L, arg, lua_pushfstring(L, "no parameter is named '%s'", name));
    return index;
}

/* Each record is copied while the session is known to be open: a finalizer may close it between two. */
static void push_measured(lua_State *L, const cr_statistics *found, size_t i,
                          const cr_statistics_request *request)
{
    session_core(L);
    cr_statistics copy = found[i];
    push_statistics(L, &copy, request);
}

int bind_session_statistics(lua_State *L)
{
    static const char *const arrays[] = {"value", "gradient", "moment1", "moment2", NULL};
    session_core(L);
    lua_settop(L, 3);
    int array = luaL_checkoption(L, 2, "gradient", arrays);
    options given = read_options(L, 3);
    size_t first = given.name ? index_of(L, 3, given.name) : 0;
    size_t count = given.name ? 1 : matrix_count(L);
    const cr_statistics *found;
    int code = cr_session_statistics(session_core(L), array, first, count, &given.request, &found);
    if (code < 0)
        return bind_failure(L, code);
    if (given.name) {
        push_measured(L, found, 0, &given.request);
        return 1;
    }
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        push_measured(L, found, i, &given.request);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* ---- changes ----------------------------------------------------------------------------- */

int bind_session_scale_gradient(lua_State *L)
{
    session_core(L);
    size_t index = index_of(L, 2, luaL_checkstring(L, 2));
    return bind_true(L, cr_session_scale_gradient(session_core(L), index, check_finite(L, 3)));
}

int bind_session_add_gradient(lua_State *L)
{
    session_core(L);
    lua_settop(L, 4);
    size_t index = index_of(L, 2, luaL_checkstring(L, 2));
    double factor = check_finite(L, 3);
    const float *given = read_matrix_values(L, 4, index);
    return bind_true(L, cr_session_add_gradient(session_core(L), index, factor, given));
}

int bind_session_dot_gradient(lua_State *L)
{
    session_core(L);
    lua_settop(L, 3);
    size_t index = index_of(L, 2, luaL_checkstring(L, 2));
    const float *given = read_matrix_values(L, 3, index);
    double product = 0;
    int code = cr_session_dot_gradient(session_core(L), index, given, &product);
    lua_pushnumber(L, (lua_Number)product);
    return bind_result(L, code);
}

/* gradient_tensor(name, borrowed): a copy or, borrowed, the session's own memory. */
int bind_session_gradient_tensor(lua_State *L)
{
    session_core(L);
    bind_result_tensor result = bind_new_tensor(L, 3);
    size_t index = index_of(L, 2, luaL_checkstring(L, 2));
    bool borrowed = lua_toboolean(L, 3) != 0;
    cr_tensor *lent = NULL;
    int code = cr_session_gradient_tensor(&lent, session_core(L), index);
    if (code == CR_OK && !borrowed) {
        code = cr_tensor_copy(&result.made, lent, CR_F32);
        cr_tensor_close(lent);
    } else {
        result.made = lent;
    }
    return bind_tensor_result(L, &result, code);
}

int bind_session_freeze(lua_State *L)
{
    session_core(L);
    size_t index = index_of(L, 2, luaL_checkstring(L, 2));
    bool frozen = lua_isnoneornil(L, 3) || lua_toboolean(L, 3);
    return bind_true(L, cr_session_freeze(session_core(L), index, frozen));
}

int bind_session_frozen(lua_State *L)
{
    lua_Integer found = 0;
    size_t count = matrix_count(L);
    lua_newtable(L);
    for (size_t i = 0; i < count; i++) {
        cr_parameter parameter;
        if (!cr_session_is_frozen(session_core(L), i))
            continue;
        cr_session_parameter(session_core(L), i, &parameter);
        lua_pushstring(L, parameter.name);
        lua_rawseti(L, -2, ++found);
    }
    return 1;
}

int bind_session_clip(lua_State *L)
{
    session_core(L);
    double most = check_finite(L, 2);
    luaL_argcheck(L, most >= 0, 2, "expected a norm >= 0");
    cr_clip_result result;
    int code = cr_session_clip(session_core(L), most, &result);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushnumber(L, (lua_Number)result.grad_norm);
    lua_pushnumber(L, (lua_Number)result.scale);
    return 2;
}

/* ---- watching ------------------------------------------------------------------------------ */

/* The bit of the word on top of the stack. */
static unsigned watch_bit(lua_State *L, int arg)
{
    static const char *const names[] = {"updates", "pieces", "turns"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), names[i]) == 0)
            return 1u << i;
    luaL_argerror(L, arg, "expected a list of \"updates\", \"pieces\", \"turns\"");
    return 0;
}

int bind_session_watch(lua_State *L)
{
    unsigned what = 0;
    session_core(L);
    lua_settop(L, 2);
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_Integer i = 1; lua_rawgeti(L, 2, i) != LUA_TNIL; i++) {
        what |= watch_bit(L, 2);
        lua_pop(L, 1);
    }
    return bind_true(L, cr_session_watch(session_core(L), what));
}

/* Norms of each matrix's change in the last update, and of what it was before. */
int bind_session_updates(lua_State *L)
{
    const cr_update *found;
    size_t count = matrix_count(L);
    double *change = bind_space(L, count, sizeof *change);
    double *before = bind_space(L, count, sizeof *before);
    int code = cr_session_updates(session_core(L), &found);
    if (code < 0)
        return bind_failure(L, code);
    for (size_t i = 0; i < count; i++) {
        change[i] = found[i].change;
        before[i] = found[i].before;
    }
    bind_push_doubles(L, change, count);
    bind_push_doubles(L, before, count);
    return 2;
}

int bind_session_pieces(lua_State *L)
{
    const cr_piece *found;
    size_t count;
    int code = cr_session_pieces(session_core(L), &found, &count);
    if (code < 0)
        return bind_failure(L, code);
    cr_piece *pieces = bind_space(L, count, sizeof *pieces);
    cr_session_pieces(session_core(L), &found, &count);
    memcpy(pieces, found, count * sizeof *pieces);
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        lua_createtable(L, 0, 3);
        set_number(L, "norm", pieces[i].norm);
        set_count(L, "rows", pieces[i].rows);
        set_count(L, "supervised", pieces[i].supervised);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

int bind_session_turns(lua_State *L)
{
    size_t count = matrix_count(L);
    double *cosines = bind_space(L, count, sizeof *cosines), overall;
    int code = cr_session_turns(session_core(L), cosines, &overall);
    if (code < 0)
        return bind_failure(L, code);
    bind_push_doubles(L, cosines, count);
    lua_pushnumber(L, (lua_Number)overall);
    return 2;
}

int bind_session_singular_values(lua_State *L)
{
    session_core(L);
    size_t index = index_of(L, 2, luaL_checkstring(L, 2)), count = 0;
    cr_parameter parameter;
    cr_session_parameter(session_core(L), index, &parameter);
    int room = parameter.rows > parameter.columns ? parameter.rows : parameter.columns;
    double *out = bind_space(L, (size_t)room, sizeof *out);
    int code = cr_session_singular_values(session_core(L), index, out, &count);
    if (code < 0)
        return bind_failure(L, code);
    bind_push_doubles(L, out, count);
    return 1;
}
