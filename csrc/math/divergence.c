/* divergence.c: two passes over the vocabulary in chunks; the definitions are those of Kullback and Leibler
 * (1951) and Lin, "Divergence measures based on the Shannon entropy" (1991). */
#include "math/divergence.h"

#include <math.h>
#include <string.h>

#define CHUNK 256     /* rows of the heads expanded at once */
#define GROUPS 16     /* shares of the vocabulary, summed apart and joined in order */
#define MOST_ROWS 256 /* positions a pass over the vocabulary */

typedef struct divergence_job {
    const cr_kernels *kernels;
    cr_divergence_kind kind;
    cr_divergence_side own, other; /* of the rows of this pass, temperature applied */
    size_t rows, vocabulary;
    const float *own_lse, *other_lse; /* [rows] */
    double *value, *apart;            /* [GROUPS, rows]; apart = KL(q|m) for Jensen-Shannon */
    float *sums;                      /* [GROUPS, rows, d], or NULL */
    float *thread_space;
    size_t thread_floats;
} divergence_job;

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t rows_a_pass(size_t n)
{
    return n < MOST_ROWS ? n : MOST_ROWS;
}

static size_t round_up(size_t floats)
{
    return (floats + 15) & ~(size_t)15;
}

static float *align_floats(float *p)
{
    return p + (16 - ((uintptr_t)p / sizeof(float)) % 16) % 16;
}

/* Four tiles (both logits, both probabilities), both expanded chunks, packed panels. */
static size_t thread_floats(const cr_kernels *kernels, size_t rows, size_t own, size_t other)
{
    size_t packed =
        larger(cr_pack_floats(kernels, CHUNK, own), cr_pack_floats(kernels, own, CHUNK));
    packed = larger(packed, cr_pack_floats(kernels, CHUNK, other));
    return round_up(4 * rows * CHUNK + CHUNK * (own + other) + packed + 16);
}

/* Lists of the whole call, in the order in which cr_divergence cuts the scratch. */
static size_t list_floats(size_t own, size_t other, size_t n)
{
    return round_up(n * own) * 2 + round_up(n * other) + 2 * round_up(n);
}

size_t cr_divergence_scratch(const cr_compute *compute, const cr_matrix *own,
                             const cr_matrix *other, size_t n)
{
    const size_t d = own->columns, e = other->columns, rows = rows_a_pass(n);
    size_t threads = (size_t)cr_pool_threads(compute->pool);
    size_t pass = GROUPS * rows * (d + 4) + 64;
    pass += threads * thread_floats(compute->kernels, rows, d, e);
    size_t heads =
        larger(cr_head_scratch(compute, own, n, false), cr_head_scratch(compute, other, n, false));
    return list_floats(d, e, n) + larger(pass, heads) + 64;
}

/* ---- single probabilities ------------------------------------------------------------------------ */

typedef struct tiles {
    float *own, *other; /* logits of one position's chunk; own becomes the slope */
    float *q, *p;
} tiles;

static double forward_row(tiles t, double own_lse, double other_lse, size_t count)
{
    double value = 0;
    for (size_t v = 0; v < count; v++) {
        double log_q = (double)t.own[v] - own_lse, log_p = (double)t.other[v] - other_lse;
        value += t.p[v] > 0 ? (double)t.p[v] * (log_p - log_q) : 0;
        t.own[v] = t.q[v] - t.p[v];
    }
    return value;
}

static double reverse_row(tiles t, double own_lse, double other_lse, size_t count)
{
    double value = 0;
    for (size_t v = 0; v < count; v++) {
        double log_q = (double)t.own[v] - own_lse, log_p = (double)t.other[v] - other_lse;
        double share = t.q[v] > 0 ? (double)t.q[v] * (log_q - log_p) : 0;
        value += share;
        t.own[v] = (float)share;
    }
    return value;
}

static double shannon_row(tiles t, double own_lse, double other_lse, size_t count, double *apart)
{
    double value = 0, own = 0;
    for (size_t v = 0; v < count; v++) {
        double q = (double)t.q[v], p = (double)t.p[v], log_m = log((p + q) / 2);
        double of_q = q > 0 ? q * ((double)t.own[v] - own_lse - log_m) : 0;
        double of_p = p > 0 ? p * ((double)t.other[v] - other_lse - log_m) : 0;
        value += (of_q + of_p) / 2;
        own += of_q;
        t.own[v] = (float)(of_q / 2);
    }
    *apart += own;
    return value;
}

