/* attention.c: tiled attention; Dao et al., "FlashAttention", 2022, algorithms 1 and 4. */
#include "math/attention.h"

#include <math.h>
#include <string.h>

#define TILE 64 /* queries and keys a tile */

/* A thread's work space: two tiles of scores, packed panels, a tile of statistics. */
typedef struct tile_space {
    float *scores, *slopes; /* [TILE, TILE] */
    float *packed;          /* panels of at most max(TILE, head_size) columns and rows */
    float maximum[TILE], sum[TILE];
} tile_space;

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t packed_floats(size_t head_size)
{
    size_t side = larger(TILE, head_size) + CR_MAX_TILE_COLUMNS;
    return side * larger(TILE, head_size);
}

/* Packed panels lie on 64-byte boundaries: each thread's share is a whole number of them. */
static size_t thread_floats(size_t head_size)
{
    return (2 * TILE * TILE + packed_floats(head_size) + 15) & ~(size_t)15;
}

size_t cr_attention_scratch(const cr_compute *compute, size_t head_size)
{
    return (size_t)cr_pool_threads(compute->pool) * thread_floats(head_size);
}

static tile_space space_of(float *scratch, size_t head_size, int thread)
{
    float *own = scratch + (size_t)thread * thread_floats(head_size);
    return (tile_space){
        .scores = own, .slopes = own + TILE * TILE, .packed = own + 2 * TILE * TILE};
}

typedef struct attention_job {
    const cr_kernels *kernels;
    const cr_attention *shape;
    float *out, *lse;
    const float *q, *k, *v;
    const float *dout, *out_in, *lse_in;
    float *dq, *dk, *dv; /* dk, dv: the wide buffers */
    float *narrow_dk, *narrow_dv;
    float *scratch;
    size_t q_stride, kv_stride;               /* floats from position to position */
    const float *const *row_k, *const *row_v; /* [rows], with `past`: where a row's keys lie */
    const size_t *past;                       /* [rows], or NULL */
} attention_job;

/* One task: one head of one row. */
typedef struct head_view {
    size_t start, length;
    size_t past;                /* keys before the first query */
    const float *k, *v;         /* of the row's first key */
    size_t q_offset, kv_offset; /* of the head inside a position */
    size_t head;
} head_view;

static head_view view_of(const attention_job *job, size_t task)
{
    const cr_attention *shape = job->shape;
    size_t row = task / shape->heads, head = task % shape->heads;
    size_t group = shape->heads / shape->kv_heads;
    const size_t first = shape->starts[row] * job->kv_stride;
    return (head_view){.start = shape->starts[row],
                       .length = shape->starts[row + 1] - shape->starts[row],
                       .past = job->past ? job->past[row] : 0,
                       .k = job->past ? job->row_k[row] : job->k + first,
                       .v = job->past ? job->row_v[row] : job->v + first,
                       .q_offset = head * shape->head_size,
                       .kv_offset = head / group * shape->head_size,
                       .head = head};
}

static const float *q_at(const attention_job *job, const float *base, const head_view *view,
                         size_t i)
{
    return base + (view->start + i) * job->q_stride + view->q_offset;
}

/* Key or value j of the row; base is view->k or view->v. */
static const float *kv_at(const attention_job *job, const float *base, const head_view *view,
                          size_t j)
{
    return base + j * job->kv_stride + view->kv_offset;
}

/* scores [queries, keys] = scale · Q Kᵀ for the tile at queries i.., keys j... */
static void score_tile(const attention_job *job, const head_view *view, tile_space *space, size_t i,
                       size_t queries, size_t j, size_t keys)
{
    cr_matmul_serial(job->kernels, space->scores, TILE, queries, keys, job->shape->head_size,
                     job->shape->scale, false, cr_rows(q_at(job, job->q, view, i), job->q_stride),
                     kv_at(job, view->k, view, j), job->kv_stride, true, space->packed);
}

