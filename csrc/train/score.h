/* score.h: log-probabilities of continuations of texts whose keys and values are kept. */
#ifndef CR_SCORE_H
#define CR_SCORE_H

#include "train/session.h"

/* A text whose slot holds all its positions but the last. */
typedef struct cr_score_text {
    size_t slot, past;
    int32_t last;
} cr_score_text;

/* out[i · choices + c] = Σ log p of continuation c after text i; nothing is added to the slots. */
int cr_score_continuations(cr_session *session, cr_cache *cache, const cr_score_text *texts,
                           size_t count, const cr_prompt *continuations, size_t choices, bool base,
                           double *out);

/* Ids inside the vocabulary, and no text of `lengths` tokens longer than the context with its
 * continuation. */
int cr_score_check(const size_t *lengths, size_t count, const cr_prompt *continuations,
                   size_t choices, const cr_config *config);

#endif
