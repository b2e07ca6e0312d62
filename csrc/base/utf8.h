/* utf8.h: which bytes are well-formed UTF-8 (RFC 3629).
 *
 * What this is: the border between text, which patterns may look at, and stray
 * bytes. Overlong forms, surrogates and code points above U+10FFFF are not
 * well formed. What it is not: a decoder; nobody needs code points here.
 */
#ifndef CR_UTF8_H
#define CR_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed sequence at the start of `text`; 0 when there is none. */
size_t cr_utf8_sequence(const char *text, size_t length);

/* Bytes of the longest well-formed prefix. */
size_t cr_utf8_valid(const char *text, size_t length);

/* Bytes before the first position where a well-formed sequence starts. */
size_t cr_utf8_invalid(const char *text, size_t length);

/* Writes a code point up to U+10FFFF and returns its length; `out` has room for four bytes. */
size_t cr_utf8_encode(char *out, uint32_t point);

#endif
