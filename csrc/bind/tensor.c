/* tensor.c: handles of tensors; making, describing, viewing, reading and writing them. */
#include "bind/tensor.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

/* ---- what the collector does not see ---------------------------------------------- */

/* One a state, in its registry: the heap, and the bytes made since the last push to the collector. */
typedef struct ledger {
    bind_box heap;
    uint64_t fresh;
} ledger;

#define MOST_SPARE ((size_t)32 << 20)
#define LEAST_FRESH ((uint64_t)8 << 20)

static const char ledger_key = 0; /* its address names the ledger in the registry */

static void close_heap(bind_box *box)
{
    cr_tensor_heap_close(box->memory);
}

static void push_ledger(lua_State *L)
{
    cr_tensor_heap *heap = NULL;
    ledger *book = bind_new(L, &bind_box_class, sizeof *book, 0);
    book->heap.release = close_heap;
    if (cr_tensor_heap_create(&heap, MOST_SPARE) < 0)
        luaL_error(L, "%s", cr_error_message());
    book->heap.memory = heap;
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &ledger_key);
}

/* Its heap is NULL while the state closes. */
static ledger *get_ledger(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &ledger_key) == LUA_TNIL) {
        lua_pop(L, 1);
        push_ledger(L);
    }
    ledger *found = lua_touserdata(L, -1);
    lua_pop(L, 1); /* the registry keeps it */
    return found;
}

/* A push makes the collector work as if Lua had allocated the bytes: in effect one cycle. Its cost
 * grows with all that is alive, so it waits until garbage may have grown by half of that. */
static void charge(lua_State *L, ledger *book, const cr_tensor_info *info)
{
    if (info->shared || book->heap.memory == NULL)
        return;
    uint64_t alive = cr_tensor_heap_held(book->heap.memory);
    alive += (uint64_t)lua_gc(L, LUA_GCCOUNT) * 1024;
    book->fresh += info->bytes;
    if (book->fresh < LEAST_FRESH || book->fresh < alive / 2)
        return;
    uint64_t bytes = book->fresh;
    book->fresh = 0;
    bind_charge(L, bytes);
}

/* ---- handles --------------------------------------------------------------------------- */

bind_result_tensor bind_new_tensor(lua_State *L, int arguments)
{
    lua_settop(L, arguments);
    return (bind_result_tensor){bind_new(L, &bind_tensor_class, sizeof(bind_handle), 0), NULL};
}

int bind_tensor_result(lua_State *L, bind_result_tensor *result, int code)
{
    cr_tensor_info info = {.shared = true};
    result->handle->core = result->made;
    if (code < 0)
        return bind_failure(L, code);
    ledger *book = get_ledger(L);
    cr_tensor_use_heap(result->made, book->heap.memory);
    cr_tensor_describe(result->made, &info);
    charge(L, book, &info);
    return 1;
}

cr_tensor *bind_tensor(lua_State *L, int arg)
{
    bind_handle *handle = bind_test(L, arg, &bind_tensor_class);
    return handle->core;
}

static int tensor_close(lua_State *L)
{
    cr_tensor_close(bind_take(L, 1, &bind_tensor_class));
    return 0;
}

static int tensor_tostring(lua_State *L)
{
    cr_tensor_info info;
    cr_tensor *self = bind_tensor(L, 1);
    if (self == NULL || cr_tensor_describe(self, &info) < 0)
        lua_pushstring(L, self == NULL ? "crucible.tensor(closed)" : "crucible.tensor(gone)");
    else
        lua_pushfstring(L, "crucible.tensor(%s, rank %d, %I values)",
                        info.type == CR_F64 ? "f64" : "f32", info.rank, (LUAI_UACINT)info.count);
    return 1;
}