static double square_row(tiles t, size_t count, size_t vocabulary)
{
    double value = 0, share = 1.0 / (double)vocabulary;
    for (size_t v = 0; v < count; v++) {
        double difference = (double)t.own[v] - (double)t.other[v];
        value += difference * difference * share;
        t.own[v] = (float)(2 * difference * share);
    }
    return value;
}

/* One position's share of a chunk. */
static void compare_row(const divergence_job *job, size_t group, size_t row, tiles t, size_t count)
{
    const size_t at = group * job->rows + row;
    if (job->kind == CR_DIVERGENCE_SQUARE) {
        job->value[at] += square_row(t, count, job->vocabulary);
        return;
    }
    float own_lse = job->own_lse[row], other_lse = job->other_lse[row];
    memcpy(t.q, t.own, count * sizeof(float));
    memcpy(t.p, t.other, count * sizeof(float));
    job->kernels->exp_sum(t.q, own_lse, count);
    job->kernels->exp_sum(t.p, other_lse, count);
    if (job->kind == CR_DIVERGENCE_FORWARD)
        job->value[at] += forward_row(t, (double)own_lse, (double)other_lse, count);
    else if (job->kind == CR_DIVERGENCE_REVERSE)
        job->value[at] += reverse_row(t, (double)own_lse, (double)other_lse, count);
    else
        job->value[at] +=
            shannon_row(t, (double)own_lse, (double)other_lse, count, &job->apart[at]);
}

/* ---- the second pass -------------------------------------------------------------------------------- */

/* logits [rows, CHUNK] of a side for `count` tokens from `first` on; its rows stay in `chunk`. */
static void side_logits(const divergence_job *job, const cr_divergence_side *side, float *logits,
                        float *chunk, float *packed, size_t first, size_t count)
{
    const size_t d = side->head->columns;
    for (size_t v = 0; v < count; v++)
        cr_matrix_row(chunk + v * d, side->head, first + v);
    cr_matmul_serial(job->kernels, logits, CHUNK, job->rows, count, d, 1.0f, false,
                     cr_rows(side->hidden, d), chunk, d, true, packed);
}

static void walk_chunk(const divergence_job *job, size_t group, size_t first, size_t count,
                       float *space)
{
    const size_t d = job->own.head->columns, tile = job->rows * CHUNK;
    float *own_chunk = space + 4 * tile, *other_chunk = own_chunk + CHUNK * d;
    float *packed = align_floats(other_chunk + CHUNK * job->other.head->columns);
    side_logits(job, &job->own, space, own_chunk, packed, first, count);
    side_logits(job, &job->other, space + tile, other_chunk, packed, first, count);
    for (size_t row = 0; row < job->rows; row++) {
        float *own = space + row * CHUNK;
        compare_row(job, group, row, (tiles){own, own + tile, own + 2 * tile, own + 3 * tile},
                    count);
    }
    if (job->sums)
        cr_matmul_serial(job->kernels, job->sums + group * job->rows * d, d, job->rows, d, count,
                         1.0f, true, cr_rows(space, CHUNK), own_chunk, d, false, packed);
}

static void group_task(void *argument, size_t group, int thread)
{
    const divergence_job *job = argument;
    const size_t d = job->own.head->columns, at = group * job->rows;
    size_t chunks = (job->vocabulary + CHUNK - 1) / CHUNK;
    memset(job->value + at, 0, job->rows * sizeof(double));
    memset(job->apart + at, 0, job->rows * sizeof(double));
    if (job->sums)
        memset(job->sums + at * d, 0, job->rows * d * sizeof(float));
    for (size_t chunk = chunks * group / GROUPS; chunk < chunks * (group + 1) / GROUPS; chunk++) {
        size_t first = chunk * CHUNK, left = job->vocabulary - first;
        walk_chunk(job, group, first, left < CHUNK ? left : CHUNK,
                   job->thread_space + (size_t)thread * job->thread_floats);
    }
}

/* What the slope still lacks of `expected`, the mean row under q. */
static double mean_share(cr_divergence_kind kind, double value, double apart)
{
    return kind == CR_DIVERGENCE_REVERSE          ? value
           : kind == CR_DIVERGENCE_JENSEN_SHANNON ? apart / 2
                                                  : 0;
}

