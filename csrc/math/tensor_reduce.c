/* tensor_reduce.c: sums, means, products, extremes and norms along an axis or over all.
 *
 * A tensor is seen as [outer, length, inner]. With inner = 1 each line is folded by itself, else
 * blocks of columns are, row after row; both in double. */
#include "math/tensor.h"

#include <math.h>
#include <string.h>

#include "math/tensor_kernels.h"

#define COLUMNS 1024 /* folded together: their doubles stay in the first cache */

static const struct reduction {
    const char *name;
    cr_fold fold;
    double start;
} reductions[CR_REDUCTION_COUNT] = {
    [CR_SUM] = {"sum", CR_FOLD_SUM, 0},        [CR_MEAN] = {"mean", CR_FOLD_SUM, 0},
    [CR_PROD] = {"prod", CR_FOLD_PROD, 1},     [CR_MAX] = {"max", CR_FOLD_MAX, -INFINITY},
    [CR_MIN] = {"min", CR_FOLD_MIN, INFINITY}, [CR_NORM1] = {"norm", CR_FOLD_ABS, 0},
    [CR_NORM2] = {"norm", CR_FOLD_SQUARES, 0},
};

const char *cr_reduction_name(cr_reduction op)
{
    return (unsigned)op < CR_REDUCTION_COUNT ? reductions[op].name : NULL;
}

/* ---- shapes --------------------------------------------------------------------- */

/* Checks what is reduced, along what. */
static int check_reduction(cr_reduction op, const cr_tensor *x, int axis)
{
    const char *what = cr_reduction_name(op);
    if (!what)
        return cr_fail(CR_EARG, "there is no such reduction of tensors");
    CR_TRY(cr_tensor_usable(what, x));
    if (axis != CR_ALL_AXES)
        CR_TRY(cr_shape_axis(what, x, axis));
    char text[CR_SHAPE_TEXT];
    bool extreme = op == CR_MAX || op == CR_MIN;
    cr_lines lines = cr_lines_along(x, axis);
    if (extreme && lines.length == 0)
        return cr_fail(CR_EARG, "%s: shape %s has no values to choose from", what,
                       cr_shape_text(text, x->rank, x->shape));
    return CR_OK;
}

/* A tensor of x's shape with the reduced axes 1, or without them. */
static int make_reduced(cr_tensor **out, const cr_tensor *x, int type, int axis, bool keep)
{
    size_t shape[CR_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < x->rank; i++) {
        bool reduced = axis == CR_ALL_AXES || i == axis;
        if (!reduced || keep)
            shape[rank++] = reduced ? 1 : x->shape[i];
    }
    return cr_tensor_make(out, "reduce", x, type, rank, shape);
}

/* ---- values ------------------------------------------------------------------------ */

static double finish(cr_reduction op, double folded, size_t length)
{
    if (op == CR_MEAN)
        return folded / (double)length;
    return op == CR_NORM2 ? sqrt(folded) : folded;
}

static char *value_at(const cr_tensor *x, size_t index)
{
    return x->data + index * cr_type_size(x->type);
}

static void reduce_lines(cr_tensor *out, cr_reduction op, const cr_tensor *x, cr_lines lines)
{
    const cr_tensor_kernels *kernels = cr_tensor_kernels_select(x->type);
    const struct reduction *reduction = &reductions[op];
    for (size_t i = 0; i < lines.outer; i++) {
        double folded =
            lines.length == 0
                ? reduction->start
                : kernels->fold[reduction->fold](value_at(x, i * lines.length), lines.length);
        kernels->fill(value_at(out, i), finish(op, folded, lines.length), 1);
    }
}

/* One block of columns from `first` of the outer matrix `i`. */
static void reduce_block(cr_tensor *out, cr_reduction op, const cr_tensor *x, cr_lines lines,
                         size_t i, size_t first)
{
    double held[COLUMNS];
    const cr_tensor_kernels *kernels = cr_tensor_kernels_select(x->type);
    const struct reduction *reduction = &reductions[op];
    size_t count = lines.inner - first < COLUMNS ? lines.inner - first : COLUMNS;
    for (size_t j = 0; j < count; j++)
        held[j] = reduction->start;
    kernels->fold_rows[reduction->fold](held, value_at(x, i * lines.length * lines.inner + first),
                                        lines.length, lines.inner, count);
    for (size_t j = 0; j < count; j++)
        held[j] = finish(op, held[j], lines.length);
    kernels->convert[CR_F64](value_at(out, i * lines.inner + first), held, count);
}

