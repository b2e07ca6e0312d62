/* tensor_index.c: values chosen by position: gather, select, their sums back, nonzero.
 *
 * x is seen as [outer, length, inner]. Positions are [outer, m, inner] for gather, or one list [m]
 * for select, which is gather with the list at every place. */
#include "math/tensor.h"

#include <math.h>
#include <string.h>

/* ---- positions -------------------------------------------------------------------- */

/* Positions as indices from 0: [count], released by cr_free. */
typedef struct places {
    size_t *at;
    size_t m;     /* along the axis */
    bool is_list; /* the same for every line */
} places;

static int bad_position(const char *what, double position, size_t length, int first)
{
    return cr_fail(CR_EARG, "%s: position %.17g is not on an axis of %zu (positions count from %d)",
                   what, position, length, first);
}

static int read_places(places *out, const char *what, const cr_tensor *positions, size_t length,
                       int first)
{
    cr_tensor *flat;
    CR_TRY(cr_tensor_operand(&flat, positions, CR_F64));
    out->at = cr_alloc(flat->count * sizeof *out->at);
    int code = out->at ? CR_OK : CR_ENOMEM;
    const double *values = (const double *)(void *)flat->data;
    for (size_t i = 0; code == CR_OK && i < flat->count; i++) {
        double index = values[i] - first;
        if (index >= 0 && index < (double)length && index == floor(index))
            out->at[i] = (size_t)index;
        else
            code = bad_position(what, values[i], length, first);
    }
    cr_tensor_close(flat);
    if (code < 0)
        cr_free(out->at);
    return code;
}

static int check_shape(const char *what, const cr_tensor *x, const cr_tensor *positions, int axis,
                       bool is_list)
{
    char text[2][CR_SHAPE_TEXT];
    bool fits = is_list ? positions->rank == 1 : positions->rank == x->rank;
    for (int i = 0; !is_list && fits && i < x->rank; i++)
        fits = i == axis || positions->shape[i] == x->shape[i];
    if (fits)
        return CR_OK;
    return cr_fail(CR_EARG, "%s: positions of shape %s do not fit %s: expected %s", what,
                   cr_shape_text(text[0], positions->rank, positions->shape),
                   cr_shape_text(text[1], x->rank, x->shape),
                   is_list ? "a list" : "the same sizes on the other axes");
}

static int find_places(places *out, const char *what, const cr_tensor *x, int axis,
                       const cr_tensor *positions, int first, bool is_list)
{
    CR_TRY(cr_tensor_usable(what, x));
    CR_TRY(cr_tensor_usable(what, positions));
    CR_TRY(cr_shape_axis(what, x, axis));
    CR_TRY(check_shape(what, x, positions, axis, is_list));
    *out = (places){.m = positions->shape[is_list ? 0 : axis], .is_list = is_list};
    return read_places(out, what, positions, x->shape[axis], first);
}

/* ---- reading ------------------------------------------------------------------------- */

static void gather(cr_tensor *out, const cr_tensor *x, cr_lines lines, const places *from)
{
    size_t size = cr_type_size(x->type), run = lines.inner * size;
    const size_t *at = from->at;
    char *to = out->data;
    for (size_t i = 0; i < lines.outer; i++) {
        const char *matrix = x->data + i * lines.length * run;
        for (size_t k = 0; k < from->m; k++, to += run) {
            if (from->is_list) {
                memcpy(to, matrix + at[k] * run, run);
                continue;
            }
            for (size_t j = 0; j < lines.inner; j++)
                memcpy(to + j * size, matrix + at[j] * run + j * size, size);
            at += lines.inner;
        }
    }
}

static int gather_from(cr_tensor **out, const char *what, const cr_tensor *x, int axis,
                       const cr_tensor *positions, int first, bool is_list)
{
    places from;
    cr_tensor *own;
    size_t shape[CR_MAX_RANK];
    *out = NULL;
    CR_TRY(find_places(&from, what, x, axis, positions, first, is_list));
    memcpy(shape, x->shape, sizeof shape);
    shape[axis] = from.m;
    int code = cr_tensor_operand(&own, x, x->type);
    if (code == CR_OK)
        code = cr_tensor_make(out, what, x, x->type, x->rank, shape);
    if (code == CR_OK)
        gather(*out, own, cr_lines_along(x, axis), &from);
    cr_tensor_close(own);
    cr_free(from.at);
    return code;
}

