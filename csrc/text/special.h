/* special.h: finds the text of special and added tokens inside a text.
 *
 * What this is: leftmost, then longest, as Hugging Face tokenizers cut added
 * tokens out. What it is not: a judge of which tokens are special; see
 * vocabulary.h.
 *
 * Ownership: the finder's texts point into the vocabulary, which must outlive it.
 */
#ifndef CR_SPECIAL_H
#define CR_SPECIAL_H

#include "text/vocabulary.h"

typedef struct cr_special_entry {
    cr_text text;
    int32_t id;
} cr_special_entry;

typedef struct cr_specials {
    cr_special_entry *entries; /* sorted by bytes */
    size_t first[257];         /* entries that begin with byte b: first[b] .. first[b + 1] */
    int only_byte;             /* the byte all of them begin with, or -1 */
} cr_specials;

/* All added tokens, or the user-defined ones alone. */
int cr_specials_create(cr_specials *out, const cr_vocabulary *vocabulary, bool user_defined);
void cr_specials_free(cr_specials *specials);

/* The first special token in text[from..length); *at is its position. NULL
 * (*at = length) when there is none. Borrowed. */
const cr_special_entry *cr_specials_find(const cr_specials *specials, const char *text,
                                         size_t length, size_t from, size_t *at);

#endif
