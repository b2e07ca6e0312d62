/* cached.c: forward with kept keys and values (Shazeer, "Fast Transformer Decoding", 2019). */
#include "model/cached.h"

#include <string.h>

#include "math/activation.h"
#include "math/attention.h"
#include "math/norm.h"

int cr_cache_create(cr_cache *out, const cr_model *model, size_t slots, size_t length)
{
    *out = (cr_cache){0};
    return cr_cache_fit(out, model, slots, length);
}

int cr_cache_fit(cr_cache *cache, const cr_model *model, size_t slots, size_t length)
{
    const cr_config *config = &model->config;
    size_t bytes;
    cache->slots = slots;
    cache->length = length;
    cache->layer_floats = length * config->kv_heads * config->head_size;
    cache->slot_floats = 2 * config->layers * cache->layer_floats;
    if (!cr_size_mul(&bytes, slots, cache->slot_floats) ||
        !cr_size_mul(&bytes, bytes, sizeof(float)))
        return cr_fail(CR_ENOMEM, "a cache of %zu rows of %zu positions is too large", slots,
                       length);
    if (bytes <= cache->bytes)
        return CR_OK;
    cr_free(cache->block);
    cache->block = cr_alloc(bytes);
    cache->bytes = cache->block ? bytes : 0;
    return cache->block ? CR_OK : CR_ENOMEM;
}

uint64_t cr_cache_slot_bytes(const cr_model *model, size_t length)
{
    const cr_config *config = &model->config;
    return (uint64_t)2 * config->layers * length * config->kv_heads * config->head_size *
           sizeof(float);
}

void cr_cache_copy(cr_cache *cache, size_t to, size_t from, size_t positions)
{
    size_t bytes = cache->layer_floats / cache->length * positions * sizeof(float);
    for (size_t at = 0; at < cache->slot_floats; at += cache->layer_floats)
        memcpy(cache->block + to * cache->slot_floats + at,
               cache->block + from * cache->slot_floats + at, bytes);
}

void cr_cache_free(cr_cache *cache)
{
    cr_free(cache->block);
    *cache = (cr_cache){0};
}

static float *keys_of(const cr_cache *cache, size_t slot, size_t layer)
{
    return cache->block + slot * cache->slot_floats + layer * 2 * cache->layer_floats;
}

static float *values_of(const cr_cache *cache, size_t slot, size_t layer)
{
    return keys_of(cache, slot, layer) + cache->layer_floats;
}

typedef struct buffers {
    int32_t *positions;
    size_t *starts, *past;
    const float **past_k, **past_v;
    size_t n, longest;
    float *x, *normed, *inverse, *q, *k, *v, *attended, *gate, *up, *wide, *lse;
    float *turns, *local_turns;
    float *low, *scratch;
} buffers;

static int take_buffers(buffers *b, const cr_cached_pass *pass, cr_arena *arena)
{
    const cr_config *config = &pass->model->config;
    const size_t q = config->heads * config->head_size, kv = config->kv_heads * config->head_size;
    const size_t n = b->n, d = config->width, f = config->ffn_width;
    const size_t scores = (size_t)cr_pool_threads(pass->compute->pool) * b->longest;
    const size_t flash = cr_attention_scratch(pass->compute, config->head_size);
    cr_taker from = {arena, false};
    b->positions = cr_take(&from, n, sizeof *b->positions);
    b->starts = cr_take(&from, pass->count + 1, sizeof *b->starts);
    b->past = cr_take(&from, pass->count, sizeof *b->past);
    b->past_k = cr_take(&from, pass->count, sizeof *b->past_k);
    b->past_v = cr_take(&from, pass->count, sizeof *b->past_v);
    b->x = cr_take_floats(&from, n, d);
    b->normed = cr_take_floats(&from, n, d);
    b->inverse = cr_take_floats(&from, n, config->heads);
    b->q = cr_take_floats(&from, n, q);
    b->k = cr_take_floats(&from, n, kv);
    b->v = cr_take_floats(&from, n, kv);
    b->attended = cr_take_floats(&from, n, q);
    b->gate = cr_take_floats(&from, n, f);
    b->up = cr_take_floats(&from, n, f);
    b->wide = cr_take_floats(&from, n, f);
    b->turns = cr_take_floats(&from, n, config->head_size);
    b->local_turns = config->window ? cr_take_floats(&from, n, config->head_size) : NULL;
    b->lse = cr_take_floats(&from, n, config->heads);
    b->low = cr_take_floats(&from, n, pass->rank + 1);
    b->scratch = cr_take_floats(&from, flash > scores ? flash : scores, 1);
    return from.failed ? CR_ENOMEM : CR_OK;
}

