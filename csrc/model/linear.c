/* linear.c: a projection with its branch; Hu et al., "LoRA: Low-Rank Adaptation of Large
 * Language Models", 2021; Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024. */
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

static size_t task_end(const cr_linear *linear, size_t task)
{
    return (task + 1) * ROWS < linear->n ? (task + 1) * ROWS : linear->n;
}

static void mask_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const mask_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job->linear, task); i++)
        job->kernels->dropout(job->out + i * job->width, job->x + i * job->width, job->width,
                              row_key(job, i), job->threshold, job->keep_scale);
}

static void mask_add_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const mask_job *job = argument;
    for (size_t i = task * ROWS; i < task_end(job->linear, task); i++)
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

static bool has_dora(const cr_linear *linear)
{
    return has_branch(linear) && linear->branch->gain;
}

static void add_bias(const cr_compute *compute, float *y, const cr_linear *linear)
{
    const size_t out = linear->weight->rows;
    for (size_t i = 0; linear->bias && i < linear->n; i++)
        compute->kernels->axpy(y + i * out, 1.0f, linear->bias, out);
}

/* y += scale · (input Aᵀ) Bᵀ, and `low` is kept. */
static void add_branch(cr_compute *compute, float *y, const float *input, const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows, n = linear->n;
    const cr_branch *branch = linear->branch;
    cr_matrix a = cr_matrix_f32(branch->a, branch->rank, in, in);
    cr_matrix b = cr_matrix_f32(branch->b, out, branch->rank, branch->rank);
    cr_matmul(compute, linear->low, branch->rank, n, 1.0f, false, cr_rows(input, in), &a, true);
    cr_matmul(compute, y, out, n, branch->scale, true, cr_rows(linear->low, branch->rank), &b,
              true);
}

/* ---- gains by column ----------------------------------------------------------------------------- */

typedef struct gain_job {
    const cr_linear *linear;
    float *out;
    const float *x, *dy; /* [n, out] */
    bool accumulate;
} gain_job;

static void take_gained(float *out, const float *gain, const float *x, size_t width)
{
#pragma omp simd
    for (size_t j = 0; j < width; j++)
        out[j] = gain[j] * x[j];
}

static void add_gained(float *out, const float *gain, const float *x, size_t width)
{
#pragma omp simd
    for (size_t j = 0; j < width; j++)
        out[j] += gain[j] * x[j];
}

static void gain_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const gain_job *job = argument;
    const float *gain = job->linear->branch->gain;
    const size_t width = job->linear->weight->rows;
    for (size_t i = task * ROWS; i < task_end(job->linear, task); i++) {
        float *out = job->out + i * width;
        const float *x = job->x + i * width;
        if (job->accumulate)
            add_gained(out, gain, x, width);
        else
            take_gained(out, gain, x, width);
    }
}

/* out [n, out] (+)= gain · x by columns; out may be x. */
static void run_gain(cr_compute *compute, float *out, bool accumulate, const float *x,
                     const cr_linear *linear)
{
    gain_job job = {.linear = linear, .out = out, .x = x, .accumulate = accumulate};
    cr_parallel_for(compute->pool, (linear->n + ROWS - 1) / ROWS, gain_task, &job);
}

#define COLUMNS ((size_t)64) /* a task */

static void magnitude_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const gain_job *job = argument;
    const cr_branch *branch = job->linear->branch;
    const size_t width = job->linear->weight->rows, first = task * COLUMNS;
    const size_t count = width - first < COLUMNS ? width - first : COLUMNS;
    double sums[COLUMNS] = {0};
    for (size_t i = 0; i < job->linear->n; i++) {
        const float *dy = job->dy + i * width + first, *x = job->x + i * width + first;
        for (size_t j = 0; j < count; j++)
            sums[j] += (double)dy[j] * (double)x[j];
    }
    for (size_t j = 0; j < count; j++)
        if (branch->norm[first + j] > 0)
            branch->dmagnitude[first + j] += (float)(sums[j] / (double)branch->norm[first + j]);
}

/* dmagnitude += Σ over positions of dy · product / norm. */
static void magnitude_backward(cr_compute *compute, const float *dy, const cr_linear *linear)
{
    gain_job job = {.linear = linear, .x = linear->product, .dy = dy};
    cr_parallel_for(compute->pool, (linear->weight->rows + COLUMNS - 1) / COLUMNS, magnitude_task,
                    &job);
}

/* ---- forward --------------------------------------------------------------------------------------- */