int cr_tensor_gather(cr_tensor **out, const cr_tensor *x, int axis, const cr_tensor *positions,
                     int first)
{
    return gather_from(out, "gather", x, axis, positions, first, false);
}

int cr_tensor_select(cr_tensor **out, const cr_tensor *x, int axis, const cr_tensor *positions,
                     int first)
{
    return gather_from(out, "select", x, axis, positions, first, true);
}

/* ---- adding ----------------------------------------------------------------------------- */

static void add_values(char *to, const char *from, int type, size_t count)
{
    if (type == CR_F64)
        for (size_t i = 0; i < count; i++)
            ((double *)(void *)to)[i] += ((const double *)(const void *)from)[i];
    else
        for (size_t i = 0; i < count; i++)
            ((float *)(void *)to)[i] += ((const float *)(const void *)from)[i];
}

static void scatter(cr_tensor *out, const cr_tensor *source, cr_lines lines, const places *to)
{
    size_t size = cr_type_size(out->type), run = lines.inner * size;
    const size_t *at = to->at;
    const char *from = source->data;
    for (size_t i = 0; i < lines.outer; i++) {
        char *matrix = out->data + i * lines.length * run;
        for (size_t k = 0; k < to->m; k++, from += run) {
            if (to->is_list) {
                add_values(matrix + at[k] * run, from, out->type, lines.inner);
                continue;
            }
            for (size_t j = 0; j < lines.inner; j++)
                add_values(matrix + at[j] * run + j * size, from + j * size, out->type, 1);
            at += lines.inner;
        }
    }
}

/* The source must have x's shape with the places' count on the axis. */
static int fit_source(cr_tensor **out, const char *what, const cr_tensor *x, int axis,
                      const cr_tensor *source, size_t m)
{
    char text[2][CR_SHAPE_TEXT];
    size_t shape[CR_MAX_RANK];
    CR_TRY(cr_tensor_usable(what, source));
    memcpy(shape, x->shape, sizeof shape);
    shape[axis] = m;
    bool fits = source->rank == x->rank &&
                memcmp(source->shape, shape, (size_t)x->rank * sizeof *shape) == 0;
    if (!fits)
        return cr_fail(CR_EARG, "%s: expected a source of shape %s, got %s", what,
                       cr_shape_text(text[0], x->rank, shape),
                       cr_shape_text(text[1], source->rank, source->shape));
    return cr_tensor_operand(out, source, x->type);
}

static int scatter_into(cr_tensor **out, const char *what, const cr_tensor *x, int axis,
                        const cr_tensor *positions, const cr_tensor *source, int first,
                        bool is_list)
{
    places to;
    cr_tensor *own = NULL;
    *out = NULL;
    CR_TRY(find_places(&to, what, x, axis, positions, first, is_list));
    int code = fit_source(&own, what, x, axis, source, to.m);
    if (code == CR_OK)
        code = cr_tensor_copy(out, x, x->type);
    if (code == CR_OK)
        scatter(*out, own, cr_lines_along(x, axis), &to);
    cr_tensor_close(own);
    cr_free(to.at);
    return code;
}

int cr_tensor_scatter_add(cr_tensor **out, const cr_tensor *x, int axis, const cr_tensor *positions,
                          const cr_tensor *source, int first)
{
    return scatter_into(out, "scatter_add", x, axis, positions, source, first, false);
}

int cr_tensor_select_add(cr_tensor **out, const cr_tensor *x, int axis, const cr_tensor *positions,
                         const cr_tensor *source, int first)
{
    return scatter_into(out, "select_add", x, axis, positions, source, first, true);
}

/* ---- finding -------------------------------------------------------------------------------- */

int cr_tensor_nonzero(cr_tensor **out, const cr_tensor *x, int first)
{
    cr_tensor *flat;
    size_t found = 0;
    *out = NULL;
    CR_TRY(cr_tensor_usable("nonzero", x));
    CR_TRY(cr_tensor_operand(&flat, x, CR_F64));
    const double *values = (const double *)(void *)flat->data;
    for (size_t i = 0; i < flat->count; i++)
        found += values[i] != 0;
    int code = cr_tensor_make(out, "nonzero", x, CR_F64, 1, &found);
    double *to = code == CR_OK ? (double *)(void *)(*out)->data : NULL;
    for (size_t i = 0; code == CR_OK && i < flat->count; i++)
        if (values[i] != 0)
            *to++ = (double)i + first;
    cr_tensor_close(flat);
    return code;
}
