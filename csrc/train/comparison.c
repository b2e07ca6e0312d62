/* comparison.c: a teacher's hidden states, and divergences from them. */
#include "train/comparison.h"

#include <math.h>
#include <string.h>

int cr_comparison_check(const cr_comparison *asked, const cr_session *session, size_t longest)
{
    const cr_session *teacher = asked->teacher;
    const cr_config *own = &session->model->config;
    if (asked->kind < CR_FORWARD_KL || asked->kind > CR_HIDDEN_SQUARE)
        return cr_fail(CR_EARG, "there is no comparison of kind %d", asked->kind);
    if (!(asked->temperature > 0) || isinf(asked->temperature))
        return cr_fail(CR_EARG, "a temperature must be a positive number, got %g",
                       asked->temperature);
    if (!teacher)
        return CR_OK;
    const cr_config *theirs = &teacher->model->config;
    if (teacher == session)
        return cr_fail(CR_EARG, "a session cannot be its own teacher; its base can: give none");
    if (theirs->vocabulary != own->vocabulary)
        return cr_fail(CR_EARG, "the teacher has a vocabulary of %zu tokens, expected %zu",
                       theirs->vocabulary, own->vocabulary);
    if (asked->kind == CR_HIDDEN_SQUARE && theirs->width != own->width)
        return cr_fail(CR_EARG, "the teacher's hidden states have %zu values, expected %zu",
                       theirs->width, own->width);
    if (longest > theirs->context)
        return cr_fail(CR_ECONTEXT, "a row of %zu positions exceeds the teacher's context of %zu",
                       longest, theirs->context);
    return CR_OK;
}

int cr_comparing_take(cr_comparing *self, const cr_session *session, size_t rows, bool train,
                      cr_arena *arena)
{
    cr_taker from = {arena, false};
    const size_t d = session->model->config.width;
    self->model = self->asked.teacher ? self->asked.teacher->model : session->model;
    self->reference = cr_take_floats(&from, rows, self->model->config.width);
    self->values = cr_take_floats(&from, rows, 1);
    self->slopes = cr_take_floats(&from, rows, 1);
    self->pull = train ? cr_take_floats(&from, rows, d) : NULL;
    return from.failed ? CR_ENOMEM : CR_OK;
}

size_t cr_comparing_scratch(const cr_comparing *self, const cr_session *session, size_t rows)
{
    if (self->asked.kind == CR_HIDDEN_SQUARE)
        return 0;
    return cr_divergence_scratch(&session->compute, &session->model->head, &self->model->head,
                                 rows);
}

/* ---- the teacher ---------------------------------------------------------------------------------- */

static int lay_out(cr_pass *pass, cr_head_pass *head, cr_arena *arena)
{
    const size_t d = pass->model->config.width;
    cr_taker from = {arena, false};
    head->raw = cr_take_floats(&from, head->n, d);
    head->inverse = cr_take_floats(&from, head->n, 1);
    if (from.failed)
        return CR_ENOMEM;
    return cr_pass_prepare(pass, arena);
}

int cr_comparing_ask(cr_comparing *self, cr_session *session, const cr_rows_batch *rows,
                     const cr_head_pass *head)
{
    cr_session *teacher = self->asked.teacher;
    cr_session_enter(teacher);
    cr_arena plan = {.planning = true};
    cr_pass pass = cr_session_pass(teacher, false, false);
    cr_head_pass theirs = {.n = head->n, .places = head->places, .normed = self->reference};
    pass.batch = *rows;
    pass.cancelled = &session->cancelled;
    CR_TRY(lay_out(&pass, &theirs, &plan));
    CR_TRY(cr_arena_reserve(&teacher->arena, plan.used));
    cr_arena_reset(&teacher->arena);
    CR_TRY(lay_out(&pass, &theirs, &teacher->arena));
    CR_TRY(cr_pass_forward(&pass));
    cr_head_pass_norm(&theirs, &pass);
    return CR_OK;
}

/* ---- values ------------------------------------------------------------------------------------------ */

static void hidden_square(cr_comparing *self, const float *normed, size_t rows, size_t d)
{
    for (size_t row = 0; row < rows; row++) {
        double sum = 0;
        for (size_t c = 0; c < d; c++) {
            size_t at = row * d + c;
            double difference = (double)normed[at] - (double)self->reference[at];
            sum += difference * difference;
            if (self->pull)
                self->pull[at] = (float)(2 * difference / (double)d);
        }
        self->values[row] = (float)(sum / (double)d);
    }
}

void cr_comparing_run(cr_comparing *self, cr_session *session, const float *normed, size_t rows,
                      float *scratch)
{
    static const cr_divergence_kind kinds[] = {
        [CR_FORWARD_KL] = CR_DIVERGENCE_FORWARD,
        [CR_REVERSE_KL] = CR_DIVERGENCE_REVERSE,
        [CR_JENSEN_SHANNON] = CR_DIVERGENCE_JENSEN_SHANNON,
        [CR_LOGIT_SQUARE] = CR_DIVERGENCE_SQUARE,
    };
    if (self->asked.kind == CR_HIDDEN_SQUARE) {
        hidden_square(self, normed, rows, session->model->config.width);
        return;
    }
    const cr_divergence_side own = {normed, &session->model->head};
    const cr_divergence_side other = {self->reference, &self->model->head};
    cr_divergence(&session->compute, self->values, self->pull, kinds[self->asked.kind],
                  (float)self->asked.temperature, &own, &other, rows, scratch);
}
