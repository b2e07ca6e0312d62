/* generate.c: batched generation with places that are refilled.
 *
 * A prompt's text depends on the prompt, the parameters and its own random stream only: decoding
 * uses kernels whose results do not depend on the batch, and keys taken over from a prompt that begins
 * alike are the very bytes that the prompt's own pass would give (math/attention.h).
 */
#include <math.h>
#include <string.h>

#include "math/norm.h"
#include "text/constraint.h"
#include "train/batch.h"
#include "train/sampler.h"
#include "train/score.h"

#define DEFAULT_BATCH 16
#define DEFAULT_CACHE_BYTES ((uint64_t)1 << 30)
#define LEAST_SHARED 8 /* positions worth a copy */
#define NONE SIZE_MAX

cr_sampling_params cr_sampling_params_default(void)
{
    return (cr_sampling_params){
        .top_p = 1.0, .repetition_penalty = 1.0, .max_tokens = 64, .max_batch = DEFAULT_BATCH};
}

/* A place in the batch. */
typedef struct place {
    size_t prompt; /* NONE = free */
    size_t seated; /* the prompt that came here last, also when it has ended */
    size_t past;   /* positions its slot holds */
    size_t held;   /* of these, positions of the prompt `seated` that another may take over */
    int32_t state; /* of the constraint */
    int32_t last;  /* token that is not in the slot yet */
    int made;      /* new tokens so far */
    cr_rng rng;
} place;

struct cr_generation {
    cr_session *session; /* held */
    cr_sampling_params params;
    int32_t *stop_ids;
    int32_t *tokens;    /* all prompts, one after another */
    size_t *offsets;    /* [count + 1] */
    size_t count, next; /* prompts, and the first not yet begun */
    bool *dropped;      /* [count]: ended by the caller before it began */
    size_t places_count;
    place *places;
    cr_cache cache;
    cr_cached_row *rows;              /* [places_count] */
    size_t *row_place;                /* [places_count]: the place of each row */
    float *normed, *inverse, *logits; /* [places_count, ...] */
    uint64_t *seen;                   /* [places_count, words], with a repetition penalty */
    cr_choice *choices;               /* [places_count]: of each row */
    int32_t *chosen;                  /* [places_count] */
    float *logprobs;                  /* [places_count] */
    cr_sampler_space *spaces;         /* [threads] */
    size_t threads;
    cr_generated *events; /* [places_count] */
    size_t event_count;
    size_t begun; /* prompts that the latest step began; their places are in row_place */
    uint64_t prompt_positions, reused_positions;
    uint64_t weights_step; /* the session's step that the held keys belong to */
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
    if (!(p->min_p >= 0 && p->min_p < 1))
        return cr_fail(CR_EARG, "min_p must be at least 0 and less than 1, got %g", p->min_p);
    if (!(p->repetition_penalty > 0) || isinf(p->repetition_penalty))
        return cr_fail(CR_EARG, "repetition_penalty must be a number above 0, got %g",
                       p->repetition_penalty);
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
    if (params->constraint)
        cr_constraint_hold(params->constraint);
    g->params.stop_ids = g->stop_ids;
    size_t most = params->max_batch ? (size_t)params->max_batch : DEFAULT_BATCH;
    g->places_count = g->count < most ? g->count : most;
    return CR_OK;
}

/* As many places as the cache may hold. */
static int fit_places(cr_generation *g, size_t longest)
{
    uint64_t bytes = cr_cache_slot_bytes(g->session->model, longest);
    uint64_t budget = g->params.cache_bytes ? g->params.cache_bytes : DEFAULT_CACHE_BYTES;
    uint64_t fit = bytes ? budget / bytes : g->places_count;
    if (fit == 0 && g->params.cache_bytes)
        return cr_fail(
            CR_ENOMEM,
            "keys and values of one row of %zu positions need %llu bytes: cache_bytes is "
            "%llu",
            longest, (unsigned long long)bytes, (unsigned long long)budget);
    if (fit < g->places_count)
        g->places_count = fit ? (size_t)fit : 1;
    return CR_OK;
}

