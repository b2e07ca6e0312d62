/* prediction.c: questions to picks and places, a forward pass, and one backward from all slopes. */
#include "train/prediction.h"

#include <math.h>
#include <string.h>

#include "math/norm.h"
#include "train/watch.h"

#define NONE SIZE_MAX
#define TARGET_OUTPUTS (CR_LOGPROBS | CR_BASE_LOGPROBS)
#define POSITION_OUTPUTS (TARGET_OUTPUTS | CR_ENTROPY | CR_LIKELIEST | CR_MEAN_LOGPROBS)
#define CANDIDATE_OUTPUTS (CR_CANDIDATES | CR_BASE_CANDIDATES)
#define BASE_OUTPUTS (CR_BASE_LOGPROBS | CR_BASE_CANDIDATES)
#define ALL_OUTPUTS (POSITION_OUTPUTS | CANDIDATE_OUTPUTS | CR_HIDDEN)

/* ---- beginning and end ---------------------------------------------------------------------------- */

void cr_predicting_free(cr_predicting *predicting)
{
    if (!predicting)
        return;
    cr_loan_close(predicting->loan);
    cr_free(predicting);
}

static int predicting_of(cr_session *session, cr_predicting **out)
{
    if (!session->predicting) {
        cr_predicting *made = cr_calloc(1, sizeof *made);
        if (!made)
            return CR_ENOMEM;
        int code = cr_loan_create(&made->loan, "the step that this prediction belongs to is over");
        if (code < 0) {
            cr_free(made);
            return code;
        }
        session->predicting = made;
    }
    *out = session->predicting;
    return CR_OK;
}

void cr_session_end_prediction(cr_session *session)
{
    cr_predicting *self = session->predicting;
    if (!self || !self->open)
        return;
    self->open = false;
    cr_loan_end(self->loan);
}

void cr_session_pass_over(cr_session *session, size_t datums)
{
    session->window_datums += datums;
}

/* ---- questions -------------------------------------------------------------------------------------- */

static const cr_question NO_QUESTION = {0};

static const cr_question *question_of(const cr_predict_request *request, size_t datum)
{
    return request->questions ? &request->questions[datum] : &NO_QUESTION;
}

static int check_candidates(const cr_question *question, size_t datum, size_t length,
                            size_t vocabulary)
{
    const int32_t *ids = question->ids;
    for (size_t i = 0; i < question->position_count; i++) {
        int32_t position = question->positions[i], count = question->counts[i];
        if (position < 0 || (size_t)position >= length)
            return cr_fail(CR_EARG, "datum %zu: candidates at position %d, expected 1 to %zu",
                           datum + 1, (int)position + 1, length);
        if (count < 0)
            return cr_fail(CR_EARG, "datum %zu: %d candidates at position %d, expected 0 or more",
                           datum + 1, (int)count, (int)position + 1);
        for (int32_t k = 0; k < count; k++, ids++)
            if (*ids < 0 || (size_t)*ids >= vocabulary)
                return cr_fail(CR_EARG, "datum %zu: candidate %d, expected a token from 0 to %zu",
                               datum + 1, (int)*ids, vocabulary - 1);
    }
    return CR_OK;
}

static int check_spans(const cr_question *question, size_t datum, size_t length)
{
    for (size_t s = 0; s < question->span_count; s++) {
        int32_t first = question->spans[2 * s], last = question->spans[2 * s + 1];
        if (first < 0 || last < first || (size_t)last >= length)
            return cr_fail(CR_EARG,
                           "datum %zu: span %zu is %d to %d, expected positions from 1 to %zu",
                           datum + 1, s + 1, (int)first + 1, (int)last + 1, length);
    }
    return CR_OK;
}

