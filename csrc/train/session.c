/* session.c: creation, training step, matrices and files of a session. */
#include "train/session.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "lora/lora_file.h"
#include "train/adamw.h"
#include "train/loss.h"
#include "train/prediction.h"
#include "train/shares.h"
#include "train/watch.h"

#define DEFAULT_MICRO_BATCH 1024

/* ---- creation ---------------------------------------------------------------------------------- */

cr_session_config cr_session_config_default(void)
{
    return (cr_session_config){.rank = 16,
                               .alpha = 32,
                               .dropout = 0.05,
                               .targets = CR_TARGET_Q | CR_TARGET_K | CR_TARGET_V | CR_TARGET_O};
}

static int check_config(const cr_session_config *config)
{
    if (config->rank < 1 || config->rank > CR_MOST_RANK)
        return cr_fail(CR_EARG, "rank must be 1 to %d, got %d", CR_MOST_RANK, config->rank);
    if (!(config->alpha > 0) || isinf(config->alpha))
        return cr_fail(CR_EARG, "alpha must be a positive number, got %g", config->alpha);
    if (!(config->dropout >= 0 && config->dropout < 1))
        return cr_fail(CR_EARG, "dropout must be at least 0 and less than 1, got %g",
                       config->dropout);
    if (config->targets == 0 || config->targets >> CR_TARGET_COUNT != 0)
        return cr_fail(CR_EARG, "targets must name at least one of the %d projections",
                       CR_TARGET_COUNT);
    if (config->micro_batch_tokens < 0)
        return cr_fail(CR_EARG, "micro_batch_tokens must not be negative, got %d",
                       config->micro_batch_tokens);
    return CR_OK;
}

static int fill(cr_session *session)
{
    const cr_session_config *config = &session->config;
    CR_TRY(cr_compute_create(&session->compute, config->threads,
                             cr_model_longest_row(session->model)));
    CR_TRY(cr_lora_create(&session->lora, session->model, &session->compute, config));
    session->partial = cr_calloc(cr_adamw_chunks(&session->lora), sizeof(double));
    return session->partial ? CR_OK : CR_ENOMEM;
}

static void destroy(cr_session *session)
{
    cr_predicting_free(session->predicting);
    cr_shares_free(session->shares);
    cr_watch_free(session->watch);
    cr_arena_free(&session->arena);
    cr_free(session->mean_row);
    cr_free(session->partial);
    cr_lora_free(&session->lora);
    cr_compute_free(&session->compute);
    cr_model_close(session->model);
    cr_free(session);
}

int cr_session_create(cr_session **out, cr_model *model, const cr_session_config *config)
{
    *out = NULL;
    CR_TRY(check_config(config));
    cr_session *session = cr_calloc(1, sizeof *session);
    if (!session)
        return CR_ENOMEM;
    session->holders = 1;
    session->loraplus_lr_ratio = 1;
    session->config = *config;
    if (config->micro_batch_tokens == 0)
        session->config.micro_batch_tokens = DEFAULT_MICRO_BATCH;
    session->model = model;
    cr_model_hold(model);
    int code = fill(session);
    if (code < 0) {
        destroy(session);
        return code;
    }
    session->config.threads = cr_pool_threads(session->compute.pool);
    session->config.rank_pattern = session->config.alpha_pattern = NULL; /* the caller's */
    session->config.rank_pattern_count = session->config.alpha_pattern_count = 0;
    *out = session;
    return CR_OK;
}

void cr_session_close(cr_session *session)
{
    if (session && --session->holders == 0)
        destroy(session);
}

void cr_session_cancel(cr_session *session)
{
    session->cancelled = 1;
}

void cr_session_enter(cr_session *session)
{
    cr_session_end_prediction(session);
    session->cancelled = 0;
}

const cr_branch *cr_session_branches(cr_session *session, bool base, bool goes_on)
{
    if (base)
        return NULL;
    cr_lora_refresh(&session->lora, &session->compute, session->model, goes_on);
    return session->lora.branches;
}

cr_pass cr_session_pass(cr_session *session, bool train, bool base)
{
    return (cr_pass){.compute = &session->compute,
                     .model = session->model,
                     .branches = cr_session_branches(session, base, false),
                     .rank = session->lora.rank,
                     .train = train,
                     .recompute = session->config.recompute,
                     .cancelled = &session->cancelled};
}

uint64_t cr_session_dropout_key(const cr_session *session)
{
    return cr_hash_combine(cr_hash_combine(session->config.seed, 0xD0), session->step);
}

/* ---- one micro-batch ------------------------------------------------------------------------------ */

typedef struct micro_pass {
    cr_micro_batch batch;
    cr_pass pass;
    cr_head_pass head;
} micro_pass;

