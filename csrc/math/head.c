/* head.c: chunked vocabulary projection with an online log-sum-exp; after Milakov and
 * Gimelshein, "Online normalizer calculation for softmax", 2018. */
#include "math/head.h"

#include <math.h>
#include <string.h>

#define CHUNK 256     /* rows of the head expanded at once */
#define GROUPS 16     /* shares of the vocabulary, summed apart and joined in order */
#define MOST_ROWS 512 /* positions a pass over the vocabulary */
#define LEAST_ROWS 64
#define ROW_FLOATS ((size_t)1 << 18) /* of `expected` a group, unless LEAST_ROWS needs more */

typedef struct head_job {
    const cr_kernels *kernels;
    const cr_matrix *head;
    const float *hidden; /* [rows, d] */
    cr_head_picks picks;
    size_t first; /* position of row 0 among the picks */
    size_t rows, d;
    cr_head_outputs out;           /* of the rows; logprobs of all picks */
    float *maximum, *sum, *moment; /* [GROUPS, rows]; moment = Σ exp(l - maximum) (l - maximum) */
    float *expected, *tilt;        /* [GROUPS, rows, d], not yet divided by the sum */
    float *thread_space;
    size_t thread_floats;
} head_job;

static size_t rows_a_pass(size_t d, size_t n)
{
    size_t rows = ROW_FLOATS / d;
    rows = rows > MOST_ROWS ? MOST_ROWS : rows < LEAST_ROWS ? LEAST_ROWS : rows;
    return rows < n ? rows : n;
}

static size_t thread_floats(const cr_kernels *kernels, size_t rows, size_t d, bool entropy)
{
    size_t wide = cr_pack_floats(kernels, CHUNK, d), tall = cr_pack_floats(kernels, d, CHUNK);
    size_t tiles = (entropy ? 2 : 1) * rows * CHUNK;
    return (tiles + CHUNK * d + (wide > tall ? wide : tall) + 31) & ~(size_t)15;
}

size_t cr_head_scratch(const cr_compute *compute, const cr_matrix *head, size_t n, bool entropy)
{
    size_t d = head->columns, rows = rows_a_pass(d, n);
    size_t threads = (size_t)cr_pool_threads(compute->pool);
    size_t sums = GROUPS * rows * (3 + (entropy ? 2 : 1) * d);
    return sums + 64 + threads * thread_floats(compute->kernels, rows, d, entropy);
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

static size_t picks_from(const cr_head_picks *picks, size_t position)
{
    return picks->starts ? picks->starts[position] : picks->ids ? position : 0;
}

/* A logit waits in its log-probability's place for the sum. */
static void keep_picks(const head_job *job, size_t row, const float *logits, size_t first,
                       size_t count)
{
    size_t end = picks_from(&job->picks, job->first + row + 1);
    for (size_t p = picks_from(&job->picks, job->first + row); p < end; p++) {
        size_t id = (size_t)job->picks.ids[p];
        if (id >= first && id - first < count)
            job->out.logprobs[p] = logits[id - first];
    }
}

/* tilted = exp(logit - maximum) · (logit - maximum), from exp and the logits in `tilted`; its sum. An
 * impossible token has no share: 0 · -inf. */
static float tilt_logits(float *tilted, const float *exps, float maximum, size_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t v = 0; v < count; v++) {
        tilted[v] = exps[v] == 0 ? 0 : exps[v] * (tilted[v] - maximum);
        sum += tilted[v];
    }
    return sum;
}

/* Moves the sums of a position from their old maximum to a new one, `shift` (<= 0) lower by. */
static void move_sums(const head_job *job, size_t at, float shift, float shrink)
{
    if (shrink == 1.0f)
        return;
    float *expected = job->expected + at * job->d, *tilt = job->tilt + at * job->d;
    if (job->out.entropy && shrink != 0)
        job->moment[at] = shrink * (job->moment[at] + shift * job->sum[at]);
    if (job->out.tilt && shrink != 0)
        job->kernels->axpy(tilt, shift, expected, job->d);
    if (job->out.tilt)
        job->kernels->scale(tilt, shrink, job->d);
    if (job->out.expected)
        job->kernels->scale(expected, shrink, job->d);
    job->sum[at] *= shrink;
}

