/* activation.c: gated linear units row by row; Shazeer, "GLU Variants Improve Transformer", 2020. */
#include "math/activation.h"

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
