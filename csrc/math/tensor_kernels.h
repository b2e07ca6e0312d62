/* tensor_kernels.h: the inner loops of tensors, one table a type and instruction set.
 *
 * What this is: loops over contiguous values of one type, written once in tensor_loops.h for any
 * type and compiled for each instruction set by tensor_kernels_*.c; the compiler vectorises them.
 * What it is not: a place that knows shapes or strides.
 *
 * Pointers are to values of the table's type. Outputs may be the inputs themselves, else they do
 * not overlap. Sums follow blocks of fixed length and are made in double.
 */
#ifndef CR_TENSOR_KERNELS_H
#define CR_TENSOR_KERNELS_H

#include "base/base.h"

/* The sums, products and extremes that reduce. */
typedef enum cr_fold {
    CR_FOLD_SUM,
    CR_FOLD_ABS,
    CR_FOLD_SQUARES,
    CR_FOLD_PROD,
    CR_FOLD_MAX, /* NaN when any is */
    CR_FOLD_MIN,
    CR_FOLD_COUNT
} cr_fold;

typedef struct cr_tensor_kernels {
    void (*unary[CR_UNARY_COUNT])(void *out, const void *x, size_t n);
    void (*unary_slope[CR_UNARY_COUNT])(void *dx, const void *dy, const void *x, const void *y,
                                        size_t n);
    /* a_step and b_step are 1, or 0 for one value that stands for all n. */
    void (*binary[CR_BINARY_COUNT])(void *out, const void *a, size_t a_step, const void *b,
                                    size_t b_step, size_t n);
    void (*where)(void *out, const void *condition, const void *a, const void *b, size_t n);
    void (*clamp)(void *out, const void *x, double low, double high, size_t n);
    void (*clamp_slope)(void *dx, const void *dy, const void *x, double low, double high, size_t n);
    void (*fill)(void *out, double value, size_t n);
    void (*add_scaled)(void *y, const void *x, double factor, size_t n);
    void (*scale)(void *x, double factor, size_t n);
    void (*convert[2])(void *out, const void *x, size_t n); /* from CR_F32, CR_F64 */

    /* One value of n. */
    double (*fold[CR_FOLD_COUNT])(const void *x, size_t n);
    /* held[j] = fold of held[j] and the column j of `rows` rows, `stride` values apart. */
    void (*fold_rows[CR_FOLD_COUNT])(double *held, const void *x, size_t rows, size_t stride,
                                     size_t n);
    /* The first place of `value` (of NaN, when it is); n when there is none. */
    size_t (*find)(const void *x, double value, size_t n);
    /* The same of each of n columns whose value is known: at[j], counted from `first`. */
    void (*find_rows)(double *at, const double *value, const void *x, size_t rows, size_t stride,
                      size_t n, double first);

    /* out[i] = exp(x[i] - shift); returns the sum. The second does not keep the values. */
    double (*exp_shifted)(void *out, const void *x, double shift, size_t n);
    double (*exp_shifted_sum)(const void *x, double shift, size_t n);
    void (*shift)(void *out, const void *x, double by, size_t n); /* x - by */
    double (*dot)(const void *a, const void *b, size_t n);
    /* Slopes of softmax, log-softmax and log-sum-exp along a line; the given sums are over it. */
    void (*softmax_slope)(void *dx, const void *dy, const void *y, double dot, size_t n);
    void (*log_softmax_slope)(void *dx, const void *dy, const void *y, double sum, size_t n);
    void (*logsumexp_slope)(void *dx, double dy, const void *x, double y, size_t n);

    /* c[i][j] = Σ_k rows[i][k · step] · panel[k][j] for i < tile_rows, j < tile_columns; panel is
     * packed [depth, tile_columns] and 64-byte aligned, c is [tile_rows, ldc]. */
    void (*tile)(void *c, size_t ldc, const void *const *rows, ptrdiff_t step, const void *panel,
                 size_t depth);
    size_t tile_rows, tile_columns;
} cr_tensor_kernels;

/* The table for this processor; read-only, the same at every call. */
const cr_tensor_kernels *cr_tensor_kernels_select(int type);

/* The tables by the names of cr_kernels_find, for the specs: NULL when the processor lacks them. */
const cr_tensor_kernels *cr_tensor_kernels_find(const char *name, int type);

/* At least the rows and columns of any tile. */
#define CR_TENSOR_TILE_ROWS 12
#define CR_TENSOR_TILE_COLUMNS 32

#endif
