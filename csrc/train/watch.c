/* watch.c: updates, pieces and turns of a session's gradients. The pieces' norms serve McCandlish et al.,
 * "An Empirical Model of Large-Batch Training", 2018, appendix A.1. */
#include "train/watch.h"

#include <math.h>
#include <string.h>

#include "train/adamw.h"
#include "train/batch.h"

/* ---- beginning and end ----------------------------------------------------------------------------- */

cr_watch *cr_watch_of(cr_session *session)
{
    if (!session->watch)
        session->watch = cr_calloc(1, sizeof *session->watch);
    return session->watch;
}

static void *released(void *block)
{
    cr_free(block);
    return NULL;
}

static void forget(cr_watch *watch, unsigned what)
{
    if (what & CR_WATCH_UPDATES) {
        watch->before = released(watch->before);
        watch->updates = released(watch->updates);
        watch->has_updates = false;
    }
    if (what & CR_WATCH_PIECES) {
        watch->seen = released(watch->seen);
        watch->pieces = released(watch->pieces);
        watch->piece_count = watch->piece_capacity = 0;
    }
    if (what & CR_WATCH_TURNS) {
        watch->previous = released(watch->previous);
        watch->has_previous = false;
    }
    watch->what &= ~what;
}

void cr_watch_free(cr_watch *watch)
{
    if (!watch)
        return;
    forget(watch, CR_WATCH_UPDATES | CR_WATCH_PIECES | CR_WATCH_TURNS);
    cr_loan_close(watch->loan);
    for (int i = 0; i < watch->space_count; i++)
        cr_gradstat_space_free(&watch->spaces[i]);
    cr_free(watch->spaces);
    cr_free(watch->statistics);
    cr_free(watch->sums);
    cr_free(watch);
}

static int begin(cr_watch *watch, const cr_lora *lora, unsigned what)
{
    size_t floats = lora->floats;
    if (!watch->sums)
        watch->sums = cr_calloc(3 * lora->count, sizeof *watch->sums);
    if (what & CR_WATCH_UPDATES) {
        watch->before = cr_calloc(floats, sizeof(float));
        watch->updates = cr_calloc(lora->count, sizeof *watch->updates);
    }
    if (what & CR_WATCH_PIECES)
        watch->seen = cr_calloc(floats, sizeof(float));
    if (what & CR_WATCH_TURNS)
        watch->previous = cr_calloc(floats, sizeof(float));
    bool updates = !(what & CR_WATCH_UPDATES) || (watch->before && watch->updates);
    bool pieces = !(what & CR_WATCH_PIECES) || watch->seen;
    bool turns = !(what & CR_WATCH_TURNS) || watch->previous;
    watch->what |= what;
    return watch->sums && updates && pieces && turns ? CR_OK : CR_ENOMEM;
}

int cr_session_watch(cr_session *session, unsigned what)
{
    if (what & ~(unsigned)(CR_WATCH_UPDATES | CR_WATCH_PIECES | CR_WATCH_TURNS))
        return cr_fail(CR_EARG, "what to watch must be CR_WATCH_* bits, got %u", what);
    if (what == 0 && !session->watch)
        return CR_OK;
    cr_watch *watch = cr_watch_of(session);
    if (!watch)
        return CR_ENOMEM;
    forget(watch, watch->what & ~what);
    unsigned more = what & ~watch->what;
    int code = begin(watch, &session->lora, more);
    if (code < 0)
        forget(watch, more);
    else if (more & CR_WATCH_PIECES) /* what is there already belongs to no piece */
        memcpy(watch->seen, session->lora.gradients, session->lora.floats * sizeof(float));
    return code;
}

static bool watching(const cr_session *session, unsigned what)
{
    return session->watch && session->watch->what & what;
}

static int require(const cr_session *session, unsigned what, const char *name)
{
    if (watching(session, what))
        return CR_OK;
    return cr_fail(CR_EARG, "%s are not watched: ask for them with cr_session_watch", name);
}

/* ---- updates ------------------------------------------------------------------------------------------- */

void cr_watch_before_update(cr_session *session)
{
    if (watching(session, CR_WATCH_UPDATES))
        memcpy(session->watch->before, session->lora.values, session->lora.floats * sizeof(float));
}

static void update_task(void *argument, size_t index, int thread)
{
    (void)thread;
    cr_session *session = argument;
    const cr_lora_matrix *matrix = &session->lora.matrices[index];
    const float *now = session->lora.values + matrix->offset;
    const float *before = session->watch->before + matrix->offset;
    double change = 0, weight = 0;
#pragma omp simd reduction(+ : change, weight)
    for (size_t i = 0; i < matrix->rows * matrix->columns; i++) {
        double old = (double)before[i], step = (double)now[i] - old;
        change += step * step;
        weight += old * old;
    }
    session->watch->updates[index] = (cr_update){sqrt(change), sqrt(weight)};
}

void cr_watch_after_update(cr_session *session)
{
    if (!watching(session, CR_WATCH_UPDATES))
        return;
    cr_parallel_for(session->compute.pool, session->lora.count, update_task, session);
    session->watch->has_updates = true;
}

int cr_session_updates(const cr_session *session, const cr_update **out)
{
    CR_TRY(require(session, CR_WATCH_UPDATES, "updates"));
    if (!session->watch->has_updates)
        return cr_fail(CR_EARG, "there was no update since they are watched");
    *out = session->watch->updates;
    return CR_OK;
}