static void dora_forward(cr_compute *compute, float *y, bool accumulate, const float *x,
                         const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows, n = linear->n;
    const float *input = branch_input(compute, x, linear);
    bool dropped = input != x;
    float *product = linear->product ? linear->product : y;
    cr_matmul(compute, product, out, n, 1.0f, false, cr_rows(input, in), linear->weight, true);
    if (dropped) {
        cr_matmul(compute, y, out, n, 1.0f, accumulate, cr_rows(x, in), linear->weight, true);
        compute->kernels->axpy(y, -1.0f, product, n * out);
    }
    add_branch(compute, product, input, linear);
    run_gain(compute, y, accumulate || dropped, product, linear);
    add_bias(compute, y, linear);
}

void cr_linear_forward(cr_compute *compute, float *y, bool accumulate, const float *x,
                       const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows;
    if (has_dora(linear)) {
        dora_forward(compute, y, accumulate, x, linear);
        return;
    }
    cr_matmul(compute, y, out, linear->n, 1.0f, accumulate, cr_rows(x, in), linear->weight, true);
    add_bias(compute, y, linear);
    if (has_branch(linear))
        add_branch(compute, y, branch_input(compute, x, linear), linear);
}

/* ---- backward --------------------------------------------------------------------------------------- */

/* With s = scale: dB += s dyᵀ low; dlow = s dy B; dA += dlowᵀ drop(x). */
static void branch_backward(cr_compute *compute, const float *dy, const float *x,
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
}

/* dx += drop'(dlow A + beyond W); `beyond` [n, out] or NULL. */
static void branch_input_backward(cr_compute *compute, float *dx, const float *beyond,
                                  const cr_linear *linear)
{
    const cr_branch *branch = linear->branch;
    const size_t in = linear->weight->columns, out = linear->weight->rows, n = linear->n;
    cr_matrix a = cr_matrix_f32(branch->a, branch->rank, in, in);
    bool masked = linear->dropout.rate > 0;
    if (beyond)
        cr_matmul(compute, linear->dropped, in, n, 1.0f, false, cr_rows(beyond, out),
                  linear->weight, false);
    cr_matmul(compute, masked ? linear->dropped : dx, in, n, 1.0f, !masked || beyond,
              cr_rows(linear->dlow, branch->rank), &a, false);
    if (masked)
        run_mask(compute, mask_add_task, dx, linear->dropped, linear);
}

static void base_backward(cr_compute *compute, float *dx, bool accumulate, const float *dy,
                          const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows;
    cr_matmul(compute, dx, in, linear->n, 1.0f, accumulate, cr_rows(dy, out), linear->weight,
              false);
}

/* The branch and, behind the dropped input, the base are multiplied by the gain; with dropout the base
 * is also there as it is, and once less behind the dropped input. */
static void dora_backward(cr_compute *compute, float *dx, bool accumulate, const float *dy,
                          const float *x, const cr_linear *linear)
{
    bool masked = linear->dropout.rate > 0;
    magnitude_backward(compute, dy, linear);
    run_gain(compute, linear->scaled, false, dy, linear);
    if (dx)
        base_backward(compute, dx, accumulate, masked ? dy : linear->scaled, linear);
    branch_backward(compute, linear->scaled, x, linear);
    if (!dx)
        return;
    if (masked)
        compute->kernels->axpy(linear->scaled, -1.0f, dy, linear->n * linear->weight->rows);
    branch_input_backward(compute, dx, masked ? linear->scaled : NULL, linear);
}

void cr_linear_backward(cr_compute *compute, float *dx, bool accumulate, const float *dy,
                        const float *x, const cr_linear *linear)
{
    if (has_dora(linear)) {
        dora_backward(compute, dx, accumulate, dy, x, linear);
        return;
    }
    if (dx)
        base_backward(compute, dx, accumulate, dy, linear);
    if (!has_branch(linear))
        return;
    branch_backward(compute, dy, x, linear);
    if (dx)
        branch_input_backward(compute, dx, NULL, linear);
}

/* ---- few rows ---------------------------------------------------------------------------------------- */

void cr_linear_few(cr_compute *compute, float *y, const float *x, const cr_linear *linear)
{
    const size_t in = linear->weight->columns, out = linear->weight->rows, n = linear->n;
    bool dora = has_dora(linear);
    cr_matmul_few(compute, y, out, n, cr_rows(x, in), linear->weight);
    if (!dora)
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
    if (dora) {
        run_gain(compute, y, false, y, linear);
        add_bias(compute, y, linear);
    }
}