/* Keys of the tile that query i + row may see. */
static size_t visible(const cr_attention *shape, size_t i, size_t row, size_t j, size_t keys)
{
    if (shape->whole)
        return keys;
    return smaller(keys, i + row >= j ? i + row - j + 1 : 0);
}

/* Keys at the start of the tile that query i + row no longer sees. */
static size_t passed(const attention_job *job, size_t i, size_t row, size_t j, size_t keys)
{
    size_t window = job->shape->window;
    if (window == 0 || i + row < j + window)
        return 0;
    return smaller(keys, i + row - j - window + 1);
}

/* The first tile of keys that a query of the tile at i sees. */
static size_t first_tile(const attention_job *job, size_t i)
{
    size_t window = job->shape->window;
    return window == 0 || i < window ? 0 : (i - window + 1) / TILE * TILE;
}

static void clear_unseen(float *row, size_t first, size_t end, size_t keys)
{
    memset(row, 0, first * sizeof(float));
    memset(row + end, 0, (keys - end) * sizeof(float));
}

/* Turns scores into exp(score - running maximum) and rescales what was summed before. */
static void soften_tile(const attention_job *job, const head_view *view, tile_space *space,
                        size_t i, size_t queries, size_t j, size_t keys)
{
    size_t head_size = job->shape->head_size;
    for (size_t r = 0; r < queries; r++) {
        float *row = space->scores + r * TILE;
        size_t first = passed(job, view->past + i, r, j, keys);
        size_t end = visible(job->shape, view->past + i, r, j, keys);
        if (first >= end) {
            memset(row, 0, keys * sizeof(float));
            continue;
        }
        float maximum = fmaxf(space->maximum[r], job->kernels->max(row + first, end - first));
        float shrink = expf(space->maximum[r] - maximum);
        space->sum[r] =
            space->sum[r] * shrink + job->kernels->exp_sum(row + first, maximum, end - first);
        space->maximum[r] = maximum;
        clear_unseen(row, first, end, keys);
        if (shrink != 1.0f)
            job->kernels->scale(job->out + (view->start + i + r) * job->q_stride + view->q_offset,
                                shrink, head_size);
    }
}

static void finish_queries(const attention_job *job, const head_view *view, const tile_space *space,
                           size_t i, size_t queries)
{
    for (size_t r = 0; r < queries; r++) {
        size_t position = view->start + i + r;
        job->kernels->scale(job->out + position * job->q_stride + view->q_offset,
                            1.0f / space->sum[r], job->shape->head_size);
        job->lse[position * job->shape->heads + view->head] =
            space->maximum[r] + logf(space->sum[r]);
    }
}

static void forward_queries(const attention_job *job, const head_view *view, tile_space *space,
                            size_t i)
{
    size_t queries = smaller(TILE, view->length - i), head_size = job->shape->head_size;
    float *out = job->out + (view->start + i) * job->q_stride + view->q_offset;
    for (size_t r = 0; r < queries; r++) {
        space->maximum[r] = -INFINITY;
        space->sum[r] = 0;
        memset(out + r * job->q_stride, 0, head_size * sizeof(float));
    }
    size_t end = job->shape->whole ? view->length : view->past + i + queries;
    for (size_t j = first_tile(job, view->past + i); j < end; j += TILE) {
        size_t keys = smaller(TILE, end - j);
        score_tile(job, view, space, i, queries, j, keys);
        soften_tile(job, view, space, i, queries, j, keys);
        cr_matmul_serial(job->kernels, out, job->q_stride, queries, head_size, keys, 1.0f, true,
                         cr_rows(space->scores, TILE), kv_at(job, view->v, view, j), job->kv_stride,
                         false, space->packed);
    }
    finish_queries(job, view, space, i, queries);
}

static void forward_task(void *argument, size_t task, int thread)
{
    const attention_job *job = argument;
    head_view view = view_of(job, task);
    tile_space space = space_of(job->scratch, job->shape->head_size, thread);
    for (size_t i = 0; i < view.length; i += TILE)
        forward_queries(job, &view, &space, i);
}

