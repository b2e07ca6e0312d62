/* debug_math.c: crucible.core.debug.math: kernels, and the plain loops that specify them, on flat
 * lists. Only in builds with CR_DEBUG_BINDING.
 *
 * Each function takes one table of named fields and returns lists. `kernels` picks a table by name and
 * `threads` the size of the pool. Buffers are blocks of exactly their size, so that AddressSanitizer
 * sees a value too many; outputs start as NaN, so that a spec sees a value too few.
 */
#include "bind/bind.h"

#ifdef CR_DEBUG_BINDING

#include <math.h>
#include <string.h>

#include "math/activation.h"
#include "math/assignment.h"
#include "math/attention.h"
#include "math/divergence.h"
#include "math/head.h"
#include "math/norm.h"
#include "math/persistence.h"
#include "math/quantize.h"
#include "math/rope.h"
#include "train/adamw.h"

/* ---- fields of the table at argument 1 --------------------------------------------- */

static double opt_number(lua_State *L, const char *name, double fallback)
{
    double value = bind_get(L, 1, name) == LUA_TNIL ? fallback : (double)luaL_checknumber(L, -1);
    lua_pop(L, 1);
    return value;
}

static double get_number(lua_State *L, const char *name)
{
    if (bind_get(L, 1, name) == LUA_TNIL)
        luaL_error(L, "%s is missing: expected a number", name);
    lua_pop(L, 1);
    return opt_number(L, name, 0);
}

static size_t opt_size(lua_State *L, const char *name, size_t fallback)
{
    lua_Integer value = (lua_Integer)fallback;
    if (bind_get(L, 1, name) != LUA_TNIL)
        value = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
    if (value < 0)
        luaL_error(L, "%s: expected an integer >= 0, got %I", name, (LUAI_UACINT)value);
    return (size_t)value;
}

static size_t get_size(lua_State *L, const char *name)
{
    if (bind_get(L, 1, name) == LUA_TNIL)
        luaL_error(L, "%s is missing: expected an integer", name);
    lua_pop(L, 1);
    return opt_size(L, name, 0);
}

static bool get_flag(lua_State *L, const char *name)
{
    bind_get(L, 1, name);
    bool value = lua_toboolean(L, -1) != 0;
    lua_pop(L, 1);
    return value;
}

static bool has_field(lua_State *L, const char *name)
{
    bool given = bind_get(L, 1, name) != LUA_TNIL;
    lua_pop(L, 1);
    return given;
}

static size_t list_length(lua_State *L, const char *name)
{
    if (bind_get(L, 1, name) != LUA_TTABLE)
        luaL_error(L, "%s: expected a list, got %s", name, luaL_typename(L, -1));
    size_t length = (size_t)lua_rawlen(L, -1);
    lua_pop(L, 1);
    return length;
}

/* ---- buffers: boxes that wait on the stack --------------------------------------------- */

static void *new_block(lua_State *L, size_t bytes)
{
    luaL_checkstack(L, 8, "too many buffers");
    bind_box *box = bind_push_box(L, NULL);
    box->memory = cr_alloc(bytes);
    if (!box->memory)
        luaL_error(L, "%s", cr_error_message());
    return box->memory;
}

static float *new_floats(lua_State *L, size_t count)
{
    float *values = new_block(L, count * sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = NAN;
    return values;
}

static void check_count(lua_State *L, const char *name, size_t expected)
{
    size_t length = list_length(L, name);
    if (length != expected)
        luaL_error(L, "%s: expected %I values, got %I", name, (LUAI_UACINT)expected,
                   (LUAI_UACINT)length);
}

static double element(lua_State *L, size_t index)
{
    lua_rawgeti(L, -1, (lua_Integer)index + 1);
    double value = (double)luaL_checknumber(L, -1);
    lua_pop(L, 1);
    return value;
}

/* Any numbers, NaN and infinities among them. */
static float *get_floats(lua_State *L, const char *name, size_t count)
{
    check_count(L, name, count);
    float *values = new_block(L, count * sizeof *values);
    bind_get(L, 1, name);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)element(L, i);
    lua_pop(L, 1);
    return values;
}

static float *opt_floats(lua_State *L, const char *name, size_t count)
{
    return has_field(L, name) ? get_floats(L, name, count) : NULL;
}

static double *get_doubles(lua_State *L, const char *name, size_t count)
{
    check_count(L, name, count);
    double *values = new_block(L, count * sizeof *values);
    bind_get(L, 1, name);
    for (size_t i = 0; i < count; i++)
        values[i] = element(L, i);
    lua_pop(L, 1);
    return values;
}

static int32_t *get_ids(lua_State *L, const char *name, size_t count)
{
    check_count(L, name, count);
    int32_t *values = new_block(L, count * sizeof *values);
    bind_get(L, 1, name);
    for (size_t i = 0; i < count; i++)
        values[i] = (int32_t)element(L, i);
    lua_pop(L, 1);
    return values;
}