/* One position's share of a chunk: its logits become exp(logit - running maximum). */
static void soften_row(const head_job *job, size_t group, size_t row, float *logits, float *tilted,
                       size_t first, size_t count)
{
    size_t at = group * job->rows + row;
    keep_picks(job, row, logits, first, count);
    float before = job->maximum[at];
    float maximum = fmaxf(before, job->kernels->max(logits, count));
    float shrink = before == maximum ? 1.0f : expf(before - maximum);
    if (job->out.entropy)
        memcpy(tilted, logits, count * sizeof(float));
    move_sums(job, at, before - maximum, shrink);
    job->sum[at] += job->kernels->exp_sum(logits, maximum, count);
    if (job->out.entropy)
        job->moment[at] += tilt_logits(tilted, logits, maximum, count);
    job->maximum[at] = maximum;
}

static void add_rows(const head_job *job, float *sums, size_t group, const float *tile,
                     const float *chunk, size_t count, float *packed)
{
    cr_matmul_serial(job->kernels, sums + group * job->rows * job->d, job->d, job->rows, job->d,
                     count, 1.0f, true, cr_rows(tile, CHUNK), chunk, job->d, false, packed);
}

static void walk_chunk(const head_job *job, size_t group, size_t first, size_t count, float *space)
{
    float *logits = space, *tilted = logits + (job->out.entropy ? job->rows * CHUNK : 0);
    float *chunk = tilted + job->rows * CHUNK;
    float *packed = align_floats(chunk + CHUNK * job->d);
    expand_chunk(chunk, job->head, first, count);
    cr_matmul_serial(job->kernels, logits, CHUNK, job->rows, count, job->d, 1.0f, false,
                     cr_rows(job->hidden, job->d), chunk, job->d, true, packed);
    for (size_t row = 0; row < job->rows; row++)
        soften_row(job, group, row, logits + row * CHUNK, tilted + row * CHUNK, first, count);
    if (job->out.expected)
        add_rows(job, job->expected, group, logits, chunk, count, packed);
    if (job->out.tilt)
        add_rows(job, job->tilt, group, tilted, chunk, count, packed);
}

static void group_task(void *argument, size_t group, int thread)
{
    const head_job *job = argument;
    size_t vocabulary = job->head->rows, at = group * job->rows;
    size_t chunks = (vocabulary + CHUNK - 1) / CHUNK;
    for (size_t row = 0; row < job->rows; row++) {
        job->maximum[at + row] = -INFINITY;
        job->sum[at + row] = job->moment[at + row] = 0;
    }
    if (job->out.expected)
        memset(job->expected + at * job->d, 0, job->rows * job->d * sizeof(float));
    if (job->out.tilt)
        memset(job->tilt + at * job->d, 0, job->rows * job->d * sizeof(float));
    for (size_t chunk = chunks * group / GROUPS; chunk < chunks * (group + 1) / GROUPS; chunk++) {
        size_t first = chunk * CHUNK;
        size_t count = vocabulary - first < CHUNK ? vocabulary - first : CHUNK;
        walk_chunk(job, group, first, count,
                   job->thread_space + (size_t)thread * job->thread_floats);
    }
}

/* The groups' shares of one position, joined in their order. */
typedef struct joined {
    float maximum, sum, moment;
    float share[GROUPS];
} joined;

static joined join_sums(const head_job *job, size_t row)
{
    joined all = {.maximum = -INFINITY};
    for (size_t g = 0; g < GROUPS; g++)
        all.maximum = fmaxf(all.maximum, job->maximum[g * job->rows + row]);
    for (size_t g = 0; g < GROUPS; g++) {
        size_t at = g * job->rows + row;
        float shift = job->maximum[at] - all.maximum, sum = job->sum[at];
        /* A NaN logit leaves a NaN sum, for which `sum > 0` is false. */
        all.share[g] = sum > 0 ? expf(shift) : sum != sum ? sum : 0;
        all.sum += sum * all.share[g];
        if (all.share[g] != 0)
            all.moment += all.share[g] * (job->moment[at] + shift * sum);
    }
    return all;
}

