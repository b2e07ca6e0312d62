/* logit_difference.c: how far two sessions' logits are apart, token by token. The logits of both live in two
 * tiles of a piece of the vocabulary, never whole. */
#include <math.h>
#include <string.h>

#include "train/loss.h"
#include "train/session.h"

#define PIECE 512 /* tokens of the vocabulary at a time */

/* One session's side of a row. */
typedef struct side {
    cr_session *session;
    bool base;
    float *hidden;      /* [n, d] after the final norm: in the session's arena */
    float *logits;      /* [n, PIECE] */
    float *most;        /* [n] logit of the likeliest token so far */
    int32_t *likeliest; /* [n] */
} side;

typedef struct row_batch {
    const int32_t *tokens;
    int32_t *positions;
    size_t *places;
    size_t starts[2];
} row_batch;

static int lay_out(side *self, cr_pass *pass, cr_head_pass *head, cr_arena *arena)
{
    const size_t n = head->n;
    cr_taker from = {arena, false};
    head->raw = cr_take_floats(&from, n, pass->model->config.width);
    head->inverse = cr_take_floats(&from, n, 1);
    head->normed = self->hidden = cr_take_floats(&from, n, pass->model->config.width);
    self->logits = cr_take_floats(&from, n, PIECE);
    self->most = cr_take_floats(&from, n, 1);
    self->likeliest = cr_take(&from, n, sizeof *self->likeliest);
    return from.failed ? CR_ENOMEM : cr_pass_prepare(pass, arena);
}

static int run_side(side *self, const row_batch *row)
{
    cr_session *session = self->session;
    cr_session_enter(session);
    cr_arena plan = {.planning = true};
    cr_pass pass = cr_session_pass(session, false, self->base);
    const size_t n = row->starts[1];
    cr_head_pass head = {.n = n, .places = row->places};
    pass.batch = (cr_rows_batch){.tokens = row->tokens,
                                 .positions = row->positions,
                                 .starts = row->starts,
                                 .rows = 1,
                                 .n = n};
    CR_TRY(lay_out(self, &pass, &head, &plan));
    CR_TRY(cr_arena_reserve(&session->arena, plan.used));
    cr_arena_reset(&session->arena);
    CR_TRY(lay_out(self, &pass, &head, &session->arena));
    CR_TRY(cr_pass_forward(&pass));
    cr_head_pass_norm(&head, &pass);
    for (size_t i = 0; i < n; i++)
        self->most[i] = -INFINITY;
    return CR_OK;
}

/* Logits of tokens first..first+count, [n, PIECE]. */
static void multiply(side *self, size_t n, size_t first, size_t count)
{
    cr_session *session = self->session;
    cr_matrix part = session->model->head;
    part.data = (const unsigned char *)part.data + first * part.row_bytes;
    part.rows = count;
    cr_matmul(&session->compute, self->logits, PIECE, n, 1.0f, false,
              cr_rows(self->hidden, part.columns), &part, true);
    for (size_t i = 0; i < n; i++)
        for (size_t v = 0; v < count; v++)
            if (self->logits[i * PIECE + v] > self->most[i]) {
                self->most[i] = self->logits[i * PIECE + v];
                self->likeliest[i] = (int32_t)(first + v);
            }
}

static void compare_piece(cr_logit_difference *out, double *squares, const side *a, const side *b,
                          size_t n, size_t first, size_t count)
{
    for (size_t i = 0; i < n; i++)
        for (size_t v = 0; v < count; v++) {
            const double difference =
                fabs((double)a->logits[i * PIECE + v] - (double)b->logits[i * PIECE + v]);
            *squares += difference * difference;
            if (!(difference <= out->largest)) { /* NaN counts as the largest */
                out->largest = difference;
                out->position = i;
                out->token = (int32_t)(first + v);
            }
        }
}

static int compare_row(cr_logit_difference *out, double *squares, side *a, side *b,
                       const row_batch *row)
{
    const size_t n = row->starts[1], vocabulary = a->session->model->config.vocabulary;
    cr_logit_difference found = {0};
    CR_TRY(run_side(a, row));
    CR_TRY(run_side(b, row));
    for (size_t first = 0; first < vocabulary; first += PIECE) {
        const size_t count = vocabulary - first < PIECE ? vocabulary - first : PIECE;
        multiply(a, n, first, count);
        multiply(b, n, first, count);
        compare_piece(&found, squares, a, b, n, first, count);
    }
    if (!(found.largest <= out->largest)) {
        out->largest = found.largest;
        out->position = found.position;
        out->token = found.token;
    }
    for (size_t i = 0; i < n; i++)
        out->likeliest_changed += a->likeliest[i] != b->likeliest[i];
    out->positions += n;
    return CR_OK;
}

static int check_row(const cr_session *session, const cr_prompt *prompt)
{
    const cr_config *config = &session->model->config;
    if (prompt->count < 1 || prompt->count > config->context)
        return cr_fail(CR_ECONTEXT, "a row of %zu tokens: expected 1 to %zu", prompt->count,
                       config->context);
    for (size_t i = 0; i < prompt->count; i++)
        if (prompt->tokens[i] < 0 || (size_t)prompt->tokens[i] >= config->vocabulary)
            return cr_fail(CR_EARG, "token id %d: expected 0 to %zu", (int)prompt->tokens[i],
                           config->vocabulary - 1);
    return CR_OK;
}

static int compare_prompt(cr_logit_difference *out, double *squares, side *a, side *b,
                          const cr_prompt *prompt)
{
    CR_TRY(check_row(a->session, prompt));
    CR_TRY(check_row(b->session, prompt));
    row_batch row = {.tokens = prompt->tokens, .starts = {0, prompt->count}};
    row.positions = cr_calloc(prompt->count, sizeof *row.positions);
    row.places = cr_calloc(prompt->count, sizeof *row.places);
    for (size_t i = 0; row.positions && row.places && i < prompt->count; i++) {
        row.positions[i] = (int32_t)i;
        row.places[i] = i;
    }
    int code = row.positions && row.places ? compare_row(out, squares, a, b, &row) : CR_ENOMEM;
    cr_free(row.positions);
    cr_free(row.places);
    return code;
}

int cr_session_logit_difference(cr_session *session, cr_session *other, bool other_base,
                                const cr_prompt *prompts, size_t count, cr_logit_difference *out)
{
    const size_t vocabulary = session->model->config.vocabulary;
    side a = {.session = session}, b = {.session = other, .base = other_base};
    double squares = 0;
    *out = (cr_logit_difference){0};
    if (session == other)
        return cr_fail(CR_EARG, "a session cannot be compared with itself");
    if (other->model->config.vocabulary != vocabulary)
        return cr_fail(CR_EARG, "the other model has a vocabulary of %zu tokens, expected %zu",
                       other->model->config.vocabulary, vocabulary);
    for (size_t i = 0; i < count; i++)
        CR_TRY(compare_prompt(out, &squares, &a, &b, &prompts[i]));
    const double values = (double)out->positions * (double)vocabulary;
    out->rms = values > 0 ? sqrt(squares / values) : 0;
    return CR_OK;
}