static void reduce_columns(cr_tensor *out, cr_reduction op, const cr_tensor *x, cr_lines lines)
{
    for (size_t i = 0; i < lines.outer; i++)
        for (size_t first = 0; first < lines.inner; first += COLUMNS)
            reduce_block(out, op, x, lines, i, first);
}

int cr_tensor_reduce(cr_tensor **out, cr_reduction op, const cr_tensor *x, int axis, bool keep)
{
    cr_tensor *own;
    *out = NULL;
    CR_TRY(check_reduction(op, x, axis));
    CR_TRY(make_reduced(out, x, x->type, axis, keep));
    int code = cr_tensor_operand(&own, x, x->type);
    if (code < 0) {
        cr_tensor_close(*out);
        *out = NULL;
        return code;
    }
    cr_lines lines = cr_lines_along(x, axis);
    (lines.inner == 1 ? reduce_lines : reduce_columns)(*out, op, own, lines);
    cr_tensor_close(own);
    return CR_OK;
}

/* ---- places of extremes --------------------------------------------------------------- */

static void find_lines(double *at, const double *values, const cr_tensor *x, cr_lines lines,
                       int first)
{
    const cr_tensor_kernels *kernels = cr_tensor_kernels_select(x->type);
    for (size_t i = 0; i < lines.outer; i++)
        at[i] =
            first + (double)kernels->find(value_at(x, i * lines.length), values[i], lines.length);
}

static void find_columns(double *at, const double *values, const cr_tensor *x, cr_lines lines,
                         int first)
{
    const cr_tensor_kernels *kernels = cr_tensor_kernels_select(x->type);
    for (size_t i = 0; i < lines.outer; i++)
        for (size_t j = 0; j < lines.inner; j += COLUMNS) {
            size_t place = i * lines.inner + j;
            size_t count = lines.inner - j < COLUMNS ? lines.inner - j : COLUMNS;
            kernels->find_rows(at + place, values + place,
                               value_at(x, i * lines.length * lines.inner + j), lines.length,
                               lines.inner, count, first);
        }
}

/* positions [as values] of the values of x, both contiguous. */
static int find_places(cr_tensor **positions, const cr_tensor *values, const cr_tensor *x,
                       cr_lines lines, int first)
{
    cr_tensor *wide;
    CR_TRY(cr_tensor_operand(&wide, values, CR_F64));
    int code = cr_tensor_make(positions, "max", values, CR_F64, values->rank, values->shape);
    if (code == CR_OK)
        (lines.inner == 1 ? find_lines : find_columns)((double *)(void *)(*positions)->data,
                                                       (const double *)(void *)wide->data, x, lines,
                                                       first);
    cr_tensor_close(wide);
    return code;
}

int cr_tensor_extreme(cr_tensor **out, cr_tensor **positions, cr_reduction op, const cr_tensor *x,
                      int axis, bool keep, int first)
{
    cr_tensor *own = NULL;
    *out = *positions = NULL;
    if (op != CR_MAX && op != CR_MIN)
        return cr_fail(CR_EARG, "only max and min have a position");
    CR_TRY(check_reduction(op, x, axis));
    int code = cr_tensor_operand(&own, x, x->type);
    if (code == CR_OK)
        code = cr_tensor_reduce(out, op, own, axis, keep);
    if (code == CR_OK)
        code = find_places(positions, *out, own, cr_lines_along(x, axis), first);
    cr_tensor_close(own);
    if (code < 0) {
        cr_tensor_close(*out);
        *out = NULL;
    }
    return code;
}

/* ---- slopes --------------------------------------------------------------------------------- */

/* x with its leading axes, as many as it has more than `rank`, summed away. */
static int sum_leading(cr_tensor **out, const cr_tensor *x, int rank)
{
    size_t shape[CR_MAX_RANK] = {1};
    for (int i = 0; i < x->rank - rank; i++)
        shape[0] *= x->shape[i];
    memcpy(shape + 1, x->shape + (x->rank - rank), (size_t)rank * sizeof *shape);
    cr_tensor *matrix;
    CR_TRY(cr_tensor_reshape(&matrix, x, rank + 1, shape));
    int code = cr_tensor_reduce(out, CR_SUM, matrix, 0, false);
    cr_tensor_close(matrix);
    return code;
}