static attention_job job_of(const cr_compute *compute, const cr_attention *shape, const float *q,
                            const float *k, const float *v, float *scratch)
{
    return (attention_job){.kernels = compute->kernels,
                           .shape = shape,
                           .q = q,
                           .k = k,
                           .v = v,
                           .scratch = scratch,
                           .q_stride = shape->heads * shape->head_size,
                           .kv_stride = shape->kv_heads * shape->head_size};
}

void cr_attention_forward(cr_compute *compute, float *out, float *lse, const float *q,
                          const float *k, const float *v, const cr_attention *shape, float *scratch)
{
    attention_job job = job_of(compute, shape, q, k, v, scratch);
    job.out = out;
    job.lse = lse;
    cr_parallel_for(compute->pool, shape->rows * shape->heads, forward_task, &job);
}

void cr_attention_resumed(cr_compute *compute, float *out, float *lse, const float *q,
                          const cr_attention *shape, const float *const *row_k,
                          const float *const *row_v, const size_t *past, float *scratch)
{
    attention_job job = job_of(compute, shape, q, NULL, NULL, scratch);
    job.out = out;
    job.lse = lse;
    job.row_k = row_k;
    job.row_v = row_v;
    job.past = past;
    cr_parallel_for(compute->pool, shape->rows * shape->heads, forward_task, &job);
}

/* ---- backward ------------------------------------------------------------------------------ */

/* scores become probabilities P; slopes become dS = P · (dP - Σ dout · out) · scale. */
static void slope_tile(const attention_job *job, const head_view *view, tile_space *space, size_t i,
                       size_t queries, size_t j, size_t keys)
{
    const cr_attention *shape = job->shape;
    for (size_t r = 0; r < queries; r++) {
        float *p = space->scores + r * TILE, *slope = space->slopes + r * TILE;
        size_t first = passed(job, i, r, j, keys), position = view->start + i + r;
        size_t end = larger(visible(job->shape, i, r, j, keys), first);
        job->kernels->exp_sum(p + first, job->lse_in[position * shape->heads + view->head],
                              end - first);
        clear_unseen(p, first, end, keys);
        float shared = job->kernels->dot(q_at(job, job->dout, view, i + r),
                                         q_at(job, job->out_in, view, i + r), shape->head_size);
        for (size_t c = 0; c < keys; c++)
            slope[c] = p[c] * (slope[c] - shared) * shape->scale;
    }
}

static void backward_tile(const attention_job *job, const head_view *view, tile_space *space,
                          size_t i, size_t queries, size_t j, size_t keys)
{
    const cr_kernels *kernels = job->kernels;
    size_t head_size = job->shape->head_size, stride = job->q_stride;
    size_t query = (view->start + i) * stride + view->q_offset;
    size_t key = (view->start + j) * stride + view->q_offset;
    score_tile(job, view, space, i, queries, j, keys);
    cr_matmul_serial(kernels, space->slopes, TILE, queries, keys, head_size, 1.0f, false,
                     cr_rows(job->dout + query, stride), kv_at(job, view->v, view, j),
                     job->kv_stride, true, space->packed);
    slope_tile(job, view, space, i, queries, j, keys);
    cr_matmul_serial(kernels, job->dv + key, stride, keys, head_size, queries, 1.0f, true,
                     cr_columns(space->scores, TILE), job->dout + query, stride, false,
                     space->packed);
    cr_matmul_serial(kernels, job->dk + key, stride, keys, head_size, queries, 1.0f, true,
                     cr_columns(space->slopes, TILE), job->q + query, stride, false, space->packed);
    cr_matmul_serial(kernels, job->dq + query, stride, queries, head_size, keys, 1.0f, true,
                     cr_rows(space->slopes, TILE), kv_at(job, view->k, view, j), job->kv_stride,
                     false, space->packed);
}

static void clear_head(const attention_job *job, const head_view *view)
{
    size_t bytes = job->shape->head_size * sizeof(float);
    for (size_t i = 0; i < view->length; i++) {
        size_t at = (view->start + i) * job->q_stride + view->q_offset;
        memset(job->dq + at, 0, bytes);
        memset(job->dk + at, 0, bytes);
        memset(job->dv + at, 0, bytes);
    }
}

