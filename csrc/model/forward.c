/* forward.c: the layers, forward; buffers of a pass. */
#include "model/forward.h"

#include <string.h>

#include "math/activation.h"
#include "math/norm.h"

/* ---- buffers ---------------------------------------------------------------------------------- */

static void take_head_norms(cr_layer_kept *kept, const cr_config *config, size_t n, cr_taker *from)
{
    kept->raw_q = cr_take_floats(from, n, config->heads * config->head_size);
    kept->raw_k = cr_take_floats(from, n, config->kv_heads * config->head_size);
    kept->inverse_q = cr_take_floats(from, n, config->heads);
    kept->inverse_k = cr_take_floats(from, n, config->kv_heads);
}

static void take_post_norms(cr_layer_kept *kept, const cr_config *config, size_t n, cr_taker *from)
{
    kept->o = cr_take_floats(from, n, config->width);
    kept->down = cr_take_floats(from, n, config->width);
    kept->inverse_o = cr_take_floats(from, n, 1);
    kept->inverse_down = cr_take_floats(from, n, 1);
}

static bool keeps_every_layer(const cr_pass *pass)
{
    return pass->train && !pass->recompute;
}

/* Values of a position in the branch's space of a projection: of one layer or, where all layers share what is
 * kept, of the widest; 0 = no branch. */
static size_t low_width(const cr_pass *pass, size_t layer, int p)
{
    size_t widest = 0;
    for (size_t l = 0; pass->branches && l < pass->model->config.layers; l++) {
        const cr_branch *branch = &pass->branches[l * CR_PROJECTIONS + (size_t)p];
        if (branch->a && branch->rank > widest && (l == layer || !keeps_every_layer(pass)))
            widest = branch->rank;
    }
    return widest;
}

static bool has_gain(const cr_pass *pass, int p)
{
    return pass->branches && pass->branches[p].gain;
}

/* The widest output of DoRA's projections; 0 = there are none. */
static size_t widest_gain(const cr_pass *pass)
{
    size_t widest = 0;
    for (int p = 0; p < CR_PROJECTIONS; p++)
        if (has_gain(pass, p) && pass->model->layers[0].projection[p].rows > widest)
            widest = pass->model->layers[0].projection[p].rows;
    return widest;
}

/* Backward wants each product; without it they take turns in one place. */
static void take_products(cr_layer_kept *kept, const cr_pass *pass, cr_taker *from)
{
    const size_t n = pass->batch.n, widest = widest_gain(pass);
    float *shared = !pass->train && widest ? cr_take_floats(from, n, widest) : NULL;
    for (int p = 0; p < CR_PROJECTIONS; p++)
        if (has_gain(pass, p))
            kept->product[p] =
                shared ? shared
                       : cr_take_floats(from, n, pass->model->layers[0].projection[p].rows);
}

static void take_kept(cr_layer_kept *kept, const cr_pass *pass, size_t layer, cr_taker *from)
{
    const cr_config *config = &pass->model->config;
    const size_t n = pass->batch.n, q = config->heads * config->head_size;
    const size_t kv = config->kv_heads * config->head_size;
    kept->inverse1 = cr_take_floats(from, n, 1);
    kept->inverse2 = cr_take_floats(from, n, 1);
    kept->q = cr_take_floats(from, n, q);
    kept->k = cr_take_floats(from, n, kv);
    kept->v = cr_take_floats(from, n, kv);
    kept->attended = cr_take_floats(from, n, q);
    kept->lse = cr_take_floats(from, n, config->heads);
    kept->middle = cr_take_floats(from, n, config->width);
    kept->gate = cr_take_floats(from, n, config->ffn_width);
    kept->up = cr_take_floats(from, n, config->ffn_width);
    for (int p = 0; p < CR_PROJECTIONS; p++)
        if (low_width(pass, layer, p) > 0)
            kept->low[p] = cr_take_floats(from, n, low_width(pass, layer, p));
    take_products(kept, pass, from);
    if (config->family->head_norms)
        take_head_norms(kept, config, n, from);
    if (config->family->post_norms)
        take_post_norms(kept, config, n, from);
}

static cr_layer_kept *kept_of(const cr_pass *pass, size_t layer)
{
    return &pass->kept[keeps_every_layer(pass) ? layer : 0];
}

