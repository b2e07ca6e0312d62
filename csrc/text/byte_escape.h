/* byte_escape.h: bytes that have no token of their own.
 *
 * Some vocabularies lack bytes that their training text never held: SmolLM2 has
 * no token for 0x04, 0xC0, 0xFF and 18 others. Hugging Face tokenizers drop
 * such bytes. Here byte b becomes the three bytes 0xED 0xB0+(b>>6) 0x80+(b&63):
 * what UTF-8 would give the lone surrogate U+DC00+b, as in Python's
 * surrogateescape (PEP 383). No well-formed text holds these three; where the
 * input does, its 0xED is escaped too, so that undoing is exact for any bytes.
 *
 * What this is: both directions for one piece, given the tokens of single bytes
 * (-1 = none). With a token for each of the 256, nothing is ever escaped.
 */
#ifndef CR_BYTE_ESCAPE_H
#define CR_BYTE_ESCAPE_H

#include "base/base.h"

#define CR_BYTE_ESCAPE_LENGTH 3

/* The first byte that escapes need and that has no token, or -1. */
int cr_byte_escape_lacks(const int32_t byte_ids[256]);

/* Ids of the bytes, escaped where needed; `ids` has room for CR_BYTE_ESCAPE_LENGTH × length.
 * Returns how many there are. */
size_t cr_byte_escape_split(int32_t *ids, const int32_t byte_ids[256], const char *bytes,
                            size_t length);

/* Whether an escape stands at the start of `bytes`. */
bool cr_byte_escape_at(const int32_t byte_ids[256], const char *bytes, size_t length);

/* Undoes escapes in place and returns the new length. */
size_t cr_byte_escape_undo(char *bytes, const int32_t byte_ids[256], size_t length);

#endif
