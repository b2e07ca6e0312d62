/* tensor_matmul.c: products of matrices, packed panels by register tiles.
 *
 * Operands are read through their strides, so transposed views cost no copy. A panel of B is
 * packed once and multiplied by all rows of A; every element is summed over k in one order. */
#include "math/tensor.h"

#include <string.h>

#include "math/tensor_kernels.h"

/* ---- shapes ------------------------------------------------------------------------- */

/* An operand of at least two axes, of the type of the product. */
static int as_matrices(cr_tensor **out, const cr_tensor *x, int type, bool column)
{
    cr_tensor *typed = NULL;
    if (x->type != type)
        CR_TRY(cr_tensor_copy(&typed, x, type));
    int code = cr_tensor_view(out, typed ? typed : x);
    cr_tensor_close(typed);
    if (code < 0 || x->rank > 1)
        return code;
    cr_tensor *view = *out;
    int along = column ? 0 : 1;
    size_t length = view->shape[0];
    ptrdiff_t step = view->stride[0];
    view->rank = 2;
    view->shape[along] = length;
    view->stride[along] = step;
    view->shape[1 - along] = 1;
    view->stride[1 - along] = 0;
    return CR_OK;
}

/* One product of the batch. */
typedef struct product {
    const cr_tensor_kernels *kernels;
    size_t size; /* bytes a value */
    size_t m, n, k;
    ptrdiff_t a_row, a_step, b_row, b_step; /* values */
    char *c, *panel;
    const char *a, *b;
} product;

/* The axes before the last two, as they broadcast. */
typedef struct batch {
    int rank;
    size_t shape[CR_MAX_RANK];
    size_t count;
} batch;

/* CR_EARG, for which the caller has the words, when the operands do not fit. */
static int plan_batch(batch *plan, const cr_tensor *a, const cr_tensor *b)
{
    cr_tensor outer_a = *a, outer_b = *b;
    outer_a.rank -= 2;
    outer_b.rank -= 2;
    const cr_tensor *operands[] = {&outer_a, &outer_b};
    if (a->shape[a->rank - 1] != b->shape[b->rank - 2])
        return CR_EARG;
    CR_TRY(cr_shape_broadcast(&plan->rank, plan->shape, "matmul", operands, 2));
    plan->count = 1;
    for (int i = 0; i < plan->rank; i++)
        plan->count *= plan->shape[i];
    return CR_OK;
}

/* Where the operand's matrix of batch number `index` begins. */
static const char *matrix_at(const cr_tensor *x, const batch *plan, size_t index)
{
    ptrdiff_t offset = 0;
    for (int i = plan->rank - 1; i >= 0; i--) {
        int own = i - (plan->rank - (x->rank - 2));
        size_t at = index % plan->shape[i];
        index /= plan->shape[i];
        if (own >= 0 && x->shape[own] != 1)
            offset += (ptrdiff_t)at * x->stride[own];
    }
    return x->data + offset * (ptrdiff_t)cr_type_size(x->type);
}

/* ---- one product ----------------------------------------------------------------------- */

static const char *value(const char *base, ptrdiff_t offset, size_t size)
{
    return base + offset * (ptrdiff_t)size;
}

/* Columns first..first+width of B as [k, tile_columns], with zeros behind the last column. */
static void pack_panel(const product *p, size_t first, size_t width)
{
    size_t columns = p->kernels->tile_columns;
    if (width < columns)
        memset(p->panel, 0, p->k * columns * p->size);
    for (size_t k = 0; k < p->k; k++) {
        const char *from =
            value(p->b, (ptrdiff_t)k * p->b_row + (ptrdiff_t)first * p->b_step, p->size);
        char *to = p->panel + k * columns * p->size;
        cr_copy_strided(to, (ptrdiff_t)p->size, from, p->b_step * (ptrdiff_t)p->size, p->size,
                        width);
    }
}

/* Rows beyond the last one read the last again; what they make is not copied. */
static void multiply_tile(const product *p, size_t row, size_t first, size_t width)
{
    const void *rows[CR_TENSOR_TILE_ROWS];
    _Alignas(64) double spare[CR_TENSOR_TILE_ROWS * CR_TENSOR_TILE_COLUMNS];
    size_t columns = p->kernels->tile_columns, height = p->kernels->tile_rows;
    size_t count = p->m - row < height ? p->m - row : height;
    for (size_t i = 0; i < height; i++)
        rows[i] = value(p->a, (ptrdiff_t)(row + (i < count ? i : count - 1)) * p->a_row, p->size);
    char *to = p->c + (row * p->n + first) * p->size;
    if (count == height && width == columns) {
        p->kernels->tile(to, p->n, rows, p->a_step, p->panel, p->k);
        return;
    }
    p->kernels->tile(spare, columns, rows, p->a_step, p->panel, p->k);
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * p->n * p->size, (const char *)spare + i * columns * p->size,
               width * p->size);
}