/* Training keeps every layer's input; otherwise two buffers take turns. */
static void take_inputs(cr_pass *pass, cr_taker *from)
{
    const size_t layers = pass->model->config.layers, d = pass->model->config.width;
    pass->inputs = cr_take(from, layers + 1, sizeof *pass->inputs);
    float *turn[2] = {NULL, NULL};
    for (size_t l = 0; l <= layers && !from->failed; l++) {
        float *buffer = pass->train || l < 2 ? cr_take_floats(from, pass->batch.n, d) : turn[l % 2];
        turn[l % 2] = buffer;
        if (!from->arena->planning)
            pass->inputs[l] = buffer;
    }
}

static void take_all_kept(cr_pass *pass, cr_taker *from)
{
    const size_t count = keeps_every_layer(pass) ? pass->model->config.layers : 1;
    cr_layer_kept unused = {0};
    pass->kept = cr_take(from, count, sizeof *pass->kept);
    for (size_t l = 0; l < count && !from->failed; l++) {
        cr_layer_kept *kept = from->arena->planning ? &unused : &pass->kept[l];
        *kept = (cr_layer_kept){0};
        take_kept(kept, pass, l, from);
    }
}

static void take_work(cr_pass *pass, cr_taker *from)
{
    const cr_config *config = &pass->model->config;
    const size_t n = pass->batch.n, d = config->width, f = config->ffn_width;
    pass->turns = cr_take_floats(from, n, config->head_size);
    pass->local_turns = config->window ? cr_take_floats(from, n, config->head_size) : NULL;
    pass->normed = cr_take_floats(from, n, d);
    pass->wide = cr_take_floats(from, n, f);
    pass->scratch = cr_take_floats(from, cr_attention_scratch(pass->compute, config->head_size), 1);
    if (pass->branches) {
        pass->dropped = cr_take_floats(from, n, cr_model_longest_row(pass->model));
        pass->dlow = cr_take_floats(from, n, pass->rank);
    }
}

static void take_gradients(cr_pass *pass, cr_taker *from)
{
    const cr_config *config = &pass->model->config;
    const size_t n = pass->batch.n, d = config->width, f = config->ffn_width;
    const size_t q = config->heads * config->head_size, kv = config->kv_heads * config->head_size;
    pass->dx = cr_take_floats(from, n, d);
    pass->dnormed = cr_take_floats(from, n, d);
    pass->dwide = cr_take_floats(from, n, f);
    pass->dgate = cr_take_floats(from, n, f);
    pass->dup = cr_take_floats(from, n, f);
    pass->dq = cr_take_floats(from, n, q);
    pass->dk = cr_take_floats(from, n, kv);
    pass->dv = cr_take_floats(from, n, kv);
    pass->dattended = cr_take_floats(from, n, q);
    pass->wide_dk = cr_take_floats(from, n, q);
    pass->wide_dv = cr_take_floats(from, n, q);
    pass->scaled = widest_gain(pass) ? cr_take_floats(from, n, widest_gain(pass)) : NULL;
}

int cr_pass_prepare(cr_pass *pass, cr_arena *arena)
{
    cr_taker from = {arena, false};
    size_t before = cr_arena_mark(arena);
    take_inputs(pass, &from);
    take_all_kept(pass, &from);
    pass->kept_bytes = cr_arena_mark(arena) - before;
    take_work(pass, &from);
    if (pass->train)
        take_gradients(pass, &from);
    return from.failed ? CR_ENOMEM : CR_OK;
}

/* ---- layers -------------------------------------------------------------------------------------- */

static cr_linear linear_of(const cr_pass *pass, size_t layer, int p, const cr_layer_kept *kept)
{
    const cr_branch *branch =
        pass->branches ? &pass->branches[layer * CR_PROJECTIONS + (size_t)p] : NULL;
    return (cr_linear){.weight = &pass->model->layers[layer].projection[p],
                       .branch = branch,
                       .bias = pass->model->layers[layer].bias[p],
                       .dropout = {pass->train ? pass->batch.dropout : 0, pass->batch.dropout_keys},
                       .site = layer * CR_PROJECTIONS + (uint64_t)p,
                       .n = pass->batch.n,
                       .low = kept->low[p],
                       .dropped = pass->dropped,
                       .dlow = pass->dlow,
                       .product = kept->product[p],
                       .scaled = pass->scaled};
}

static void project(cr_pass *pass, size_t layer, int p, float *y, bool accumulate, const float *x,
                    const cr_layer_kept *kept)
{
    cr_linear linear = linear_of(pass, layer, p, kept);
    cr_linear_forward(pass->compute, y, accumulate, x, &linear);
}