static const luaL_Reg methods[] = {{NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", tensor_close},
    {"__close", tensor_close},
    {"__tostring", tensor_tostring},
    {NULL, NULL},
};

const bind_class bind_tensor_class = {"crucible.tensor", methods, metamethods};

/* ---- arguments --------------------------------------------------------------------------- */

int bind_refuse(lua_State *L, const char *format, ...)
{
    va_list arguments;
    luaL_pushfail(L);
    va_start(arguments, format);
    lua_pushvfstring(L, format, arguments);
    va_end(arguments);
    lua_pushstring(L, cr_code_name(CR_EARG));
    return 3;
}

int bind_shape_of(lua_State *L, const cr_tensor *tensor, bind_shape *out)
{
    cr_tensor_info info = {.rank = 0};
    int code = cr_tensor_describe(tensor, &info);
    out->rank = info.rank;
    if (code < 0)
        return bind_failure(L, code);
    memcpy(out->size, info.shape, sizeof out->size);
    return 0;
}

int bind_read_shape(lua_State *L, int arg, const char *what, bind_shape *out)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_Unsigned rank = lua_rawlen(L, arg);
    if (rank > CR_MAX_RANK)
        return bind_refuse(L, "%s: expected a shape of at most %d axes, got %I", what, CR_MAX_RANK,
                           (LUAI_UACINT)rank);
    out->rank = (int)rank;
    for (int i = 0; i < out->rank; i++) {
        int exact = 0;
        lua_rawgeti(L, arg, i + 1);
        lua_Integer size = lua_type(L, -1) == LUA_TNUMBER ? lua_tointegerx(L, -1, &exact) : 0;
        if (!exact || size < 0)
            return bind_refuse(L, "%s: expected sizes that are integers >= 0, got %s", what,
                               luaL_tolstring(L, -1, NULL));
        out->size[i] = (size_t)size;
        lua_pop(L, 1);
    }
    return 0;
}

int bind_read_axis(lua_State *L, int arg, const char *what, const cr_tensor *x, bool all, int *out)
{
    bind_shape shape;
    int exact = 0, refused = bind_shape_of(L, x, &shape);
    *out = CR_ALL_AXES;
    if (refused || (all && lua_isnil(L, arg)))
        return refused;
    lua_Integer axis = lua_type(L, arg) == LUA_TNUMBER ? lua_tointegerx(L, arg, &exact) : 0;
    bool fits = exact && axis != 0 && axis <= shape.rank && axis >= -shape.rank;
    *out = (int)(axis > 0 ? axis - 1 : axis + shape.rank);
    if (fits)
        return 0;
    const char *got = luaL_tolstring(L, arg, NULL);
    if (shape.rank == 0)
        return bind_refuse(L, "%s: a single number has no axis %s", what, got);
    return bind_refuse(L, "%s: expected an axis from 1 to %d (or -%d to -1), got %s", what,
                       shape.rank, shape.rank, got);
}

int bind_read_type(lua_State *L, int arg)
{
    static const char *const types[] = {"f32", "f64", NULL};
    return luaL_checkoption(L, arg, NULL, types) == 0 ? CR_F32 : CR_F64;
}

/* ---- making ------------------------------------------------------------------------------- */

static int tensor_full(lua_State *L)
{
    bind_shape shape;
    bind_result_tensor result = bind_new_tensor(L, 3);
    double value = (double)luaL_checknumber(L, 2);
    int type = bind_read_type(L, 3), refused = bind_read_shape(L, 1, "shape", &shape);
    if (refused)
        return refused;
    int code = cr_tensor_full(&result.made, type, shape.rank, shape.size, value);
    return bind_tensor_result(L, &result, code);
}

static int tensor_range(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 4);
    double start = (double)luaL_checknumber(L, 1), step = (double)luaL_checknumber(L, 2);
    lua_Integer count = luaL_checkinteger(L, 3);
    int type = bind_read_type(L, 4);
    luaL_argcheck(L, count >= 0, 3, "expected a count >= 0");
    int code = cr_tensor_range(&result.made, type, start, step, (size_t)count);
    return bind_tensor_result(L, &result, code);
}

static int tensor_random(lua_State *L)
{
    static const char *const distributions[] = {"uniform", "normal", NULL};
    bind_shape shape;
    bind_result_tensor result = bind_new_tensor(L, 4);
    int normal = luaL_checkoption(L, 2, NULL, distributions);
    uint64_t seed = (uint64_t)luaL_checkinteger(L, 3);
    int type = bind_read_type(L, 4), refused = bind_read_shape(L, 1, "shape", &shape);
    if (refused)
        return refused;
    int code = cr_tensor_random(&result.made, type, shape.rank, shape.size,
                                normal ? CR_NORMAL : CR_UNIFORM, seed);
    return bind_tensor_result(L, &result, code);
}

