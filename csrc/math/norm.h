/* norm.h: RMSNorm (Zhang and Sennrich 2019), forward and backward; LayerNorm (Ba et al. 2016), forward.
 *
 * RMSNorm: y = weight · x · inverse, inverse = 1 / sqrt(mean(x²) + epsilon), per row.
 */
#ifndef CR_NORM_H
#define CR_NORM_H

#include "math/matmul.h"

/* y [n, d] (which may be x), inverse [n] (kept for backward), x [n, d], weight [d]. */
void cr_rmsnorm_forward(cr_compute *compute, float *y, float *inverse, const float *x,
                        const float *weight, size_t n, size_t d, float epsilon);

/* dx [n, d] += the gradient through y, given dy [n, d]. */
void cr_rmsnorm_backward(cr_compute *compute, float *dx, const float *dy, const float *inverse,
                         const float *x, const float *weight, size_t n, size_t d);

/* y again from x and the kept inverse. */
void cr_rmsnorm_again(cr_compute *compute, float *y, const float *inverse, const float *x,
                      const float *weight, size_t n, size_t d);

/* y = weight · (x - mean) / sqrt(variance + epsilon) + bias, per row; the variance divides by d. y may
 * be x. */
void cr_layernorm_forward(cr_compute *compute, float *y, const float *x, const float *weight,
                          const float *bias, size_t n, size_t d, float epsilon);

#endif