static int lay_out(micro_pass *micro, const cr_session *session, cr_arena *arena,
                   uint64_t first_index)
{
    CR_TRY(
        cr_micro_batch_prepare(&micro->batch, arena, cr_session_dropout_key(session), first_index));
    micro->pass.batch = micro->batch.rows;
    micro->pass.batch.dropout = (float)session->config.dropout;
    const cr_head_pass_needs needs = {.n = micro->batch.selected, .picks = micro->batch.selected};
    micro->head = (cr_head_pass){.n = micro->batch.selected,
                                 .places = micro->batch.places,
                                 .picks = {NULL, micro->batch.targets}};
    CR_TRY(cr_head_pass_prepare(&micro->head, &micro->pass, &needs, arena));
    return cr_pass_prepare(&micro->pass, arena);
}

static micro_pass micro_of(cr_session *session, const cr_datum *datums, size_t count, bool train,
                           bool base)
{
    micro_pass micro = {.pass = cr_session_pass(session, train, base)};
    cr_micro_batch_measure(&micro.batch, datums, count);
    return micro;
}

/* Lays the buffers out twice: counted, then for real in an arena that is large enough. */
static int prepare_micro(micro_pass *micro, cr_session *session, uint64_t first_index)
{
    cr_arena plan = {.planning = true};
    CR_TRY(lay_out(micro, session, &plan, first_index));
    CR_TRY(cr_arena_reserve(&session->arena, plan.used));
    cr_arena_reset(&session->arena);
    return lay_out(micro, session, &session->arena, first_index);
}

static int run_forward(micro_pass *micro, cr_session *session, uint64_t first_index)
{
    CR_TRY(prepare_micro(micro, session, first_index));
    CR_TRY(cr_pass_forward(&micro->pass));
    cr_head_pass_forward(&micro->head, &micro->pass);
    return CR_OK;
}

/* Spreads the selected log-probabilities over each datum's list, NaN elsewhere. */
static void give_logprobs(const micro_pass *micro, float *const *logprobs)
{
    size_t selected = 0;
    for (size_t i = 0; i < micro->batch.count; i++) {
        const cr_datum *datum = &micro->batch.datums[i];
        for (size_t t = 0; t < cr_datum_length(datum); t++)
            logprobs[i][t] = cr_datum_weight(datum, t) != 0 && micro->head.logprobs
                                 ? micro->head.logprobs[selected++]
                                 : NAN;
    }
}

int cr_session_forward(cr_session *session, const cr_datum *datums, size_t count, bool base,
                       float *const *logprobs)
{
    cr_batch_counts counts;
    cr_session_enter(session);
    CR_TRY(cr_batch_check(&counts, datums, count, &session->model->config));
    size_t tokens = (size_t)session->config.micro_batch_tokens, taken;
    for (size_t first = 0; first < count; first += taken) {
        taken = cr_batch_next(datums, count, first, tokens);
        micro_pass micro = micro_of(session, datums + first, taken, false, base);
        if (micro.batch.selected > 0)
            CR_TRY(run_forward(&micro, session, 0));
        give_logprobs(&micro, logprobs + first);
    }
    return CR_OK;
}

/* Cross-entropy's slopes, and its value Σ weight · -log p in double. */
static double fill_slopes(micro_pass *micro, double scale)
{
    double sum = 0;
    for (size_t s = 0; s < micro->batch.selected; s++) {
        double weight = (double)micro->batch.weights[s];
        sum -= weight * (double)micro->head.logprobs[s];
        micro->head.slopes[s] = (float)(-weight * scale);
    }
    return sum;
}

static int run_micro(micro_pass *micro, cr_session *session, double scale, double *sum,
                     uint64_t first_index)
{
    CR_TRY(run_forward(micro, session, first_index));
    *sum += fill_slopes(micro, scale);
    cr_head_pass_slopes(&micro->head, &micro->pass);
    cr_head_pass_backward(&micro->head, &micro->pass);
    CR_TRY(cr_pass_backward(&micro->pass));
    cr_lora_zero_frozen(&session->lora);
    return cr_watch_piece(session, cr_watch_rows(micro->batch.datums, micro->batch.count));
}

static int resolve_scale(double *scale, const cr_loss *loss, uint64_t supervised)
{
    *scale = loss->scale;
    if (!(loss->scale >= 0) || isinf(loss->scale))
        return cr_fail(CR_EARG, "the loss's scale must be a number not below 0, got %g",
                       loss->scale);
    if (loss->scale > 0)
        return CR_OK;
    if (supervised == 0)
        return cr_fail(CR_EARG, "no target of the batch has a weight other than 0");
    *scale = 1.0 / (double)supervised;
    return CR_OK;
}

