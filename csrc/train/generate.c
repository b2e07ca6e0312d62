/* generate.c: batched generation with places that are refilled.
 *
 * A prompt's text depends on the prompt, the parameters and its own random stream only: decoding
 * uses kernels whose results do not depend on the batch.
 */
#include <math.h>
#include <string.h>

#include "math/norm.h"
#include "train/batch.h"
#include "train/sampler.h"
#include "train/score.h"

#define DEFAULT_BATCH 16
#define NONE SIZE_MAX

cr_sampling_params cr_sampling_params_default(void)
{
    return (cr_sampling_params){.top_p = 1.0, .max_tokens = 64, .max_batch = DEFAULT_BATCH};
}

/* A place in the batch. */
typedef struct place {
    size_t prompt;   /* NONE = free */
    size_t seated;   /* the prompt that came here last, also when it has ended */
    size_t past;     /* positions its slot holds */
    int32_t last;    /* token that is not in the slot yet */
    int made;        /* new tokens so far */
    cr_rng rng;
} place;

struct cr_generation {
    cr_session *session; /* held */
    cr_sampling_params params;
    int32_t *stop_ids;
    int32_t *tokens;     /* all prompts, one after another */
    size_t *offsets;     /* [count + 1] */
    size_t count, next;  /* prompts, and the first not yet begun */
    bool *dropped;       /* [count]: ended by the caller before it began */
    size_t places_count;
    place *places;
    cr_cache cache;
    cr_cached_row *rows; /* [places_count] */
    size_t *row_place;   /* [places_count]: the place of each row */
    float *normed, *inverse, *logits; /* [places_count, ...] */
    cr_candidate *candidates;
    cr_generated *events; /* [places_count] */
    size_t event_count;
    size_t begun;         /* prompts that the latest step began; their places are in row_place */
};

/* ---- creation ----------------------------------------------------------------------------------- */

static int check_params(const cr_sampling_params *p)
{
    if (!(p->temperature >= 0) || isinf(p->temperature))
        return cr_fail(CR_EARG, "temperature must be a number not below 0, got %g", p->temperature);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return cr_fail(CR_EARG, "top_p must be more than 0 and at most 1, got %g", p->top_p);
    if (p->top_k < 0)
        return cr_fail(CR_EARG, "top_k must not be negative, got %d", p->top_k);
    if (p->max_tokens < 0)
        return cr_fail(CR_EARG, "max_tokens must not be negative, got %d", p->max_tokens);
    if (p->max_batch < 0)
        return cr_fail(CR_EARG, "max_batch must not be negative, got %d", p->max_batch);
    return CR_OK;
}

static int copy_prompts(cr_generation *g, const cr_prompt *prompts, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += prompts[i].count;
    g->tokens = cr_calloc(total, sizeof *g->tokens);
    g->offsets = cr_calloc(count + 1, sizeof *g->offsets);
    g->dropped = cr_calloc(count, sizeof *g->dropped);
    if (!g->tokens || !g->offsets || !g->dropped)
        return CR_ENOMEM;
    for (size_t i = 0; i < count; i++) {
        memcpy(g->tokens + g->offsets[i], prompts[i].tokens, prompts[i].count * sizeof(int32_t));
        g->offsets[i + 1] = g->offsets[i] + prompts[i].count;
    }
    g->count = count;
    return CR_OK;
}

static int copy_params(cr_generation *g, const cr_sampling_params *params)
{
    g->params = *params;
    g->stop_ids = cr_calloc(params->stop_count, sizeof *g->stop_ids);
    if (!g->stop_ids)
        return CR_ENOMEM;
    if (params->stop_count)
        memcpy(g->stop_ids, params->stop_ids, params->stop_count * sizeof *g->stop_ids);
    size_t most = params->max_batch ? (size_t)params->max_batch : DEFAULT_BATCH;
    g->places_count = g->count < most ? g->count : most;
    return CR_OK;
}

static int allocate_places(cr_generation *g, size_t longest)
{
    const cr_model *model = g->session->model;
    size_t places = g->places_count, width = model->config.width;
    CR_TRY(cr_cache_create(&g->cache, model, places, longest));
    g->places = cr_calloc(places, sizeof *g->places);
    g->rows = cr_calloc(places, sizeof *g->rows);
    g->row_place = cr_calloc(places, sizeof *g->row_place);
    g->normed = cr_calloc(2 * places * width, sizeof(float));
    g->inverse = cr_calloc(places, sizeof(float));
    g->logits = cr_calloc(places * model->config.vocabulary, sizeof(float));
    g->candidates = cr_calloc(model->config.vocabulary, sizeof *g->candidates);
    g->events = cr_calloc(places, sizeof *g->events);
    if (!g->places || !g->rows || !g->row_place || !g->normed || !g->inverse || !g->logits ||
        !g->candidates || !g->events)
        return CR_ENOMEM;
    for (size_t i = 0; i < places; i++)
        g->places[i].prompt = NONE;
    return CR_OK;
}

