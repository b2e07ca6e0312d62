/* score.c: log-probabilities of continuations; each prompt runs once, whatever follows it. */
#include <string.h>

#include "math/head.h"
#include "math/norm.h"
#include "train/batch.h"
#include "train/session.h"

/* A group of prompts that run together. */
typedef struct scoring {
    cr_session *session;
    const cr_prompt *prompts, *continuations; /* of the group */
    size_t count, choices;
    bool base;
    cr_cache cache;
    cr_cached_row *rows; /* [count · (1 + choices)] */
    float *hidden;       /* [positions, d]: one for each token that is scored */
    int32_t *targets;
    float *logprobs, *normed, *inverse, *scratch;
    size_t positions;
    double *out;
} scoring;

static size_t scored_tokens(const scoring *s)
{
    size_t tokens = 0;
    for (size_t i = 0; i < s->count * s->choices; i++)
        tokens += s->continuations[i].count;
    return tokens;
}

static int run_scoring_rows(scoring *s, size_t rows, float **hidden)
{
    cr_cached_pass pass = {.compute = &s->session->compute,
                           .model = s->session->model,
                           .branches = cr_session_branches(s->session, s->base),
                           .rank = s->session->lora.rank,
                           .cache = &s->cache,
                           .rows = s->rows,
                           .count = rows,
                           .cancelled = &s->session->cancelled};
    return cr_cached_forward(&pass, &s->session->arena, hidden);
}

/* The prompts; each continuation's first token is predicted by its prompt's last position. */
static int score_prompts(scoring *s)
{
    const size_t d = s->session->model->config.width;
    float *hidden;
    for (size_t i = 0; i < s->count; i++)
        s->rows[i] = (cr_cached_row){s->prompts[i].tokens, s->prompts[i].count, i, 0, true};
    CR_TRY(run_scoring_rows(s, s->count, &hidden));
    size_t at = 0, place = 0;
    for (size_t i = 0; i < s->count; i++) {
        at += s->prompts[i].count;
        for (size_t c = 0; c < s->choices; c++) {
            const cr_prompt *continuation = &s->continuations[i * s->choices + c];
            if (continuation->count > 0)
                memcpy(s->hidden + place * d, hidden + (at - 1) * d, d * sizeof(float));
            place += continuation->count;
        }
    }
    return CR_OK;
}

/* The continuations without their last token; each position predicts the next token. */
static int score_continuations(scoring *s)
{
    const size_t d = s->session->model->config.width;
    size_t rows = 0, place = 0, at = 0;
    float *hidden;
    for (size_t i = 0; i < s->count * s->choices; i++)
        if (s->continuations[i].count > 1)
            s->rows[rows++] =
                (cr_cached_row){s->continuations[i].tokens, s->continuations[i].count - 1,
                                i / s->choices, s->prompts[i / s->choices].count, false};
    if (rows == 0)
        return CR_OK;
    CR_TRY(run_scoring_rows(s, rows, &hidden));
    for (size_t i = 0; i < s->count * s->choices; i++) {
        size_t count = s->continuations[i].count;
        if (count > 1) {
            memcpy(s->hidden + (place + 1) * d, hidden + at * d, (count - 1) * d * sizeof(float));
            at += count - 1;
        }
        place += count;
    }
    return CR_OK;
}

static void add_logprobs(scoring *s)
{
    cr_session *session = s->session;
    const cr_model *model = session->model;
    const size_t d = model->config.width;
    size_t place = 0;
    for (size_t i = 0; i < s->count * s->choices; i++)
        for (size_t t = 0; t < s->continuations[i].count; t++)
            s->targets[place++] = s->continuations[i].tokens[t];
    cr_rmsnorm_forward(&session->compute, s->normed, s->inverse, s->hidden, model->final_norm,
                       s->positions, d, model->config.norm_epsilon);
    cr_head_forward(&session->compute, s->logprobs, NULL, s->normed, s->targets, &model->head,
                    s->positions, s->scratch);
    place = 0;
    for (size_t i = 0; i < s->count * s->choices; i++) {
        double sum = 0;
        for (size_t t = 0; t < s->continuations[i].count; t++)
            sum += (double)s->logprobs[place++];
        s->out[i] = sum;
    }
}

