/* norm.c: RMSNorm row by row; Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
 * LayerNorm: Ba, Kiros and Hinton, "Layer Normalization", 2016. */
#include "math/norm.h"

#include <math.h>

#define ROWS 16 /* a task */

typedef struct norm_job {
    float *y, *dx;
    const float *dy;
    float *inverse_out;
    const float *inverse, *x, *weight, *bias;
    size_t n, d;
    float epsilon;
    const cr_kernels *kernels;
} norm_job;

static size_t task_end(const norm_job *job, size_t task)
{
    size_t end = (task + 1) * ROWS;
    return end < job->n ? end : job->n;
}

static void scale_row(float *y, const float *x, const float *weight, float inverse, size_t d)
{
#pragma omp simd
    for (size_t c = 0; c < d; c++)
        y[c] = weight[c] * (x[c] * inverse);
}

static void forward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const norm_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job, task); i++) {
        const float *x = job->x + i * job->d;
        float mean = job->kernels->sum_squares(x, job->d) / (float)job->d;
        float inverse = 1.0f / sqrtf(mean + job->epsilon);
        job->inverse_out[i] = inverse;
        scale_row(job->y + i * job->d, x, job->weight, inverse, job->d);
    }
}

void cr_rmsnorm_forward(cr_compute *compute, float *y, float *inverse, const float *x,
                        const float *weight, size_t n, size_t d, float epsilon)
{
    norm_job job = {.y = y,
                    .inverse_out = inverse,
                    .x = x,
                    .weight = weight,
                    .n = n,
                    .d = d,
                    .epsilon = epsilon,
                    .kernels = compute->kernels};
    cr_parallel_for(compute->pool, (n + ROWS - 1) / ROWS, forward_task, &job);
}

/* With r = inverse: dx = r · w · dy - x · r³ · mean(w · dy · x). */
static void backward_row(float *CR_RESTRICT dx, const float *CR_RESTRICT dy,
                         const float *CR_RESTRICT x, const float *CR_RESTRICT weight, float inverse,
                         size_t d)
{
    float along = 0;
#pragma omp simd reduction(+ : along)
    for (size_t c = 0; c < d; c++)
        along += weight[c] * dy[c] * x[c];
    float pull = along * inverse * inverse * inverse / (float)d;
    for (size_t c = 0; c < d; c++)
        dx[c] += inverse * weight[c] * dy[c] - x[c] * pull;
}

static void backward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const norm_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job, task); i++)
        backward_row(job->dx + i * job->d, job->dy + i * job->d, job->x + i * job->d, job->weight,
                     job->inverse[i], job->d);
}

void cr_rmsnorm_backward(cr_compute *compute, float *dx, const float *dy, const float *inverse,
                         const float *x, const float *weight, size_t n, size_t d)
{
    norm_job job = {
        .dx = dx, .dy = dy, .inverse = inverse, .x = x, .weight = weight, .n = n, .d = d};
    cr_parallel_for(compute->pool, (n + ROWS - 1) / ROWS, backward_task, &job);
}

static void again_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const norm_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job, task); i++)
        scale_row(job->y + i * job->d, job->x + i * job->d, job->weight, job->inverse[i], job->d);
}

void cr_rmsnorm_again(cr_compute *compute, float *y, const float *inverse, const float *x,
                      const float *weight, size_t n, size_t d)
{
    norm_job job = {.y = y, .inverse = inverse, .x = x, .weight = weight, .n = n, .d = d};
    cr_parallel_for(compute->pool, (n + ROWS - 1) / ROWS, again_task, &job);
}

/* ---- LayerNorm --------------------------------------------------------------------------- */

/* Two passes: a variance from sums of squares would cancel where the mean is large. */
static void center_row(float *CR_RESTRICT y, const float *CR_RESTRICT x,
                       const float *CR_RESTRICT weight, const float *CR_RESTRICT bias, float mean,
                       float inverse, size_t d)
{
    for (size_t c = 0; c < d; c++)
        y[c] = weight[c] * ((x[c] - mean) * inverse) + bias[c];
}

static void center_in_place(float *y, const float *weight, const float *bias, float mean,
                            float inverse, size_t d)
{
    for (size_t c = 0; c < d; c++)
        y[c] = weight[c] * ((y[c] - mean) * inverse) + bias[c];
}

static void layernorm_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const norm_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job, task); i++) {
        const float *x = job->x + i * job->d;
        float *y = job->y + i * job->d;
        double sum = 0, squares = 0;
        for (size_t c = 0; c < job->d; c++)
            sum += (double)x[c];
        double mean = sum / (double)job->d;
        for (size_t c = 0; c < job->d; c++)
            squares += ((double)x[c] - mean) * ((double)x[c] - mean);
        double variance = squares / (double)job->d;
        float inverse = (float)(1.0 / sqrt(variance + (double)job->epsilon));
        if (x == y)
            center_in_place(y, job->weight, job->bias, (float)mean, inverse, job->d);
        else
            center_row(y, x, job->weight, job->bias, (float)mean, inverse, job->d);
    }
}

void cr_layernorm_forward(cr_compute *compute, float *y, const float *x, const float *weight,
                          const float *bias, size_t n, size_t d, float epsilon)
{
    norm_job job = {
        .y = y, .x = x, .weight = weight, .bias = bias, .n = n, .d = d, .epsilon = epsilon};
    cr_parallel_for(compute->pool, (n + ROWS - 1) / ROWS, layernorm_task, &job);
}
