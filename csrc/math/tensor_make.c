/* tensor_make.c: constants, ranges and random numbers; values in and out. Normal numbers by
 * Marsaglia's polar method (1964). */
#include "math/tensor.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "math/tensor_kernels.h"

int cr_tensor_full(cr_tensor **out, int type, int rank, const size_t *shape, double value)
{
    CR_TRY(cr_tensor_make(out, "full", NULL, type, rank, shape));
    cr_tensor_kernels_select(type)->fill((*out)->data, value, (*out)->count);
    return CR_OK;
}

static void store(cr_tensor *tensor, size_t index, double value)
{
    if (tensor->type == CR_F64)
        ((double *)(void *)tensor->data)[index] = value;
    else
        ((float *)(void *)tensor->data)[index] = (float)value;
}

int cr_tensor_range(cr_tensor **out, int type, double start, double step, size_t count)
{
    CR_TRY(cr_tensor_make(out, "range", NULL, type, 1, &count));
    for (size_t i = 0; i < count; i++)
        store(*out, i, start + step * (double)i);
    return CR_OK;
}

/* ---- random numbers ------------------------------------------------------------- */

/* [0, 1) also after rounding to f32. */
static double uniform(cr_rng *rng, int type)
{
    return type == CR_F64 ? cr_rng_uniform(rng) : (double)(cr_rng_next(rng) >> 40) * 0x1.0p-24;
}

/* Two independent normal numbers. */
static void normal_pair(cr_rng *rng, double pair[2])
{
    double u, v, square;
    do {
        u = 2 * cr_rng_uniform(rng) - 1;
        v = 2 * cr_rng_uniform(rng) - 1;
        square = u * u + v * v;
    } while (square >= 1 || square == 0);
    double factor = sqrt(-2 * log(square) / square);
    pair[0] = u * factor;
    pair[1] = v * factor;
}

static void fill_uniform(cr_tensor *tensor, cr_rng *rng)
{
    for (size_t i = 0; i < tensor->count; i++)
        store(tensor, i, uniform(rng, tensor->type));
}

static void fill_normal(cr_tensor *tensor, cr_rng *rng)
{
    double pair[2];
    for (size_t i = 0; i < tensor->count; i++) {
        if (i % 2 == 0)
            normal_pair(rng, pair);
        store(tensor, i, pair[i % 2]);
    }
}

int cr_tensor_random(cr_tensor **out, int type, int rank, const size_t *shape, int distribution,
                     uint64_t seed)
{
    cr_rng rng;
    cr_rng_seed(&rng, seed);
    CR_TRY(cr_tensor_make(out, "random", NULL, type, rank, shape));
    if (distribution == CR_NORMAL)
        fill_normal(*out, &rng);
    else
        fill_uniform(*out, &rng);
    return CR_OK;
}

/* ---- values in and out ------------------------------------------------------------- */

/* The caller's array as a tensor, without storage of its own. */
static cr_tensor array_like(const cr_tensor *tensor, int type, char *values)
{
    cr_tensor array = {.data = values, .type = type};
    cr_tensor_set_shape(&array, tensor->rank, tensor->shape);
    return array;
}

int cr_tensor_at(const cr_tensor *tensor, const size_t *index, double *out)
{
    char text[CR_SHAPE_TEXT];
    ptrdiff_t offset = 0;
    CR_TRY(cr_tensor_usable("at", tensor));
    for (int i = 0; i < tensor->rank; i++) {
        if (index[i] >= tensor->shape[i])
            return cr_fail(CR_EARG, "at: the position is outside of shape %s",
                           cr_shape_text(text, tensor->rank, tensor->shape));
        offset += (ptrdiff_t)index[i] * tensor->stride[i];
    }
    if (tensor->type == CR_F64)
        *out = ((const double *)(void *)tensor->data)[offset];
    else
        *out = (double)((const float *)(void *)tensor->data)[offset];
    return CR_OK;
}

int cr_tensor_read(const cr_tensor *tensor, int type, void *values)
{
    CR_TRY(cr_tensor_usable("read", tensor));
    cr_tensor array = array_like(tensor, type, values);
    cr_tensor_transfer(&array, tensor);
    return CR_OK;
}

int cr_tensor_write(cr_tensor *tensor, int type, const void *values)
{
    CR_TRY(cr_tensor_writable("write", tensor));
    const cr_tensor array = array_like(tensor, type, (char *)(uintptr_t)values);
    cr_tensor_transfer(tensor, &array);
    cr_tensor_touch(tensor);
    return CR_OK;
}
