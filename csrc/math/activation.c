/* activation.c: SwiGLU row by row; Shazeer, "GLU Variants Improve Transformer", 2020. */
#include "math/activation.h"

typedef struct swiglu_job {
    const cr_kernels *kernels;
    float *out, *dgate, *dup;
    const float *dout, *gate, *up;
    size_t f;
} swiglu_job;

static void forward_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const swiglu_job *job = argument;
    size_t at = row * job->f;
    job->kernels->swiglu(job->out + at, job->gate + at, job->up + at, job->f);
}

void cr_swiglu_forward(cr_compute *compute, float *out, const float *gate, const float *up,
                       size_t n, size_t f)
{
    swiglu_job job = {.kernels = compute->kernels, .out = out, .gate = gate, .up = up, .f = f};
    cr_parallel_for(compute->pool, n, forward_task, &job);
}

static void backward_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const swiglu_job *job = argument;
    size_t at = row * job->f;
    job->kernels->swiglu_backward(job->dgate + at, job->dup + at, job->dout + at, job->gate + at,
                                  job->up + at, job->f);
}

void cr_swiglu_backward(cr_compute *compute, float *dgate, float *dup, const float *dout,
                        const float *gate, const float *up, size_t n, size_t f)
{
    swiglu_job job = {.kernels = compute->kernels,
                      .dgate = dgate,
                      .dup = dup,
                      .dout = dout,
                      .gate = gate,
                      .up = up,
                      .f = f};
    cr_parallel_for(compute->pool, n, backward_task, &job);
}