static size_t *get_sizes(lua_State *L, const char *name, size_t count)
{
    check_count(L, name, count);
    size_t *values = new_block(L, count * sizeof *values);
    bind_get(L, 1, name);
    for (size_t i = 0; i < count; i++)
        values[i] = (size_t)element(L, i);
    lua_pop(L, 1);
    return values;
}

/* ---- kernels, threads, stored matrices ----------------------------------------------------- */

static const cr_kernels *get_kernels(lua_State *L)
{
    const cr_kernels *kernels = cr_kernels_select();
    if (bind_get(L, 1, "kernels") != LUA_TNIL)
        kernels = cr_kernels_find(luaL_checkstring(L, -1));
    lua_pop(L, 1);
    if (!kernels)
        luaL_error(L, "kernels: this processor has no such table");
    return kernels;
}

static void free_compute(bind_box *box)
{
    cr_compute_free(box->memory);
    cr_free(box->memory);
}

static cr_compute *get_compute(lua_State *L, size_t longest_row)
{
    const cr_kernels *kernels = get_kernels(L);
    int threads = (int)opt_size(L, "threads", 1);
    luaL_checkstack(L, 8, "too many buffers");
    bind_box *box = bind_push_box(L, free_compute);
    cr_compute *compute = box->memory = cr_calloc(1, sizeof *compute);
    if (!compute || cr_compute_create(compute, threads, longest_row) < 0)
        luaL_error(L, "%s", cr_error_message());
    compute->kernels = kernels;
    return compute;
}

static const cr_dtype_info *get_type(lua_State *L)
{
    const uint32_t type = (uint32_t)get_size(L, "type");
    if (!cr_dtype_find(type))
        luaL_error(L, "type: not one that can be expanded");
    return &cr_dtype_table(get_kernels(L)->name)[type];
}

/* The bytes of a string field in a block of their own. */
static const void *get_bytes(lua_State *L, const char *name, size_t *size)
{
    if (bind_get(L, 1, name) != LUA_TSTRING)
        luaL_error(L, "%s: expected a string, got %s", name, luaL_typename(L, -1));
    lua_pop(L, 1);
    bind_get(L, 1, name);
    *size = (size_t)lua_rawlen(L, -1);
    lua_pop(L, 1);
    void *bytes = new_block(L, *size);
    bind_get(L, 1, name);
    memcpy(bytes, lua_tostring(L, -1), *size);
    lua_pop(L, 1);
    return bytes;
}

/* A list of numbers, or a string of bytes in the format that `type` names. */
static cr_matrix get_matrix(lua_State *L, const char *name, size_t rows, size_t columns)
{
    bool typed = bind_get(L, 1, name) == LUA_TSTRING;
    lua_pop(L, 1);
    if (!typed)
        return cr_matrix_f32(get_floats(L, name, rows * columns), rows, columns, columns);
    cr_matrix matrix = {.type = get_type(L), .rows = rows, .columns = columns};
    size_t size;
    matrix.data = get_bytes(L, name, &size);
    if (!cr_dtype_row_bytes(matrix.type, columns, &matrix.row_bytes) ||
        size != rows * matrix.row_bytes)
        luaL_error(L, "%s: %I bytes are not %I rows of %I values", name, (LUAI_UACINT)size,
                   (LUAI_UACINT)rows, (LUAI_UACINT)columns);
    return matrix;
}

/* ---- element types --------------------------------------------------------------------------- */

static int kernel_names(lua_State *L)
{
    static const char *const known[] = {"portable", "avx2", "avx512"};
    lua_newtable(L);
    lua_Integer count = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!cr_kernels_find(known[i]))
            continue;
        lua_pushstring(L, known[i]);
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