/* ---- pieces ---------------------------------------------------------------------------------------------- */

static void piece_task(void *argument, size_t index, int thread)
{
    (void)thread;
    cr_session *session = argument;
    const cr_lora_matrix *matrix = &session->lora.matrices[index];
    const float *now = session->lora.gradients + matrix->offset;
    float *seen = session->watch->seen + matrix->offset;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < matrix->rows * matrix->columns; i++) {
        double share = (double)now[i] - (double)seen[i];
        sum += share * share;
        seen[i] = now[i];
    }
    session->watch->sums[index] = sum;
}

static double sum_of(const double *sums, size_t count, size_t step)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += sums[i * step];
    return sum;
}

static int make_room(cr_watch *watch)
{
    if (watch->piece_count < watch->piece_capacity)
        return CR_OK;
    size_t capacity = watch->piece_capacity ? 2 * watch->piece_capacity : 64;
    cr_piece *pieces = cr_realloc(watch->pieces, watch->piece_capacity * sizeof *pieces,
                                  capacity * sizeof *pieces);
    if (!pieces)
        return CR_ENOMEM;
    watch->pieces = pieces;
    watch->piece_capacity = capacity;
    return CR_OK;
}

cr_piece cr_watch_rows(const cr_datum *datums, size_t count)
{
    cr_piece piece = {0, 0, 0};
    for (size_t i = 0; i < count; i++) {
        uint64_t supervised = 0;
        for (size_t t = 0; t < cr_datum_length(&datums[i]); t++)
            supervised += cr_datum_weight(&datums[i], t) != 0;
        piece.rows += supervised > 0;
        piece.supervised += supervised;
    }
    return piece;
}

int cr_watch_piece(cr_session *session, cr_piece piece)
{
    if (!watching(session, CR_WATCH_PIECES))
        return CR_OK;
    cr_watch *watch = session->watch;
    CR_TRY(make_room(watch));
    cr_parallel_for(session->compute.pool, session->lora.count, piece_task, session);
    piece.norm = sqrt(sum_of(watch->sums, session->lora.count, 1));
    watch->pieces[watch->piece_count++] = piece;
    return CR_OK;
}

void cr_watch_zeroed(cr_session *session)
{
    if (session->watch && session->watch->loan)
        cr_loan_end(session->watch->loan);
    if (!watching(session, CR_WATCH_PIECES))
        return;
    session->watch->piece_count = 0;
    memset(session->watch->seen, 0, session->lora.floats * sizeof(float));
}

int cr_session_pieces(const cr_session *session, const cr_piece **out, size_t *count)
{
    CR_TRY(require(session, CR_WATCH_PIECES, "pieces"));
    *out = session->watch->pieces;
    *count = session->watch->piece_count;
    return CR_OK;
}

/* ---- turns ------------------------------------------------------------------------------------------------- */

static void turn_task(void *argument, size_t index, int thread)
{
    (void)thread;
    cr_session *session = argument;
    const cr_lora_matrix *matrix = &session->lora.matrices[index];
    const float *now = session->lora.gradients + matrix->offset;
    float *previous = session->watch->previous + matrix->offset;
    double product = 0, here = 0, there = 0;
#pragma omp simd reduction(+ : product, here, there)
    for (size_t i = 0; i < matrix->rows * matrix->columns; i++) {
        double g = (double)now[i], p = (double)previous[i];
        product += g * p;
        here += g * g;
        there += p * p;
        previous[i] = now[i];
    }
    double *sums = session->watch->sums + 3 * index;
    sums[0] = product;
    sums[1] = here;
    sums[2] = there;
}

static double cosine(double product, double here, double there)
{
    double length = sqrt(here) * sqrt(there);
    return length > 0 ? product / length : NAN;
}

int cr_session_turns(cr_session *session, double *out, double *overall)
{
    CR_TRY(require(session, CR_WATCH_TURNS, "turns"));
    cr_watch *watch = session->watch;
    size_t count = session->lora.count;
    const double *sums = watch->sums;
    cr_parallel_for(session->compute.pool, count, turn_task, session);
    for (size_t i = 0; i < count; i++)
        out[i] = watch->has_previous ? cosine(sums[3 * i], sums[3 * i + 1], sums[3 * i + 2]) : NAN;
    *overall = watch->has_previous ? cosine(sum_of(sums, count, 3), sum_of(sums + 1, count, 3),
                                            sum_of(sums + 2, count, 3))
                                   : NAN;
    watch->has_previous = true;
    return CR_OK;
}

/* ---- loans -------------------------------------------------------------------------------------------------- */

static int loan_of(cr_session *session, cr_loan **out)
{
    cr_watch *watch = cr_watch_of(session);
    if (!watch)
        return CR_ENOMEM;
    if (!watch->loan)
        CR_TRY(cr_loan_create(&watch->loan, "its gradient was used by an update or zeroed"));
    *out = watch->loan;
    return CR_OK;
}

int cr_session_gradient_tensor(cr_tensor **out, cr_session *session, size_t index)
{
    cr_parameter parameter;
    cr_loan *loan;
    *out = NULL;
    CR_TRY(cr_session_parameter(session, index, &parameter));
    CR_TRY(loan_of(session, &loan));
    size_t shape[] = {(size_t)parameter.rows, (size_t)parameter.columns};
    return cr_tensor_borrow(out, CR_F32, 2, shape, parameter.gradient, loan);
}