static cr_attention attention_of(const cr_pass *pass, size_t layer)
{
    const cr_config *config = &pass->model->config;
    return (cr_attention){.heads = config->heads,
                          .kv_heads = config->kv_heads,
                          .head_size = config->head_size,
                          .scale = config->attention_scale,
                          .window = pass->model->layers[layer].local ? config->window : 0,
                          .starts = pass->batch.starts,
                          .rows = pass->batch.rows,
                          .n = pass->batch.n};
}

/* Turns the heads of x [n, heads · size] by their positions, or back. */
static void turn(cr_pass *pass, size_t layer, float *x, size_t heads, bool backward)
{
    const cr_model *model = pass->model;
    bool local = model->layers[layer].local;
    cr_rope_apply(pass->compute, x, heads * model->config.head_size,
                  local ? pass->local_turns : pass->turns,
                  local ? &model->local_rope : &model->rope, pass->batch.n, heads, backward);
}

/* Projects `normed` to q or k: y after the norm of its heads (with `raw` and `inverse`, where
 * the family has it) and the turn. */
static void project_heads(cr_pass *pass, size_t layer, int p, float *y, float *raw, float *inverse,
                          const float *norm, size_t heads, const cr_layer_kept *kept)
{
    const cr_config *config = &pass->model->config;
    project(pass, layer, p, norm ? raw : y, false, pass->normed, kept);
    if (norm)
        cr_rmsnorm_forward(pass->compute, y, inverse, raw, norm, pass->batch.n * heads,
                           config->head_size, config->norm_epsilon);
    turn(pass, layer, y, heads, false);
}

/* y = x + the projection of `input`, normed before it is added where the family does so. */
static void project_and_add(cr_pass *pass, size_t layer, int p, float *y, const float *x,
                            const float *input, float *raw, float *inverse, const float *norm,
                            const cr_layer_kept *kept)
{
    const cr_config *config = &pass->model->config;
    const size_t n = pass->batch.n, d = config->width;
    if (!norm) {
        memcpy(y, x, n * d * sizeof(float));
        project(pass, layer, p, y, true, input, kept);
        return;
    }
    project(pass, layer, p, raw, false, input, kept);
    cr_rmsnorm_forward(pass->compute, y, inverse, raw, norm, n, d, config->norm_epsilon);
    pass->compute->kernels->axpy(y, 1.0f, x, n * d);
}

static void attention_forward(cr_pass *pass, size_t layer, const float *x, cr_layer_kept *kept)
{
    const cr_config *config = &pass->model->config;
    const cr_layer *weights = &pass->model->layers[layer];
    cr_attention shape = attention_of(pass, layer);
    cr_rmsnorm_forward(pass->compute, pass->normed, kept->inverse1, x, weights->attention_norm,
                       pass->batch.n, config->width, config->norm_epsilon);
    project_heads(pass, layer, CR_PROJECTION_q, kept->q, kept->raw_q, kept->inverse_q,
                  weights->q_norm, config->heads, kept);
    project_heads(pass, layer, CR_PROJECTION_k, kept->k, kept->raw_k, kept->inverse_k,
                  weights->k_norm, config->kv_heads, kept);
    project(pass, layer, CR_PROJECTION_v, kept->v, false, pass->normed, kept);
    cr_attention_forward(pass->compute, kept->attended, kept->lse, kept->q, kept->k, kept->v,
                         &shape, pass->scratch);
    project_and_add(pass, layer, CR_PROJECTION_o, kept->middle, x, kept->attended, kept->o,
                    kept->inverse_o, weights->attention_post_norm, kept);
}

static void ffn_forward(cr_pass *pass, size_t layer, float *y, cr_layer_kept *kept)
{
    const cr_model *model = pass->model;
    const cr_layer *weights = &model->layers[layer];
    const size_t n = pass->batch.n, d = model->config.width;
    cr_rmsnorm_forward(pass->compute, pass->normed, kept->inverse2, kept->middle,
                       weights->ffn_norm, n, d, model->config.norm_epsilon);
    project(pass, layer, CR_PROJECTION_gate, kept->gate, false, pass->normed, kept);
    project(pass, layer, CR_PROJECTION_up, kept->up, false, pass->normed, kept);
    cr_glu_forward(pass->compute, cr_model_gate(model), pass->wide, kept->gate, kept->up, n,
                   model->config.ffn_width);
    project_and_add(pass, layer, CR_PROJECTION_down, y, kept->middle, pass->wide, kept->down,
                    kept->inverse_down, weights->ffn_post_norm, kept);
}

