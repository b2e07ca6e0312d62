/* head.c: chunked vocabulary projection with an online log-sum-exp; after Milakov and
 * Gimelshein, "Online normalizer calculation for softmax", 2018. */
#include "math/head.h"

#include <math.h>
#include <string.h>

#define CHUNK 256       /* rows of the head expanded at once */
#define GROUPS 16       /* shares of the vocabulary, summed apart and joined in order */
#define MOST_ROWS 512   /* positions a pass over the vocabulary */
#define LEAST_ROWS 64
#define ROW_FLOATS ((size_t)1 << 18) /* of `expected` a group, unless LEAST_ROWS needs more */

typedef struct head_job {
    const cr_kernels *kernels;
    const cr_matrix *head;
    const float *hidden;    /* [rows, d] */
    const int32_t *targets; /* [rows] */
    size_t rows, d;
    bool want_expected;
    float *maximum, *sum, *target_logit; /* [GROUPS, rows] */
    float *expected;                     /* [GROUPS, rows, d] */
    float *thread_space;
    size_t thread_floats;
    float *logprob_out, *expected_out;
} head_job;

static size_t rows_a_pass(size_t d, size_t n)
{
    size_t rows = ROW_FLOATS / d;
    rows = rows > MOST_ROWS ? MOST_ROWS : rows < LEAST_ROWS ? LEAST_ROWS : rows;
    return rows < n ? rows : n;
}

static size_t thread_floats(const cr_kernels *kernels, size_t rows, size_t d)
{
    size_t wide = cr_pack_floats(kernels, CHUNK, d), tall = cr_pack_floats(kernels, d, CHUNK);
    return rows * CHUNK + CHUNK * d + (wide > tall ? wide : tall) + 16;
}

size_t cr_head_scratch(const cr_compute *compute, const cr_matrix *head, size_t n)
{
    size_t d = head->columns, rows = rows_a_pass(d, n);
    size_t threads = (size_t)cr_pool_threads(compute->pool);
    return GROUPS * rows * (3 + d) + 64 + threads * (thread_floats(compute->kernels, rows, d) + 16);
}

/* Packed panels lie on 64-byte boundaries. */
static float *align_floats(float *p)
{
    return p + (16 - ((uintptr_t)p / sizeof(float)) % 16) % 16;
}

static void expand_chunk(float *space, const cr_matrix *head, size_t first, size_t count)
{
    for (size_t v = 0; v < count; v++)
        cr_matrix_row(space + v * head->columns, head, first + v);
}

/* One position's share of a chunk: its logits become exp(logit - running maximum). */
static void soften_row(const head_job *job, size_t group, size_t row, float *logits, size_t first,
                       size_t count)
{
    size_t at = group * job->rows + row;
    int32_t target = job->targets[row];
    if ((size_t)target >= first && (size_t)target < first + count)
        job->target_logit[at] = logits[(size_t)target - first];
    float maximum = fmaxf(job->maximum[at], job->kernels->max(logits, count));
    float shrink = job->maximum[at] == maximum ? 1.0f : expf(job->maximum[at] - maximum);
    job->sum[at] = job->sum[at] * shrink + job->kernels->exp_sum(logits, maximum, count);
    job->maximum[at] = maximum;
    if (job->want_expected && shrink != 1.0f)
        job->kernels->scale(job->expected + at * job->d, shrink, job->d);
}

static void walk_chunk(const head_job *job, size_t group, size_t first, size_t count, float *space)
{
    float *logits = space, *chunk = space + job->rows * CHUNK;
    float *packed = align_floats(chunk + CHUNK * job->d);
    expand_chunk(chunk, job->head, first, count);
    cr_matmul_serial(job->kernels, logits, CHUNK, job->rows, count, job->d, 1.0f, false,
                     cr_rows(job->hidden, job->d), chunk, job->d, true, packed);
    for (size_t row = 0; row < job->rows; row++)
        soften_row(job, group, row, logits + row * CHUNK, first, count);
    if (job->want_expected)
        cr_matmul_serial(job->kernels, job->expected + group * job->rows * job->d, job->d,
                         job->rows, job->d, count, 1.0f, true, cr_rows(logits, CHUNK), chunk,
                         job->d, false, packed);
}

static void group_task(void *argument, size_t group, int thread)
{
    const head_job *job = argument;
    size_t vocabulary = job->head->rows, at = group * job->rows;
    size_t chunks = (vocabulary + CHUNK - 1) / CHUNK;
    for (size_t row = 0; row < job->rows; row++) {
        job->maximum[at + row] = -INFINITY;
        job->sum[at + row] = 0;
        job->target_logit[at + row] = 0;
    }
    if (job->want_expected)
        memset(job->expected + at * job->d, 0, job->rows * job->d * sizeof(float));
    for (size_t chunk = chunks * group / GROUPS; chunk < chunks * (group + 1) / GROUPS; chunk++) {
        size_t first = chunk * CHUNK;
        size_t count = vocabulary - first < CHUNK ? vocabulary - first : CHUNK;
        walk_chunk(job, group, first, count,
                   job->thread_space + (size_t)thread * job->thread_floats);
    }
}

