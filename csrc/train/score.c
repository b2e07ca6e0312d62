/* score.c: log-probabilities of continuations; each prompt runs once, whatever follows it.
 *
 * A continuation runs as one row of its own behind the kept positions: the text's last token and the
 * continuation without its last, so that each position predicts one of its tokens.
 */
#include "train/score.h"

#include <string.h>

#include "math/head.h"
#include "math/norm.h"
#include "train/batch.h"

int cr_score_check(const size_t *lengths, size_t count, const cr_prompt *continuations,
                   size_t choices, const cr_config *config)
{
    for (size_t i = 0; i < count * choices; i++) {
        const cr_prompt *c = &continuations[i];
        for (size_t t = 0; t < c->count; t++)
            if (c->tokens[t] < 0 || (size_t)c->tokens[t] >= config->vocabulary)
                return cr_fail(CR_EARG,
                               "prompt %zu, continuation %zu: token %zu is %d, expected 0 to %zu",
                               i / choices + 1, i % choices + 1, t + 1, (int)c->tokens[t],
                               config->vocabulary - 1);
        if (lengths[i / choices] + c->count > config->context)
            return cr_fail(
                CR_ECONTEXT,
                "prompt %zu, continuation %zu: %zu and %zu tokens exceed the context of %zu",
                i / choices + 1, i % choices + 1, lengths[i / choices], c->count, config->context);
    }
    return CR_OK;
}

/* ---- continuations ------------------------------------------------------------------------------ */

typedef struct scoring {
    cr_session *session;
    cr_cache *cache;
    const cr_score_text *texts;
    const cr_prompt *continuations;
    size_t count, choices;
    bool base;
    size_t positions;                             /* tokens that are scored */
    int32_t *inputs, *targets;                    /* [positions] */
    cr_cached_row *rows;                          /* [count · choices] */
    float *logprobs, *normed, *inverse, *scratch; /* [positions], [positions, d], ... */
} scoring;

static int allocate(scoring *s)
{
    cr_session *session = s->session;
    const size_t d = session->model->config.width;
    size_t scratch = cr_head_scratch(&session->compute, &session->model->head, s->positions, false);
    s->inputs = cr_calloc(s->positions, sizeof *s->inputs);
    s->targets = cr_calloc(s->positions, sizeof *s->targets);
    s->rows = cr_calloc(s->count * s->choices, sizeof *s->rows);
    s->logprobs = cr_calloc(s->positions, sizeof(float));
    s->normed = cr_calloc(s->positions * d, sizeof(float));
    s->inverse = cr_calloc(s->positions, sizeof(float));
    s->scratch = cr_calloc(scratch, sizeof(float));
    if (!s->inputs || !s->targets || !s->rows || !s->logprobs || !s->normed || !s->inverse ||
        !s->scratch)
        return CR_ENOMEM;
    return CR_OK;
}

static void release(scoring *s)
{
    cr_free(s->inputs);
    cr_free(s->targets);
    cr_free(s->rows);
    cr_free(s->logprobs);
    cr_free(s->normed);
    cr_free(s->inverse);
    cr_free(s->scratch);
}

/* One row for each continuation that is not empty. */
static size_t make_rows(scoring *s)
{
    size_t rows = 0, at = 0;
    for (size_t i = 0; i < s->count * s->choices; i++) {
        const cr_score_text *text = &s->texts[i / s->choices];
        const cr_prompt *c = &s->continuations[i];
        if (c->count == 0)
            continue;
        s->inputs[at] = text->last;
        memcpy(s->inputs + at + 1, c->tokens, (c->count - 1) * sizeof(int32_t));
        memcpy(s->targets + at, c->tokens, c->count * sizeof(int32_t));
        s->rows[rows++] = (cr_cached_row){s->inputs + at, c->count, text->slot, text->past, false};
        at += c->count;
    }
    return rows;
}

static int run(scoring *s)
{
    cr_session *session = s->session;
    const cr_model *model = session->model;
    cr_cached_pass pass = {.compute = &session->compute,
                           .model = model,
                           .branches = cr_session_branches(session, s->base, false),
                           .rank = session->lora.rank,
                           .cache = s->cache,
                           .rows = s->rows,
                           .count = make_rows(s),
                           .cancelled = &session->cancelled};
    float *hidden;
    CR_TRY(cr_cached_forward(&pass, &session->arena, &hidden));
    cr_rmsnorm_forward(&session->compute, s->normed, s->inverse, hidden, model->final_norm,
                       s->positions, model->config.width, model->config.norm_epsilon);
    const cr_head_picks picks = {NULL, s->targets};
    cr_head_forward(&session->compute, &(cr_head_outputs){.logprobs = s->logprobs}, s->normed,
                    &picks, &model->head, s->positions, s->scratch);
    return CR_OK;
}

