/* tensor_ops.c: what is done with tensors, one library call a function. */
#include "bind/tensor.h"

#include <math.h>

/* ---- families: functions that differ in the operation alone ----------------------------- */

static int op_of(lua_State *L)
{
    return (int)lua_tointeger(L, lua_upvalueindex(1));
}

static int tensor_unary(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 1);
    int code = cr_tensor_unary(&result.made, (cr_unary)op_of(L), bind_tensor(L, 1));
    return bind_tensor_result(L, &result, code);
}

static int tensor_unary_slope(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 3);
    int code = cr_tensor_unary_slope(&result.made, (cr_unary)op_of(L), bind_tensor(L, 1),
                                     bind_tensor(L, 2), bind_tensor(L, 3));
    return bind_tensor_result(L, &result, code);
}

/* One of the two may be a number. */
static int tensor_binary(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 2);
    cr_binary op = (cr_binary)op_of(L);
    int code;
    if (lua_type(L, 2) == LUA_TNUMBER)
        code = cr_tensor_binary_number(&result.made, op, bind_tensor(L, 1),
                                       (double)lua_tonumber(L, 2), false);
    else if (lua_type(L, 1) == LUA_TNUMBER)
        code = cr_tensor_binary_number(&result.made, op, bind_tensor(L, 2),
                                       (double)lua_tonumber(L, 1), true);
    else
        code = cr_tensor_binary(&result.made, op, bind_tensor(L, 1), bind_tensor(L, 2));
    return bind_tensor_result(L, &result, code);
}

/* reduce.sum(x, axis, keep) */
static int tensor_reduce(lua_State *L)
{
    int axis;
    bind_result_tensor result = bind_new_tensor(L, 3);
    cr_reduction op = (cr_reduction)op_of(L);
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_read_axis(L, 2, cr_reduction_name(op), x, true, &axis);
    if (refused)
        return refused;
    int code = cr_tensor_reduce(&result.made, op, x, axis, lua_toboolean(L, 3) != 0);
    return bind_tensor_result(L, &result, code);
}

/* softmax.softmax(x, axis) */
static int tensor_softmax(lua_State *L)
{
    int axis;
    bind_result_tensor result = bind_new_tensor(L, 2);
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_read_axis(L, 2, "softmax", x, false, &axis);
    if (refused)
        return refused;
    int code = cr_tensor_softmax(&result.made, (cr_softmax)op_of(L), x, axis);
    return bind_tensor_result(L, &result, code);
}

/* softmax_slope.softmax(dy, x, y, axis) */
static int tensor_softmax_slope(lua_State *L)
{
    int axis;
    bind_result_tensor result = bind_new_tensor(L, 4);
    cr_tensor *x = bind_tensor(L, 2);
    int refused = bind_read_axis(L, 4, "softmax", x, false, &axis);
    if (refused)
        return refused;
    int code = cr_tensor_softmax_slope(&result.made, (cr_softmax)op_of(L), bind_tensor(L, 1), x,
                                       bind_tensor(L, 3), axis);
    return bind_tensor_result(L, &result, code);
}

static void add_member(lua_State *L, const char *name, int op, lua_CFunction function)
{
    lua_pushinteger(L, op);
    lua_pushcclosure(L, function, 1);
    lua_setfield(L, -2, name);
}

static void add_unary(lua_State *L, const char *family, lua_CFunction function)
{
    lua_newtable(L);
    for (int op = 0; op < CR_UNARY_COUNT; op++)
        add_member(L, cr_unary_name((cr_unary)op), op, function);
    lua_setfield(L, -2, family);
}

static void add_softmax(lua_State *L, const char *family, lua_CFunction function)
{
    lua_newtable(L);
    add_member(L, "softmax", CR_SOFTMAX, function);
    add_member(L, "log_softmax", CR_LOG_SOFTMAX, function);
    add_member(L, "logsumexp", CR_LOGSUMEXP, function);
    lua_setfield(L, -2, family);
}

static void add_binary(lua_State *L)
{
    lua_newtable(L);
    for (int op = 0; op < CR_BINARY_COUNT; op++)
        add_member(L, cr_binary_name((cr_binary)op), op, tensor_binary);
    lua_setfield(L, -2, "binary");
}

static void add_reduce(lua_State *L)
{
    lua_newtable(L);
    add_member(L, "sum", CR_SUM, tensor_reduce);
    add_member(L, "mean", CR_MEAN, tensor_reduce);
    add_member(L, "prod", CR_PROD, tensor_reduce);
    add_member(L, "max", CR_MAX, tensor_reduce);
    add_member(L, "min", CR_MIN, tensor_reduce);
    add_member(L, "norm1", CR_NORM1, tensor_reduce);
    add_member(L, "norm2", CR_NORM2, tensor_reduce);
    lua_setfield(L, -2, "reduce");
}