static void backward_task(void *argument, size_t task, int thread)
{
    const attention_job *job = argument;
    head_view view = view_of(job, task);
    tile_space space = space_of(job->scratch, job->shape->head_size, thread);
    clear_head(job, &view);
    for (size_t i = 0; i < view.length; i += TILE) {
        size_t queries = smaller(TILE, view.length - i);
        for (size_t j = first_tile(job, i); j < i + queries; j += TILE)
            backward_tile(job, &view, &space, i, queries, j, smaller(TILE, i + queries - j));
    }
}

/* Joins the query heads of each group, in their order. */
static void join_task(void *argument, size_t position, int thread)
{
    (void)thread;
    const attention_job *job = argument;
    const cr_attention *shape = job->shape;
    size_t group = shape->heads / shape->kv_heads, size = shape->head_size;
    for (size_t kv = 0; kv < shape->kv_heads; kv++) {
        float *dk = job->narrow_dk + position * job->kv_stride + kv * size;
        float *dv = job->narrow_dv + position * job->kv_stride + kv * size;
        const float *wide_dk = job->dk + position * job->q_stride + kv * group * size;
        const float *wide_dv = job->dv + position * job->q_stride + kv * group * size;
        memcpy(dk, wide_dk, size * sizeof(float));
        memcpy(dv, wide_dv, size * sizeof(float));
        for (size_t h = 1; h < group; h++) {
            job->kernels->axpy(dk, 1.0f, wide_dk + h * size, size);
            job->kernels->axpy(dv, 1.0f, wide_dv + h * size, size);
        }
    }
}

void cr_attention_backward(cr_compute *compute, float *dq, float *dk, float *dv, const float *dout,
                           const float *out, const float *lse, const float *q, const float *k,
                           const float *v, const cr_attention *shape, float *wide_dk,
                           float *wide_dv, float *scratch)
{
    attention_job job = job_of(compute, shape, q, k, v, scratch);
    job.dout = dout;
    job.out_in = out;
    job.lse_in = lse;
    job.dq = dq;
    job.dk = wide_dk;
    job.dv = wide_dv;
    job.narrow_dk = dk;
    job.narrow_dv = dv;
    cr_parallel_for(compute->pool, shape->rows * shape->heads, backward_task, &job);
    cr_parallel_for(compute->pool, shape->n, join_task, &job);
}

/* ---- after kept keys ------------------------------------------------------------------------- */

typedef struct cached_job {
    const cr_kernels *kernels;
    const cr_attention *shape;
    float *out, *scores;
    const float *q, *k, *v;
    const float *const *past_k, *const *past_v;
    const size_t *past;
    size_t longest;
} cached_job;

/* scores[0..count) = scale · q · keys. */
static void score_keys(const cached_job *job, float *scores, const float *q, const float *keys,
                       size_t count)
{
    size_t stride = job->shape->kv_heads * job->shape->head_size, size = job->shape->head_size;
    size_t j = 0;
    for (; j + 4 <= count; j += 4)
        job->kernels->dot4(scores + j, q, keys + j * stride, stride, size);
    for (; j < count; j++) {
        float four[4];
        /* The same sums as above, so that a key's score does not depend on its place. */
        job->kernels->dot4(four, q, keys + j * stride, 0, size);
        scores[j] = four[0];
    }
    job->kernels->scale(scores, job->shape->scale, count);
}

static void add_values(const cached_job *job, float *out, const float *scores, const float *values,
                       size_t count)
{
    size_t stride = job->shape->kv_heads * job->shape->head_size;
    for (size_t j = 0; j < count; j++)
        job->kernels->axpy(out, scores[j], values + j * stride, job->shape->head_size);
}