static void join_row(const divergence_job *job, size_t row, float *value, float *slope,
                     const float *expected, float temperature)
{
    const size_t d = job->own.head->columns;
    double sum = 0, apart = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        sum += job->value[g * job->rows + row];
        apart += job->apart[g * job->rows + row];
    }
    *value = (float)sum;
    if (!slope)
        return;
    memset(slope, 0, d * sizeof(float));
    for (size_t g = 0; g < GROUPS; g++)
        job->kernels->axpy(slope, 1.0f, job->sums + (g * job->rows + row) * d, d);
    if (expected)
        job->kernels->axpy(slope, (float)-mean_share(job->kind, sum, apart), expected, d);
    if (job->kind != CR_DIVERGENCE_SQUARE)
        job->kernels->scale(slope, 1.0f / temperature, d);
}

/* ---- the call ------------------------------------------------------------------------------------------ */

typedef struct lists {
    float *own, *other;         /* hidden states over the temperature: [n, d], [n, e] */
    float *expected;            /* [n, d] */
    float *own_lse, *other_lse; /* [n] */
    float *rest;
} lists;

static lists cut_scratch(float *scratch, size_t own, size_t other, size_t n)
{
    lists l = {.own = align_floats(scratch)};
    l.other = l.own + round_up(n * own);
    l.expected = l.other + round_up(n * other);
    l.own_lse = l.expected + round_up(n * own);
    l.other_lse = l.own_lse + round_up(n);
    l.rest = l.other_lse + round_up(n);
    return l;
}

static void cool(const cr_compute *compute, float *out, const cr_divergence_side *side, size_t n,
                 float temperature)
{
    const size_t count = n * side->head->columns;
    memcpy(out, side->hidden, count * sizeof(float));
    if (temperature != 1.0f)
        compute->kernels->scale(out, 1.0f / temperature, count);
}

static void first_pass(cr_compute *compute, cr_divergence_kind kind, const lists *l, bool slope,
                       const cr_matrix *own, const cr_matrix *other, size_t n)
{
    const cr_head_picks none = {NULL, NULL};
    bool mean = slope && (kind == CR_DIVERGENCE_REVERSE || kind == CR_DIVERGENCE_JENSEN_SHANNON);
    if (kind == CR_DIVERGENCE_SQUARE)
        return;
    cr_head_outputs mine = {.lse = l->own_lse, .expected = mean ? l->expected : NULL};
    cr_head_outputs theirs = {.lse = l->other_lse};
    cr_head_forward(compute, &mine, l->own, &none, own, n, l->rest);
    cr_head_forward(compute, &theirs, l->other, &none, other, n, l->rest);
}

static divergence_job job_of(const cr_compute *compute, cr_divergence_kind kind, const lists *l,
                             const cr_matrix *own, const cr_matrix *other, size_t n, bool slope)
{
    const size_t rows = rows_a_pass(n);
    divergence_job job = {.kernels = compute->kernels,
                          .kind = kind,
                          .own.head = own,
                          .other.head = other,
                          .vocabulary = own->rows};
    job.value = (double *)(void *)align_floats(l->rest);
    job.apart = job.value + GROUPS * rows;
    float *sums = (float *)(void *)(job.apart + GROUPS * rows);
    job.sums = slope ? sums : NULL;
    job.thread_space = align_floats(sums + GROUPS * rows * own->columns);
    job.thread_floats = thread_floats(compute->kernels, rows, own->columns, other->columns);
    return job;
}

void cr_divergence(cr_compute *compute, float *value, float *slope, cr_divergence_kind kind,
                   float temperature, const cr_divergence_side *own,
                   const cr_divergence_side *other, size_t n, float *scratch)
{
    const size_t d = own->head->columns, e = other->head->columns, most = rows_a_pass(n);
    lists l = cut_scratch(scratch, d, e, n);
    float heat = kind == CR_DIVERGENCE_SQUARE ? 1.0f : temperature;
    cool(compute, l.own, own, n, heat);
    cool(compute, l.other, other, n, heat);
    first_pass(compute, kind, &l, slope != NULL, own->head, other->head, n);
    bool mean = kind == CR_DIVERGENCE_REVERSE || kind == CR_DIVERGENCE_JENSEN_SHANNON;
    divergence_job job = job_of(compute, kind, &l, own->head, other->head, n, slope != NULL);
    for (size_t first = 0; first < n; first += most) {
        job.rows = n - first < most ? n - first : most;
        job.own.hidden = l.own + first * d;
        job.other.hidden = l.other + first * e;
        job.own_lse = l.own_lse + first;
        job.other_lse = l.other_lse + first;
        cr_parallel_for(compute->pool, GROUPS, group_task, &job);
        for (size_t row = 0; row < job.rows; row++)
            join_row(&job, row, value + first + row, slope ? slope + (first + row) * d : NULL,
                     mean ? l.expected + (first + row) * d : NULL, temperature);
    }
}

