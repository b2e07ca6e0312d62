/* singular.h: singular values of a product of two thin matrices, in double.
 *
 * The product is never formed: each factor is reduced to its triangle, and the small product of the
 * triangles has the same singular values.
 */
#ifndef CR_SINGULAR_H
#define CR_SINGULAR_H

#include "base/base.h"

/* Those of left · right, largest first: out has min(m, n, r) values. left [m, r], right [r, n], all
 * values finite and sizes at least 1. */
int cr_singular_values(double *out, const float *left, size_t m, const float *right, size_t n,
                       size_t r);

#endif