/* { type, name, block_length, block_bytes } of every type that can be expanded. */
static int types(lua_State *L)
{
    lua_newtable(L);
    lua_Integer count = 0;
    for (uint32_t type = 0; type < 256; type++) {
        const cr_dtype_info *info = cr_dtype_find(type);
        if (!info)
            continue;
        lua_newtable(L);
        lua_pushinteger(L, (lua_Integer)type);
        lua_setfield(L, -2, "type");
        lua_pushstring(L, info->name);
        lua_setfield(L, -2, "name");
        lua_pushinteger(L, (lua_Integer)info->block_length);
        lua_setfield(L, -2, "block_length");
        lua_pushinteger(L, (lua_Integer)info->block_bytes);
        lua_setfield(L, -2, "block_bytes");
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

/* { bytes, type, first, count, kernels? } → values. */
static int expand(lua_State *L)
{
    size_t size, count = get_size(L, "count");
    const cr_dtype_info *type = get_type(L);
    const void *bytes = get_bytes(L, "bytes", &size);
    float *values = new_floats(L, count);
    cr_dtype_expand(values, type, bytes, get_size(L, "first"), count);
    bind_push_floats(L, values, count);
    return 1;
}

/* { type, values } → bytes; nil and "not finite" or "too large". */
static int quantize(lua_State *L)
{
    const cr_dtype_info *type = get_type(L);
    const size_t count = list_length(L, "values");
    const float *values = get_floats(L, "values", count);
    size_t size;
    if (!cr_dtype_row_bytes(type, count, &size))
        return luaL_error(L, "values: %d do not fill blocks of %s", (int)count, type->name);
    void *bytes = new_block(L, size);
    const cr_quantized found = cr_quantize_row(bytes, type, values, count);
    if (found == CR_QUANTIZED) {
        lua_pushlstring(L, bytes, size);
        return 1;
    }
    luaL_pushfail(L);
    lua_pushstring(L, found == CR_QUANTIZED_TOO_LARGE ? "too large" : "not finite");
    return 2;
}

static int f16_to_f32(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)cr_f16_to_f32((uint16_t)luaL_checkinteger(L, 1)));
    return 1;
}

static int f32_to_f16(lua_State *L)
{
    lua_pushinteger(L, cr_f32_to_f16((float)luaL_checknumber(L, 1)));
    return 1;
}

static int bf16_to_f32(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)cr_bf16_to_f32((uint16_t)luaL_checkinteger(L, 1)));
    return 1;
}

static int f32_to_bf16(lua_State *L)
{
    lua_pushinteger(L, cr_f32_to_bf16((float)luaL_checknumber(L, 1)));
    return 1;
}

/* ---- matrix products ----------------------------------------------------------------------------- */

typedef struct product {
    size_t m, n, k, ldc;
    float *c;
    float alpha;
    bool accumulate, transposed;
    cr_operand a;
    cr_matrix b;
} product;

/* { m, n, k, a, b, type?, columns?, transposed?, alpha?, accumulate?, c?, ldc? }: with `columns`, a is
 * [k, m]; c [m, ldc] is what the product is written over. */
static product read_product(lua_State *L)
{
    product p = {.m = get_size(L, "m"),
                 .n = get_size(L, "n"),
                 .k = get_size(L, "k"),
                 .alpha = (float)opt_number(L, "alpha", 1),
                 .accumulate = get_flag(L, "accumulate"),
                 .transposed = get_flag(L, "transposed")};
    p.ldc = opt_size(L, "ldc", p.n);
    float *a = get_floats(L, "a", p.m * p.k);
    p.a = get_flag(L, "columns") ? cr_columns(a, p.m) : cr_rows(a, p.k);
    p.b = get_matrix(L, "b", p.transposed ? p.n : p.k, p.transposed ? p.k : p.n);
    p.c = opt_floats(L, "c", p.m * p.ldc);
    if (!p.c)
        p.c = new_floats(L, p.m * p.ldc);
    return p;
}

static int matmul(lua_State *L)
{
    product p = read_product(L);
    cr_compute *compute = get_compute(L, p.b.columns);
    cr_matmul(compute, p.c, p.ldc, p.m, p.alpha, p.accumulate, p.a, &p.b, p.transposed);
    bind_push_floats(L, p.c, p.m * p.ldc);
    return 1;
}

static int matmul_few(lua_State *L)
{
    product p = read_product(L);
    cr_compute *compute = get_compute(L, p.b.columns);
    cr_matmul_few(compute, p.c, p.ldc, p.m, p.a, &p.b);
    bind_push_floats(L, p.c, p.m * p.ldc);
    return 1;
}

static int matmul_serial(lua_State *L)
{
    product p = read_product(L);
    const cr_kernels *kernels = get_kernels(L);
    float *packed = new_floats(L, cr_pack_floats(kernels, p.n, p.k));
    cr_matmul_serial(kernels, p.c, p.ldc, p.m, p.n, p.k, p.alpha, p.accumulate, p.a, p.b.data,
                     p.b.columns, p.transposed, packed);
    bind_push_floats(L, p.c, p.m * p.ldc);
    return 1;
}

static int matmul_plain(lua_State *L)
{
    product p = read_product(L);
    cr_matmul_plain(p.c, p.ldc, p.m, p.alpha, p.accumulate, p.a, &p.b, p.transposed);
    bind_push_floats(L, p.c, p.m * p.ldc);
    return 1;
}

/* ---- norm, rope, SwiGLU ----------------------------------------------------------------------------- */