static void join_expected(const head_job *job, const joined *all, size_t row)
{
    float *out = job->out.expected + row * job->d;
    memset(out, 0, job->d * sizeof(float));
    for (size_t g = 0; g < GROUPS; g++)
        job->kernels->axpy(out, all->share[g] / all->sum,
                           job->expected + (g * job->rows + row) * job->d, job->d);
}

/* Σ p (log p + H) W, where log p + H = (l - maximum) - moment / sum. */
static void join_tilt(const head_job *job, const joined *all, size_t row)
{
    float *out = job->out.tilt + row * job->d, mean = all->moment / all->sum;
    memset(out, 0, job->d * sizeof(float));
    for (size_t g = 0; g < GROUPS; g++) {
        size_t at = g * job->rows + row;
        float share = all->share[g] / all->sum, shift = job->maximum[at] - all->maximum;
        if (share == 0)
            continue;
        job->kernels->axpy(out, share, job->tilt + at * job->d, job->d);
        job->kernels->axpy(out, share * (shift - mean), job->expected + at * job->d, job->d);
    }
}

static void join_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const head_job *job = argument;
    joined all = join_sums(job, row);
    float lse = all.maximum + logf(all.sum);
    size_t end = picks_from(&job->picks, job->first + row + 1);
    for (size_t p = picks_from(&job->picks, job->first + row); p < end; p++)
        job->out.logprobs[p] -= lse;
    if (job->out.lse)
        job->out.lse[row] = lse;
    if (job->out.entropy)
        job->out.entropy[row] = logf(all.sum) - all.moment / all.sum;
    if (job->out.likeliest)
        job->out.likeliest[row] = all.maximum - lse;
    if (job->out.expected)
        join_expected(job, &all, row);
    if (job->out.tilt)
        join_tilt(job, &all, row);
}

static float *from_row(float *list, size_t row, size_t width)
{
    return list ? list + row * width : NULL;
}

static head_job job_of(const cr_compute *compute, const cr_head_picks *picks, const cr_matrix *head,
                       size_t n, bool entropy, float *scratch)
{
    const size_t d = head->columns, rows = rows_a_pass(d, n), sums = GROUPS * rows;
    head_job job = {.kernels = compute->kernels, .head = head, .picks = *picks, .d = d};
    job.maximum = scratch;
    job.sum = job.maximum + sums;
    job.moment = job.sum + sums;
    job.expected = align_floats(job.moment + sums);
    job.tilt = job.expected + (entropy ? sums * d : 0);
    job.thread_space = align_floats(job.tilt + sums * d);
    job.thread_floats = thread_floats(compute->kernels, rows, d, entropy);
    return job;
}

void cr_head_forward(cr_compute *compute, const cr_head_outputs *out, const float *hidden,
                     const cr_head_picks *picks, const cr_matrix *head, size_t n, float *scratch)
{
    size_t d = head->columns, rows = rows_a_pass(d, n);
    head_job job = job_of(compute, picks, head, n, out->entropy != NULL, scratch);
    for (size_t first = 0; first < n; first += rows) {
        job.rows = n - first < rows ? n - first : rows;
        job.hidden = hidden + first * d;
        job.first = first;
        job.out = (cr_head_outputs){.logprobs = out->logprobs,
                                    .lse = from_row(out->lse, first, 1),
                                    .entropy = from_row(out->entropy, first, 1),
                                    .likeliest = from_row(out->likeliest, first, 1),
                                    .expected = from_row(out->expected, first, d),
                                    .tilt = from_row(out->tilt, first, d)};
        cr_parallel_for(compute->pool, GROUPS, group_task, &job);
        cr_parallel_for(compute->pool, job.rows, join_task, &job);
    }
}

/* ---- backward ---------------------------------------------------------------------------------- */

typedef struct slope_job {
    cr_compute *compute;
    float *dhidden;
    const cr_head_slopes *slopes;
    const float *expected, *tilt;
    const cr_head_picks *picks;
    const cr_matrix *head;
} slope_job;

/* out = (or, after the first pick, +=) slope · (W - expected). */
static void add_pick(float *out, bool first, float slope, const float *weight,
                     const float *expected, size_t d)
{
    for (size_t c = 0; c < d; c++) {
        float pull = slope * (weight[c] - expected[c]);
        out[c] = first ? pull : out[c] + pull;
    }
}

