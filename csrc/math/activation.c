/* activation.c: gated linear units row by row; Shazeer, "GLU Variants Improve Transformer", 2020. */
#include "math/activation.h"

#include <math.h>

typedef struct glu_job {
    void (*forward)(float *out, const float *gate, const float *up, size_t count);
    void (*backward)(float *dgate, float *dup, const float *dout, const float *gate,
                     const float *up, size_t count);
    float *out, *dgate, *dup;
    const float *dout, *gate, *up;
    size_t f;
} glu_job;

static glu_job job_of(const cr_compute *compute, cr_gate kind, const float *gate, const float *up,
                      size_t f)
{
    const cr_kernels *kernels = compute->kernels;
    bool gelu = kind == CR_GATE_GELU;
    return (glu_job){.forward = gelu ? kernels->geglu : kernels->swiglu,
                     .backward = gelu ? kernels->geglu_backward : kernels->swiglu_backward,
                     .gate = gate,
                     .up = up,
                     .f = f};
}

static void forward_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const glu_job *job = argument;
    size_t at = row * job->f;
    job->forward(job->out + at, job->gate + at, job->up + at, job->f);
}

void cr_glu_forward(cr_compute *compute, cr_gate kind, float *out, const float *gate,
                    const float *up, size_t n, size_t f)
{
    glu_job job = job_of(compute, kind, gate, up, f);
    job.out = out;
    cr_parallel_for(compute->pool, n, forward_task, &job);
}

static void backward_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const glu_job *job = argument;
    size_t at = row * job->f;
    job->backward(job->dgate + at, job->dup + at, job->dout + at, job->gate + at, job->up + at,
                  job->f);
}

void cr_glu_backward(cr_compute *compute, cr_gate kind, float *dgate, float *dup,
                     const float *dout, const float *gate, const float *up, size_t n, size_t f)
{
    glu_job job = job_of(compute, kind, gate, up, f);
    job.dgate = dgate;
    job.dup = dup;
    job.dout = dout;
    cr_parallel_for(compute->pool, n, backward_task, &job);
}

/* ---- of encoders ------------------------------------------------------------------------------ */

typedef struct activate_job {
    const cr_kernels *kernels;
    cr_activation kind;
    float *x;
    const float *bias;
    size_t f;
} activate_job;

static void activate_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const activate_job *job = argument;
    float *x = job->x + row * job->f;
    job->kernels->axpy(x, 1.0f, job->bias, job->f);
    if (job->kind == CR_ACTIVATION_GELU || job->kind == CR_ACTIVATION_GELU_TANH) {
        (job->kind == CR_ACTIVATION_GELU ? job->kernels->gelu : job->kernels->gelu_tanh)(x, job->f);
        return;
    }
    for (size_t c = 0; c < job->f; c++)
        x[c] = job->kind == CR_ACTIVATION_TANH ? tanhf(x[c]) : fmaxf(x[c], 0.0f);
}

void cr_activate(cr_compute *compute, cr_activation kind, float *x, const float *bias, size_t n,
                 size_t f)
{
    activate_job job = {compute->kernels, kind, x, bias, f};
    cr_parallel_for(compute->pool, n, activate_task, &job);
}

double cr_activate_plain(cr_activation kind, double x)
{
    const double sqrt_half = 0.70710678118654752440, sqrt_2_over_pi = 0.79788456080286535588;
    switch (kind) {
    case CR_ACTIVATION_GELU:
        return 0.5 * x * (1.0 + erf(x * sqrt_half));
    case CR_ACTIVATION_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
    case CR_ACTIVATION_RELU:
        return x > 0 ? x : 0;
    case CR_ACTIVATION_TANH:
        return tanh(x);
    }
    return x;
}