/* ---- nested lists --------------------------------------------------------------------------- */

/* The shape of the nested lists at argument 1, by their first elements. */
static int measure_lists(lua_State *L, bind_shape *out)
{
    int top = lua_gettop(L);
    size_t size = 1;
    out->rank = 0;
    luaL_checkstack(L, CR_MAX_RANK + 2, NULL);
    lua_pushvalue(L, 1);
    while (size > 0 && lua_type(L, -1) == LUA_TTABLE) {
        if (out->rank == CR_MAX_RANK)
            return bind_refuse(L, "tensor: expected at most %d lists within lists", CR_MAX_RANK);
        size = out->size[out->rank++] = (size_t)lua_rawlen(L, -1);
        lua_rawgeti(L, -1, 1);
    }
    lua_settop(L, top);
    return 0;
}

typedef struct list_reader {
    bind_shape shape;
    double *values; /* where the next value goes */
    size_t place[CR_MAX_RANK];
} list_reader;

/* "values[2][1]": where in the lists something is wrong. */
static const char *push_place(lua_State *L, const list_reader *reader, int depth)
{
    lua_pushliteral(L, "values");
    for (int i = 0; i < depth; i++) {
        lua_pushfstring(L, "[%I]", (LUAI_UACINT)reader->place[i]);
        lua_concat(L, 2);
    }
    return lua_tostring(L, -1);
}

static int refuse_element(lua_State *L, const list_reader *reader, int depth, const char *expected)
{
    const char *got = luaL_typename(L, -1);
    return bind_refuse(L, "tensor: %s: expected %s, got a %s", push_place(L, reader, depth),
                       expected, got);
}

static int read_element(lua_State *L, list_reader *reader)
{
    int type = lua_type(L, -1);
    if (type == LUA_TNUMBER)
        *reader->values++ = (double)lua_tonumber(L, -1);
    else if (type == LUA_TBOOLEAN)
        *reader->values++ = (double)lua_toboolean(L, -1);
    else
        return refuse_element(L, reader, reader->shape.rank, "a number");
    return 0;
}

/* Reads the list on top of the stack, which lies `depth` lists deep, or the element below them. */
static int read_lists(lua_State *L, list_reader *reader, int depth)
{
    if (depth == reader->shape.rank)
        return read_element(L, reader);
    if (lua_type(L, -1) != LUA_TTABLE)
        return refuse_element(L, reader, depth, "a list");
    size_t length = (size_t)lua_rawlen(L, -1), expected = reader->shape.size[depth];
    if (length != expected)
        return bind_refuse(L, "tensor: %s: expected %I values like its neighbours, got %I",
                           push_place(L, reader, depth), (LUAI_UACINT)expected,
                           (LUAI_UACINT)length);
    for (size_t i = 1; i <= length; i++) {
        reader->place[depth] = i;
        lua_rawgeti(L, -1, (lua_Integer)i);
        int refused = read_lists(L, reader, depth + 1);
        if (refused)
            return refused;
        lua_pop(L, 1);
    }
    return 0;
}

static int tensor_new(lua_State *L)
{
    list_reader reader;
    bind_result_tensor result = bind_new_tensor(L, 2);
    int type = bind_read_type(L, 2), refused = measure_lists(L, &reader.shape);
    if (refused)
        return refused;
    int code = cr_tensor_create(&result.made, type, reader.shape.rank, reader.shape.size);
    result.handle->core = result.made;
    if (code < 0)
        return bind_failure(L, code);
    cr_tensor_info info = {0};
    cr_tensor_describe(result.made, &info);
    double *values = reader.values = bind_space(L, info.count, sizeof *values);
    lua_pushvalue(L, 1);
    refused = read_lists(L, &reader, 0);
    if (refused)
        return refused;
    lua_settop(L, 4); /* the space stays below */
    lua_pushvalue(L, 3);
    return bind_tensor_result(L, &result, cr_tensor_write(result.made, CR_F64, values));
}

