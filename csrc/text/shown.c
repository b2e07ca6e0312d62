/* shown.c: bytes of a file as text that may stand in a message. */
#include "text/shown.h"

#include <string.h>

#include "base/utf8.h"

#define MOST 60

cr_shown cr_show(const char *bytes, size_t length)
{
    cr_shown out;
    size_t at = 0, size;
    for (; at < length && at < MOST; at += size) {
        size = cr_utf8_sequence(bytes + at, length - at);
        if (size == 0 || (unsigned char)bytes[at] < 0x20 || bytes[at] == 0x7F) {
            out.text[at] = '?';
            size = 1;
        } else {
            memcpy(out.text + at, bytes + at, size);
        }
    }
    strcpy(out.text + at, at < length ? "..." : "");
    return out;
}