static int check_request(const cr_predict_request *request, const cr_datum *datums, size_t count,
                         const cr_session *session)
{
    const cr_config *config = &session->model->config;
    const bool any = request->outputs != 0 || request->comparison_count > 0;
    size_t longest = 0;
    if (!any || request->outputs & ~(unsigned)ALL_OUTPUTS)
        return cr_fail(CR_EARG, "outputs must be CR_* bits, at least one, got %u",
                       request->outputs);
    if (request->comparison_count > CR_MOST_COMPARISONS)
        return cr_fail(CR_EARG, "%zu comparisons, expected at most %d", request->comparison_count,
                       CR_MOST_COMPARISONS);
    for (size_t i = 0; i < count; i++) {
        const cr_question *question = question_of(request, i);
        size_t length = cr_datum_length(&datums[i]);
        CR_TRY(check_candidates(question, i, length, config->vocabulary));
        CR_TRY(check_spans(question, i, length));
        longest = length > longest ? length : longest;
    }
    for (size_t c = 0; c < request->comparison_count; c++)
        CR_TRY(cr_comparison_check(&request->comparisons[c], session, longest));
    return CR_OK;
}

static size_t candidates_of(const cr_question *question)
{
    size_t count = 0;
    for (size_t i = 0; i < question->position_count; i++)
        count += (size_t)question->counts[i];
    return count;
}

/* Whether an output wants the head at positions that are shown. */
static bool wants_positions(const cr_predicting *self)
{
    return self->outputs & POSITION_OUTPUTS || self->comparison_count > 0;
}

static bool needs_base(const cr_predicting *self)
{
    for (size_t c = 0; c < self->comparison_count; c++)
        if (!self->comparisons[c].asked.teacher)
            return true;
    return self->outputs & BASE_OUTPUTS;
}

static bool shows(const cr_predicting *self, const cr_datum *datum, size_t position)
{
    return self->every_position || cr_datum_weight(datum, position) != 0;
}

/* ---- sizes -------------------------------------------------------------------------------------------- */

static void measure_datum(cr_predicting *self, const cr_datum *datum, const cr_question *question)
{
    size_t length = cr_datum_length(datum), rows = 0;
    if (wants_positions(self))
        for (size_t t = 0; t < length; t++)
            rows += shows(self, datum, t);
    if (self->outputs & TARGET_OUTPUTS)
        self->most_picks += rows;
    if (self->outputs & CANDIDATE_OUTPUTS) {
        size_t candidates = candidates_of(question);
        rows += question->position_count;
        self->most_picks += candidates;
        self->candidate_count += candidates;
    }
    self->most_rows += rows < length ? rows : length;
    if (self->outputs & CR_HIDDEN)
        for (size_t s = 0; s < question->span_count; s++)
            self->spans.n += (size_t)(question->spans[2 * s + 1] - question->spans[2 * s] + 1);
    self->spans.spans += self->outputs & CR_HIDDEN ? question->span_count : 0;
}

/* The number of values of a datum, and where each output begins. */
static size_t place_answer(const cr_predicting *self, cr_answer *out, const cr_datum *datum,
                           const cr_question *question, size_t at)
{
    const unsigned outputs = self->outputs;
    *out = (cr_answer){.length = cr_datum_length(datum)};
    out->candidates = outputs & CANDIDATE_OUTPUTS ? candidates_of(question) : 0;
    out->spans = outputs & CR_HIDDEN ? question->span_count : 0;
    out->logprobs_at = at;
    at += outputs & CR_LOGPROBS ? out->length : 0;
    out->entropy_at = at;
    at += outputs & CR_ENTROPY ? out->length : 0;
    out->likeliest_at = at;
    at += outputs & CR_LIKELIEST ? out->length : 0;
    out->candidates_at = at;
    at += outputs & CR_CANDIDATES ? out->candidates : 0;
    out->hidden_at = at;
    at += out->spans * self->pass.model->config.width;
    out->base_logprobs_at = at;
    at += outputs & CR_BASE_LOGPROBS ? out->length : 0;
    out->base_candidates_at = at;
    at += outputs & CR_BASE_CANDIDATES ? out->candidates : 0;
    out->mean_logprobs_at = at;
    at += outputs & CR_MEAN_LOGPROBS ? out->length : 0;
    out->comparisons_at = at;
    return at + self->comparison_count * out->length;
}