static int allocate_spaces(cr_generation *g, size_t vocabulary)
{
    g->threads = (size_t)cr_pool_threads(g->session->compute.pool);
    g->spaces = cr_calloc(g->threads, sizeof *g->spaces);
    if (!g->spaces)
        return CR_ENOMEM;
    for (size_t i = 0; i < g->threads; i++) {
        cr_sampler_space *space = &g->spaces[i];
        space->weights = cr_calloc(vocabulary, sizeof(float));
        space->candidates = cr_calloc(vocabulary, sizeof(cr_candidate));
        if (!space->weights || !space->candidates)
            return CR_ENOMEM;
    }
    return CR_OK;
}

static int allocate_places(cr_generation *g, size_t longest)
{
    const cr_model *model = g->session->model;
    CR_TRY(fit_places(g, longest));
    size_t places = g->places_count, width = model->config.width;
    bool penalty = g->params.repetition_penalty != 1.0;
    CR_TRY(cr_cache_create(&g->cache, model, places, longest));
    CR_TRY(allocate_spaces(g, model->config.vocabulary));
    g->places = cr_calloc(places, sizeof *g->places);
    g->rows = cr_calloc(places, sizeof *g->rows);
    g->row_place = cr_calloc(places, sizeof *g->row_place);
    g->normed = cr_calloc(2 * places * width, sizeof(float));
    g->inverse = cr_calloc(places, sizeof(float));
    g->logits = cr_calloc(places * model->config.vocabulary, sizeof(float));
    g->seen =
        cr_calloc(penalty ? places * cr_id_words(model->config.vocabulary) : 0, sizeof *g->seen);
    g->choices = cr_calloc(places, sizeof *g->choices);
    g->chosen = cr_calloc(places, sizeof *g->chosen);
    g->logprobs = cr_calloc(places, sizeof *g->logprobs);
    g->events = cr_calloc(places, sizeof *g->events);
    if (!g->places || !g->rows || !g->row_place || !g->normed || !g->inverse || !g->logits ||
        !g->seen || !g->choices || !g->chosen || !g->logprobs || !g->events)
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
    for (size_t i = 0; g->spaces && i < g->threads; i++) {
        cr_free(g->spaces[i].weights);
        cr_free(g->spaces[i].candidates);
    }
    cr_free(g->spaces);
    cr_free(g->seen);
    cr_free(g->choices);
    cr_free(g->chosen);
    cr_free(g->logprobs);
    cr_constraint_close(g->params.constraint);
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

static size_t vocabulary_of(const cr_generation *g)
{
    return g->session->model->config.vocabulary;
}

static uint64_t *seen_of(const cr_generation *g, const place *p)
{
    bool penalty = g->params.repetition_penalty != 1.0;
    return penalty ? g->seen + (size_t)(p - g->places) * cr_id_words(vocabulary_of(g)) : NULL;
}

static void note_seen(const cr_generation *g, const place *p, int32_t token)
{
    uint64_t *seen = seen_of(g, p);
    if (seen)
        seen[token / 64] |= UINT64_C(1) << (token % 64);
}

/* Whether the constraint has the text complete and nothing can follow. */
static int follow_constraint(const cr_generation *g, place *p, int32_t token, bool *complete)
{
    cr_constraint *constraint = g->params.constraint;
    *complete = false;
    if (!constraint)
        return CR_OK;
    CR_TRY(cr_constraint_advance(constraint, p->state, token, &p->state));
    *complete = !cr_constraint_goes_on(constraint, p->state);
    return CR_OK;
}

/* Takes the token that was chosen for a place, and frees the place when the row ends. -1: no token may
 * follow, which a constraint says of a text that is complete. */
static int accept(cr_generation *g, place *p, int32_t token, float logprob)
{
    bool complete;
    if (token < 0 || is_stop(g, token)) {
        add_event(g, p->prompt, -1, logprob, CR_STOP);
        p->prompt = NONE;
        return CR_OK;
    }
    CR_TRY(follow_constraint(g, p, token, &complete));
    note_seen(g, p, token);
    p->last = token;
    p->made++;
    bool full = p->made >= g->params.max_tokens;
    int finish = complete ? CR_STOP : full ? CR_LENGTH : CR_RUNNING;
    add_event(g, p->prompt, token, logprob, finish);
    if (finish != CR_RUNNING)
        p->prompt = NONE;
    return CR_OK;
}

/* What may follow in each row. A vocabulary that cannot spell what must follow is told. */
static int prepare_choices(cr_generation *g, size_t rows)
{
    cr_constraint *constraint = g->params.constraint;
    if (constraint)
        cr_constraint_trim(constraint);
    for (size_t r = 0; r < rows; r++) {
        const place *p = &g->places[g->row_place[r]];
        cr_choice *choice = &g->choices[r];
        *choice = (cr_choice){.params = &g->params, .seen = seen_of(g, p)};
        if (!constraint)
            continue;
        CR_TRY(cr_constraint_mask(constraint, p->state, &choice->allowed));
        choice->may_end = cr_constraint_may_end(constraint, p->state);
    }
    return CR_OK;
}

static void choose_task(void *argument, size_t row, int thread)
{
    cr_generation *g = argument;
    size_t vocabulary = vocabulary_of(g);
    g->chosen[row] = cr_sample(g->logits + row * vocabulary, vocabulary, &g->choices[row],
                               &g->places[g->row_place[row]].rng, &g->spaces[thread],
                               g->session->compute.kernels, &g->logprobs[row]);
}

static int accept_all(cr_generation *g, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        if (g->chosen[r] < 0 && !g->choices[r].may_end)
            return cr_fail(CR_EUNSUPPORTED,
                           "prompt %zu: no token of the vocabulary begins what must follow by the "
                           "constraint",
                           g->places[g->row_place[r]].prompt + 1);
        CR_TRY(accept(g, &g->places[g->row_place[r]], g->chosen[r], g->logprobs[r]));
    }
    return CR_OK;
}