static void cached_query(const cached_job *job, float *scores, size_t row, size_t position,
                         size_t head)
{
    const cr_attention *shape = job->shape;
    size_t size = shape->head_size, start = shape->starts[row], past = job->past[row];
    size_t kv = head / (shape->heads / shape->kv_heads) * size;
    size_t own = position - start + 1, stride = shape->kv_heads * size;
    size_t keys = past + own;
    size_t first = shape->window && shape->window < keys ? keys - shape->window : 0;
    size_t kept = first < past ? past - first : 0, skipped = first > past ? first - past : 0;
    const float *own_k = job->k + (start + skipped) * stride + kv;
    const float *own_v = job->v + (start + skipped) * stride + kv;
    const float *q = job->q + (position * shape->heads + head) * size;
    float *out = job->out + (position * shape->heads + head) * size;
    if (kept > 0)
        score_keys(job, scores, q, job->past_k[row] + first * stride + kv, kept);
    score_keys(job, scores + kept, q, own_k, own - skipped);
    size_t seen = keys - first;
    float sum = job->kernels->exp_sum(scores, job->kernels->max(scores, seen), seen);
    memset(out, 0, size * sizeof(float));
    if (kept > 0)
        add_values(job, out, scores, job->past_v[row] + first * stride + kv, kept);
    add_values(job, out, scores + kept, own_v, own - skipped);
    job->kernels->scale(out, 1.0f / sum, size);
}

static void cached_task(void *argument, size_t task, int thread)
{
    const cached_job *job = argument;
    size_t row = task / job->shape->heads, head = task % job->shape->heads;
    float *scores = job->scores + (size_t)thread * job->longest;
    for (size_t i = job->shape->starts[row]; i < job->shape->starts[row + 1]; i++)
        cached_query(job, scores, row, i, head);
}

void cr_attention_cached(cr_compute *compute, float *out, const float *q, const float *k,
                         const float *v, const cr_attention *shape, const float *const *past_k,
                         const float *const *past_v, const size_t *past, float *scores,
                         size_t longest)
{
    cached_job job = {compute->kernels, shape, out, scores, q, k, v, past_k, past_v, past, longest};
    cr_parallel_for(compute->pool, shape->rows * shape->heads, cached_task, &job);
}

/* ---- the specification ------------------------------------------------------------------------ */

static double plain_score(const float *q, const float *k, size_t size, float scale)
{
    double sum = 0;
    for (size_t c = 0; c < size; c++)
        sum += (double)q[c] * (double)k[c];
    return sum * (double)scale;
}

static void plain_query(float *out, float *lse, const float *q, const float *k, const float *v,
                        size_t stride, size_t keys, size_t size, float scale)
{
    double maximum = -INFINITY, sum = 0;
    for (size_t j = 0; j < keys; j++)
        maximum = fmax(maximum, plain_score(q, k + j * stride, size, scale));
    for (size_t j = 0; j < keys; j++)
        sum += exp(plain_score(q, k + j * stride, size, scale) - maximum);
    *lse = (float)(maximum + log(sum));
    for (size_t c = 0; c < size; c++) {
        double total = 0;
        for (size_t j = 0; j < keys; j++)
            total += exp(plain_score(q, k + j * stride, size, scale) - maximum) / sum *
                     (double)v[j * stride + c];
        out[c] = (float)total;
    }
}

void cr_attention_plain(float *out, float *lse, const float *q, const float *k, const float *v,
                        const cr_attention *shape)
{
    size_t size = shape->head_size, stride = shape->kv_heads * size;
    for (size_t row = 0; row < shape->rows; row++)
        for (size_t i = shape->starts[row]; i < shape->starts[row + 1]; i++)
            for (size_t h = 0; h < shape->heads; h++) {
                size_t kv = h / (shape->heads / shape->kv_heads) * size;
                size_t end = shape->whole ? shape->starts[row + 1] : i + 1;
                size_t keys = end - shape->starts[row], at = i * shape->heads + h;
                keys = shape->window ? smaller(keys, shape->window) : keys;
                size_t first = (end - keys) * stride + kv;
                plain_query(out + at * size, lse + at, q + at * size, k + first, v + first, stride,
                            keys, size, shape->scale);
            }
}
