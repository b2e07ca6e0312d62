/* utf8.c: well-formedness by the table of RFC 3629, section 4 (UTF8-octets). */
#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static bool is_tail(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

/* Only the second byte has bounds that depend on the first. */
static bool second_fits(unsigned char first, unsigned char second)
{
    switch (first) {
    case 0xE0:
        return second >= 0xA0 && second <= 0xBF;
    case 0xED:
        return second >= 0x80 && second <= 0x9F;
    case 0xF0:
        return second >= 0x90 && second <= 0xBF;
    case 0xF4:
        return second >= 0x80 && second <= 0x8F;
    default:
        return is_tail(second);
    }
}

static size_t sequence_length(unsigned char first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

size_t cr_utf8_sequence(const char *text, size_t length)
{
    if (length == 0)
        return 0;
    const unsigned char *bytes = (const unsigned char *)text;
    size_t size = sequence_length(bytes[0]);
    if (size < 2)
        return size;
    if (size > length || !second_fits(bytes[0], bytes[1]))
        return 0;
    for (size_t i = 2; i < size; i++)
        if (!is_tail(bytes[i]))
            return 0;
    return size;
}

/* Most text is ASCII: eight bytes at a time while none has the high bit. */
static size_t ascii_words(const char *text, size_t length)
{
    size_t at = 0;
    for (uint64_t word; at + sizeof word <= length; at += sizeof word) {
        memcpy(&word, text + at, sizeof word);
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    return at;
}

size_t cr_utf8_valid(const char *text, size_t length)
{
    size_t at = 0;
    for (;;) {
        at += ascii_words(text + at, length - at);
        size_t size = cr_utf8_sequence(text + at, length - at);
        if (size == 0)
            return at;
        at += size;
    }
}

size_t cr_utf8_invalid(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length && cr_utf8_sequence(text + at, length - at) == 0)
        at++;
    return at;
}

size_t cr_utf8_encode(char *out, uint32_t point)
{
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    const size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, point >>= 6)
        out[i] = (char)(0x80 | (point & 0x3f));
    out[0] = (char)(0xf00u >> length | point);
    return length;
}