static void embed(cr_pass *pass)
{
    for (size_t i = 0; i < pass->batch.n; i++)
        cr_model_embed(pass->model, pass->inputs[0] + i * pass->model->config.width,
                       pass->batch.tokens[i]);
}

static void prepare_turns(cr_pass *pass)
{
    const cr_rows_batch *batch = &pass->batch;
    cr_rope_turns(pass->turns, &pass->model->rope, batch->positions, batch->n);
    if (pass->local_turns)
        cr_rope_turns(pass->local_turns, &pass->model->local_rope, batch->positions, batch->n);
}

static int check_cancelled(const cr_pass *pass, size_t layer, const char *where)
{
    if (pass->cancelled && *pass->cancelled)
        return cr_fail(CR_ECANCELLED, "cancelled %s layer %zu of %zu", where, layer + 1,
                       pass->model->config.layers);
    return CR_OK;
}

int cr_pass_forward(cr_pass *pass)
{
    prepare_turns(pass);
    embed(pass);
    for (size_t l = 0; l < pass->model->config.layers; l++) {
        CR_TRY(check_cancelled(pass, l, "before"));
        attention_forward(pass, l, pass->inputs[l], kept_of(pass, l));
        ffn_forward(pass, l, pass->inputs[l + 1], kept_of(pass, l));
    }
    return CR_OK;
}

/* ---- backward: the same calls, reversed -------------------------------------------------------------- */

static void project_backward(cr_pass *pass, size_t layer, int p, float *dx, bool accumulate,
                             const float *dy, const float *x, const cr_layer_kept *kept)
{
    cr_linear linear = linear_of(pass, layer, p, kept);
    cr_linear_backward(pass->compute, dx, accumulate, dy, x, &linear);
}

static bool has_branch(const cr_pass *pass, size_t layer, int p)
{
    return pass->branches[layer * CR_PROJECTIONS + (size_t)p].a != NULL;
}

static bool trains_attention_input(const cr_pass *pass, size_t layer)
{
    return has_branch(pass, layer, CR_PROJECTION_q) || has_branch(pass, layer, CR_PROJECTION_k) ||
           has_branch(pass, layer, CR_PROJECTION_v);
}

/* Through the norm before an addition: dL/d(raw) given dx, in `dnormed`; without a norm dx itself. */
static const float *added_backward(cr_pass *pass, const float *raw, const float *inverse,
                                   const float *norm)
{
    const size_t n = pass->batch.n, d = pass->model->config.width;
    if (!norm)
        return pass->dx;
    memset(pass->dnormed, 0, n * d * sizeof(float));
    cr_rmsnorm_backward(pass->compute, pass->dnormed, pass->dx, inverse, raw, norm, n, d);
    return pass->dnormed;
}

/* Through the turn and the norm of the heads: dL/d(raw) given dy, in `space` where there is a norm. */
static const float *heads_backward(cr_pass *pass, size_t layer, float *dy, const float *raw,
                                   const float *inverse, const float *norm, size_t heads,
                                   float *space)
{
    const size_t size = pass->model->config.head_size, rows = pass->batch.n * heads;
    turn(pass, layer, dy, heads, true);
    if (!norm)
        return dy;
    memset(space, 0, rows * size * sizeof(float));
    cr_rmsnorm_backward(pass->compute, space, dy, inverse, raw, norm, rows, size);
    return space;
}

/* dx becomes the gradient of `middle`; without `below`, only branches are reached. */
static void ffn_backward(cr_pass *pass, size_t layer, const cr_layer_kept *kept, bool below)
{
    const cr_model *model = pass->model;
    const cr_layer *weights = &model->layers[layer];
    const size_t n = pass->batch.n, d = model->config.width, f = model->config.ffn_width;
    const cr_gate gate = cr_model_gate(model);
    bool inner = below || has_branch(pass, layer, CR_PROJECTION_gate) ||
                 has_branch(pass, layer, CR_PROJECTION_up);
    if (has_branch(pass, layer, CR_PROJECTION_down))
        cr_glu_forward(pass->compute, gate, pass->wide, kept->gate, kept->up, n, f);
    const float *dy =
        added_backward(pass, kept->down, kept->inverse_down, weights->ffn_post_norm);
    project_backward(pass, layer, CR_PROJECTION_down, inner ? pass->dwide : NULL, false, dy,
                     pass->wide, kept);
    if (!inner)
        return;
    cr_glu_backward(pass->compute, gate, pass->dgate, pass->dup, pass->dwide, kept->gate, kept->up,
                    n, f);
    cr_rmsnorm_again(pass->compute, pass->normed, kept->inverse2, kept->middle, weights->ffn_norm,
                     n, d);
    float *dnormed = below ? pass->dnormed : NULL;
    project_backward(pass, layer, CR_PROJECTION_gate, dnormed, false, pass->dgate, pass->normed,
                     kept);
    project_backward(pass, layer, CR_PROJECTION_up, dnormed, true, pass->dup, pass->normed, kept);
    if (below)
        cr_rmsnorm_backward(pass->compute, pass->dx, dnormed, kept->inverse2, kept->middle,
                            weights->ffn_norm, n, d);
}

