/* activation.h: SwiGLU (Shazeer 2020) over a batch, forward and backward. */
#ifndef CR_ACTIVATION_H
#define CR_ACTIVATION_H

#include "math/matmul.h"

/* out, gate, up [n, f]: out = silu(gate) · up. */
void cr_swiglu_forward(cr_compute *compute, float *out, const float *gate, const float *up,
                       size_t n, size_t f);

/* dgate, dup [n, f] overwritten, given dout [n, f]. */
void cr_swiglu_backward(cr_compute *compute, float *dgate, float *dup, const float *dout,
                        const float *gate, const float *up, size_t n, size_t f);

#endif
