/* top.c: the likeliest tokens at every position of a text, for looking at a model.
 *
 * The text runs once as generation would run it (no dropout). Logits are written down for a few positions at a
 * time; each row is walked once for its log-sum-exp (in double) and its best, kept sorted by insertion.
 */
#include <math.h>

#include "math/norm.h"
#include "train/batch.h"
#include "train/session.h"

enum { POSITIONS_AT_ONCE = 16 };

typedef struct looking {
    cr_session *session;
    const cr_prompt *text;
    size_t k;
    bool base;
    cr_cache cache;
    float *normed, *inverse, *logits; /* [POSITIONS_AT_ONCE, d], ..., [POSITIONS_AT_ONCE, vocabulary] */
    int32_t *ids;                     /* [text->count, k] */
    float *logprobs;
} looking;

static double log_sum_exp(const float *logits, size_t vocabulary)
{
    float maximum = logits[0];
    for (size_t v = 1; v < vocabulary; v++)
        maximum = logits[v] > maximum ? logits[v] : maximum;
    double sum = 0;
    for (size_t v = 0; v < vocabulary; v++)
        sum += exp((double)(logits[v] - maximum));
    return (double)maximum + log(sum);
}

/* Makes room for `id` among the first `held` of a sorted list of k; the lower id wins among equals. */
static size_t keep(float *best, int32_t *ids, size_t held, size_t k, float value, int32_t id)
{
    size_t at = held < k ? held : k;
    while (at > 0 && value > best[at - 1])
        at--;
    if (at >= k)
        return held;
    size_t last = held < k ? held : k - 1;
    for (size_t i = last; i > at; i--) {
        best[i] = best[i - 1];
        ids[i] = ids[i - 1];
    }
    best[at] = value;
    ids[at] = id;
    return held < k ? held + 1 : k;
}

static void rank_row(const float *logits, size_t vocabulary, size_t k, int32_t *ids, float *logprobs)
{
    size_t held = 0;
    for (size_t v = 0; v < vocabulary; v++)
        if (held < k || logits[v] > logprobs[k - 1])
            held = keep(logprobs, ids, held, k, logits[v], (int32_t)v);
    double total = log_sum_exp(logits, vocabulary);
    for (size_t i = 0; i < k; i++)
        logprobs[i] = (float)((double)logprobs[i] - total);
}

static void rank_positions(looking *l, const float *hidden)
{
    cr_session *session = l->session;
    const cr_model *model = session->model;
    const size_t d = model->config.width, vocabulary = model->config.vocabulary;
    for (size_t first = 0; first < l->text->count; first += POSITIONS_AT_ONCE) {
        size_t left = l->text->count - first, n = left < POSITIONS_AT_ONCE ? left : POSITIONS_AT_ONCE;
        cr_rmsnorm_forward(&session->compute, l->normed, l->inverse, hidden + first * d,
                           model->final_norm, n, d, model->config.norm_epsilon);
        cr_matmul_few(&session->compute, l->logits, vocabulary, n, cr_rows(l->normed, d), &model->head);
        for (size_t row = 0; row < n; row++)
            rank_row(l->logits + row * vocabulary, vocabulary, l->k, l->ids + (first + row) * l->k,
                     l->logprobs + (first + row) * l->k);
    }
}

static int run(looking *l)
{
    cr_session *session = l->session;
    const cr_config *config = &session->model->config;
    l->normed = cr_calloc(POSITIONS_AT_ONCE * config->width, sizeof(float));
    l->inverse = cr_calloc(POSITIONS_AT_ONCE, sizeof(float));
    l->logits = cr_calloc(POSITIONS_AT_ONCE * config->vocabulary, sizeof(float));
    if (!l->normed || !l->inverse || !l->logits)
        return CR_ENOMEM;
    const cr_cached_row row = {l->text->tokens, l->text->count, 0, 0, false};
    const cr_cached_pass pass = {.compute = &session->compute,
                                 .model = session->model,
                                 .branches = cr_session_branches(session, l->base, false),
                                 .rank = session->lora.rank,
                                 .cache = &l->cache,
                                 .rows = &row,
                                 .count = 1,
                                 .cancelled = &session->cancelled};
    float *hidden;
    CR_TRY(cr_cached_forward(&pass, &session->arena, &hidden));
    rank_positions(l, hidden);
    return CR_OK;
}

int cr_session_top(cr_session *session, const cr_prompt *text, size_t k, bool base, int32_t *ids,
                   float *logprobs)
{
    const cr_config *config = &session->model->config;
    size_t longest;
    cr_session_enter(session);
    CR_TRY(cr_prompts_check(&longest, text, 1, 0, config));
    if (k < 1 || k > config->vocabulary)
        return cr_fail(CR_EARG, "k must be 1 to %zu, the size of the vocabulary, got %zu",
                       config->vocabulary, k);
    looking l = {
        .session = session, .text = text, .k = k, .base = base, .ids = ids, .logprobs = logprobs};
    int code = cr_cache_create(&l.cache, session->model, 1, text->count);
    if (code == CR_OK)
        code = run(&l);
    cr_free(l.normed);
    cr_free(l.inverse);
    cr_free(l.logits);
    cr_cache_free(&l.cache);
    return code;
}