static int fill(cr_generation *g, const cr_prompt *prompts, size_t count,
                const cr_sampling_params *params)
{
    size_t longest;
    CR_TRY(check_params(params));
    CR_TRY(cr_prompts_check(&longest, prompts, count, (size_t)params->max_tokens,
                         &g->session->model->config));
    CR_TRY(copy_prompts(g, prompts, count));
    CR_TRY(copy_params(g, params));
    return allocate_places(g, longest);
}

int cr_generation_start(cr_generation **out, cr_session *session, const cr_prompt *prompts,
                        size_t count, const cr_sampling_params *params)
{
    *out = NULL;
    cr_generation *g = cr_calloc(1, sizeof *g);
    if (!g)
        return CR_ENOMEM;
    g->session = session;
    session->holders++;
    int code = fill(g, prompts, count, params);
    if (code < 0) {
        cr_generation_close(g);
        return code;
    }
    *out = g;
    return CR_OK;
}

void cr_generation_close(cr_generation *g)
{
    if (!g)
        return;
    cr_cache_free(&g->cache);
    cr_free(g->stop_ids);
    cr_free(g->tokens);
    cr_free(g->offsets);
    cr_free(g->dropped);
    cr_free(g->places);
    cr_free(g->rows);
    cr_free(g->row_place);
    cr_free(g->normed);
    cr_free(g->inverse);
    cr_free(g->logits);
    cr_free(g->candidates);
    cr_free(g->events);
    cr_session_close(g->session);
    cr_free(g);
}

/* ---- a step ----------------------------------------------------------------------------------------- */

static bool is_stop(const cr_generation *g, int32_t token)
{
    for (size_t i = 0; i < g->params.stop_count; i++)
        if (g->stop_ids[i] == token)
            return true;
    return false;
}

static void add_event(cr_generation *g, size_t prompt, int32_t token, float logprob, int finish)
{
    g->events[g->event_count++] = (cr_generated){prompt, token, logprob, finish};
}

/* Takes the token that was chosen for a place, and frees the place when the row ends. */
static void accept(cr_generation *g, place *p, int32_t token, float logprob)
{
    if (is_stop(g, token)) {
        add_event(g, p->prompt, -1, logprob, CR_STOP);
        p->prompt = NONE;
        return;
    }
    p->last = token;
    p->made++;
    bool full = p->made >= g->params.max_tokens;
    add_event(g, p->prompt, token, logprob, full ? CR_LENGTH : CR_RUNNING);
    if (full)
        p->prompt = NONE;
}

/* hidden of the rows' last positions → logits → a token each. */
static void choose(cr_generation *g, size_t rows, const float *hidden)
{
    cr_session *session = g->session;
    const cr_model *model = session->model;
    const size_t d = model->config.width, vocabulary = model->config.vocabulary;
    float *last = g->normed + g->places_count * d;
    size_t at = 0;
    for (size_t r = 0; r < rows; r++) {
        at += g->rows[r].count;
        memcpy(last + r * d, hidden + (at - 1) * d, d * sizeof(float));
    }
    cr_rmsnorm_forward(&session->compute, g->normed, g->inverse, last, model->final_norm, rows, d,
                       model->config.norm_epsilon);
    cr_matmul_few(&session->compute, g->logits, vocabulary, rows, cr_rows(g->normed, d),
                  &model->head);
    for (size_t r = 0; r < rows; r++) {
        place *p = &g->places[g->row_place[r]];
        float logprob;
        p->past += g->rows[r].count;
        int32_t token = cr_sample(g->logits + r * vocabulary, vocabulary, &g->params, &p->rng,
                                  g->candidates, session->compute.kernels, &logprob);
        accept(g, p, token, logprob);
    }
}

static int run_rows(cr_generation *g, size_t rows, bool few)
{
    cr_session *session = g->session;
    cr_cached_pass pass = {.compute = &session->compute,
                           .model = session->model,
                           .branches = cr_session_branches(session, g->params.base),
                           .rank = session->lora.rank,
                           .cache = &g->cache,
                           .rows = g->rows,
                           .count = rows,
                           .few = few,
                           .cancelled = &session->cancelled};
    float *hidden;
    if (rows == 0)
        return CR_OK;
    CR_TRY(cr_cached_forward(&pass, &session->arena, &hidden));
    choose(g, rows, hidden);
    return CR_OK;
}

