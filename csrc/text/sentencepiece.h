/* sentencepiece.h: how text is cut for a SentencePiece vocabulary (Kudo and Richardson 2018).
 *
 * What this is: text to stretches that merging may work on apart, and a stretch to the tokens
 * of its characters; a character without a token becomes the tokens of its bytes.
 * What it is not: the merging (bpe.h), nor a normaliser: bytes are never changed. U+2581 in a
 * text is not taken for a space but becomes its bytes, so that decoding gives back what was
 * encoded.
 */
#ifndef CR_SENTENCEPIECE_H
#define CR_SENTENCEPIECE_H

#include "text/vocabulary.h"

/* Whether no piece goes on with a space after something else: then merges never cross the border
 * before a run of spaces, and the text may be cut there. */
bool cr_sentencepiece_cuts(const cr_vocabulary *vocabulary);

/* The end of the stretch that begins at `at` < length; with `cuts` false, the end of the text. */
size_t cr_sentencepiece_next(const char *text, size_t length, size_t at, bool cuts);

/* Tokens of the characters; `ids` has room for `length`. Returns how many there are. */
size_t cr_sentencepiece_split(int32_t *ids, const cr_vocabulary *vocabulary, const char *bytes,
                              size_t length);

#endif