/* Through q, k and v: dnormed becomes the gradient of `normed`, NULL where nothing lies below. */
static void qkv_backward(cr_pass *pass, size_t layer, const cr_layer_kept *kept, float *dnormed)
{
    const cr_config *config = &pass->model->config;
    const cr_layer *weights = &pass->model->layers[layer];
    const float *dq = heads_backward(pass, layer, pass->dq, kept->raw_q, kept->inverse_q,
                                     weights->q_norm, config->heads, pass->dattended);
    const float *dk = heads_backward(pass, layer, pass->dk, kept->raw_k, kept->inverse_k,
                                     weights->k_norm, config->kv_heads, pass->wide_dk);
    project_backward(pass, layer, CR_PROJECTION_q, dnormed, false, dq, pass->normed, kept);
    project_backward(pass, layer, CR_PROJECTION_k, dnormed, true, dk, pass->normed, kept);
    project_backward(pass, layer, CR_PROJECTION_v, dnormed, true, pass->dv, pass->normed, kept);
}

/* dx += the gradient through attention, where dx is already that of `middle`. */
static void attention_backward(cr_pass *pass, size_t layer, const float *x,
                               const cr_layer_kept *kept, bool below)
{
    const cr_layer *weights = &pass->model->layers[layer];
    const size_t n = pass->batch.n, d = pass->model->config.width;
    bool inner = below || trains_attention_input(pass, layer);
    cr_attention shape = attention_of(pass, layer);
    const float *dy = added_backward(pass, kept->o, kept->inverse_o, weights->attention_post_norm);
    project_backward(pass, layer, CR_PROJECTION_o, inner ? pass->dattended : NULL, false, dy,
                     kept->attended, kept);
    if (!inner)
        return;
    cr_attention_backward(pass->compute, pass->dq, pass->dk, pass->dv, pass->dattended,
                          kept->attended, kept->lse, kept->q, kept->k, kept->v, &shape,
                          pass->wide_dk, pass->wide_dv, pass->scratch);
    cr_rmsnorm_again(pass->compute, pass->normed, kept->inverse1, x, weights->attention_norm, n, d);
    qkv_backward(pass, layer, kept, below ? pass->dnormed : NULL);
    if (below)
        cr_rmsnorm_backward(pass->compute, pass->dx, pass->dnormed, kept->inverse1, x,
                            weights->attention_norm, n, d);
}

static bool layer_has_branch(const cr_pass *pass, size_t layer)
{
    for (int p = 0; p < CR_PROJECTIONS; p++)
        if (has_branch(pass, layer, p))
            return true;
    return false;
}

static size_t lowest_layer(const cr_pass *pass)
{
    size_t lowest = 0;
    while (lowest < pass->model->config.layers && !layer_has_branch(pass, lowest))
        lowest++;
    return lowest;
}

int cr_pass_backward(cr_pass *pass)
{
    size_t lowest = lowest_layer(pass);
    for (size_t l = pass->model->config.layers; l-- > lowest;) {
        CR_TRY(check_cancelled(pass, l, "on the way back before"));
        cr_layer_kept *kept = kept_of(pass, l);
        if (pass->recompute) {
            attention_forward(pass, l, pass->inputs[l], kept);
            ffn_forward(pass, l, pass->inputs[l + 1], kept);
        }
        bool below = l > lowest;
        bool attention = below || trains_attention_input(pass, l) ||
                         has_branch(pass, l, CR_PROJECTION_o);
        ffn_backward(pass, l, kept, attention);
        if (attention)
            attention_backward(pass, l, pass->inputs[l], kept, below);
    }
    return CR_OK;
}
