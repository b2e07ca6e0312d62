/* debug_tensor.c: crucible.core.debug.tensor: the loops of each instruction set on flat lists, and memory
 * that is lent and called back. Only in builds with CR_DEBUG_BINDING. */
#include "bind/tensor.h"

#ifdef CR_DEBUG_BINDING

#include <string.h>

#include "math/tensor_kernels.h"

/* ---- loops ------------------------------------------------------------------------- */

/* The list at `arg` as values of the type, in a block of exactly their size. */
static void *read_values(lua_State *L, int arg, int type, size_t *count)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    *count = (size_t)lua_rawlen(L, arg);
    size_t size = type == CR_F64 ? sizeof(double) : sizeof(float);
    bind_box *box = bind_push_box(L, NULL);
    char *values = box->memory = cr_alloc(*count * size);
    if (values == NULL)
        luaL_error(L, "%s", cr_error_message());
    for (size_t i = 0; i < *count; i++) {
        lua_rawgeti(L, arg, (lua_Integer)i + 1);
        double wide = (double)luaL_checknumber(L, -1);
        float narrow = (float)wide;
        memcpy(values + i * size, type == CR_F64 ? (void *)&wide : (void *)&narrow, size);
        lua_pop(L, 1);
    }
    return values;
}

static void push_values(lua_State *L, const void *values, int type, size_t count)
{
    if (type == CR_F64)
        bind_push_doubles(L, values, count);
    else
        bind_push_floats(L, values, count);
}

static int find_op(const char *name, const char *(*name_of)(int), int count)
{
    for (int op = 0; op < count; op++)
        if (strcmp(name_of(op), name) == 0)
            return op;
    return -1;
}

static const char *unary_name(int op)
{
    return cr_unary_name((cr_unary)op);
}

static const char *binary_name(int op)
{
    return cr_binary_name((cr_binary)op);
}

/* apply(kernels, dtype, name, x [, y]): the loop of that name over lists; nil when the processor lacks
 * the instruction set. A y of one value stands for all. */
static int apply(lua_State *L)
{
    size_t n, m = 0;
    lua_settop(L, 5);
    int type = bind_read_type(L, 2);
    const char *name = luaL_checkstring(L, 3);
    const cr_tensor_kernels *kernels = cr_tensor_kernels_find(luaL_checkstring(L, 1), type);
    if (kernels == NULL)
        return 0;
    bool two = !lua_isnil(L, 5);
    int op = two ? find_op(name, binary_name, CR_BINARY_COUNT)
                 : find_op(name, unary_name, CR_UNARY_COUNT);
    luaL_argcheck(L, op >= 0, 3, "there is no such loop");
    void *x = read_values(L, 4, type, &n);
    void *y = two ? read_values(L, 5, type, &m) : NULL;
    luaL_argcheck(L, !two || m == n || m == 1, 5, "expected as many values, or one");
    if (two)
        kernels->binary[op](x, x, 1, y, m == n, n);
    else
        kernels->unary[op](x, x, n);
    push_values(L, x, type, n);
    return 1;
}

/* ---- loans -------------------------------------------------------------------------- */

static void close_loan(bind_box *box)
{
    cr_loan_close(box->memory);
}

/* The loan is over; the values, which the closure keeps, may change hands. */
static int call_back(lua_State *L)
{
    bind_box *box = lua_touserdata(L, lua_upvalueindex(1));
    cr_loan_end(box->memory);
    return 0;
}

/* lend(values, reason): an f32 array over memory that is not its own, and the function that ends
 * the loan. */
static int lend(lua_State *L)
{
    lua_settop(L, 2);
    bind_place place = {1, "values", {0, 0}};
    const char *reason = luaL_checkstring(L, 2);
    lua_pushvalue(L, 1);
    size_t count = bind_list_length(L, place);
    float *values = lua_newuserdatauv(L, count * sizeof *values, 0);
    lua_pushvalue(L, 1);
    bind_read_floats(L, place, values, count);
    bind_box *box = bind_new(L, &bind_box_class, sizeof *box, 1);
    box->release = close_loan;
    cr_loan *loan = NULL;
    if (cr_loan_create(&loan, reason) < 0)
        return luaL_error(L, "%s", cr_error_message());
    box->memory = loan;
    lua_replace(L, 1); /* the box */
    lua_settop(L, 4);  /* box, reason, list, values */
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 4);
    lua_pushcclosure(L, call_back, 2);
    lua_replace(L, 2);
    bind_result_tensor result = bind_new_tensor(L, 4);
    int code = cr_tensor_borrow(&result.made, CR_F32, 1, &count, values, loan);
    if (code < 0)
        return bind_tensor_result(L, &result, code);
    bind_tensor_result(L, &result, code);
    lua_pushvalue(L, 2);
    return 2;
}

const luaL_Reg bind_debug_tensor_functions[] = {
    {"apply", apply},
    {"lend", lend},
    {NULL, NULL},
};

#endif