/* { x, weight, n, d, epsilon } → y, inverse. */
static int rmsnorm(lua_State *L)
{
    size_t n = get_size(L, "n"), d = get_size(L, "d");
    const float *x = get_floats(L, "x", n * d), *weight = get_floats(L, "weight", d);
    float *y = new_floats(L, n * d), *inverse = new_floats(L, n);
    cr_compute *compute = get_compute(L, d);
    cr_rmsnorm_forward(compute, y, inverse, x, weight, n, d, (float)get_number(L, "epsilon"));
    bind_push_floats(L, y, n * d);
    bind_push_floats(L, inverse, n);
    return 2;
}

/* { x, weight, inverse, n, d } → y. */
static int rmsnorm_again(lua_State *L)
{
    size_t n = get_size(L, "n"), d = get_size(L, "d");
    const float *x = get_floats(L, "x", n * d), *weight = get_floats(L, "weight", d);
    const float *inverse = get_floats(L, "inverse", n);
    float *y = new_floats(L, n * d);
    cr_rmsnorm_again(get_compute(L, d), y, inverse, x, weight, n, d);
    bind_push_floats(L, y, n * d);
    return 1;
}

/* { dx, dy, inverse, x, weight, n, d } → dx. */
static int rmsnorm_backward(lua_State *L)
{
    size_t n = get_size(L, "n"), d = get_size(L, "d");
    float *dx = get_floats(L, "dx", n * d);
    const float *dy = get_floats(L, "dy", n * d), *x = get_floats(L, "x", n * d);
    const float *inverse = get_floats(L, "inverse", n), *weight = get_floats(L, "weight", d);
    cr_rmsnorm_backward(get_compute(L, d), dx, dy, inverse, x, weight, n, d);
    bind_push_floats(L, dx, n * d);
    return 1;
}

/* { x, positions, n, heads, head_size, stride?, base, factors?, neighbours?, backward? } → x. */
static int rope(lua_State *L)
{
    size_t n = get_size(L, "n"), heads = get_size(L, "heads");
    cr_rope shape = {.base = get_number(L, "base"),
                     .head_size = get_size(L, "head_size"),
                     .neighbours = get_flag(L, "neighbours")};
    size_t stride = opt_size(L, "stride", heads * shape.head_size);
    shape.factors = opt_floats(L, "factors", shape.head_size / 2);
    float *x = get_floats(L, "x", n * stride), *turns = new_floats(L, n * shape.head_size);
    cr_rope_turns(turns, &shape, get_ids(L, "positions", n), n);
    cr_rope_apply(get_compute(L, stride), x, stride, turns, &shape, n, heads,
                  get_flag(L, "backward"));
    bind_push_floats(L, x, n * stride);
    return 1;
}

/* { gate, up, n, f } → out. */
static int glu(lua_State *L, cr_gate kind)
{
    size_t n = get_size(L, "n"), f = get_size(L, "f");
    const float *gate = get_floats(L, "gate", n * f), *up = get_floats(L, "up", n * f);
    float *out = new_floats(L, n * f);
    cr_glu_forward(get_compute(L, f), kind, out, gate, up, n, f);
    bind_push_floats(L, out, n * f);
    return 1;
}

/* { dout, gate, up, n, f } → dgate, dup. */
static int glu_backward(lua_State *L, cr_gate kind)
{
    size_t n = get_size(L, "n"), f = get_size(L, "f");
    const float *gate = get_floats(L, "gate", n * f), *up = get_floats(L, "up", n * f);
    const float *dout = get_floats(L, "dout", n * f);
    float *dgate = new_floats(L, n * f), *dup = new_floats(L, n * f);
    cr_glu_backward(get_compute(L, f), kind, dgate, dup, dout, gate, up, n, f);
    bind_push_floats(L, dgate, n * f);
    bind_push_floats(L, dup, n * f);
    return 2;
}

static int swiglu(lua_State *L)
{
    return glu(L, CR_GATE_SILU);
}

static int swiglu_backward(lua_State *L)
{
    return glu_backward(L, CR_GATE_SILU);
}

static int geglu(lua_State *L)
{
    return glu(L, CR_GATE_GELU);
}

static int geglu_backward(lua_State *L)
{
    return glu_backward(L, CR_GATE_GELU);
}

/* ---- of encoders -------------------------------------------------------------------------------------- */

/* { x, weight, bias, n, d, epsilon } → y. */
static int layernorm(lua_State *L)
{
    size_t n = get_size(L, "n"), d = get_size(L, "d");
    const float *x = get_floats(L, "x", n * d), *weight = get_floats(L, "weight", d);
    const float *bias = get_floats(L, "bias", d);
    float *y = new_floats(L, n * d);
    cr_layernorm_forward(get_compute(L, d), y, x, weight, bias, n, d,
                         (float)get_number(L, "epsilon"));
    bind_push_floats(L, y, n * d);
    return 1;
}