/* *x is replaced by its sum along the axis. */
static int sum_axis(cr_tensor **x, int axis)
{
    cr_tensor *summed;
    int code = cr_tensor_reduce(&summed, CR_SUM, *x, axis, true);
    cr_tensor_close(*x);
    *x = summed;
    return code;
}

/* Whether x has the shape of `like` where that is not 1 or missing in front. */
static bool was_broadcast(const cr_tensor *x, const cr_tensor *like)
{
    int more = x->rank - like->rank;
    for (int i = 0; more >= 0 && i < like->rank; i++)
        if (like->shape[i] != 1 && like->shape[i] != x->shape[more + i])
            return false;
    return more >= 0;
}

static int sum_axes(cr_tensor **out, const cr_tensor *x, const cr_tensor *like)
{
    CR_TRY(x->rank > like->rank ? sum_leading(out, x, like->rank) : cr_tensor_view(out, x));
    for (int i = 0; i < like->rank; i++)
        if (like->shape[i] != (*out)->shape[i])
            CR_TRY(sum_axis(out, i));
    return CR_OK;
}

int cr_tensor_sum_to(cr_tensor **out, const cr_tensor *x, const cr_tensor *like)
{
    char from[CR_SHAPE_TEXT], to[CR_SHAPE_TEXT];
    *out = NULL;
    CR_TRY(cr_tensor_usable("slope", x));
    CR_TRY(cr_tensor_usable("slope", like));
    if (!was_broadcast(x, like))
        return cr_fail(CR_EARG, "a slope of shape %s does not fit a tensor of shape %s",
                       cr_shape_text(from, x->rank, x->shape),
                       cr_shape_text(to, like->rank, like->shape));
    if (x->type == like->type)
        return sum_axes(out, x, like);
    cr_tensor *summed = NULL;
    int code = sum_axes(&summed, x, like);
    if (code == CR_OK)
        code = cr_tensor_copy(out, summed, like->type);
    cr_tensor_close(summed);
    return code;
}

/* out[k] = dy · product of the others of a strided line: the products in front, then those behind. */
static void prod_slope_line(double *out, const double *x, double dy, size_t length, size_t stride)
{
    double before = dy, after = 1;
    for (size_t k = 0; k < length; k++) {
        out[k * stride] = before;
        before *= x[k * stride];
    }
    for (size_t k = length; k-- > 0;) {
        out[k * stride] *= after;
        after *= x[k * stride];
    }
}

static void prod_slope(double *out, const double *dy, const double *x, cr_lines lines)
{
    size_t matrix = lines.length * lines.inner;
    for (size_t i = 0; i < lines.outer; i++)
        for (size_t j = 0; j < lines.inner; j++)
            prod_slope_line(out + i * matrix + j, x + i * matrix + j, dy[i * lines.inner + j],
                            lines.length, lines.inner);
}

int cr_tensor_prod_slope(cr_tensor **out, const cr_tensor *dy, const cr_tensor *x, int axis)
{
    cr_tensor *slope = NULL, *wide_dy = NULL, *wide = NULL;
    *out = NULL;
    CR_TRY(check_reduction(CR_PROD, x, axis));
    CR_TRY(cr_tensor_usable("prod", dy));
    cr_lines lines = cr_lines_along(x, axis);
    if (dy->count != lines.outer * lines.inner)
        return cr_fail(CR_EARG, "prod: a slope of %zu values for %zu products", dy->count,
                       lines.outer * lines.inner);
    int code = cr_tensor_operand(&wide, x, CR_F64);
    if (code == CR_OK)
        code = cr_tensor_operand(&wide_dy, dy, CR_F64);
    if (code == CR_OK)
        code = cr_tensor_make(&slope, "prod", x, CR_F64, x->rank, x->shape);
    if (code == CR_OK) {
        prod_slope((double *)(void *)slope->data, (const double *)(void *)wide_dy->data,
                   (const double *)(void *)wide->data, lines);
        code = cr_tensor_operand(out, slope, x->type);
    }
    cr_tensor_close(slope);
    cr_tensor_close(wide_dy);
    cr_tensor_close(wide);
    return code;
}