static int reserve_buffers(buffers *b, const cr_cached_pass *pass, cr_arena *arena)
{
    cr_arena plan = {.planning = true};
    CR_TRY(take_buffers(b, pass, &plan));
    CR_TRY(cr_arena_reserve(arena, plan.used));
    cr_arena_reset(arena);
    return take_buffers(b, pass, arena);
}

static void measure(buffers *b, const cr_cached_pass *pass)
{
    for (size_t r = 0; r < pass->count; r++) {
        const cr_cached_row *row = &pass->rows[r];
        b->n += row->count;
        if (row->past + row->count > b->longest)
            b->longest = row->past + row->count;
    }
}

static void embed(const cr_cached_pass *pass, const buffers *b)
{
    const cr_matrix *embedding = &pass->model->embedding;
    size_t at = 0;
    for (size_t r = 0; r < pass->count; r++) {
        const cr_cached_row *row = &pass->rows[r];
        b->starts[r] = at;
        b->past[r] = row->past;
        for (size_t i = 0; i < row->count; i++, at++) {
            b->positions[at] = (int32_t)(row->past + i);
            cr_model_embed(pass->model, b->x + at * embedding->columns, row->tokens[i]);
        }
    }
    b->starts[pass->count] = at;
    cr_rope_turns(b->turns, &pass->model->rope, b->positions, b->n);
    if (b->local_turns)
        cr_rope_turns(b->local_turns, &pass->model->local_rope, b->positions, b->n);
}

static cr_linear linear_of(const cr_cached_pass *pass, const buffers *b, size_t layer, int p)
{
    const cr_layer *weights = &pass->model->layers[layer];
    return (cr_linear){
        .weight = &weights->projection[p],
        .bias = weights->bias[p],
        .branch = pass->branches ? &pass->branches[layer * CR_PROJECTIONS + (size_t)p] : NULL,
        .n = b->n,
        .low = b->low};
}

static void project(const cr_cached_pass *pass, const buffers *b, size_t layer, int p, float *y,
                    const float *x)
{
    cr_linear linear = linear_of(pass, b, layer, p);
    if (pass->few)
        cr_linear_few(pass->compute, y, x, &linear);
    else
        cr_linear_forward(pass->compute, y, false, x, &linear);
}

typedef struct commit_job {
    const cr_cached_pass *pass;
    const buffers *b;
    size_t layer;
} commit_job;

static void commit_row(void *argument, size_t r, int thread)
{
    (void)thread;
    const commit_job *job = argument;
    const cr_config *config = &job->pass->model->config;
    const cr_cached_row *row = &job->pass->rows[r];
    const size_t kv = config->kv_heads * config->head_size, from = job->b->starts[r] * kv;
    if (!row->commit)
        return;
    size_t bytes = row->count * kv * sizeof(float);
    float *keys = keys_of(job->pass->cache, row->slot, job->layer);
    float *values = values_of(job->pass->cache, row->slot, job->layer);
    memcpy(keys + row->past * kv, job->b->k + from, bytes);
    memcpy(values + row->past * kv, job->b->v + from, bytes);
}

/* In decoding a row is one position: not worth waking threads for. */
static void commit_keys(const cr_cached_pass *pass, const buffers *b, size_t layer)
{
    commit_job job = {pass, b, layer};
    if (!pass->few) {
        cr_parallel_for(pass->compute->pool, pass->count, commit_row, &job);
        return;
    }
    for (size_t r = 0; r < pass->count; r++)
        commit_row(&job, r, 0);
}

/* New positions that all stay: their keys are in the slots before they are looked at. */
static bool all_commit(const cr_cached_pass *pass)
{
    for (size_t r = 0; r < pass->count; r++)
        if (!pass->rows[r].commit)
            return false;
    return true;
}