static void add_up(const scoring *s, double *out)
{
    size_t at = 0;
    for (size_t i = 0; i < s->count * s->choices; i++) {
        out[i] = 0;
        for (size_t t = 0; t < s->continuations[i].count; t++)
            out[i] += (double)s->logprobs[at++];
    }
}

int cr_score_continuations(cr_session *session, cr_cache *cache, const cr_score_text *texts,
                           size_t count, const cr_prompt *continuations, size_t choices, bool base,
                           double *out)
{
    scoring s = {.session = session,
                 .cache = cache,
                 .texts = texts,
                 .continuations = continuations,
                 .count = count,
                 .choices = choices,
                 .base = base};
    for (size_t i = 0; i < count * choices; i++) {
        s.positions += continuations[i].count;
        out[i] = 0;
    }
    if (s.positions == 0)
        return CR_OK;
    int code = allocate(&s);
    if (code == CR_OK)
        code = run(&s);
    if (code == CR_OK)
        add_up(&s, out);
    release(&s);
    return code;
}

/* ---- prompts ---------------------------------------------------------------------------------------- */

/* A group of prompts that run together, each in a slot. */
typedef struct prompt_group {
    cr_session *session;
    const cr_prompt *prompts;
    size_t count;
    bool base;
    cr_cache *cache; /* from group to group: touching new memory costs more than its filling */
    cr_cached_row *rows;
    cr_score_text *texts;
} prompt_group;

static int keep_prompts(prompt_group *group)
{
    cr_session *session = group->session;
    size_t rows = 0;
    for (size_t i = 0; i < group->count; i++) {
        size_t past = group->prompts[i].count - 1;
        group->texts[i] = (cr_score_text){i, past, group->prompts[i].tokens[past]};
        if (past > 0)
            group->rows[rows++] = (cr_cached_row){group->prompts[i].tokens, past, i, 0, true};
    }
    cr_cached_pass pass = {.compute = &session->compute,
                           .model = session->model,
                           .branches = cr_session_branches(session, group->base, false),
                           .rank = session->lora.rank,
                           .cache = group->cache,
                           .rows = group->rows,
                           .count = rows,
                           .cancelled = &session->cancelled};
    float *hidden;
    return rows ? cr_cached_forward(&pass, &session->arena, &hidden) : CR_OK;
}

static size_t longest_prompt(const prompt_group *group)
{
    size_t longest = 1;
    for (size_t i = 0; i < group->count; i++)
        if (group->prompts[i].count > longest)
            longest = group->prompts[i].count;
    return longest;
}

static int score_group(prompt_group *group, const cr_prompt *continuations, size_t choices,
                       double *out)
{
    int code =
        cr_cache_fit(group->cache, group->session->model, group->count, longest_prompt(group));
    group->rows = cr_calloc(group->count, sizeof *group->rows);
    group->texts = cr_calloc(group->count, sizeof *group->texts);
    if (code == CR_OK && (!group->rows || !group->texts))
        code = CR_ENOMEM;
    if (code == CR_OK)
        code = keep_prompts(group);
    if (code == CR_OK)
        code = cr_score_continuations(group->session, group->cache, group->texts, group->count,
                                      continuations, choices, group->base, out);
    cr_free(group->texts);
    cr_free(group->rows);
    return code;
}

/* Nothing is kept for a backward pass: twice the tokens of a micro-batch still need less memory, and
 * weights are expanded half as often. */
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

static int check_lengths(const cr_prompt *prompts, size_t count, const cr_prompt *continuations,
                         size_t choices, const cr_config *config)
{
    size_t *lengths = cr_calloc(count, sizeof *lengths);
    if (!lengths)
        return CR_ENOMEM;
    for (size_t i = 0; i < count; i++)
        lengths[i] = prompts[i].count;
    int code = cr_score_check(lengths, count, continuations, choices, config);
    cr_free(lengths);
    return code;
}

int cr_session_score(cr_session *session, const cr_prompt *prompts, size_t count,
                     const cr_prompt *continuations, size_t choices, bool base, double *out)
{
    const cr_config *config = &session->model->config;
    cr_cache cache = {0};
    size_t longest, taken;
    int code = CR_OK;
    cr_session_enter(session);
    CR_TRY(cr_prompts_check(&longest, prompts, count, 0, config));
    CR_TRY(check_lengths(prompts, count, continuations, choices, config));
    for (size_t first = 0; first < count && code == CR_OK; first += taken) {
        taken = group_size(prompts, count, first, 2 * (size_t)session->config.micro_batch_tokens);
        prompt_group group = {.session = session,
                              .prompts = prompts + first,
                              .count = taken,
                              .base = base,
                              .cache = &cache};
        code = score_group(&group, continuations + first * choices, choices, out + first * choices);
    }
    cr_cache_free(&cache);
    return code;
}
