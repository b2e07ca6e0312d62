/* tensor_shape.c: shapes as text, counts that cannot overflow, broadcasting after NumPy's rules. */
#include "math/tensor.h"

#include <stdio.h>
#include <string.h>

const char *cr_shape_text(char buffer[CR_SHAPE_TEXT], int rank, const size_t *shape)
{
    size_t at = 1;
    buffer[0] = '[';
    for (int i = 0; i < rank; i++)
        at += (size_t)snprintf(buffer + at, CR_SHAPE_TEXT - at, i ? ", %zu" : "%zu", shape[i]);
    memcpy(buffer + at, "]", 2);
    return buffer;
}

int cr_shape_count(size_t *count, const char *what, int type, int rank, const size_t *shape)
{
    if (type != CR_F32 && type != CR_F64)
        return cr_fail(CR_EARG, "%s: no such element type: %d", what, type);
    if (rank < 0 || rank > CR_MAX_RANK)
        return cr_fail(CR_EARG, "%s: expected a rank of 0 to %d, got %d", what, CR_MAX_RANK, rank);
    size_t bytes = cr_type_size(type);
    *count = 1;
    for (int i = 0; i < rank; i++) {
        /* A size 0 elsewhere must not hide an axis too long to step along. */
        bool fits = cr_size_mul(&bytes, bytes, shape[i] ? shape[i] : 1) && bytes <= PTRDIFF_MAX / 2;
        if (!fits) {
            char text[CR_SHAPE_TEXT];
            return cr_fail(CR_ENOMEM, "%s: shape %s is too large", what,
                           cr_shape_text(text, rank, shape));
        }
        *count *= shape[i];
    }
    return CR_OK;
}

bool cr_shape_equal(const cr_tensor *a, const cr_tensor *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

/* Widens the shape by one operand; the number of the axis that does not fit, else 0. */
static int widen(int *rank, size_t *shape, const cr_tensor *x)
{
    for (; *rank < x->rank; (*rank)++) {
        memmove(shape + 1, shape, (size_t)*rank * sizeof *shape);
        shape[0] = 1;
    }
    for (int i = 0; i < x->rank; i++) {
        size_t *size = &shape[*rank - x->rank + i];
        if (*size != x->shape[i] && *size != 1 && x->shape[i] != 1)
            return *rank - x->rank + i + 1;
        if (*size == 1)
            *size = x->shape[i];
    }
    return 0;
}

int cr_shape_broadcast(int *rank, size_t *shape, const char *what, const cr_tensor *const *operands,
                       int count)
{
    char before[CR_SHAPE_TEXT], text[CR_SHAPE_TEXT];
    *rank = 0;
    for (int i = 0; i < count; i++) {
        cr_shape_text(before, *rank, shape);
        if (widen(rank, shape, operands[i]))
            return cr_fail(CR_EARG, "%s: shapes %s and %s do not broadcast", what, before,
                           cr_shape_text(text, operands[i]->rank, operands[i]->shape));
    }
    return CR_OK;
}

int cr_shape_axis(const char *what, const cr_tensor *x, int axis)
{
    char text[CR_SHAPE_TEXT];
    if (axis >= 0 && axis < x->rank)
        return CR_OK;
    return cr_fail(CR_EARG, "%s: shape %s has no such axis", what,
                   cr_shape_text(text, x->rank, x->shape));
}

cr_lines cr_lines_along(const cr_tensor *x, int axis)
{
    cr_lines lines = {1, 1, 1};
    if (axis == CR_ALL_AXES) {
        lines.length = x->count;
        return lines;
    }
    for (int i = 0; i < axis; i++)
        lines.outer *= x->shape[i];
    lines.length = x->shape[axis];
    for (int i = axis + 1; i < x->rank; i++)
        lines.inner *= x->shape[i];
    return lines;
}