int cr_session_forward_backward(cr_session *session, const cr_datum *datums, size_t count,
                                const cr_loss *loss, cr_loss_result *out, float *const *logprobs)
{
    cr_batch_counts counts;
    double scale, sum = 0;
    cr_session_enter(session);
    CR_TRY(cr_batch_check(&counts, datums, count, &session->model->config));
    CR_TRY(resolve_scale(&scale, loss, counts.supervised));
    size_t tokens = (size_t)session->config.micro_batch_tokens, taken;
    for (size_t first = 0; first < count; first += taken) {
        taken = cr_batch_next(datums, count, first, tokens);
        micro_pass micro = micro_of(session, datums + first, taken, true, false);
        int code = micro.batch.selected > 0
                       ? run_micro(&micro, session, scale, &sum, session->window_datums + first)
                       : CR_OK;
        if (code < 0) {
            cr_session_zero_gradients(session);
            return code;
        }
        if (logprobs)
            give_logprobs(&micro, logprobs + first);
    }
    session->window_datums += count;
    *out = (cr_loss_result){sum * scale, sum, counts.supervised, counts.positions};
    return CR_OK;
}

/* ---- the update -------------------------------------------------------------------------------------- */

static int check_adam(const cr_adam_params *p)
{
    if (!(p->lr >= 0) || isinf(p->lr))
        return cr_fail(CR_EARG, "lr must be a number not below 0, got %g", p->lr);
    if (!(p->beta1 >= 0 && p->beta1 < 1) || !(p->beta2 >= 0 && p->beta2 < 1))
        return cr_fail(CR_EARG, "beta1 and beta2 must be at least 0 and less than 1, got %g and %g",
                       p->beta1, p->beta2);
    if (!(p->eps > 0) || isinf(p->eps))
        return cr_fail(CR_EARG, "eps must be a positive number, got %g", p->eps);
    if (!(p->weight_decay >= 0) || isinf(p->weight_decay))
        return cr_fail(CR_EARG, "weight_decay must be a number not below 0, got %g",
                       p->weight_decay);
    if (!(p->max_grad_norm >= 0))
        return cr_fail(CR_EARG, "max_grad_norm must be a number not below 0, got %g",
                       p->max_grad_norm);
    if (!(p->loraplus_lr_ratio >= 0) || isinf(p->loraplus_lr_ratio))
        return cr_fail(CR_EARG, "loraplus_lr_ratio must be a number not below 0, got %g",
                       p->loraplus_lr_ratio);
    return CR_OK;
}

int cr_session_optim_step(cr_session *session, const cr_adam_params *given, cr_optim_result *out)
{
    CR_TRY(check_adam(given));
    cr_adam_params params = *given;
    if (params.loraplus_lr_ratio == 0)
        params.loraplus_lr_ratio = session->loraplus_lr_ratio;
    cr_session_end_prediction(session);
    cr_lora_zero_frozen(&session->lora);
    double norm = cr_gradient_norm(&session->compute, &session->lora, session->partial);
    *out = (cr_optim_result){.grad_norm = norm, .step = session->step};
    out->skipped = !isfinite(norm);
    if (!out->skipped) {
        cr_watch_before_update(session);
        out->step = ++session->step;
        out->update_norm = cr_adamw_update(&session->compute, &session->lora, &params, norm,
                                           session->step, session->partial);
        session->loraplus_lr_ratio = params.loraplus_lr_ratio;
        session->lora.stale = true;
        cr_watch_after_update(session);
    }
    cr_session_zero_gradients(session);
    return CR_OK;
}

void cr_session_zero_gradients(cr_session *session)
{
    memset(session->lora.gradients, 0, session->lora.floats * sizeof(float));
    session->window_datums = 0;
    cr_watch_zeroed(session);
    cr_shares_zeroed(session);
}

uint64_t cr_session_step(const cr_session *session)
{
    return session->step;
}

void cr_session_set_step(cr_session *session, uint64_t step)
{
    session->step = step;
}

/* ---- matrices and files ---------------------------------------------------------------------------------- */

size_t cr_session_parameter_count(const cr_session *session)
{
    return session->lora.count;
}

int cr_session_parameter(const cr_session *session, size_t index, cr_parameter *out)
{
    const cr_lora *lora = &session->lora;
    if (index >= lora->count)
        return cr_fail(CR_ENOTFOUND, "matrix %zu: the session has %zu", index, lora->count);
    const cr_lora_matrix *matrix = &lora->matrices[index];
    *out = (cr_parameter){.name = matrix->name,
                          .layer = (int)matrix->layer,
                          .target = matrix->projection,
                          .part = matrix->part,
                          .rows = (int)matrix->rows,
                          .columns = (int)matrix->columns,
                          .value = lora->values + matrix->offset,
                          .gradient = lora->gradients + matrix->offset,
                          .moment1 = lora->moment1 + matrix->offset,
                          .moment2 = lora->moment2 + matrix->offset};
    return CR_OK;
}

