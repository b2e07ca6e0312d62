/* watch.h: what a session keeps beside training when somebody asked for it: weights before an update,
 * gradients of the previous step, norms of single pieces, room for statistics, gradients on loan.
 *
 * What it is not: part of a step. A session that was asked for nothing has no cr_watch, and each function
 * here returns at once.
 *
 * Ownership: the session owns its cr_watch; results are borrowed from it.
 */
#ifndef CR_WATCH_H
#define CR_WATCH_H

#include "train/gradstat.h"
#include "train/session.h"

typedef struct cr_watch {
    unsigned what;      /* CR_WATCH_* */
    float *before;      /* [floats]: weights before the last update */
    cr_update *updates; /* [matrices] */
    bool has_updates;
    float *previous; /* [floats]: gradients at the last cr_session_turns */
    bool has_previous;
    float *seen;      /* [floats]: gradients after the last piece */
    cr_piece *pieces; /* [capacity] */
    size_t piece_count, piece_capacity;
    double *sums;              /* [matrices, 3] */
    cr_statistics *statistics; /* [matrices] */
    cr_gradstat_space *spaces; /* [threads] */
    int space_count;
    cr_loan *loan; /* of gradients shown as tensors; NULL before the first */
} cr_watch;

void cr_watch_free(cr_watch *watch);

/* The session's, made when it has none; NULL without memory. */
cr_watch *cr_watch_of(cr_session *session);

/* What a micro-batch of these datums counts for; without the norm. */
cr_piece cr_watch_rows(const cr_datum *datums, size_t count);

/* Around the work of a step. */
int cr_watch_piece(cr_session *session, cr_piece piece);
void cr_watch_before_update(cr_session *session);
void cr_watch_after_update(cr_session *session);
void cr_watch_zeroed(cr_session *session);

#endif