void bind_tensor_families(lua_State *L)
{
    add_unary(L, "unary", tensor_unary);
    add_unary(L, "unary_slope", tensor_unary_slope);
    add_binary(L);
    add_reduce(L);
    add_softmax(L, "softmax", tensor_softmax);
    add_softmax(L, "softmax_slope", tensor_softmax_slope);
}

/* ---- in place ------------------------------------------------------------------------------ */

static int done(lua_State *L, int code)
{
    lua_settop(L, 1);
    return bind_result(L, code);
}

static int tensor_fill(lua_State *L)
{
    double value = (double)luaL_checknumber(L, 2);
    return done(L, cr_tensor_fill(bind_tensor(L, 1), value));
}

static int tensor_scale(lua_State *L)
{
    double factor = (double)luaL_checknumber(L, 2);
    return done(L, cr_tensor_scale(bind_tensor(L, 1), factor));
}

static int tensor_assign(lua_State *L)
{
    return done(L, cr_tensor_assign(bind_tensor(L, 1), bind_tensor(L, 2)));
}

static int tensor_add(lua_State *L)
{
    double factor = (double)luaL_checknumber(L, 3);
    return done(L, cr_tensor_add(bind_tensor(L, 1), bind_tensor(L, 2), factor));
}

/* ---- where, clamp ---------------------------------------------------------------------------- */

static int tensor_where(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 3);
    int code =
        cr_tensor_where(&result.made, bind_tensor(L, 1), bind_tensor(L, 2), bind_tensor(L, 3));
    return bind_tensor_result(L, &result, code);
}

static int tensor_clamp(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 3);
    double low = (double)luaL_checknumber(L, 2), high = (double)luaL_checknumber(L, 3);
    int code = cr_tensor_clamp(&result.made, bind_tensor(L, 1), low, high);
    return bind_tensor_result(L, &result, code);
}

static int tensor_clamp_slope(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 4);
    double low = (double)luaL_checknumber(L, 3), high = (double)luaL_checknumber(L, 4);
    int code = cr_tensor_clamp_slope(&result.made, bind_tensor(L, 1), bind_tensor(L, 2), low, high);
    return bind_tensor_result(L, &result, code);
}

/* ---- reductions -------------------------------------------------------------------------------- */

/* Two results: the first result's handle, then the second's, stand on top of the stack. */
static int two_results(lua_State *L, bind_result_tensor *first, bind_result_tensor *second,
                       int code)
{
    second->handle->core = second->made;
    int top = lua_gettop(L);
    lua_pushvalue(L, top - 1);
    int pushed = bind_tensor_result(L, first, code);
    if (code < 0)
        return pushed;
    lua_pushvalue(L, top);
    bind_tensor_result(L, second, code);
    return 2;
}

/* extreme(x, "max" or "min", axis, keep) → values, positions */
static int tensor_extreme(lua_State *L)
{
    static const char *const names[] = {"max", "min", NULL};
    int axis;
    bind_result_tensor values = bind_new_tensor(L, 4), positions = bind_new_tensor(L, 5);
    cr_reduction op = luaL_checkoption(L, 2, NULL, names) == 0 ? CR_MAX : CR_MIN;
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_read_axis(L, 3, cr_reduction_name(op), x, true, &axis);
    if (refused)
        return refused;
    int code =
        cr_tensor_extreme(&values.made, &positions.made, op, x, axis, lua_toboolean(L, 4) != 0, 1);
    return two_results(L, &values, &positions, code);
}

/* sum_to(x, like) */
static int tensor_sum_to(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 2);
    int code = cr_tensor_sum_to(&result.made, bind_tensor(L, 1), bind_tensor(L, 2));
    return bind_tensor_result(L, &result, code);
}

/* prod_slope(dy, x, axis) */
static int tensor_prod_slope(lua_State *L)
{
    int axis;
    bind_result_tensor result = bind_new_tensor(L, 3);
    cr_tensor *x = bind_tensor(L, 2);
    int refused = bind_read_axis(L, 3, "prod", x, true, &axis);
    if (refused)
        return refused;
    int code = cr_tensor_prod_slope(&result.made, bind_tensor(L, 1), x, axis);
    return bind_tensor_result(L, &result, code);
}

