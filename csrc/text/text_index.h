/* text_index.h: byte strings to their number in a list.
 *
 * What this is: an open-addressing hash over strings that stand elsewhere.
 * What it is not: their owner; the list and its bytes must outlive the index
 * and stay as they are.
 */
#ifndef CR_TEXT_INDEX_H
#define CR_TEXT_INDEX_H

#include "base/base.h"
#include "file/gguf.h" /* cr_text */

typedef struct cr_text_index {
    const cr_text *texts;
    uint64_t *slots; /* high half: hash; low half: number + 1; 0 = free */
    size_t mask;     /* slots - 1 */
} cr_text_index;

/* Room for `count` strings (< 2^31) of the list; released by cr_text_index_free. */
int cr_text_index_create(cr_text_index *out, const cr_text *texts, size_t count);
void cr_text_index_free(cr_text_index *index);

/* Adds texts[number]. Returns -1, or the number that already has the same bytes. */
int32_t cr_text_index_add(cr_text_index *index, int32_t number);

/* The number of the string, or -1. */
int32_t cr_text_index_find(const cr_text_index *index, const char *bytes, size_t length);

#endif