/* { kind, x, bias, n, f } → activation(x + bias), and the same by the plain function. */
static int activate(lua_State *L)
{
    size_t n = get_size(L, "n"), f = get_size(L, "f");
    cr_activation kind = (cr_activation)get_size(L, "kind");
    const float *x = get_floats(L, "x", n * f), *bias = get_floats(L, "bias", f);
    float *y = new_floats(L, n * f);
    double *plain = bind_space(L, n * f, sizeof *plain);
    for (size_t i = 0; i < n * f; i++) {
        y[i] = x[i];
        plain[i] = cr_activate_plain(kind, (double)(x[i] + bias[i % f]));
    }
    cr_activate(get_compute(L, f), kind, y, bias, n, f);
    bind_push_floats(L, y, n * f);
    bind_push_doubles(L, plain, n * f);
    return 2;
}

/* ---- attention ---------------------------------------------------------------------------------------- */

typedef struct attention {
    cr_attention shape;
    size_t q_floats, kv_floats, lse_floats;
    const float *q, *k, *v;
} attention;

/* { q, k, v, starts, heads, kv_heads, head_size } */
static attention read_attention(lua_State *L)
{
    size_t rows = list_length(L, "starts") - 1;
    const size_t *starts = get_sizes(L, "starts", rows + 1);
    attention a = {.shape = {.window = opt_size(L, "window", 0),
                             .heads = get_size(L, "heads"),
                             .kv_heads = get_size(L, "kv_heads"),
                             .head_size = get_size(L, "head_size"),
                             .starts = starts,
                             .rows = rows,
                             .n = starts[rows]}};
    a.shape.whole = get_flag(L, "whole");
    a.shape.scale = 1.0f / sqrtf((float)a.shape.head_size);
    a.q_floats = a.shape.n * a.shape.heads * a.shape.head_size;
    a.kv_floats = a.shape.n * a.shape.kv_heads * a.shape.head_size;
    a.lse_floats = a.shape.n * a.shape.heads;
    a.q = get_floats(L, "q", a.q_floats);
    a.k = get_floats(L, "k", a.kv_floats);
    a.v = get_floats(L, "v", a.kv_floats);
    return a;
}

/* → out, lse; with `plain`, by the plain loop. */
static int attention_forward(lua_State *L)
{
    attention a = read_attention(L);
    float *out = new_floats(L, a.q_floats), *lse = new_floats(L, a.lse_floats);
    cr_compute *compute = get_compute(L, a.shape.head_size);
    float *scratch = new_floats(L, cr_attention_scratch(compute, a.shape.head_size));
    if (get_flag(L, "plain"))
        cr_attention_plain(out, lse, a.q, a.k, a.v, &a.shape);
    else
        cr_attention_forward(compute, out, lse, a.q, a.k, a.v, &a.shape, scratch);
    bind_push_floats(L, out, a.q_floats);
    bind_push_floats(L, lse, a.lse_floats);
    return 2;
}

/* with { dout, out, lse } → dq, dk, dv. */
static int attention_backward(lua_State *L)
{
    attention a = read_attention(L);
    const float *dout = get_floats(L, "dout", a.q_floats), *out = get_floats(L, "out", a.q_floats);
    const float *lse = get_floats(L, "lse", a.lse_floats);
    float *dq = new_floats(L, a.q_floats), *dk = new_floats(L, a.kv_floats);
    float *dv = new_floats(L, a.kv_floats);
    float *wide_dk = new_floats(L, a.q_floats), *wide_dv = new_floats(L, a.q_floats);
    cr_compute *compute = get_compute(L, a.shape.head_size);
    float *scratch = new_floats(L, cr_attention_scratch(compute, a.shape.head_size));
    cr_attention_backward(compute, dq, dk, dv, dout, out, lse, a.q, a.k, a.v, &a.shape, wide_dk,
                          wide_dv, scratch);
    bind_push_floats(L, dq, a.q_floats);
    bind_push_floats(L, dk, a.kv_floats);
    bind_push_floats(L, dv, a.kv_floats);
    return 3;
}

/* One block a row of the field's values, which follow one another in it. */
static const float **get_past(lua_State *L, const char *name, const size_t *past, size_t rows,
                              size_t width)
{
    const float **out = new_block(L, rows * sizeof *out);
    size_t total = 0;
    for (size_t r = 0; r < rows; r++)
        total += past[r];
    const float *all = get_floats(L, name, total * width);
    for (size_t r = 0; r < rows; r++) {
        float *own = new_floats(L, past[r] * width);
        memcpy(own, all, past[r] * width * sizeof *own);
        all += past[r] * width;
        out[r] = own;
    }
    return out;
}