static void measure(cr_predicting *self, cr_session *session, const cr_datum *datums, size_t count,
                    const cr_predict_request *request)
{
    cr_loan *loan = self->loan;
    *self = (cr_predicting){.outputs = request->outputs,
                            .every_position = request->every_position,
                            .train = request->train,
                            .loan = loan,
                            .pass = cr_session_pass(session, request->train, false)};
    self->comparison_count = request->comparison_count;
    for (size_t c = 0; c < self->comparison_count; c++)
        self->comparisons[c].asked = request->comparisons[c];
    cr_micro_batch_measure(&self->batch, datums, count);
    for (size_t i = 0; i < count; i++) {
        cr_answer unused;
        measure_datum(self, &datums[i], question_of(request, i));
        self->count = place_answer(self, &unused, &datums[i], question_of(request, i), self->count);
    }
    self->piece = cr_watch_rows(datums, count);
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

static int take_lists(cr_predicting *self, const cr_session *session, cr_arena *arena)
{
    const size_t n = self->batch.rows.n;
    cr_taker from = {arena, false};
    self->answers = cr_take(&from, self->batch.count, sizeof *self->answers);
    self->row_of = cr_take(&from, n, sizeof *self->row_of);
    self->shown_row = cr_take(&from, n, sizeof *self->shown_row);
    self->target_pick = cr_take(&from, n, sizeof *self->target_pick);
    self->candidate_pick = cr_take(&from, self->candidate_count, sizeof *self->candidate_pick);
    self->places = cr_take(&from, self->most_rows, sizeof *self->places);
    self->starts = cr_take(&from, self->most_rows + 1, sizeof *self->starts);
    self->ids = cr_take(&from, self->most_picks, sizeof *self->ids);
    self->spans.starts = cr_take(&from, self->spans.spans + 1, sizeof *self->spans.starts);
    self->spans.places = cr_take(&from, self->spans.n, sizeof *self->spans.places);
    self->base_logprobs =
        self->outputs & BASE_OUTPUTS ? cr_take_floats(&from, self->most_picks, 1) : NULL;
    self->values = cr_take(&from, self->count, sizeof *self->values);
    self->slopes = self->train ? cr_take(&from, self->count, sizeof *self->slopes) : NULL;
    bool mean = self->outputs & CR_MEAN_LOGPROBS;
    self->mean_logprobs = mean ? cr_take_floats(&from, self->most_rows, 1) : NULL;
    self->mean_slopes = mean ? cr_take_floats(&from, self->most_rows, 1) : NULL;
    for (size_t c = 0; c < self->comparison_count && !from.failed; c++)
        CR_TRY(
            cr_comparing_take(&self->comparisons[c], session, self->most_rows, self->train, arena));
    return from.failed ? CR_ENOMEM : CR_OK;
}

/* starts[row + 1] = picks of a row of the head, whose number row_of gets; the target's comes first. */
static void count_picks(cr_predicting *self, const cr_datum *datum, const cr_question *question,
                        size_t position)
{
    const size_t length = cr_datum_length(datum), first = self->head.n;
    size_t *row_of = self->row_of + position;
    for (size_t t = 0; t < length; t++)
        row_of[t] = wants_positions(self) && shows(self, datum, t) ? 0 : NONE;
    if (self->outputs & CANDIDATE_OUTPUTS)
        for (size_t i = 0; i < question->position_count; i++)
            row_of[question->positions[i]] = 0;
    for (size_t t = 0; t < length; t++) {
        if (row_of[t] == NONE)
            continue;
        row_of[t] = self->head.n;
        self->places[self->head.n++] = position + t;
    }
    memset(self->starts + first + 1, 0, (self->head.n - first) * sizeof *self->starts);
    if (self->outputs & TARGET_OUTPUTS)
        for (size_t t = 0; t < length; t++)
            if (row_of[t] != NONE)
                self->starts[row_of[t] + 1] += shows(self, datum, t);
    if (self->outputs & CANDIDATE_OUTPUTS)
        for (size_t i = 0; i < question->position_count; i++)
            self->starts[row_of[question->positions[i]] + 1] += (size_t)question->counts[i];
    for (size_t row = first; row < self->head.n; row++)
        self->starts[row + 1] += self->starts[row];
}

/* Ids of the rows that count_picks counted. starts[row] runs through a row's picks and ends at the next
 * row's first, from where it is moved back. */
static void fill_picks(cr_predicting *self, const cr_datum *datum, const cr_question *question,
                       size_t position, size_t first_row, size_t *candidate)
{
    const size_t *row_of = self->row_of + position, first_pick = self->starts[first_row];
    for (size_t t = 0; t < cr_datum_length(datum); t++) {
        bool shown = row_of[t] != NONE && shows(self, datum, t);
        bool picked = shown && self->outputs & TARGET_OUTPUTS;
        self->shown_row[position + t] = shown ? row_of[t] : NONE;
        self->target_pick[position + t] = picked ? self->starts[row_of[t]]++ : NONE;
        if (picked)
            self->ids[self->target_pick[position + t]] = cr_datum_target(datum, t);
    }
    const int32_t *ids = question->ids;
    if (self->outputs & CANDIDATE_OUTPUTS)
        for (size_t i = 0; i < question->position_count; i++)
            for (int32_t k = 0; k < question->counts[i]; k++) {
                size_t pick = self->starts[row_of[question->positions[i]]]++;
                self->ids[pick] = *ids++;
                self->candidate_pick[(*candidate)++] = pick;
            }
    for (size_t row = self->head.n; row-- > first_row + 1;)
        self->starts[row] = self->starts[row - 1];
    self->starts[first_row] = first_pick;
}

static void fill_spans(cr_span_pass *spans, const cr_question *question, size_t position,
                       size_t *span)
{
    for (size_t s = 0; s < question->span_count; s++, (*span)++) {
        size_t at = spans->starts[*span];
        for (int32_t t = question->spans[2 * s]; t <= question->spans[2 * s + 1]; t++)
            spans->places[at++] = position + (size_t)t;
        spans->starts[*span + 1] = at;
    }
}

static void fill_lists(cr_predicting *self, const cr_datum *datums,
                       const cr_predict_request *request)
{
    size_t at = 0, candidate = 0, span = 0;
    self->head.n = self->starts[0] = self->spans.starts[0] = 0;
    for (size_t i = 0; i < self->batch.count; i++) {
        const cr_question *question = question_of(request, i);
        const size_t position = self->batch.rows.starts[i], first = self->head.n;
        at = place_answer(self, &self->answers[i], &datums[i], question, at);
        count_picks(self, &datums[i], question, position);
        fill_picks(self, &datums[i], question, position, first, &candidate);
        if (self->outputs & CR_HIDDEN)
            fill_spans(&self->spans, question, position, &span);
    }
    if (self->slopes)
        memset(self->slopes, 0, self->count * sizeof *self->slopes);
}

/* ---- spans -------------------------------------------------------------------------------------------------- */

static int take_spans(cr_predicting *self, cr_arena *arena)
{
    cr_span_pass *spans = &self->spans;
    const size_t d = self->pass.model->config.width;
    cr_taker from = {arena, false};
    spans->raw = cr_take_floats(&from, spans->n, d);
    spans->normed = cr_take_floats(&from, spans->n, d);
    spans->inverse = cr_take_floats(&from, spans->n, 1);
    spans->dnormed = self->train ? cr_take_floats(&from, spans->n, d) : NULL;
    spans->draw = self->train ? cr_take_floats(&from, spans->n, d) : NULL;
    return from.failed ? CR_ENOMEM : CR_OK;
}

static void spans_forward(cr_span_pass *spans, const cr_pass *pass)
{
    const cr_model *model = pass->model;
    const size_t d = model->config.width;
    const float *last = pass->inputs[model->config.layers];
    for (size_t i = 0; i < spans->n; i++)
        memcpy(spans->raw + i * d, last + spans->places[i] * d, d * sizeof(float));
    cr_rmsnorm_forward(pass->compute, spans->normed, spans->inverse, spans->raw, model->final_norm,
                       spans->n, d, model->config.norm_epsilon);
}

static void span_mean(const cr_span_pass *spans, size_t span, double *out, size_t d)
{
    const size_t first = spans->starts[span], end = spans->starts[span + 1];
    memset(out, 0, d * sizeof *out);
    for (size_t i = first; i < end; i++)
        for (size_t c = 0; c < d; c++)
            out[c] += (double)spans->normed[i * d + c] / (double)(end - first);
}

/* dnormed of a span's positions from the slope of their mean [d]. */
static void span_slope(const cr_span_pass *spans, size_t span, const double *slope, size_t d)
{
    const size_t first = spans->starts[span], end = spans->starts[span + 1];
    for (size_t i = first; i < end; i++)
        for (size_t c = 0; c < d; c++)
            spans->dnormed[i * d + c] = (float)(slope[c] / (double)(end - first));
}

/* pass->dx += the gradient of the last output. */
static void spans_backward(cr_span_pass *spans, const cr_pass *pass)
{
    const cr_model *model = pass->model;
    const size_t d = model->config.width;
    memset(spans->draw, 0, spans->n * d * sizeof(float));
    cr_rmsnorm_backward(pass->compute, spans->draw, spans->dnormed, spans->inverse, spans->raw,
                        model->final_norm, spans->n, d);
    for (size_t i = 0; i < spans->n; i++)
        pass->compute->kernels->axpy(pass->dx + spans->places[i] * d, 1.0f, spans->draw + i * d, d);
}

/* ---- forward ------------------------------------------------------------------------------------------------- */

static cr_head_pass_needs needs_of(const cr_predicting *self, bool base)
{
    return (cr_head_pass_needs){.n = self->most_rows,
                                .picks = self->most_picks,
                                .lse = !base && self->outputs & CR_MEAN_LOGPROBS,
                                .entropy = !base && self->outputs & CR_ENTROPY,
                                .likeliest = !base && self->outputs & CR_LIKELIEST,
                                .again = true};
}

static cr_head_pass head_of(const cr_predicting *self)
{
    return (cr_head_pass){
        .n = self->head.n, .places = self->places, .picks = {self->starts, self->ids}};
}

typedef struct base_pass {
    cr_pass pass;
    cr_head_pass head;
} base_pass;

static int lay_out_base(base_pass *base, cr_predicting *self, cr_session *session, cr_arena *arena)
{
    const cr_head_pass_needs needs = needs_of(self, true);
    base->pass = cr_session_pass(session, false, true);
    base->pass.batch = self->batch.rows;
    base->head = head_of(self);
    CR_TRY(cr_head_pass_prepare(&base->head, &base->pass, &needs, arena));
    return cr_pass_prepare(&base->pass, arena);
}

/* One for all comparisons, which run in turn. */
static int take_scratch(cr_predicting *self, const cr_session *session, cr_arena *arena)
{
    size_t most = 0;
    cr_taker from = {arena, false};
    for (size_t c = 0; c < self->comparison_count; c++) {
        size_t floats = cr_comparing_scratch(&self->comparisons[c], session, self->most_rows);
        most = floats > most ? floats : most;
    }
    self->comparison_scratch = cr_take_floats(&from, most, 1);
    return from.failed ? CR_ENOMEM : CR_OK;
}

static int lay_out_main(cr_predicting *self, const cr_session *session, cr_arena *arena)
{
    const cr_head_pass_needs needs = needs_of(self, false);
    self->pass.batch = self->batch.rows;
    self->pass.batch.dropout = (float)session->config.dropout;
    self->head = head_of(self);
    CR_TRY(take_spans(self, arena));
    CR_TRY(take_scratch(self, session, arena));
    CR_TRY(cr_head_pass_prepare(&self->head, &self->pass, &needs, arena));
    return cr_pass_prepare(&self->pass, arena);
}

static int lay_out_lists(cr_predicting *self, const cr_session *session, cr_arena *arena)
{
    CR_TRY(cr_micro_batch_prepare(&self->batch, arena, cr_session_dropout_key(session),
                                  session->window_datums));
    return take_lists(self, session, arena);
}

/* The work space that all of it takes: the base's pass and the lora's use the same room in turn. */
static int reserve(cr_predicting *self, cr_session *session)
{
    cr_arena plan = {.planning = true};
    base_pass base;
    CR_TRY(lay_out_lists(self, session, &plan));
    size_t mark = cr_arena_mark(&plan);
    if (needs_base(self))
        CR_TRY(lay_out_base(&base, self, session, &plan));
    cr_arena_rewind(&plan, mark);
    CR_TRY(lay_out_main(self, session, &plan));
    CR_TRY(cr_arena_reserve(&session->arena, plan.peak));
    cr_arena_reset(&session->arena);
    return CR_OK;
}

static int run_base(cr_predicting *self, cr_session *session)
{
    base_pass base;
    size_t mark = cr_arena_mark(&session->arena);
    CR_TRY(lay_out_base(&base, self, session, &session->arena));
    CR_TRY(cr_pass_forward(&base.pass));
    if (self->base_logprobs) {
        base.head.logprobs = self->base_logprobs;
        cr_head_pass_forward(&base.head, &base.pass);
    } else {
        cr_head_pass_norm(&base.head, &base.pass);
    }
    const size_t bytes = self->head.n * session->model->config.width * sizeof(float);
    for (size_t c = 0; c < self->comparison_count; c++)
        if (!self->comparisons[c].asked.teacher)
            memcpy(self->comparisons[c].reference, base.head.normed, bytes);
    cr_arena_rewind(&session->arena, mark);
    return CR_OK;
}

/* Mean over the vocabulary of log p: mean of the head's rows · hidden - lse. */
static void give_means(const cr_predicting *self, const cr_session *session)
{
    const size_t d = session->model->config.width;
    for (size_t row = 0; self->mean_logprobs && row < self->head.n; row++) {
        double logit = 0;
        for (size_t c = 0; c < d; c++)
            logit += (double)session->mean_row[c] * (double)self->head.normed[row * d + c];
        self->mean_logprobs[row] = (float)(logit - (double)self->head.lse[row]);
    }
}

/* Once a session: the head does not change. */
static int find_mean_row(cr_session *session)
{
    const cr_matrix *head = &session->model->head;
    const size_t d = head->columns;
    if (session->mean_row)
        return CR_OK;
    float *row = cr_calloc(d, sizeof *row);
    double *sum = cr_calloc(d, sizeof *sum);
    for (size_t v = 0; row && sum && v < head->rows; v++) {
        cr_matrix_row(row, head, v);
        for (size_t c = 0; c < d; c++)
            sum[c] += (double)row[c];
    }
    for (size_t c = 0; row && sum && c < d; c++)
        row[c] = (float)(sum[c] / (double)head->rows);
    session->mean_row = sum ? row : NULL;
    if (!sum)
        cr_free(row);
    cr_free(sum);
    return session->mean_row ? CR_OK : CR_ENOMEM;
}

static int run_main(cr_predicting *self, cr_session *session)
{
    CR_TRY(lay_out_main(self, session, &session->arena));
    CR_TRY(cr_pass_forward(&self->pass));
    cr_head_pass_forward(&self->head, &self->pass);
    spans_forward(&self->spans, &self->pass);
    give_means(self, session);
    for (size_t c = 0; c < self->comparison_count; c++)
        cr_comparing_run(&self->comparisons[c], session, self->head.normed, self->head.n,
                         self->comparison_scratch);
    return CR_OK;
}

/* ---- values and slopes ----------------------------------------------------------------------------------------- */

/* Log-probabilities of the targets from `position` on; 0 where there is no pick. */
static void give_targets(const cr_predicting *self, double *out, const float *logprobs,
                         size_t position, size_t length)
{
    for (size_t t = 0; t < length; t++) {
        size_t pick = self->target_pick[position + t];
        out[t] = pick == NONE ? 0 : (double)logprobs[pick];
    }
}

static void give_candidates(const cr_predicting *self, double *out, const float *logprobs,
                            size_t first, size_t count)
{
    for (size_t k = 0; k < count; k++)
        out[k] = (double)logprobs[self->candidate_pick[first + k]];
}

/* Values of the head's rows at positions that are shown; 0 elsewhere. */
static void give_rows(const cr_predicting *self, double *out, const float *rows, size_t position,
                      size_t length)
{
    for (size_t t = 0; t < length; t++) {
        size_t row = self->shown_row[position + t];
        out[t] = row == NONE ? 0 : (double)rows[row];
    }
}

static void give_values(cr_predicting *self)
{
    const size_t d = self->pass.model->config.width;
    size_t candidate = 0, span = 0;
    for (size_t i = 0; i < self->batch.count; i++) {
        const cr_answer *a = &self->answers[i];
        const size_t position = self->batch.rows.starts[i];
        double *values = self->values;
        if (self->outputs & CR_LOGPROBS)
            give_targets(self, values + a->logprobs_at, self->head.logprobs, position, a->length);
        if (self->outputs & CR_BASE_LOGPROBS)
            give_targets(self, values + a->base_logprobs_at, self->base_logprobs, position,
                         a->length);
        if (self->outputs & CR_ENTROPY)
            give_rows(self, values + a->entropy_at, self->head.entropy, position, a->length);
        if (self->outputs & CR_LIKELIEST)
            give_rows(self, values + a->likeliest_at, self->head.likeliest, position, a->length);
        if (self->outputs & CR_MEAN_LOGPROBS)
            give_rows(self, values + a->mean_logprobs_at, self->mean_logprobs, position, a->length);
        for (size_t c = 0; c < self->comparison_count; c++)
            give_rows(self, values + a->comparisons_at + c * a->length, self->comparisons[c].values,
                      position, a->length);
        if (self->outputs & CR_CANDIDATES)
            give_candidates(self, values + a->candidates_at, self->head.logprobs, candidate,
                            a->candidates);
        if (self->outputs & CR_BASE_CANDIDATES)
            give_candidates(self, values + a->base_candidates_at, self->base_logprobs, candidate,
                            a->candidates);
        candidate += a->candidates;
        for (size_t s = 0; s < a->spans; s++)
            span_mean(&self->spans, span++, values + a->hidden_at + s * d, d);
    }
}

static void take_targets(const cr_predicting *self, const double *slopes, size_t position,
                         size_t length)
{
    for (size_t t = 0; t < length; t++) {
        size_t pick = self->target_pick[position + t];
        if (pick != NONE)
            self->head.slopes[pick] = (float)slopes[t];
    }
}

static void take_rows(const cr_predicting *self, float *rows, const double *slopes, size_t position,
                      size_t length)
{
    for (size_t t = 0; t < length; t++) {
        size_t row = self->shown_row[position + t];
        if (row != NONE)
            rows[row] = (float)slopes[t];
    }
}

static void clear_slopes(cr_predicting *self)
{
    const size_t bytes = self->head.n * sizeof(float);
    memset(self->head.slopes, 0, self->starts[self->head.n] * sizeof(float));
    if (self->head.entropy_slopes)
        memset(self->head.entropy_slopes, 0, bytes);
    if (self->mean_slopes)
        memset(self->mean_slopes, 0, bytes);
    for (size_t c = 0; c < self->comparison_count; c++)
        memset(self->comparisons[c].slopes, 0, bytes);
}

static void take_slopes(cr_predicting *self)
{
    const size_t d = self->pass.model->config.width;
    size_t candidate = 0, span = 0;
    clear_slopes(self);
    for (size_t i = 0; i < self->batch.count; i++) {
        const cr_answer *a = &self->answers[i];
        const size_t position = self->batch.rows.starts[i];
        if (self->outputs & CR_LOGPROBS)
            take_targets(self, self->slopes + a->logprobs_at, position, a->length);
        if (self->outputs & CR_ENTROPY)
            take_rows(self, self->head.entropy_slopes, self->slopes + a->entropy_at, position,
                      a->length);
        if (self->outputs & CR_MEAN_LOGPROBS)
            take_rows(self, self->mean_slopes, self->slopes + a->mean_logprobs_at, position,
                      a->length);
        for (size_t c = 0; c < self->comparison_count; c++)
            take_rows(self, self->comparisons[c].slopes,
                      self->slopes + a->comparisons_at + c * a->length, position, a->length);
        for (size_t k = 0; self->outputs & CR_CANDIDATES && k < a->candidates; k++)
            self->head.slopes[self->candidate_pick[candidate + k]] =
                (float)self->slopes[a->candidates_at + k];
        candidate += a->candidates;
        for (size_t s = 0; s < a->spans; s++)
            span_slope(&self->spans, span++, self->slopes + a->hidden_at + s * d, d);
    }
}

/* ---- the calls --------------------------------------------------------------------------------------------------- */

static bool all_finite(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i] - values[i];
    return sum == 0;
}

