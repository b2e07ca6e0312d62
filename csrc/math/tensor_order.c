/* tensor_order.c: sorting, cumulative sums, joining along an axis. Merge sort from the bottom up
 * (Knuth, volume 3, 5.2.4), because equal values have to keep their order. */
#include "math/tensor.h"

#include <math.h>
#include <string.h>

/* ---- sort --------------------------------------------------------------------------- */

typedef struct item {
    double value;
    size_t at;
} item;

#define RUN 16 /* sorted by insertion */

/* Whether b has to stand before a. NaN stands behind everything. */
static inline bool precedes(item b, item a, bool descending)
{
    if (a.value != a.value)
        return b.value == b.value;
    return descending ? b.value > a.value : b.value < a.value;
}

static void insertion_sort(item *items, size_t count, bool descending)
{
    for (size_t i = 1; i < count; i++) {
        item moved = items[i];
        size_t j = i;
        for (; j > 0 && precedes(moved, items[j - 1], descending); j--)
            items[j] = items[j - 1];
        items[j] = moved;
    }
}

static void merge(item *out, const item *a, size_t a_count, const item *b, size_t b_count,
                  bool descending)
{
    const item *a_end = a + a_count, *b_end = b + b_count;
    while (a < a_end && b < b_end)
        *out++ = precedes(*b, *a, descending) ? *b++ : *a++;
    memcpy(out, a, (size_t)(a_end - a) * sizeof *a);
    out += a_end - a;
    memcpy(out, b, (size_t)(b_end - b) * sizeof *b);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Sorts items [count] with as much spare room; returns where the result lies. */
static item *merge_sort(item *items, item *spare, size_t count, bool descending)
{
    for (size_t i = 0; i < count; i += RUN)
        insertion_sort(items + i, least(RUN, count - i), descending);
    for (size_t width = RUN; width < count; width *= 2) {
        for (size_t i = 0; i < count; i += 2 * width) {
            size_t left = least(width, count - i), right = least(width, count - i - left);
            merge(spare + i, items + i, left, items + i + left, right, descending);
        }
        item *swap = items;
        items = spare;
        spare = swap;
    }
    return items;
}

/* x, values and positions are contiguous f64; values may be NULL. */
static void sort_line(double *values, double *positions, const double *x, cr_lines lines,
                      item *items, bool descending, int first)
{
    for (size_t k = 0; k < lines.length; k++)
        items[k] = (item){x[k * lines.inner], k};
    item *sorted = merge_sort(items, items + lines.length, lines.length, descending);
    for (size_t k = 0; k < lines.length; k++) {
        positions[k * lines.inner] = (double)sorted[k].at + first;
        if (values)
            values[k * lines.inner] = sorted[k].value;
    }
}

static void sort_lines(cr_tensor *values, cr_tensor *positions, const cr_tensor *x, cr_lines lines,
                       item *items, bool descending, int first)
{
    double *sorted = values ? (double *)(void *)values->data : NULL;
    double *at = (double *)(void *)positions->data;
    const double *from = (const double *)(void *)x->data;
    for (size_t i = 0; i < lines.outer; i++)
        for (size_t j = 0; j < lines.inner; j++) {
            size_t offset = i * lines.length * lines.inner + j;
            sort_line(sorted ? sorted + offset : NULL, at + offset, from + offset, lines, items,
                      descending, first);
        }
}

/* *tensor, an f64 tensor, becomes one of `type`. */
static int convert(cr_tensor **tensor, int type)
{
    cr_tensor *converted;
    int code = cr_tensor_operand(&converted, *tensor, type);
    cr_tensor_close(*tensor);
    *tensor = converted;
    return code;
}

static int sort_wide(cr_tensor **values, cr_tensor **positions, const cr_tensor *x, cr_lines lines,
                     bool descending, int first)
{
    item *items = cr_calloc(lines.length, 2 * sizeof *items);
    int code = items ? CR_OK : CR_ENOMEM;
    if (code == CR_OK)
        code = cr_tensor_make(positions, "sort", x, CR_F64, x->rank, x->shape);
    if (code == CR_OK && values)
        code = cr_tensor_make(values, "sort", x, CR_F64, x->rank, x->shape);
    if (code == CR_OK)
        sort_lines(values ? *values : NULL, *positions, x, lines, items, descending, first);
    cr_free(items);
    return code;
}

int cr_tensor_sort(cr_tensor **values, cr_tensor **positions, const cr_tensor *x, int axis,
                   bool descending, int first)
{
    cr_tensor *wide;
    *positions = NULL;
    if (values)
        *values = NULL;
    CR_TRY(cr_tensor_usable("sort", x));
    CR_TRY(cr_shape_axis("sort", x, axis));
    CR_TRY(cr_tensor_operand(&wide, x, CR_F64));
    int code = sort_wide(values, positions, wide, cr_lines_along(x, axis), descending, first);
    cr_tensor_close(wide);
    if (code == CR_OK && values)
        code = convert(values, x->type);
    if (code == CR_OK)
        return CR_OK;
    cr_tensor_close(*positions);
    *positions = NULL;
    if (values) {
        cr_tensor_close(*values);
        *values = NULL;
    }
    return code;
}

/* ---- cumulative sums ------------------------------------------------------------------------ */

/* Along strided lines, in place, in double. */
static void sum_along(double *x, cr_lines lines, bool from_end)
{
    for (size_t i = 0; i < lines.outer; i++) {
        double *matrix = x + i * lines.length * lines.inner;
        for (size_t k = 1; k < lines.length; k++) {
            size_t at = from_end ? lines.length - 1 - k : k;
            double *row = matrix + at * lines.inner;
            const double *before = from_end ? row + lines.inner : row - lines.inner;
            for (size_t j = 0; j < lines.inner; j++)
                row[j] += before[j];
        }
    }
}

int cr_tensor_cumsum(cr_tensor **out, const cr_tensor *x, int axis, bool from_end)
{
    *out = NULL;
    CR_TRY(cr_tensor_usable("cumsum", x));
    CR_TRY(cr_shape_axis("cumsum", x, axis));
    CR_TRY(cr_tensor_copy(out, x, CR_F64));
    sum_along((double *)(void *)(*out)->data, cr_lines_along(x, axis), from_end);
    return x->type == CR_F64 ? CR_OK : convert(out, x->type);
}

/* ---- concat ------------------------------------------------------------------------------------ */

static int check_joint(const cr_tensor *const *tensors, size_t count, int axis)
{
    char text[2][CR_SHAPE_TEXT];
    for (size_t i = 0; i < count; i++) {
        const cr_tensor *x = tensors[i];
        CR_TRY(cr_tensor_usable("concat", x));
        CR_TRY(cr_shape_axis("concat", x, axis));
        bool fits = x->rank == tensors[0]->rank;
        for (int k = 0; fits && k < x->rank; k++)
            fits = k == axis || x->shape[k] == tensors[0]->shape[k];
        if (!fits)
            return cr_fail(CR_EARG, "concat: shapes %s and %s differ beside the axis",
                           cr_shape_text(text[0], tensors[0]->rank, tensors[0]->shape),
                           cr_shape_text(text[1], x->rank, x->shape));
    }
    return CR_OK;
}

static int make_joint(cr_tensor **out, const cr_tensor *const *tensors, size_t count, int axis)
{
    size_t shape[CR_MAX_RANK];
    int type = CR_F32;
    memcpy(shape, tensors[0]->shape, sizeof shape);
    shape[axis] = 0;
    for (size_t i = 0; i < count; i++) {
        if (!cr_size_add(&shape[axis], shape[axis], tensors[i]->shape[axis]))
            return cr_fail(CR_ENOMEM, "concat: the result is too large");
        if (tensors[i]->type == CR_F64)
            type = CR_F64;
    }
    return cr_tensor_make(out, "concat", tensors[0], type, tensors[0]->rank, shape);
}

int cr_tensor_concat(cr_tensor **out, const cr_tensor *const *tensors, size_t count, int axis)
{
    *out = NULL;
    if (count == 0)
        return cr_fail(CR_EARG, "concat: expected at least one tensor");
    CR_TRY(check_joint(tensors, count, axis));
    CR_TRY(make_joint(out, tensors, count, axis));
    cr_tensor place = **out;
    for (size_t i = 0; i < count; i++) {
        place.shape[axis] = tensors[i]->shape[axis];
        cr_tensor_transfer(&place, tensors[i]);
        place.data +=
            (ptrdiff_t)place.shape[axis] * place.stride[axis] * (ptrdiff_t)cr_type_size(place.type);
    }
    return CR_OK;
}