/* with { past, past_k, past_v } → out. */
static int attention_cached(lua_State *L)
{
    attention a = read_attention(L);
    size_t rows = a.shape.rows, width = a.shape.kv_heads * a.shape.head_size, longest = 0;
    const size_t *past = get_sizes(L, "past", rows);
    for (size_t r = 0; r < rows; r++) {
        size_t seen = past[r] + a.shape.starts[r + 1] - a.shape.starts[r];
        longest = seen > longest ? seen : longest;
    }
    const float **past_k = get_past(L, "past_k", past, rows, width);
    const float **past_v = get_past(L, "past_v", past, rows, width);
    float *out = new_floats(L, a.q_floats);
    cr_compute *compute = get_compute(L, a.shape.head_size);
    float *scores = new_floats(L, (size_t)cr_pool_threads(compute->pool) * longest);
    cr_attention_cached(compute, out, a.q, a.k, a.v, &a.shape, past_k, past_v, past, scores,
                        longest);
    bind_push_floats(L, out, a.q_floats);
    return 1;
}

/* ---- head ---------------------------------------------------------------------------------------------- */

/* The tokens asked about: `targets`, one a position or cut by `starts` [n + 1]; how many there are. */
static cr_head_picks get_picks(lua_State *L, size_t n, size_t *count)
{
    cr_head_picks picks = {NULL, NULL};
    *count = list_length(L, "targets");
    picks.ids = get_ids(L, "targets", *count);
    if (has_field(L, "starts"))
        picks.starts = get_sizes(L, "starts", n + 1);
    if ((picks.starts ? picks.starts[n] : n) != *count)
        luaL_error(L, "targets: %I values do not fit the positions", (LUAI_UACINT)*count);
    return picks;
}

/* { hidden, targets, starts?, head, type?, n, d, vocabulary, logprobs_only?, entropy? } → logprobs,
 * expected?, with `entropy` also lse, entropy, tilt; with `plain`, by the plain loop. */
static int head_forward(lua_State *L)
{
    size_t n = get_size(L, "n"), d = get_size(L, "d"), count;
    const float *hidden = get_floats(L, "hidden", n * d);
    cr_head_picks picks = get_picks(L, n, &count);
    cr_matrix head = get_matrix(L, "head", get_size(L, "vocabulary"), d);
    bool entropy = get_flag(L, "entropy"), rows = !get_flag(L, "logprobs_only");
    cr_head_outputs out = {.logprobs = new_floats(L, count)};
    out.expected = rows ? new_floats(L, n * d) : NULL;
    out.lse = entropy ? new_floats(L, n) : NULL;
    out.entropy = entropy ? new_floats(L, n) : NULL;
    out.tilt = entropy && rows ? new_floats(L, n * d) : NULL;
    cr_compute *compute = get_compute(L, d);
    float *scratch = new_floats(L, cr_head_scratch(compute, &head, n, entropy));
    if (get_flag(L, "plain"))
        cr_head_plain(&out, hidden, &picks, &head, n);
    else
        cr_head_forward(compute, &out, hidden, &picks, &head, n, scratch);
    const float *lists[] = {out.logprobs, out.expected, out.lse, out.entropy, out.tilt};
    const size_t lengths[] = {count, n * d, n, n, n * d};
    int pushed = 0;
    for (int i = 0; i < 5; i++) {
        if (!lists[i])
            continue;
        bind_push_floats(L, lists[i], lengths[i]);
        pushed++;
    }
    return pushed;
}

/* { slope, expected, targets, starts?, entropy_slope?, tilt?, head, type?, n, d, vocabulary, in_place? }
 * → dhidden. */
static int head_backward(lua_State *L)
{
    size_t n = get_size(L, "n"), d = get_size(L, "d"), count;
    cr_head_picks picks = get_picks(L, n, &count);
    cr_head_slopes slopes = {get_floats(L, "slope", count), opt_floats(L, "entropy_slope", n)};
    float *expected = get_floats(L, "expected", n * d), *tilt = opt_floats(L, "tilt", n * d);
    cr_matrix head = get_matrix(L, "head", get_size(L, "vocabulary"), d);
    float *dhidden = get_flag(L, "in_place") ? expected : new_floats(L, n * d);
    cr_head_backward(get_compute(L, d), dhidden, &slopes, expected, tilt, &picks, &head, n);
    bind_push_floats(L, dhidden, n * d);
    return 1;
}

/* { kind, temperature, hidden, head, other_hidden, other_head, n, d, e, vocabulary } → value, slope; with
 * `plain`, by the plain loop. */