static void attend(const cr_cached_pass *pass, const buffers *b, size_t layer)
{
    const cr_config *config = &pass->model->config;
    cr_attention shape = {.heads = config->heads,
                          .kv_heads = config->kv_heads,
                          .head_size = config->head_size,
                          .scale = config->attention_scale,
                          .window = pass->model->layers[layer].local ? config->window : 0,
                          .starts = b->starts,
                          .rows = pass->count,
                          .n = b->n};
    for (size_t r = 0; r < pass->count; r++) {
        b->past_k[r] = keys_of(pass->cache, pass->rows[r].slot, layer);
        b->past_v[r] = values_of(pass->cache, pass->rows[r].slot, layer);
    }
    if (!pass->few && all_commit(pass)) {
        cr_attention_resumed(pass->compute, b->attended, b->lse, b->q, &shape, b->past_k, b->past_v,
                             b->past, b->scratch);
        return;
    }
    cr_attention_cached(pass->compute, b->attended, b->q, b->k, b->v, &shape, b->past_k, b->past_v,
                        b->past, b->scratch, b->longest);
}

/* Norms (where the family has them) and turns the heads of q or k. */
static void place_heads(const cr_cached_pass *pass, const buffers *b, const cr_layer *layer,
                        float *x, const float *norm, size_t heads)
{
    const cr_model *model = pass->model;
    const size_t size = model->config.head_size;
    const cr_rope *rope = layer->local ? &model->local_rope : &model->rope;
    if (norm)
        cr_rmsnorm_forward(pass->compute, x, b->inverse, x, norm, b->n * heads, size,
                           model->config.norm_epsilon);
    cr_rope_apply(pass->compute, x, heads * size, layer->local ? b->local_turns : b->turns, rope,
                  b->n, heads, false);
}

/* x += the projection of y, normed before where the family norms what it adds. */
static void add_projected(const cr_cached_pass *pass, const buffers *b, size_t layer, int p,
                          const float *y, const float *norm)
{
    const cr_config *config = &pass->model->config;
    if (!norm && !pass->few) {
        cr_linear linear = linear_of(pass, b, layer, p);
        linear.product = b->normed; /* free by now, and as wide */
        cr_linear_forward(pass->compute, b->x, true, y, &linear);
        return;
    }
    project(pass, b, layer, p, b->normed, y);
    if (norm)
        cr_rmsnorm_forward(pass->compute, b->normed, b->inverse, b->normed, norm, b->n,
                           config->width, config->norm_epsilon);
    pass->compute->kernels->axpy(b->x, 1.0f, b->normed, b->n * config->width);
}

static void run_layer(const cr_cached_pass *pass, const buffers *b, size_t l)
{
    const cr_config *config = &pass->model->config;
    const cr_layer *layer = &pass->model->layers[l];
    const size_t n = b->n, d = config->width;
    cr_rmsnorm_forward(pass->compute, b->normed, b->inverse, b->x, layer->attention_norm, n, d,
                       config->norm_epsilon);
    project(pass, b, l, CR_PROJECTION_q, b->q, b->normed);
    project(pass, b, l, CR_PROJECTION_k, b->k, b->normed);
    project(pass, b, l, CR_PROJECTION_v, b->v, b->normed);
    place_heads(pass, b, layer, b->q, layer->q_norm, config->heads);
    place_heads(pass, b, layer, b->k, layer->k_norm, config->kv_heads);
    commit_keys(pass, b, l);
    attend(pass, b, l);
    add_projected(pass, b, l, CR_PROJECTION_o, b->attended, layer->attention_post_norm);
    cr_rmsnorm_forward(pass->compute, b->normed, b->inverse, b->x, layer->ffn_norm, n, d,
                       config->norm_epsilon);
    project(pass, b, l, CR_PROJECTION_gate, b->gate, b->normed);
    project(pass, b, l, CR_PROJECTION_up, b->up, b->normed);
    cr_glu_forward(pass->compute, cr_model_gate(pass->model), b->wide, b->gate, b->up, n,
                   config->ffn_width);
    add_projected(pass, b, l, CR_PROJECTION_down, b->wide, layer->ffn_post_norm);
}

int cr_cached_forward(const cr_cached_pass *pass, cr_arena *arena, float **hidden)
{
    buffers b = {0};
    measure(&b, pass);
    CR_TRY(reserve_buffers(&b, pass, arena));
    embed(pass, &b);
    for (size_t l = 0; l < pass->model->config.layers; l++) {
        if (pass->cancelled && *pass->cancelled)
            return cr_fail(CR_ECANCELLED, "cancelled before layer %zu of %zu", l + 1,
                           pass->model->config.layers);
        run_layer(pass, &b, l);
    }
    *hidden = b.x;
    return CR_OK;
}
