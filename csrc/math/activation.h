/* activation.h: gated linear units (Shazeer 2020) over a batch, forward and backward.
 *
 * SwiGLU gates with silu(x) = x · sigmoid(x), GeGLU with the tanh form of GELU (Hendrycks and
 * Gimpel 2016).
 */
#ifndef CR_ACTIVATION_H
#define CR_ACTIVATION_H

#include "math/matmul.h"

typedef enum cr_gate { CR_GATE_SILU, CR_GATE_GELU } cr_gate;

/* out, gate, up [n, f]: out = act(gate) · up. */
void cr_glu_forward(cr_compute *compute, cr_gate kind, float *out, const float *gate,
                    const float *up, size_t n, size_t f);

/* dgate, dup [n, f] overwritten, given dout [n, f]. */
void cr_glu_backward(cr_compute *compute, cr_gate kind, float *dgate, float *dup,
                     const float *dout, const float *gate, const float *up, size_t n, size_t f);

#endif