static void multiply(const product *p)
{
    size_t columns = p->kernels->tile_columns;
    for (size_t first = 0; first < p->n; first += columns) {
        size_t width = p->n - first < columns ? p->n - first : columns;
        pack_panel(p, first, width);
        for (size_t row = 0; row < p->m; row += p->kernels->tile_rows)
            multiply_tile(p, row, first, width);
    }
}

static void multiply_all(cr_tensor *out, const cr_tensor *a, const cr_tensor *b, const batch *plan,
                         char *panel)
{
    product p = {.kernels = cr_tensor_kernels_select(out->type),
                 .size = cr_type_size(out->type),
                 .m = a->shape[a->rank - 2],
                 .n = b->shape[b->rank - 1],
                 .k = a->shape[a->rank - 1],
                 .a_row = a->stride[a->rank - 2],
                 .a_step = a->stride[a->rank - 1],
                 .b_row = b->stride[b->rank - 2],
                 .b_step = b->stride[b->rank - 1],
                 .panel = panel};
    for (size_t i = 0; i < plan->count; i++) {
        p.a = matrix_at(a, plan, i);
        p.b = matrix_at(b, plan, i);
        p.c = out->data + i * p.m * p.n * p.size;
        multiply(&p);
    }
}

/* ---- the operation -------------------------------------------------------------------------- */

/* The batch's shape and the last two axes, without those that stood for a vector. */
static int make_product(cr_tensor **out, const batch *plan, const cr_tensor *a, const cr_tensor *b,
                        bool keep_row, bool keep_column)
{
    size_t shape[CR_MAX_RANK];
    int rank = plan->rank;
    memcpy(shape, plan->shape, sizeof shape);
    if (keep_row)
        shape[rank++] = a->shape[a->rank - 2];
    if (keep_column)
        shape[rank++] = b->shape[b->rank - 1];
    return cr_tensor_make(out, "matmul", a, a->type, rank, shape);
}

static int multiply_matrices(cr_tensor **out, const cr_tensor *a, const cr_tensor *b, bool keep_row,
                             bool keep_column)
{
    batch plan;
    CR_TRY(plan_batch(&plan, a, b));
    size_t columns = cr_tensor_kernels_select(a->type)->tile_columns, bytes;
    if (!cr_size_mul(&bytes, a->shape[a->rank - 1], columns * cr_type_size(a->type)))
        return cr_fail(CR_ENOMEM, "matmul: the inner axis is too long");
    char *panel = cr_alloc(bytes);
    if (!panel)
        return CR_ENOMEM;
    int code = make_product(out, &plan, a, b, keep_row, keep_column);
    if (code == CR_OK)
        multiply_all(*out, a, b, &plan, panel);
    cr_free(panel);
    return code;
}

int cr_tensor_matmul(cr_tensor **out, const cr_tensor *a, const cr_tensor *b)
{
    cr_tensor *left = NULL, *right = NULL;
    char text[2][CR_SHAPE_TEXT];
    *out = NULL;
    CR_TRY(cr_tensor_usable("matmul", a));
    CR_TRY(cr_tensor_usable("matmul", b));
    if (a->rank == 0 || b->rank == 0)
        return cr_fail(CR_EARG, "matmul: shapes %s and %s: a number is no matrix",
                       cr_shape_text(text[0], a->rank, a->shape),
                       cr_shape_text(text[1], b->rank, b->shape));
    int type = a->type == CR_F64 || b->type == CR_F64 ? CR_F64 : CR_F32;
    int code = as_matrices(&left, a, type, false);
    if (code == CR_OK)
        code = as_matrices(&right, b, type, true);
    if (code == CR_OK)
        code = multiply_matrices(out, left, right, a->rank > 1, b->rank > 1);
    cr_tensor_close(left);
    cr_tensor_close(right);
    if (code == CR_EARG)
        return cr_fail(CR_EARG, "matmul: shapes %s and %s do not fit",
                       cr_shape_text(text[0], a->rank, a->shape),
                       cr_shape_text(text[1], b->rank, b->shape));
    return code;
}