/* Joins the groups' shares of one position, in their order. */
static void join_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const head_job *job = argument;
    float maximum = -INFINITY, sum = 0, target = 0, share[GROUPS];
    for (size_t g = 0; g < GROUPS; g++)
        maximum = fmaxf(maximum, job->maximum[g * job->rows + row]);
    for (size_t g = 0; g < GROUPS; g++) {
        size_t at = g * job->rows + row;
        share[g] = job->sum[at] > 0 ? expf(job->maximum[at] - maximum) : 0;
        /* A NaN logit leaves a NaN sum, for which the comparison above is false. */
        if (job->sum[at] != job->sum[at])
            share[g] = job->sum[at];
        sum += job->sum[at] * share[g];
        target += job->target_logit[at];
    }
    job->logprob_out[row] = target - (maximum + logf(sum));
    if (!job->want_expected)
        return;
    float *out = job->expected_out + row * job->d;
    memset(out, 0, job->d * sizeof(float));
    for (size_t g = 0; g < GROUPS; g++)
        job->kernels->axpy(out, share[g] / sum, job->expected + (g * job->rows + row) * job->d,
                           job->d);
}

void cr_head_forward(cr_compute *compute, float *logprob, float *expected, const float *hidden,
                     const int32_t *targets, const cr_matrix *head, size_t n, float *scratch)
{
    size_t d = head->columns, rows = rows_a_pass(d, n);
    head_job job = {.kernels = compute->kernels,
                    .head = head,
                    .d = d,
                    .want_expected = expected != NULL,
                    .maximum = scratch,
                    .sum = scratch + GROUPS * rows,
                    .target_logit = scratch + 2 * GROUPS * rows,
                    .expected = align_floats(scratch + 3 * GROUPS * rows)};
    job.thread_space = align_floats(job.expected + GROUPS * rows * d);
    job.thread_floats = (thread_floats(compute->kernels, rows, d) + 15) & ~(size_t)15;
    for (size_t first = 0; first < n; first += rows) {
        job.rows = n - first < rows ? n - first : rows;
        job.hidden = hidden + first * d;
        job.targets = targets + first;
        job.logprob_out = logprob + first;
        job.expected_out = expected ? expected + first * d : NULL;
        cr_parallel_for(compute->pool, GROUPS, group_task, &job);
        cr_parallel_for(compute->pool, job.rows, join_task, &job);
    }
}

/* ---- backward ---------------------------------------------------------------------------------- */

typedef struct slope_job {
    cr_compute *compute;
    float *dhidden;
    const float *slope, *expected;
    const int32_t *targets;
    const cr_matrix *head;
} slope_job;

static void slope_task(void *argument, size_t row, int thread)
{
    const slope_job *job = argument;
    size_t d = job->head->columns;
    float *weight = job->compute->row_scratch + (size_t)thread * job->compute->row_floats;
    float *out = job->dhidden + row * d, slope = job->slope[row];
    const float *expected = job->expected + row * d;
    cr_matrix_row(weight, job->head, (size_t)job->targets[row]);
    for (size_t c = 0; c < d; c++)
        out[c] = slope * (weight[c] - expected[c]);
}

void cr_head_backward(cr_compute *compute, float *dhidden, const float *slope, const float *expected,
                      const int32_t *targets, const cr_matrix *head, size_t n)
{
    slope_job job = {compute, dhidden, slope, expected, targets, head};
    cr_parallel_for(compute->pool, n, slope_task, &job);
}

/* ---- the specification ----------------------------------------------------------------------------- */

static double plain_logit(const cr_matrix *head, size_t v, const float *hidden)
{
    double sum = 0;
    for (size_t c = 0; c < head->columns; c++) {
        float weight;
        cr_dtype_expand(&weight, head->type,
                        (const unsigned char *)head->data + v * head->row_bytes, c, 1);
        sum += (double)weight * (double)hidden[c];
    }
    return sum;
}

void cr_head_plain(float *logprob, float *expected, const float *hidden, const int32_t *targets,
                   const cr_matrix *head, size_t n)
{
    size_t d = head->columns;
    for (size_t row = 0; row < n; row++) {
        const float *h = hidden + row * d;
        double maximum = -INFINITY, sum = 0;
        for (size_t v = 0; v < head->rows; v++)
            maximum = fmax(maximum, plain_logit(head, v, h));
        for (size_t v = 0; v < head->rows; v++)
            sum += exp(plain_logit(head, v, h) - maximum);
        double lse = maximum + log(sum);
        logprob[row] = (float)(plain_logit(head, (size_t)targets[row], h) - lse);
        for (size_t c = 0; c < d; c++) {
            double mean = 0;
            for (size_t v = 0; v < head->rows; v++) {
                float weight;
                cr_dtype_expand(&weight, head->type,
                                (const unsigned char *)head->data + v * head->row_bytes, c, 1);
                mean += exp(plain_logit(head, v, h) - lse) * (double)weight;
            }
            expected[row * d + c] = (float)mean;
        }
    }
}
