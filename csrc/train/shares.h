/* shares.h: what each of several terms of a loss has added to a session's gradients: norms and cosines.
 *
 * What it is not: part of a step. A session that was never asked has none.
 *
 * Ownership: the session owns its cr_shares.
 */
#ifndef CR_SHARES_H
#define CR_SHARES_H

#include "train/session.h"

typedef struct cr_shares {
    size_t count, floats;
    float *before;   /* [floats]: gradients before the running backward */
    float *sums;     /* [count, floats] */
    double *partial; /* [matrices, 3] */
} cr_shares;

void cr_shares_free(cr_shares *shares);

/* All shares begin at zero again. */
void cr_shares_zeroed(cr_session *session);

#endif