static int tensor_matmul(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 2);
    int code = cr_tensor_matmul(&result.made, bind_tensor(L, 1), bind_tensor(L, 2));
    return bind_tensor_result(L, &result, code);
}

/* ---- positions ----------------------------------------------------------------------------------- */

/* gather(x, axis, positions), select(x, axis, positions) */
static int read_at(lua_State *L, const char *what,
                   int (*read)(cr_tensor **, const cr_tensor *, int, const cr_tensor *, int))
{
    int axis;
    bind_result_tensor result = bind_new_tensor(L, 3);
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_read_axis(L, 2, what, x, false, &axis);
    if (refused)
        return refused;
    return bind_tensor_result(L, &result, read(&result.made, x, axis, bind_tensor(L, 3), 1));
}

static int tensor_gather(lua_State *L)
{
    return read_at(L, "gather", cr_tensor_gather);
}

static int tensor_select(lua_State *L)
{
    return read_at(L, "select", cr_tensor_select);
}

/* scatter_add(x, axis, positions, source), select_add(x, axis, positions, source) */
static int add_at(lua_State *L, const char *what,
                  int (*add)(cr_tensor **, const cr_tensor *, int, const cr_tensor *,
                             const cr_tensor *, int))
{
    int axis;
    bind_result_tensor result = bind_new_tensor(L, 4);
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_read_axis(L, 2, what, x, false, &axis);
    if (refused)
        return refused;
    int code = add(&result.made, x, axis, bind_tensor(L, 3), bind_tensor(L, 4), 1);
    return bind_tensor_result(L, &result, code);
}

static int tensor_scatter_add(lua_State *L)
{
    return add_at(L, "scatter_add", cr_tensor_scatter_add);
}

static int tensor_select_add(lua_State *L)
{
    return add_at(L, "select_add", cr_tensor_select_add);
}

static int tensor_nonzero(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 1);
    return bind_tensor_result(L, &result, cr_tensor_nonzero(&result.made, bind_tensor(L, 1), 1));
}

/* ---- order ------------------------------------------------------------------------------------------ */

/* cumsum(x, axis, from_end) */
static int tensor_cumsum(lua_State *L)
{
    int axis;
    bind_result_tensor result = bind_new_tensor(L, 3);
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_read_axis(L, 2, "cumsum", x, false, &axis);
    if (refused)
        return refused;
    int code = cr_tensor_cumsum(&result.made, x, axis, lua_toboolean(L, 3) != 0);
    return bind_tensor_result(L, &result, code);
}

/* sort(x, axis, descending) → values, positions */
static int tensor_sort(lua_State *L)
{
    int axis;
    bind_result_tensor values = bind_new_tensor(L, 3), positions = bind_new_tensor(L, 4);
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_read_axis(L, 2, "sort", x, false, &axis);
    if (refused)
        return refused;
    int code = cr_tensor_sort(&values.made, &positions.made, x, axis, lua_toboolean(L, 3) != 0, 1);
    return two_results(L, &values, &positions, code);
}

/* concat(list, axis) */
static int tensor_concat(lua_State *L)
{
    int axis;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    size_t count = (size_t)lua_rawlen(L, 1);
    const cr_tensor **tensors = bind_space(L, count + 1, sizeof *tensors);
    bind_result_tensor result = bind_new_tensor(L, 3);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, 1, (lua_Integer)i + 1);
        tensors[i] = bind_tensor(L, -1);
        lua_pop(L, 1);
    }
    int refused = count == 0 ? bind_refuse(L, "concat: expected at least one tensor")
                             : bind_read_axis(L, 2, "concat", tensors[0], false, &axis);
    if (refused)
        return refused;
    int code = cr_tensor_concat(&result.made, tensors, count, axis);
    return bind_tensor_result(L, &result, code);
}

const luaL_Reg bind_tensor_op_functions[] = {
    {"fill", tensor_fill},
    {"scale", tensor_scale},
    {"assign", tensor_assign},
    {"add", tensor_add},
    {"where", tensor_where},
    {"clamp", tensor_clamp},
    {"clamp_slope", tensor_clamp_slope},
    {"extreme", tensor_extreme},
    {"sum_to", tensor_sum_to},
    {"prod_slope", tensor_prod_slope},
    {"matmul", tensor_matmul},
    {"gather", tensor_gather},
    {"select", tensor_select},
    {"scatter_add", tensor_scatter_add},
    {"select_add", tensor_select_add},
    {"nonzero", tensor_nonzero},
    {"cumsum", tensor_cumsum},
    {"sort", tensor_sort},
    {"concat", tensor_concat},
    {NULL, NULL},
};