static int allocate_scoring(scoring *s, size_t longest)
{
    cr_session *session = s->session;
    const size_t d = session->model->config.width;
    size_t scratch = cr_head_scratch(&session->compute, &session->model->head, s->positions);
    CR_TRY(cr_cache_create(&s->cache, session->model, s->count, longest));
    s->rows = cr_calloc(s->count * (1 + s->choices), sizeof *s->rows);
    s->hidden = cr_calloc(s->positions * d, sizeof(float));
    s->normed = cr_calloc(s->positions * d, sizeof(float));
    s->targets = cr_calloc(s->positions, sizeof *s->targets);
    s->logprobs = cr_calloc(s->positions, sizeof(float));
    s->inverse = cr_calloc(s->positions, sizeof(float));
    s->scratch = cr_calloc(scratch, sizeof(float));
    if (!s->rows || !s->hidden || !s->normed || !s->targets || !s->logprobs || !s->inverse ||
        !s->scratch)
        return CR_ENOMEM;
    return CR_OK;
}

static void free_scoring(scoring *s)
{
    cr_cache_free(&s->cache);
    cr_free(s->rows);
    cr_free(s->hidden);
    cr_free(s->normed);
    cr_free(s->targets);
    cr_free(s->logprobs);
    cr_free(s->inverse);
    cr_free(s->scratch);
}

static int score_group(scoring *s, size_t longest)
{
    s->positions = scored_tokens(s);
    memset(s->out, 0, s->count * s->choices * sizeof *s->out);
    if (s->positions == 0)
        return CR_OK;
    int code = allocate_scoring(s, longest);
    if (code == CR_OK)
        code = score_prompts(s);
    if (code == CR_OK)
        code = score_continuations(s);
    if (code == CR_OK)
        add_logprobs(s);
    free_scoring(s);
    return code;
}

static int check_continuations(const cr_prompt *prompts, size_t count,
                               const cr_prompt *continuations, size_t choices,
                               const cr_config *config)
{
    for (size_t i = 0; i < count * choices; i++) {
        const cr_prompt *c = &continuations[i];
        for (size_t t = 0; t < c->count; t++)
            if (c->tokens[t] < 0 || (size_t)c->tokens[t] >= config->vocabulary)
                return cr_fail(CR_EARG,
                               "prompt %zu, continuation %zu: token %zu is %d, expected 0 to %zu",
                               i / choices + 1, i % choices + 1, t + 1, (int)c->tokens[t],
                               config->vocabulary - 1);
        if (prompts[i / choices].count + c->count > config->context)
            return cr_fail(CR_ECONTEXT,
                           "prompt %zu, continuation %zu: %zu and %zu tokens exceed the context of %zu",
                           i / choices + 1, i % choices + 1, prompts[i / choices].count, c->count,
                           config->context);
    }
    return CR_OK;
}

static size_t group_size(const cr_prompt *prompts, size_t count, size_t first, size_t tokens)
{
    size_t taken = 0, total = 0;
    while (first + taken < count) {
        total += prompts[first + taken].count;
        if (taken > 0 && total > tokens)
            break;
        taken++;
    }
    return taken;
}

int cr_session_score(cr_session *session, const cr_prompt *prompts, size_t count,
                     const cr_prompt *continuations, size_t choices, bool base, double *out)
{
    const cr_config *config = &session->model->config;
    size_t longest, taken;
    cr_session_enter(session);
    CR_TRY(cr_prompts_check(&longest, prompts, count, 0, config));
    CR_TRY(check_continuations(prompts, count, continuations, choices, config));
    for (size_t first = 0; first < count; first += taken) {
        taken = group_size(prompts, count, first, (size_t)session->config.micro_batch_tokens);
        scoring s = {.session = session,
                     .prompts = prompts + first,
                     .continuations = continuations + first * choices,
                     .count = taken,
                     .choices = choices,
                     .base = base,
                     .out = out + first * choices};
        CR_TRY(score_group(&s, longest));
    }
    return CR_OK;
}
