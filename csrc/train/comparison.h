/* comparison.h: a session's predictions beside a teacher's, position by position.
 *
 * What this is: hidden states of the base or of another session at the head's positions, and the values and
 * slopes of math/divergence.h between the two.
 *
 * Ownership: all lists are pieces of the session's arena; the teacher's work space is its own.
 */
#ifndef CR_COMPARISON_H
#define CR_COMPARISON_H

#include "math/divergence.h"
#include "train/loss.h"
#include "train/session.h"

typedef struct cr_comparing {
    cr_comparison asked;
    const cr_model *model; /* the teacher's */
    float *reference;      /* [rows, its width]: the teacher's final hidden states */
    float *values;         /* [rows] */
    float *pull;           /* [rows, d] d value / d hidden; NULL without gradients */
    float *slopes;         /* [rows] dL / d value */
} cr_comparing;

/* CR_EARG unless the teacher can be compared with; `longest` is the longest row of the batch. */
int cr_comparison_check(const cr_comparison *asked, const cr_session *session, size_t longest);

/* Lists for `rows` positions, to be taken before the passes. */
int cr_comparing_take(cr_comparing *self, const cr_session *session, size_t rows, bool train,
                      cr_arena *arena);

/* Work space of cr_comparing_run in floats. */
size_t cr_comparing_scratch(const cr_comparing *self, const cr_session *session, size_t rows);

/* reference, by a pass of the teacher over the rows; `head` has the positions. Not for the base. */
int cr_comparing_ask(cr_comparing *self, cr_session *session, const cr_rows_batch *rows,
                     const cr_head_pass *head);

/* values and pull, from normed [rows, d]. */
void cr_comparing_run(cr_comparing *self, cr_session *session, const float *normed, size_t rows,
                      float *scratch);

#endif
