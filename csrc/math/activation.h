/* activation.h: gated linear units (Shazeer 2020) over a batch, forward and backward.
 *
 * SwiGLU gates with silu(x) = x · sigmoid(x), GeGLU with the tanh form of GELU (Hendrycks and
 * Gimpel 2016). Activations of encoders, forward.
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

/* x [n, f] becomes activation(x + bias), bias [f]. */
typedef enum cr_activation {
    CR_ACTIVATION_GELU,      /* x · Φ(x), Hendrycks and Gimpel 2016 */
    CR_ACTIVATION_GELU_TANH, /* its tanh approximation, equation 2 there */
    CR_ACTIVATION_RELU,
    CR_ACTIVATION_TANH
} cr_activation;

void cr_activate(cr_compute *compute, cr_activation kind, float *x, const float *bias, size_t n,
                 size_t f);

/* The specification: one value, in double. */
double cr_activate_plain(cr_activation kind, double x);

#endif