size_t cr_session_module_count(const cr_session *session)
{
    return session->lora.module_count;
}

int cr_session_module(const cr_session *session, size_t index, cr_module *out)
{
    const cr_lora *lora = &session->lora;
    if (index >= lora->module_count)
        return cr_fail(CR_ENOTFOUND, "module %zu: the session has %zu", index, lora->module_count);
    const cr_lora_module *module = &lora->modules[index];
    *out = (cr_module){.name = module->name,
                       .layer = (int)module->layer,
                       .target = module->projection,
                       .rank = (int)module->rank,
                       .alpha = module->alpha,
                       .scale = (double)module->scale};
    return CR_OK;
}

int cr_session_shape(const cr_session *session, int layer, int target, size_t *rows,
                     size_t *columns)
{
    const cr_model *model = session->model;
    if (layer < 0 || (size_t)layer >= model->config.layers)
        return cr_fail(CR_EARG, "no layer %d: the model has %zu", layer + 1, model->config.layers);
    if (target < 0 || target >= CR_PROJECTIONS)
        return cr_fail(CR_EARG, "no projection %d: a layer has %d", target, CR_PROJECTIONS);
    const cr_matrix *weight = &model->layers[layer].projection[target];
    *rows = weight->rows;
    *columns = weight->columns;
    return CR_OK;
}

int cr_session_merge_rows(const cr_session *session, int layer, int target, size_t first,
                          size_t count, float *out)
{
    size_t rows, columns;
    CR_TRY(cr_session_shape(session, layer, target, &rows, &columns));
    if (first > rows || count > rows - first)
        return cr_fail(CR_EARG, "rows %zu to %zu: the projection has %zu", first, first + count,
                       rows);
    return cr_lora_merge_rows(&session->lora, session->model, (size_t)layer, target, first, count,
                              out);
}

int cr_session_row_norms(const cr_session *session, int layer, int target, float *out)
{
    size_t rows, columns;
    CR_TRY(cr_session_shape(session, layer, target, &rows, &columns));
    return cr_lora_row_norms(&session->lora, session->model, (size_t)layer, target, out);
}

int cr_session_save_lora(const cr_session *session, const char *path)
{
    return cr_lora_save(&session->lora, session->model, path);
}

int cr_session_load_lora(cr_session *session, const char *path)
{
    cr_session_end_prediction(session);
    return cr_lora_load(&session->lora, session->model, path);
}

int cr_session_save_optimizer(const cr_session *session, const char *path)
{
    const cr_optimizer_state state = {session->step, session->loraplus_lr_ratio};
    return cr_optimizer_save(&session->lora, &state, path);
}

int cr_session_load_optimizer(cr_session *session, const char *path)
{
    cr_optimizer_state state;
    CR_TRY(cr_optimizer_load(&session->lora, &state, path));
    session->step = state.step;
    session->loraplus_lr_ratio = state.loraplus_lr_ratio;
    return CR_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------- */

/* Bytes of one micro-batch of rows that are supervised everywhere; kept is the share that waits for
 * backward. */
static int plan_micro(cr_session *session, const cr_datum *datums, size_t count, uint64_t *kept,
                      uint64_t *total)
{
    cr_arena plan = {.planning = true};
    micro_pass micro = micro_of(session, datums, count, true, false);
    micro.batch.selected = micro.batch.rows.n;
    CR_TRY(lay_out(&micro, session, &plan, 0));
    *kept = micro.pass.kept_bytes;
    *total = plan.used;
    return CR_OK;
}

int cr_session_memory(cr_session *session, const size_t *lengths, size_t count, cr_memory_plan *out)
{
    const cr_compute *compute = &session->compute;
    size_t threads = (size_t)cr_pool_threads(compute->pool);
    size_t packed = compute->packed_floats + threads * compute->row_floats, taken;
    *out = (cr_memory_plan){.weights_mapped = session->model->source.bytes,
                            .lora = cr_lora_bytes(&session->lora)};
    cr_datum *datums = cr_calloc(count, sizeof *datums);
    if (!datums)
        return CR_ENOMEM;
    int code = CR_OK;
    for (size_t i = 0; i < count; i++)
        datums[i].count = lengths[i] + 1;
    for (size_t first = 0; first < count && code == CR_OK; first += taken) {
        uint64_t kept = 0, total = 0;
        taken = cr_batch_next(datums, count, first, (size_t)session->config.micro_batch_tokens);
        code = plan_micro(session, datums + first, taken, &kept, &total);
        if (total > out->activations + out->scratch) {
            out->activations = kept;
            out->scratch = total - kept;
        }
    }
    out->scratch += packed * sizeof(float);
    cr_free(datums);
    return code;
}