static int divergence(lua_State *L)
{
    size_t n = get_size(L, "n"), d = get_size(L, "d"), e = get_size(L, "e");
    size_t vocabulary = get_size(L, "vocabulary");
    cr_matrix own_head = get_matrix(L, "head", vocabulary, d);
    cr_matrix other_head = get_matrix(L, "other_head", vocabulary, e);
    cr_divergence_side own = {get_floats(L, "hidden", n * d), &own_head};
    cr_divergence_side other = {get_floats(L, "other_hidden", n * e), &other_head};
    float *value = new_floats(L, n), *slope = new_floats(L, n * d);
    cr_divergence_kind kind = (cr_divergence_kind)get_size(L, "kind");
    float temperature = (float)get_number(L, "temperature");
    cr_compute *compute = get_compute(L, d > e ? d : e);
    float *scratch = new_floats(L, cr_divergence_scratch(compute, &own_head, &other_head, n));
    if (get_flag(L, "plain"))
        cr_divergence_plain(value, slope, kind, temperature, &own, &other, n);
    else
        cr_divergence(compute, value, slope, kind, temperature, &own, &other, n, scratch);
    bind_push_floats(L, value, n);
    bind_push_floats(L, slope, n * d);
    return 2;
}

/* ---- single kernels -------------------------------------------------------------------------------------- */

/* { x, shift? } → values, sum. */
static int exp_sum(lua_State *L)
{
    size_t count = list_length(L, "x");
    float *x = get_floats(L, "x", count);
    float sum = get_kernels(L)->exp_sum(x, (float)opt_number(L, "shift", 0), count);
    bind_push_floats(L, x, count);
    lua_pushnumber(L, (lua_Number)sum);
    return 2;
}

static int max_of(lua_State *L)
{
    size_t count = list_length(L, "x");
    const float *x = get_floats(L, "x", count);
    lua_pushnumber(L, (lua_Number)get_kernels(L)->max(x, count));
    return 1;
}

static int sum_squares(lua_State *L)
{
    size_t count = list_length(L, "x");
    const float *x = get_floats(L, "x", count);
    lua_pushnumber(L, (lua_Number)get_kernels(L)->sum_squares(x, count));
    return 1;
}

static int dot(lua_State *L)
{
    size_t count = list_length(L, "a");
    const float *a = get_floats(L, "a", count), *b = get_floats(L, "b", count);
    lua_pushnumber(L, (lua_Number)get_kernels(L)->dot(a, b, count));
    return 1;
}

/* { a, b, stride } → the four products. */
static int dot4(lua_State *L)
{
    size_t count = list_length(L, "a"), stride = get_size(L, "stride");
    const float *a = get_floats(L, "a", count), *b = get_floats(L, "b", 3 * stride + count);
    float out[4];
    get_kernels(L)->dot4(out, a, b, stride, count);
    bind_push_floats(L, out, 4);
    return 1;
}

/* { y, alpha, x } → y. */
static int axpy(lua_State *L)
{
    size_t count = list_length(L, "x");
    const float *x = get_floats(L, "x", count);
    float *y = get_floats(L, "y", count);
    get_kernels(L)->axpy(y, (float)get_number(L, "alpha"), x, count);
    bind_push_floats(L, y, count);
    return 1;
}

static int scale(lua_State *L)
{
    size_t count = list_length(L, "x");
    float *x = get_floats(L, "x", count);
    get_kernels(L)->scale(x, (float)get_number(L, "alpha"), count);
    bind_push_floats(L, x, count);
    return 1;
}

static uint64_t get_key(lua_State *L)
{
    bind_get(L, 1, "key");
    uint64_t key = (uint64_t)luaL_checkinteger(L, -1);
    lua_pop(L, 1);
    return key;
}

/* { x, key, threshold, factor, out? }: added to `out` where that is given. */
static int dropout(lua_State *L)
{
    size_t count = list_length(L, "x");
    const cr_kernels *kernels = get_kernels(L);
    const float *x = get_floats(L, "x", count);
    uint64_t key = get_key(L);
    uint32_t threshold = (uint32_t)get_size(L, "threshold");
    float factor = (float)get_number(L, "factor");
    float *out = opt_floats(L, "out", count);
    if (out) {
        kernels->dropout_add(out, x, count, key, threshold, factor);
    } else {
        out = new_floats(L, count);
        kernels->dropout(out, x, count, key, threshold, factor);
    }
    bind_push_floats(L, out, count);
    return 1;
}

/* ---- AdamW --------------------------------------------------------------------------------------------------- */

static cr_adam_params read_adam(lua_State *L)
{
    return (cr_adam_params){.lr = get_number(L, "lr"),
                            .beta1 = get_number(L, "beta1"),
                            .beta2 = get_number(L, "beta2"),
                            .eps = get_number(L, "eps"),
                            .weight_decay = get_number(L, "weight_decay"),
                            .max_grad_norm = get_number(L, "max_grad_norm")};
}

/* { weight, gradient, moment1, moment2, step, lr, ... } → weight, moment1, moment2, norm of the
 * gradient, norm of the change. */