/* hidden of the rows' last positions → logits → a token each. */
static int choose(cr_generation *g, size_t rows, const float *hidden)
{
    cr_session *session = g->session;
    const cr_model *model = session->model;
    const size_t d = model->config.width, vocabulary = model->config.vocabulary;
    float *last = g->normed + g->places_count * d;
    size_t at = 0;
    CR_TRY(prepare_choices(g, rows));
    for (size_t r = 0; r < rows; r++) {
        at += g->rows[r].count;
        memcpy(last + r * d, hidden + (at - 1) * d, d * sizeof(float));
    }
    cr_rmsnorm_forward(&session->compute, g->normed, g->inverse, last, model->final_norm, rows, d,
                       model->config.norm_epsilon);
    cr_matmul_few(&session->compute, g->logits, vocabulary, rows, cr_rows(g->normed, d),
                  &model->head);
    for (size_t r = 0; r < rows; r++)
        g->places[g->row_place[r]].past += g->rows[r].count;
    cr_parallel_for(session->compute.pool, rows, choose_task, g);
    return accept_all(g, rows);
}

static int run_rows(cr_generation *g, size_t rows, bool few)
{
    cr_session *session = g->session;
    cr_cached_pass pass = {.compute = &session->compute,
                           .model = session->model,
                           .branches = cr_session_branches(session, g->params.base, few),
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
    return choose(g, rows, hidden);
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

static size_t prompt_length(const cr_generation *g, size_t prompt)
{
    return g->offsets[prompt + 1] - g->offsets[prompt];
}

/* Positions that two prompts have in common; the second keeps one of its own to be run. */
static size_t common_positions(const cr_generation *g, size_t first, size_t second)
{
    const int32_t *a = g->tokens + g->offsets[first], *b = g->tokens + g->offsets[second];
    size_t most = prompt_length(g, first), i = 0;
    if (most > prompt_length(g, second) - 1)
        most = prompt_length(g, second) - 1;
    while (i < most && a[i] == b[i])
        i++;
    return i;
}

/* Keys of other weights than today's are no prompt's. */
static void drop_stale(cr_generation *g)
{
    if (g->weights_step == g->session->step)
        return;
    g->weights_step = g->session->step;
    for (size_t i = 0; i < g->places_count; i++)
        g->places[i].held = 0;
}

/* The place whose slot holds most of what the prompt begins with, NONE where that is not worth it. */
static size_t alike_place(const cr_generation *g, size_t prompt, size_t *shared)
{
    size_t best = NONE;
    *shared = 0;
    for (size_t i = 0; i < g->places_count; i++) {
        if (g->places[i].held == 0)
            continue;
        size_t common = common_positions(g, g->places[i].seated, prompt);
        if (common >= LEAST_SHARED && common > *shared) {
            *shared = common;
            best = i;
        }
    }
    return best;
}

/* A prompt that begins like one of this very step waits for the next: then its keys are there. */
static bool should_wait(const cr_generation *g, size_t rows, size_t prompt, size_t shared)
{
    for (size_t r = 0; r < rows; r++) {
        size_t common = common_positions(g, g->places[g->row_place[r]].prompt, prompt);
        if (common >= LEAST_SHARED && common > shared)
            return true;
    }
    return false;
}

static void note_prompt(cr_generation *g, const place *p)
{
    uint64_t *seen = seen_of(g, p);
    if (!seen)
        return;
    memset(seen, 0, cr_id_words(vocabulary_of(g)) * sizeof *seen);
    for (size_t i = g->offsets[p->prompt]; i < g->offsets[p->prompt + 1]; i++)
        note_seen(g, p, g->tokens[i]);
}

/* Gives the next prompt the place; its first `shared` positions come from the slot of place `alike`. */
static void seat(cr_generation *g, size_t index, size_t row, size_t alike, size_t shared)
{
    size_t prompt = g->next++;
    place *p = &g->places[index];
    if (shared > 0 && alike != index)
        cr_cache_copy(&g->cache, index, alike, shared);
    *p = (place){.prompt = prompt, .seated = prompt, .past = shared, .state = CR_CONSTRAINT_START};
    cr_rng_seed(&p->rng, cr_hash_combine(g->params.seed, prompt));
    note_prompt(g, p);
    g->row_place[row] = index;
    g->rows[row] = (cr_cached_row){g->tokens + g->offsets[prompt] + shared,
                                   prompt_length(g, prompt) - shared, index, shared, true};
}

/* Puts the prompts back in line, to be begun at the next step. */
static void unseat(cr_generation *g, size_t rows)
{
    for (size_t r = rows; r-- > 0;) {
        place *p = &g->places[g->row_place[r]];
        g->next = p->seated;
        p->prompt = NONE;
    }
}

static void note_begun(cr_generation *g, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        place *p = &g->places[g->row_place[r]];
        p->held = prompt_length(g, p->seated);
        g->prompt_positions += p->held;
        g->reused_positions += g->rows[r].past;
    }
    g->begun = rows;
}

/* Prompts into free places, as many as two micro-batches of tokens hold: nothing is kept for a backward
 * pass, and weights are expanded half as often. */
static int begin_prompts(cr_generation *g)
{
    size_t rows = 0, tokens = 0, index, shared;
    size_t most = 2 * (size_t)g->session->config.micro_batch_tokens;
    drop_stale(g);
    while (g->next < g->count && g->params.max_tokens > 0 && (index = free_place(g)) != NONE) {
        size_t alike = alike_place(g, g->next, &shared);
        tokens += prompt_length(g, g->next) - shared;
        if (rows > 0 && (tokens > most || should_wait(g, rows, g->next, shared)))
            break;
        if (alike != NONE && g->places[alike].prompt == NONE)
            index = alike;
        seat(g, index, rows++, alike, shared);
        skip_dropped(g);
    }
    int code = run_rows(g, rows, false);
    if (code < 0)
        unseat(g, rows);
    else
        note_begun(g, rows);
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

void cr_generation_describe(const cr_generation *g, cr_generation_info *out)
{
    *out = (cr_generation_info){.rows = g->places_count,
                                .cache_bytes =
                                    (uint64_t)g->cache.slots * g->cache.slot_floats * sizeof(float),
                                .prompt_positions = g->prompt_positions,
                                .reused_positions = g->reused_positions};
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
        return cr_fail(CR_EARG,
                       "the latest step began no prompt whose continuations could be scored");
    cr_score_text *texts = cr_calloc(g->begun, sizeof *texts);
    size_t *lengths = cr_calloc(g->begun, sizeof *lengths);
    int code =
        texts && lengths ? score_begun(g, texts, lengths, continuations, choices, out) : CR_ENOMEM;
    cr_free(lengths);
    cr_free(texts);
    return code;
}
