/* matmul.h: matrix products with f32 activations and stored weights of any element type.
 *
 * What this is: C (+)= alpha · A · B, where B is a matrix as it lies in a file (quantised or
 * f32), used as stored or transposed. Panels of B are expanded and packed once a call, then
 * multiplied by register tiles (kernels.h), so the weights are never copied whole: at most
 * CR_PACK_FLOATS values at a time.
 * What it is not: BLAS. No library is called: a BLAS keeps threads and kernel choices per
 * process, which a library inside somebody's host must not, and it cannot take quantised panels.
 *
 * Each element of C is summed over k in the same order whatever the tiles, the number of rows
 * or the threads, so results depend on the numbers alone.
 *
 * Ownership: a cr_compute owns its threads and scratch; matrices are borrowed views.
 */
#ifndef CR_MATMUL_H
#define CR_MATMUL_H

#include "base/parallel.h"
#include "math/dtype.h"
#include "math/kernels.h"

#define CR_PACK_FLOATS ((size_t)2 << 20) /* 8 MiB of packed panels at most */

typedef struct cr_compute {
    cr_pool *pool;
    const cr_kernels *kernels;
    float *packed;        /* [packed_floats], shared panels of B */
    size_t packed_floats;
    float *row_scratch;   /* [threads, row_floats] */
    size_t row_floats;    /* the longest rows of CR_FEW_ROWS, or a panel's piece of each row */
} cr_compute;

/* longest_row: columns of the widest weight that will be used. */
int cr_compute_create(cr_compute *out, int threads, size_t longest_row);
void cr_compute_free(cr_compute *compute);

/* A stored matrix: `rows` rows of `columns` values of one type. */
typedef struct cr_matrix {
    const void *data;
    const cr_dtype_info *type;
    size_t rows, columns;
    size_t row_bytes;
} cr_matrix;

/* A view of f32 values, `stride` floats from row to row. */
cr_matrix cr_matrix_f32(const float *data, size_t rows, size_t columns, size_t stride);

/* Expands row `row` to out[columns]. */
void cr_matrix_row(float *out, const cr_matrix *matrix, size_t row);

/* The left operand: element (i, k) is data[i · row_step + k · column_step]. */
typedef struct cr_operand {
    const float *data;
    size_t row_step, column_step;
} cr_operand;

static inline cr_operand cr_rows(const float *data, size_t stride)
{
    return (cr_operand){data, stride, 1};
}

static inline cr_operand cr_columns(const float *data, size_t stride)
{
    return (cr_operand){data, 1, stride};
}

/* C[m, n] (+)= alpha · A[m, k] · op(B), over all threads.
 * transposed:  B is [n, k] and the product uses Bᵀ (a linear layer forward);
 * otherwise B is [k, n] (a linear layer's input gradient).
 * C's rows are ldc floats apart; C must not overlap A or B. */
void cr_matmul(cr_compute *compute, float *c, size_t ldc, size_t m, float alpha, bool accumulate,
               cr_operand a, const cr_matrix *b, bool transposed);

/* The same product for few rows (decoding): every row of B is expanded once and each output is
 * one dot product, in an order that does not depend on m. transposed products only. */
void cr_matmul_few(cr_compute *compute, float *c, size_t ldc, size_t m, cr_operand a,
                   const cr_matrix *b);

/* Small products inside a task, on the calling thread, with f32 operands: B is [n, k] when
 * transposed, else [k, n], ldb floats from row to row. `packed` holds cr_pack_floats(n, k). */
void cr_matmul_serial(const cr_kernels *kernels, float *c, size_t ldc, size_t m, size_t n, size_t k,
                      float alpha, bool accumulate, cr_operand a, const float *b, size_t ldb,
                      bool transposed, float *packed);
size_t cr_pack_floats(const cr_kernels *kernels, size_t n, size_t k);

/* The specification of all of the above: three loops, sums in double. */
void cr_matmul_plain(float *c, size_t ldc, size_t m, float alpha, bool accumulate, cr_operand a,
                     const cr_matrix *b, bool transposed);

#endif