static int adamw(lua_State *L)
{
    size_t count = list_length(L, "weight");
    cr_adam_params params = read_adam(L);
    cr_lora lora = {.floats = count,
                    .values = get_floats(L, "weight", count),
                    .gradients = get_floats(L, "gradient", count),
                    .moment1 = get_floats(L, "moment1", count),
                    .moment2 = get_floats(L, "moment2", count)};
    cr_compute *compute = get_compute(L, 1);
    double *partial = new_block(L, cr_adamw_chunks(&lora) * sizeof *partial);
    double norm = cr_gradient_norm(compute, &lora, partial);
    double change = cr_adamw_update(compute, &lora, &params, norm, get_size(L, "step"), partial);
    bind_push_floats(L, lora.values, count);
    bind_push_floats(L, lora.moment1, count);
    bind_push_floats(L, lora.moment2, count);
    lua_pushnumber(L, (lua_Number)norm);
    lua_pushnumber(L, (lua_Number)change);
    return 5;
}

/* The same for each weight by the plain formula, `gradient_scale` being the clipping. */
static int adamw_plain(lua_State *L)
{
    size_t count = list_length(L, "weight"), step = get_size(L, "step");
    cr_adam_params params = read_adam(L);
    double gradient_scale = get_number(L, "gradient_scale");
    double *weight = get_doubles(L, "weight", count), *gradient = get_doubles(L, "gradient", count);
    double *moment1 = get_doubles(L, "moment1", count), *moment2 = get_doubles(L, "moment2", count);
    for (size_t i = 0; i < count; i++)
        cr_adamw_plain(&weight[i], gradient[i], &moment1[i], &moment2[i], &params, gradient_scale,
                       step);
    bind_push_doubles(L, weight, count);
    bind_push_doubles(L, moment1, count);
    bind_push_doubles(L, moment2, count);
    return 3;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

/* ---- topology ------------------------------------------------------------------------------------------ */

/* { vertices, ends (from 0), values, filled } → dimension, birth, death, birth_edge, death_edge of each
 * interval (edges from 0, -1: none), one after another. */
static int persistence_plain(lua_State *L)
{
    size_t vertices = get_size(L, "vertices"), edges = list_length(L, "values"), count;
    int32_t *ends = get_ids(L, "ends", 2 * edges);
    double *values = get_doubles(L, "values", edges);
    cr_interval *out = new_block(L, (vertices + edges) * sizeof *out);
    int code =
        cr_persistence_plain(out, &count, vertices, ends, values, edges, get_flag(L, "filled"));
    if (code < 0)
        luaL_error(L, "%s", cr_error_message());
    double *flat = new_block(L, 5 * count * sizeof *flat);
    for (size_t i = 0; i < count; i++) {
        double row[5] = {out[i].dimension, out[i].birth, out[i].death, out[i].birth_edge,
                         out[i].death_edge};
        memcpy(flat + 5 * i, row, sizeof row);
    }
    bind_push_doubles(L, flat, 5 * count);
    return 1;
}

/* { n, cost } → total. */
static int assignment_plain(lua_State *L)
{
    size_t n = get_size(L, "n");
    double *cost = get_doubles(L, "cost", n * n), total = 0;
    int32_t *columns = new_block(L, n * sizeof *columns);
    if (cr_assignment_plain(columns, &total, cost, n) < 0)
        luaL_error(L, "%s", cr_error_message());
    lua_pushnumber(L, (lua_Number)total);
    return 1;
}

const luaL_Reg bind_debug_math_functions[] = {
    {"kernels", kernel_names},
    {"types", types},
    {"expand", expand},
    {"quantize", quantize},
    {"f16_to_f32", f16_to_f32},
    {"f32_to_f16", f32_to_f16},
    {"bf16_to_f32", bf16_to_f32},
    {"f32_to_bf16", f32_to_bf16},
    {"matmul", matmul},
    {"matmul_few", matmul_few},
    {"matmul_serial", matmul_serial},
    {"matmul_plain", matmul_plain},
    {"persistence_plain", persistence_plain},
    {"assignment_plain", assignment_plain},
    {"rmsnorm", rmsnorm},
    {"rmsnorm_again", rmsnorm_again},
    {"rmsnorm_backward", rmsnorm_backward},
    {"rope", rope},
    {"layernorm", layernorm},
    {"activate", activate},
    {"swiglu", swiglu},
    {"swiglu_backward", swiglu_backward},
    {"geglu", geglu},
    {"geglu_backward", geglu_backward},
    {"attention", attention_forward},
    {"attention_backward", attention_backward},
    {"attention_cached", attention_cached},
    {"head", head_forward},
    {"head_backward", head_backward},
    {"divergence", divergence},
    {"exp_sum", exp_sum},
    {"max", max_of},
    {"sum_squares", sum_squares},
    {"dot", dot},
    {"dot4", dot4},
    {"axpy", axpy},
    {"scale", scale},
    {"dropout", dropout},
    {"adamw", adamw},
    {"adamw_plain", adamw_plain},
    {NULL, NULL},
};

#endif