static int decode_places(cr_generation *g)
{
    size_t rows = 0;
    for (size_t i = 0; i < g->places_count; i++) {
        place *p = &g->places[i];
        if (p->prompt == NONE)
            continue;
        g->row_place[rows] = i;
        g->rows[rows++] = (cr_cached_row){&p->last, 1, i, p->past, true};
    }
    return run_rows(g, rows, true);
}

static size_t free_place(const cr_generation *g)
{
    for (size_t i = 0; i < g->places_count; i++)
        if (g->places[i].prompt == NONE)
            return i;
    return NONE;
}

static void skip_dropped(cr_generation *g)
{
    while (g->next < g->count && g->dropped[g->next])
        g->next++;
}

static void seat(cr_generation *g, size_t index, size_t row)
{
    size_t prompt = g->next++;
    place *p = &g->places[index];
    *p = (place){.prompt = prompt, .seated = prompt};
    cr_rng_seed(&p->rng, cr_hash_combine(g->params.seed, prompt));
    g->row_place[row] = index;
    g->rows[row] = (cr_cached_row){g->tokens + g->offsets[prompt],
                                   g->offsets[prompt + 1] - g->offsets[prompt], index, 0, true};
}

/* Puts the prompts back in line, to be begun at the next step. */
static void unseat(cr_generation *g, size_t rows)
{
    for (size_t r = rows; r-- > 0;) {
        place *p = &g->places[g->row_place[r]];
        g->next = p->prompt;
        p->prompt = NONE;
    }
}

/* Prompts into free places, as many as a micro-batch of tokens holds. */
static int begin_prompts(cr_generation *g)
{
    size_t rows = 0, tokens = 0, index;
    size_t most = (size_t)g->session->config.micro_batch_tokens;
    while (g->next < g->count && g->params.max_tokens > 0 && (index = free_place(g)) != NONE) {
        tokens += g->offsets[g->next + 1] - g->offsets[g->next];
        if (rows > 0 && tokens > most)
            break;
        seat(g, index, rows++);
        skip_dropped(g);
    }
    int code = run_rows(g, rows, false);
    if (code < 0)
        unseat(g, rows);
    else
        g->begun = rows;
    return code;
}

/* With max_tokens 0 every prompt ends at once. */
static void end_unstarted(cr_generation *g)
{
    while (g->params.max_tokens == 0 && g->next < g->count && g->event_count < g->places_count) {
        add_event(g, g->next++, -1, 0, CR_LENGTH);
        skip_dropped(g);
    }
}

int cr_generation_step(cr_generation *g, const cr_generated **events, size_t *count)
{
    cr_session_enter(g->session);
    g->event_count = 0;
    g->begun = 0;
    *count = 0;
    skip_dropped(g);
    end_unstarted(g);
    if (free_place(g) != NONE && g->next < g->count && g->event_count == 0)
        CR_TRY(begin_prompts(g));
    else if (g->event_count == 0)
        CR_TRY(decode_places(g));
    *events = g->events;
    *count = g->event_count;
    return CR_OK;
}

int cr_generation_finish(cr_generation *g, size_t prompt)
{
    if (prompt >= g->count)
        return cr_fail(CR_EARG, "prompt %zu: the generation has %zu", prompt + 1, g->count);
    g->dropped[prompt] = true;
    for (size_t i = 0; i < g->places_count; i++)
        if (g->places[i].prompt == prompt)
            g->places[i].prompt = NONE;
    return CR_OK;
}

/* ---- scoring ---------------------------------------------------------------------------------------- */

static int score_begun(cr_generation *g, cr_score_text *texts, size_t *lengths,
                       const cr_prompt *continuations, size_t choices, double *out)
{
    for (size_t r = 0; r < g->begun; r++) {
        size_t place_index = g->row_place[r], prompt = g->places[place_index].seated;
        size_t end = g->offsets[prompt + 1];
        lengths[r] = end - g->offsets[prompt];
        texts[r] = (cr_score_text){place_index, lengths[r] - 1, g->tokens[end - 1]};
    }
    CR_TRY(cr_score_check(lengths, g->begun, continuations, choices, &g->session->model->config));
    return cr_score_continuations(g->session, &g->cache, texts, g->begun, continuations, choices,
                                  g->params.base, out);
}

int cr_generation_score(cr_generation *g, const cr_prompt *continuations, size_t choices,
                        double *out)
{
    cr_session_enter(g->session);
    if (g->begun == 0)
        return cr_fail(CR_EARG, "the latest step began no prompt whose continuations could be scored");
    cr_score_text *texts = cr_calloc(g->begun, sizeof *texts);
    size_t *lengths = cr_calloc(g->begun, sizeof *lengths);
    int code = texts && lengths ? score_begun(g, texts, lengths, continuations, choices, out)
                                : CR_ENOMEM;
    cr_free(lengths);
    cr_free(texts);
    return code;
}
