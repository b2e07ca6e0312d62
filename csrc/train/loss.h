/* loss.h: the end of the network: final norm, head, what is asked of it, and the slopes on the way back.
 *
 * Only the positions that somebody asks about reach the head. A loss enters here as slopes
 * dL / d(output); cross-entropy's are -weight · scale.
 */
#ifndef CR_LOSS_H
#define CR_LOSS_H

#include "math/head.h"
#include "train/batch.h"

typedef struct cr_head_pass {
    size_t n;             /* S: positions */
    const size_t *places; /* [S] of them in the rows, each at most once */
    cr_head_picks picks;
    float *logprobs;       /* [picks] */
    float *slopes;         /* [picks]: dL / d logprob, filled by the caller before backward */
    float *lse;            /* [S]; NULL when nobody asks */
    float *entropy;        /* [S]; NULL when nobody asks */
    float *entropy_slopes; /* [S] */
    float *likeliest;      /* [S] log p of the likeliest token; NULL when nobody asks */
    float *raw;            /* [S, d]: the last layer's output at the positions */
    float *normed;         /* [S, d] */
    float *inverse;        /* [S] */
    float *expected;       /* [S, d]; NULL without gradients */
    float *tilt;           /* [S, d]; NULL without gradients or entropy */
    float *dnormed;        /* [S, d] */
    float *draw;           /* [S, d] */
    float *scratch;
} cr_head_pass;

typedef struct cr_head_pass_needs {
    size_t n, picks;
    bool lse, entropy, likeliest;
    bool again; /* backward may run more than once, or with several picks a position */
} cr_head_pass_needs;

/* Takes the buffers. The first three fields are the caller's. */
int cr_head_pass_prepare(cr_head_pass *head, const cr_pass *pass, const cr_head_pass_needs *needs,
                         cr_arena *arena);

/* normed from the pass's last output; and the outputs with it. */
void cr_head_pass_norm(cr_head_pass *head, const cr_pass *pass);
void cr_head_pass_forward(cr_head_pass *head, const cr_pass *pass);

/* dnormed from the slopes; and from there pass->dx = the gradient of the last output. Between the two,
 * slopes of other outputs may be added to dnormed. */
void cr_head_pass_slopes(cr_head_pass *head, const cr_pass *pass);
void cr_head_pass_backward(cr_head_pass *head, const cr_pass *pass);

#endif