/* Pushes the values of a shape from `depth` on as nested lists, or one number. */
static const double *push_lists(lua_State *L, const bind_shape *shape, int depth,
                                const double *values)
{
    if (depth == shape->rank) {
        lua_pushnumber(L, (lua_Number)*values);
        return values + 1;
    }
    luaL_checkstack(L, 4, NULL);
    bind_new_list(L, shape->size[depth]);
    for (size_t i = 1; i <= shape->size[depth]; i++) {
        values = push_lists(L, shape, depth + 1, values);
        lua_rawseti(L, -2, (lua_Integer)i);
    }
    return values;
}

static int tensor_totable(lua_State *L)
{
    cr_tensor_info info;
    lua_settop(L, 1);
    int code = cr_tensor_describe(bind_tensor(L, 1), &info);
    if (code < 0)
        return bind_failure(L, code);
    double *values = bind_space(L, info.count, sizeof *values);
    code = cr_tensor_read(bind_tensor(L, 1), CR_F64, values);
    if (code < 0)
        return bind_failure(L, code);
    bind_shape shape = {.rank = info.rank};
    memcpy(shape.size, info.shape, sizeof shape.size);
    push_lists(L, &shape, 0, values);
    return 1;
}

/* ---- describing ------------------------------------------------------------------------------- */

