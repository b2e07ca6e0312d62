/* byte_alphabet.h: the printable letters that stand for bytes in vocabulary files.
 *
 * Byte-level BPE files write every byte as one printable character: those of
 * Latin-1 that print stand for themselves, the other 68 bytes are U+0100 to
 * U+0143 in order, so that a space reads "Ġ" and a newline "Ċ".
 */
#ifndef CR_BYTE_ALPHABET_H
#define CR_BYTE_ALPHABET_H

#include <stdbool.h>
#include <stddef.h>

/* Writes the bytes that `text` stands for to `out` (room for `length`) and their
 * number to *written. False when a character is no letter of the alphabet. */
bool cr_byte_alphabet_decode(char *out, size_t *written, const char *text, size_t length);

#endif