/* ---- the specification ------------------------------------------------------------------------------------ */

static double plain_weight(const cr_matrix *head, size_t v, size_t c)
{
    float weight;
    cr_dtype_expand(&weight, head->type, (const unsigned char *)head->data + v * head->row_bytes, c,
                    1);
    return (double)weight;
}

static double plain_logit(const cr_divergence_side *side, size_t row, size_t v, double temperature)
{
    const size_t d = side->head->columns;
    double sum = 0;
    for (size_t c = 0; c < d; c++)
        sum += plain_weight(side->head, v, c) * (double)side->hidden[row * d + c];
    return sum / temperature;
}

static double plain_lse(const cr_divergence_side *side, size_t row, double temperature)
{
    double maximum = -INFINITY, sum = 0;
    for (size_t v = 0; v < side->head->rows; v++)
        maximum = fmax(maximum, plain_logit(side, row, v, temperature));
    for (size_t v = 0; v < side->head->rows; v++)
        sum += exp(plain_logit(side, row, v, temperature) - maximum);
    return maximum + log(sum);
}

/* The value's share of one token and what its slope is before the mean is taken off. */
static double plain_share(cr_divergence_kind kind, double log_q, double log_p, double *pull)
{
    double q = exp(log_q), p = exp(log_p), log_m = log((p + q) / 2);
    *pull = kind == CR_DIVERGENCE_FORWARD   ? q - p
            : kind == CR_DIVERGENCE_REVERSE ? q * (log_q - log_p)
                                            : q * (log_q - log_m) / 2;
    return kind == CR_DIVERGENCE_FORWARD   ? p * (log_p - log_q)
           : kind == CR_DIVERGENCE_REVERSE ? q * (log_q - log_p)
                                           : (p * (log_p - log_m) + q * (log_q - log_m)) / 2;
}

static void plain_row(float *value, float *slope, cr_divergence_kind kind, double temperature,
                      const cr_divergence_side *own, const cr_divergence_side *other, size_t row)
{
    const size_t d = own->head->columns, vocabulary = own->head->rows;
    const bool square = kind == CR_DIVERGENCE_SQUARE, forward = kind == CR_DIVERGENCE_FORWARD;
    const double heat = square ? 1 : temperature;
    const double mine = square ? 0 : plain_lse(own, row, heat);
    const double theirs = square ? 0 : plain_lse(other, row, heat);
    double sum = 0, total_pull = 0, pull;
    for (int pass = 0; pass < 2; pass++)
        for (size_t v = 0; v < vocabulary; v++) {
            double a = plain_logit(own, row, v, heat) - mine;
            double b = plain_logit(other, row, v, heat) - theirs;
            double share =
                square ? (a - b) * (a - b) / (double)vocabulary : plain_share(kind, a, b, &pull);
            if (square)
                pull = 2 * (a - b) / (double)vocabulary;
            if (pass == 0) {
                sum += share;
                total_pull += square || forward ? 0 : pull;
                continue;
            }
            for (size_t c = 0; slope && c < d; c++)
                slope[row * d + c] +=
                    (float)((pull - exp(a) * total_pull) / heat * plain_weight(own->head, v, c));
        }
    value[row] = (float)sum;
}

void cr_divergence_plain(float *value, float *slope, cr_divergence_kind kind, float temperature,
                         const cr_divergence_side *own, const cr_divergence_side *other, size_t n)
{
    if (slope)
        memset(slope, 0, n * own->head->columns * sizeof(float));
    for (size_t row = 0; row < n; row++)
        plain_row(value, slope, kind, (double)temperature, own, other, row);
}