static void slope_task(void *argument, size_t row, int thread)
{
    const slope_job *job = argument;
    size_t d = job->head->columns;
    float *weight = job->compute->row_scratch + (size_t)thread * job->compute->row_floats;
    float *out = job->dhidden + row * d;
    const float *expected = job->expected + row * d;
    size_t from = picks_from(job->picks, row), end = picks_from(job->picks, row + 1);
    if (from == end)
        memset(out, 0, d * sizeof(float));
    for (size_t p = from; p < end; p++) {
        cr_matrix_row(weight, job->head, (size_t)job->picks->ids[p]);
        add_pick(out, p == from, job->slopes->logprobs[p], weight, expected, d);
    }
    if (job->slopes->entropy)
        job->compute->kernels->axpy(out, -job->slopes->entropy[row], job->tilt + row * d, d);
}

void cr_head_backward(cr_compute *compute, float *dhidden, const cr_head_slopes *slopes,
                      const float *expected, const float *tilt, const cr_head_picks *picks,
                      const cr_matrix *head, size_t n)
{
    slope_job job = {compute, dhidden, slopes, expected, tilt, picks, head};
    cr_parallel_for(compute->pool, n, slope_task, &job);
}

/* ---- the specification ----------------------------------------------------------------------------- */

static double plain_weight(const cr_matrix *head, size_t v, size_t c)
{
    float weight;
    cr_dtype_expand(&weight, head->type, (const unsigned char *)head->data + v * head->row_bytes, c,
                    1);
    return (double)weight;
}

static double plain_logit(const cr_matrix *head, size_t v, const float *hidden)
{
    double sum = 0;
    for (size_t c = 0; c < head->columns; c++)
        sum += plain_weight(head, v, c) * (double)hidden[c];
    return sum;
}

static double plain_lse(const cr_matrix *head, const float *hidden)
{
    double maximum = -INFINITY, sum = 0;
    for (size_t v = 0; v < head->rows; v++)
        maximum = fmax(maximum, plain_logit(head, v, hidden));
    for (size_t v = 0; v < head->rows; v++)
        sum += exp(plain_logit(head, v, hidden) - maximum);
    return maximum + log(sum);
}

static double plain_entropy(const cr_matrix *head, const float *hidden, double lse)
{
    double entropy = 0;
    for (size_t v = 0; v < head->rows; v++) {
        double log_p = plain_logit(head, v, hidden) - lse;
        entropy -= exp(log_p) * log_p;
    }
    return entropy;
}

static void plain_rows(const cr_head_outputs *out, const float *hidden, const cr_matrix *head,
                       size_t row, double lse, double entropy)
{
    size_t d = head->columns;
    for (size_t c = 0; c < d; c++) {
        double expected = 0, tilt = 0;
        for (size_t v = 0; v < head->rows; v++) {
            double log_p = plain_logit(head, v, hidden) - lse;
            expected += exp(log_p) * plain_weight(head, v, c);
            tilt += exp(log_p) * (log_p + entropy) * plain_weight(head, v, c);
        }
        if (out->expected)
            out->expected[row * d + c] = (float)expected;
        if (out->tilt)
            out->tilt[row * d + c] = (float)tilt;
    }
}

static double plain_maximum(const cr_matrix *head, const float *hidden)
{
    double maximum = -INFINITY;
    for (size_t v = 0; v < head->rows; v++)
        maximum = fmax(maximum, plain_logit(head, v, hidden));
    return maximum;
}

void cr_head_plain(const cr_head_outputs *out, const float *hidden, const cr_head_picks *picks,
                   const cr_matrix *head, size_t n)
{
    for (size_t row = 0; row < n; row++) {
        const float *h = hidden + row * head->columns;
        double lse = plain_lse(head, h), entropy = plain_entropy(head, h, lse);
        for (size_t p = picks_from(picks, row); p < picks_from(picks, row + 1); p++)
            out->logprobs[p] = (float)(plain_logit(head, (size_t)picks->ids[p], h) - lse);
        if (out->lse)
            out->lse[row] = (float)lse;
        if (out->entropy)
            out->entropy[row] = (float)entropy;
        if (out->likeliest)
            out->likeliest[row] = (float)(plain_maximum(head, h) - lse);
        if (out->expected || out->tilt)
            plain_rows(out, h, head, row, lse, entropy);
    }
}