static int tensor_shape(lua_State *L)
{
    bind_shape shape;
    int refused = bind_shape_of(L, bind_tensor(L, 1), &shape);
    if (refused)
        return refused;
    lua_createtable(L, shape.rank, 0);
    for (int i = 0; i < shape.rank; i++) {
        lua_pushinteger(L, (lua_Integer)shape.size[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int tensor_info(lua_State *L)
{
    cr_tensor_info info;
    int code = cr_tensor_describe(bind_tensor(L, 1), &info);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushstring(L, info.type == CR_F64 ? "f64" : "f32");
    lua_pushinteger(L, info.rank);
    lua_pushinteger(L, (lua_Integer)info.count);
    lua_pushboolean(L, info.contiguous);
    lua_pushboolean(L, info.borrowed);
    return 5;
}

static int tensor_version(lua_State *L)
{
    cr_tensor_info info;
    int code = cr_tensor_describe(bind_tensor(L, 1), &info);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushinteger(L, (lua_Integer)info.version);
    return 1;
}

/* An index from 1, or backwards from -1, as one from 0; one outside stays outside. */
static size_t from_one(lua_Integer index, size_t size)
{
    if (index > 0)
        return (size_t)index - 1;
    return index < 0 && 0 - (lua_Unsigned)index <= size ? size - (size_t)(0 - (lua_Unsigned)index)
                                                        : size;
}

/* item(x, i, j, ...) */
static int tensor_item(lua_State *L)
{
    bind_shape shape;
    int given = lua_gettop(L) - 1, refused = bind_shape_of(L, bind_tensor(L, 1), &shape);
    if (refused)
        return refused;
    if (given != shape.rank)
        return bind_refuse(L, "item: expected %d positions, got %d", shape.rank, given);
    size_t index[CR_MAX_RANK] = {0};
    double value;
    for (int i = 0; i < shape.rank; i++)
        index[i] = from_one(luaL_checkinteger(L, i + 2), shape.size[i]);
    int code = cr_tensor_at(bind_tensor(L, 1), index, &value);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushnumber(L, (lua_Number)value);
    return 1;
}

/* ---- views -------------------------------------------------------------------------------------- */

static int tensor_view(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 1);
    return bind_tensor_result(L, &result, cr_tensor_view(&result.made, bind_tensor(L, 1)));
}

static int tensor_permute(lua_State *L)
{
    bind_shape shape;
    bind_result_tensor result = bind_new_tensor(L, 2);
    cr_tensor *x = bind_tensor(L, 1);
    int axes[CR_MAX_RANK] = {0}, refused = bind_shape_of(L, x, &shape);
    if (refused)
        return refused;
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Unsigned given = lua_rawlen(L, 2);
    if (given != (lua_Unsigned)shape.rank)
        return bind_refuse(L, "permute: expected %d axes, got %I", shape.rank, (LUAI_UACINT)given);
    for (int i = 0; i < shape.rank; i++) {
        lua_rawgeti(L, 2, i + 1);
        refused = bind_read_axis(L, 4, "permute", x, false, &axes[i]);
        if (refused)
            return refused;
        lua_pop(L, 1);
    }
    return bind_tensor_result(L, &result, cr_tensor_permute(&result.made, x, axes));
}

static int tensor_expand(lua_State *L)
{
    bind_shape shape;
    bind_result_tensor result = bind_new_tensor(L, 2);
    int refused = bind_read_shape(L, 2, "expand", &shape);
    if (refused)
        return refused;
    int code = cr_tensor_expand(&result.made, bind_tensor(L, 1), shape.rank, shape.size);
    return bind_tensor_result(L, &result, code);
}

static int tensor_reshape(lua_State *L)
{
    bind_shape shape;
    bind_result_tensor result = bind_new_tensor(L, 2);
    int refused = bind_read_shape(L, 2, "reshape", &shape);
    if (refused)
        return refused;
    int code = cr_tensor_reshape(&result.made, bind_tensor(L, 1), shape.rank, shape.size);
    return bind_tensor_result(L, &result, code);
}

/* The ends of a slice, counted as string.sub does, on an axis of `size`. */
static int read_ends(lua_State *L, lua_Integer size, lua_Integer *first, lua_Integer *last)
{
    lua_Integer from = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
    *first = from < 0 ? from + size + 1 : from;
    *last = to < 0 ? to + size + 1 : to;
    if (*first >= 1 && *last >= 0 && *last <= size)
        return 0;
    return bind_refuse(L, "slice: expected positions on an axis of %I, got %I to %I",
                       (LUAI_UACINT)size, (LUAI_UACINT)from, (LUAI_UACINT)to);
}

/* slice(x, axis, first, last, step) */
static int tensor_slice(lua_State *L)
{
    int axis;
    bind_shape shape;
    lua_Integer first, last, step = luaL_checkinteger(L, 5);
    bind_result_tensor result = bind_new_tensor(L, 5);
    cr_tensor *x = bind_tensor(L, 1);
    int refused = bind_shape_of(L, x, &shape);
    if (!refused)
        refused = bind_read_axis(L, 2, "slice", x, false, &axis);
    if (!refused)
        refused = read_ends(L, (lua_Integer)shape.size[axis], &first, &last);
    if (!refused && step < 1)
        refused = bind_refuse(L, "slice: expected a step >= 1, got %I", (LUAI_UACINT)step);
    if (refused)
        return refused;
    size_t count = last < first ? 0 : (size_t)((last - first) / step) + 1;
    int code = cr_tensor_slice(&result.made, x, axis, (size_t)first - 1, count, (size_t)step);
    return bind_tensor_result(L, &result, code);
}

static int tensor_contiguous(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 1);
    return bind_tensor_result(L, &result, cr_tensor_contiguous(&result.made, bind_tensor(L, 1)));
}

static int tensor_copy(lua_State *L)
{
    bind_result_tensor result = bind_new_tensor(L, 2);
    int type = bind_read_type(L, 2);
    return bind_tensor_result(L, &result, cr_tensor_copy(&result.made, bind_tensor(L, 1), type));
}

const luaL_Reg bind_tensor_functions[] = {
    {"new", tensor_new},         {"full", tensor_full},
    {"range", tensor_range},     {"random", tensor_random},
    {"close", tensor_close},     {"totable", tensor_totable},
    {"shape", tensor_shape},     {"info", tensor_info},
    {"version", tensor_version}, {"item", tensor_item},
    {"view", tensor_view},       {"permute", tensor_permute},
    {"expand", tensor_expand},   {"reshape", tensor_reshape},
    {"slice", tensor_slice},     {"contiguous", tensor_contiguous},
    {"copy", tensor_copy},       {NULL, NULL},
};