static int ask_teachers(cr_predicting *self, cr_session *session)
{
    const cr_head_pass head = head_of(self);
    for (size_t c = 0; c < self->comparison_count; c++)
        if (self->comparisons[c].asked.teacher)
            CR_TRY(cr_comparing_ask(&self->comparisons[c], session, &self->batch.rows, &head));
    return CR_OK;
}

static int run(cr_predicting *self, cr_session *session, const cr_datum *datums,
               const cr_predict_request *request)
{
    CR_TRY(reserve(self, session));
    CR_TRY(lay_out_lists(self, session, &session->arena));
    fill_lists(self, datums, request);
    if (needs_base(self))
        CR_TRY(run_base(self, session));
    CR_TRY(ask_teachers(self, session));
    CR_TRY(run_main(self, session));
    give_values(self);
    return CR_OK;
}

int cr_session_predict(cr_session *session, const cr_datum *datums, size_t count,
                       const cr_predict_request *request, cr_prediction *out)
{
    cr_predicting *self;
    cr_batch_counts counts;
    const cr_config *config = &session->model->config;
    cr_session_enter(session);
    CR_TRY(predicting_of(session, &self));
    CR_TRY(cr_batch_check(&counts, datums, count, config));
    CR_TRY(check_request(request, datums, count, session));
    if (request->outputs & CR_MEAN_LOGPROBS)
        CR_TRY(find_mean_row(session));
    measure(self, session, datums, count, request);
    CR_TRY(run(self, session, datums, request));
    if (request->train)
        session->window_datums += count;
    self->open = true;
    *out = (cr_prediction){.values = self->values,
                           .slopes = self->slopes,
                           .count = self->count,
                           .answers = self->answers,
                           .width = config->width,
                           .finite = all_finite(self->values, self->count),
                           .supervised = counts.supervised,
                           .tokens = counts.positions};
    return CR_OK;
}

