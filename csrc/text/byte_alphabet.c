/* byte_alphabet.c: the inverse of bytes_to_unicode in GPT-2's encoder.py (Radford et al. 2019). */
#include "text/byte_alphabet.h"

/* Letters from U+0100 on stand for 0..32, 127..160 and 173, in this order. */
#define SHIFTED_FIRST 256
#define SHIFTED_MIDDLE (SHIFTED_FIRST + 33)
#define SHIFTED_LAST (SHIFTED_MIDDLE + 34)

/* The byte, or -1. */
static int letter_byte(unsigned point)
{
    if (point < SHIFTED_FIRST) {
        bool prints = (point >= 33 && point <= 126) || (point >= 161 && point != 173);
        return prints ? (int)point : -1;
    }
    if (point < SHIFTED_MIDDLE)
        return (int)(point - SHIFTED_FIRST);
    if (point < SHIFTED_LAST)
        return (int)(point - SHIFTED_MIDDLE) + 127;
    return point == SHIFTED_LAST ? 173 : -1;
}

/* The code point of one or two bytes of UTF-8, which covers the alphabet;
 * anything else reads as U+0000, which is no letter. */
static unsigned read_point(const unsigned char *bytes, size_t left, size_t *size)
{
    *size = 1;
    if (bytes[0] < 0x80)
        return bytes[0];
    if ((bytes[0] & 0xE0) != 0xC0 || left < 2 || (bytes[1] & 0xC0) != 0x80)
        return 0;
    *size = 2;
    unsigned point = (bytes[0] & 0x1Fu) << 6 | (bytes[1] & 0x3Fu);
    return point < 0x80 ? 0 : point;
}

bool cr_byte_alphabet_decode(char *out, size_t *written, const char *text, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)text;
    *written = 0;
    for (size_t at = 0, size; at < length; at += size) {
        int byte = letter_byte(read_point(bytes + at, length - at, &size));
        if (byte < 0)
            return false;
        out[(*written)++] = (char)byte;
    }
    return true;
}
