/* linear.c: a projection with its branch; Hu et al., "LoRA: Low-Rank Adaptation of Large
 * Language Models", 2021. */
#include "model/linear.h"

#include "base/rng.h"

typedef struct mask_job {
    const cr_kernels *kernels;
    const cr_linear *linear;
    float *out;
    const float *x;
    size_t width;
    uint32_t threshold;
    float keep_scale;
} mask_job;

#define ROWS 16 /* a task */

static uint64_t row_key(const mask_job *job, size_t row)
{
    return cr_hash_combine(job->linear->dropout.row_keys[row], job->linear->site);
}

static size_t task_end(const mask_job *job, size_t task)
{
    return (task + 1) * ROWS < job->linear->n ? (task + 1) * ROWS : job->linear->n;
}

static void mask_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const mask_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job, task); i++)
        job->kernels->dropout(job->out + i * job->width, job->x + i * job->width, job->width,
                              row_key(job, i), job->threshold, job->keep_scale);
}

static void mask_add_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const mask_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job, task); i++)
        job->kernels->dropout_add(job->out + i * job->width, job->x + i * job->width, job->width,
                                  row_key(job, i), job->threshold, job->keep_scale);
}

static void run_mask(cr_compute *compute, cr_task_fn task, float *out, const float *x,
                     const cr_linear *linear)
{
    double rate = (double)linear->dropout.rate;
    mask_job job = {.kernels = compute->kernels,
                    .linear = linear,
                    .out = out,
                    .x = x,
                    .width = linear->weight->columns,
                    .threshold = (uint32_t)(rate * 4294967296.0),
                    .keep_scale = (float)(1.0 / (1.0 - rate))};
    cr_parallel_for(compute->pool, (linear->n + ROWS - 1) / ROWS, task, &job);
}

/* The branch's input: x itself, or its dropped copy in the work space. */
static const float *branch_input(cr_compute *compute, const float *x, const cr_linear *linear)
{
    if (linear->dropout.rate <= 0)
        return x;
    run_mask(compute, mask_task, linear->dropped, x, linear);
    return linear->dropped;
}

static bool has_branch(const cr_linear *linear)
{
    return linear->branch && linear->branch->a;
}

static void add_bias(const cr_compute *compute, float *y, const cr_linear *linear)
{
    const size_t out = linear->weight->rows;
    for (size_t i = 0; linear->bias && i < linear->n; i++)
        compute->kernels->axpy(y + i * out, 1.0f, linear->bias, out);
}

void cr_linear_forward(cr_compute *compute, float *y, bool accumulate, const float *x,
                       const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows, n = linear->n;
    cr_matmul(compute, y, out, n, 1.0f, accumulate, cr_rows(x, in), linear->weight, true);
    add_bias(compute, y, linear);
    if (!has_branch(linear))
        return;
    const cr_branch *branch = linear->branch;
    const float *input = branch_input(compute, x, linear);
    cr_matrix a = cr_matrix_f32(branch->a, branch->rank, in, in);
    cr_matrix b = cr_matrix_f32(branch->b, out, branch->rank, branch->rank);
    cr_matmul(compute, linear->low, branch->rank, n, 1.0f, false, cr_rows(input, in), &a, true);
    cr_matmul(compute, y, out, n, branch->scale, true, cr_rows(linear->low, branch->rank), &b,
              true);
}

/* With s = scale: dB += s dyᵀ low; dlow = s dy B; dA += dlowᵀ drop(x); dx += drop'(dlow A). */
static void branch_backward(cr_compute *compute, float *dx, const float *dy, const float *x,
                            const cr_linear *linear)
{
    const cr_branch *branch = linear->branch;
    const size_t in = linear->weight->columns, out = linear->weight->rows, n = linear->n;
    const size_t rank = branch->rank;
    cr_matrix low = cr_matrix_f32(linear->low, n, rank, rank);
    cr_matrix b = cr_matrix_f32(branch->b, out, rank, rank);
    cr_matmul(compute, branch->db, rank, out, branch->scale, true, cr_columns(dy, out), &low,
              false);
    cr_matmul(compute, linear->dlow, rank, n, branch->scale, false, cr_rows(dy, out), &b, false);
    cr_matrix input = cr_matrix_f32(branch_input(compute, x, linear), n, in, in);
    cr_matmul(compute, branch->da, in, rank, 1.0f, true, cr_columns(linear->dlow, rank), &input,
              false);
    if (!dx)
        return;
    cr_matrix a = cr_matrix_f32(branch->a, rank, in, in);
    bool masked = linear->dropout.rate > 0;
    cr_matmul(compute, masked ? linear->dropped : dx, in, n, 1.0f, !masked,
              cr_rows(linear->dlow, rank), &a, false);
    if (masked)
        run_mask(compute, mask_add_task, dx, linear->dropped, linear);
}

void cr_linear_backward(cr_compute *compute, float *dx, bool accumulate, const float *dy,
                        const float *x, const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows;
    if (dx)
        cr_matmul(compute, dx, in, linear->n, 1.0f, accumulate, cr_rows(dy, out), linear->weight,
                  false);
    if (has_branch(linear))
        branch_backward(compute, dx, dy, x, linear);
}

void cr_linear_few(cr_compute *compute, float *y, const float *x, const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows, n = linear->n;
    cr_matmul_few(compute, y, out, n, cr_rows(x, in), linear->weight);
    add_bias(compute, y, linear);
    if (!has_branch(linear))
        return;
    const cr_branch *branch = linear->branch;
    cr_matrix a = cr_matrix_f32(branch->a, branch->rank, in, in);
    cr_matmul_few(compute, linear->low, branch->rank, n, cr_rows(x, in), &a);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < out; j++)
            y[i * out + j] += branch->scale * compute->kernels->dot(linear->low + i * branch->rank,
                                                                    branch->b + j * branch->rank,
                                                                    branch->rank);
}