static int open_prediction(const cr_session *session, cr_predicting **out)
{
    *out = session->predicting;
    if (!*out || !(*out)->open)
        return cr_fail(CR_EARG, "there is no prediction, or the session did other work since");
    return CR_OK;
}

/* dnormed of a row += the slopes of means and comparisons. */
static void pull_task(void *argument, size_t row, int thread)
{
    (void)thread;
    const cr_session *session = argument;
    const cr_predicting *self = session->predicting;
    const cr_kernels *kernels = session->compute.kernels;
    const size_t d = session->model->config.width;
    float *out = self->head.dnormed + row * d;
    for (size_t c = 0; c < self->comparison_count; c++)
        kernels->axpy(out, self->comparisons[c].slopes[row], self->comparisons[c].pull + row * d,
                      d);
    if (!self->mean_slopes)
        return;
    kernels->axpy(out, self->mean_slopes[row], session->mean_row, d);
    kernels->axpy(out, -self->mean_slopes[row], self->head.expected + row * d, d);
}

static int run_backward(cr_predicting *self, cr_session *session)
{
    take_slopes(self);
    cr_head_pass_slopes(&self->head, &self->pass);
    cr_parallel_for(session->compute.pool, self->head.n, pull_task, session);
    cr_head_pass_backward(&self->head, &self->pass);
    spans_backward(&self->spans, &self->pass);
    CR_TRY(cr_pass_backward(&self->pass));
    cr_lora_zero_frozen(&session->lora);
    return cr_watch_piece(session, self->piece);
}

int cr_session_backward(cr_session *session)
{
    cr_predicting *self;
    CR_TRY(open_prediction(session, &self));
    if (!self->train)
        return cr_fail(CR_EARG, "the prediction was made without `train`: nothing was kept of it");
    session->cancelled = 0;
    int code = run_backward(self, session);
    if (code < 0) {
        cr_session_end_prediction(session);
        cr_session_zero_gradients(session);
    }
    return code;
}

int cr_session_prediction_tensor(cr_tensor **out, cr_session *session, bool slopes)
{
    cr_predicting *self;
    *out = NULL;
    CR_TRY(open_prediction(session, &self));
    if (slopes && !self->slopes)
        return cr_fail(CR_EARG, "the prediction was made without `train`: it has no slopes");
    double *data = slopes ? self->slopes : self->values;
    return cr_tensor_borrow(out, CR_F64, 1, &self->count, data, self->loan);
}
