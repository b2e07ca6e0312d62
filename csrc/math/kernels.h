/* kernels.h: the inner loops, one table of functions per instruction set.
 *
 * What this is: everything that must run at the processor's speed and is small
 * enough to be a leaf. The loops are written once, in kernels_template.h, and compiled for
 * each instruction set; cr_kernels_select picks the widest that the processor
 * has. The plain loops in reference.h say what each function computes.
 * What it is not: a place that knows shapes of models, threads or memory.
 *
 * Sums inside a function follow the vector width, so results differ in the last
 * bits between instruction sets, never between runs or thread counts.
 */
#ifndef CR_KERNELS_H
#define CR_KERNELS_H

#include "base/base.h"

#define CR_MAX_TILE_ROWS 16
#define CR_MAX_TILE_COLUMNS 64
#define CR_FEW_ROWS 6 /* rows of B that few_tile takes */

struct cr_adamw_factors;

typedef struct cr_kernels {
    const char *name;
    size_t tile_rows;    /* rows of C that gemm_tile makes at once */
    size_t tile_columns; /* columns of C, and of a packed panel of B */

    /* c[i][j] (+)= alpha · Σ_k rows[i][k · step] · panel[k][j] for i < tile_rows, j < tile_columns;
     * panel is packed [depth, tile_columns] and 64-byte aligned. */
    void (*gemm_tile)(size_t depth, const float *const *rows, size_t step, const float *panel,
                      float *c, size_t ldc, float alpha, bool accumulate);

    /* panel[k][j] = rows[j][k] for j < width, 0 for the others up to tile_columns; k < depth. */
    void (*pack)(float *panel, const float *const *rows, size_t width, size_t depth);

    /* c[i · ldc + j] = Σ_k rows[j][k] · a[i · step + k] for i < m, j < CR_FEW_ROWS; an element's sum
     * has the same order whatever m is. */
    void (*few_tile)(float *c, size_t ldc, const float *const *rows, const float *a, size_t step,
                     size_t m, size_t depth);

    float (*dot)(const float *a, const float *b, size_t count);
    /* out[i] = dot(a, b + i · stride) for i < 4: one pass over a. */
    void (*dot4)(float out[4], const float *a, const float *b, size_t stride, size_t count);
    void (*axpy)(float *y, float alpha, const float *x, size_t count); /* y += alpha x */
    void (*scale)(float *x, float alpha, size_t count);
    float (*sum_squares)(const float *x, size_t count);
    float (*max)(const float *x, size_t count); /* -inf for none */

    /* x[i] = exp(x[i] - shift); returns the sum. */
    float (*exp_sum)(float *x, float shift, size_t count);

    /* SwiGLU (Shazeer 2020): out = silu(gate) · up, and its gradients. */
    void (*swiglu)(float *out, const float *gate, const float *up, size_t count);
    void (*swiglu_backward)(float *dgate, float *dup, const float *dout, const float *gate,
                            const float *up, size_t count);

    /* GeGLU (Shazeer 2020) with GELU's tanh form (Hendrycks and Gimpel 2016): out = gelu(gate) · up. */
    void (*geglu)(float *out, const float *gate, const float *up, size_t count);
    void (*geglu_backward)(float *dgate, float *dup, const float *dout, const float *gate,
                           const float *up, size_t count);
    /* GELU in place (Hendrycks and Gimpel 2016): x · Φ(x), and the tanh approximation of it. */
    void (*gelu)(float *x, size_t count);
    void (*gelu_tanh)(float *x, size_t count);

    /* out[i] = x[i] · scale where hash(key, i) >= threshold, else 0. */
    void (*dropout)(float *out, const float *x, size_t count, uint64_t key, uint32_t threshold,
                    float scale);
    /* out[i] += x[i] · scale under the same mask. */
    void (*dropout_add)(float *out, const float *x, size_t count, uint64_t key, uint32_t threshold,
                        float scale);

    /* One AdamW update of `count` weights; returns Σ (change of weight)². */
    double (*adamw)(float *weight, const float *gradient, float *moment1, float *moment2,
                    size_t count, const struct cr_adamw_factors *factors);
} cr_kernels;

/* What a step of AdamW multiplies with, worked out once for all weights. */
typedef struct cr_adamw_factors {
    float gradient_scale; /* clipping */
    float beta1, beta2;
    float step_size;     /* lr / (1 - beta1^t) */
    float moment2_scale; /* 1 / sqrt(1 - beta2^t) */
    float eps;
    float keep; /* 1 - lr · weight_decay */
} cr_adamw_factors;

/* The table for this processor; read-only, the same at every call. */
const cr_kernels *cr_kernels_select(void);

/* The tables by name, for the specs: NULL when the processor lacks it. */
const cr_kernels *cr_kernels_find(const char *name);

/* The mask's hash: 32 well-mixed bits from a row key and a column. */
static inline uint32_t cr_mask_hash(uint64_t key, uint32_t column)
{
    /* The finaliser of Wellons' lowbias32 over a counter that the key offsets. */
    uint32_t x = (uint32_t)key + column * UINT32_C(0x9E3779B1);
    x ^= x >> 16;
    x *= UINT32_C(0x7FEB352D);
    x ^= x >> 15;
    x *= UINT32_C(0x846CA68B);
    x ^= x >> 16;
    return x ^ (uint32_t)(key >> 32);
}

#endif
