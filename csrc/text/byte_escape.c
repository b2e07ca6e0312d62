/* byte_escape.c: lone surrogates for bytes without a token (PEP 383, von Löwis 2009). */
#include "text/byte_escape.h"

#define LEAD 0xEDu

static bool is_escaped(const int32_t byte_ids[256], unsigned byte)
{
    return byte_ids[byte] < 0 || byte == LEAD;
}

/* The byte that an escape at the start of `bytes` stands for, or -1. */
static int read_escape(const int32_t byte_ids[256], const unsigned char *bytes, size_t length)
{
    if (length < CR_BYTE_ESCAPE_LENGTH || bytes[0] != LEAD)
        return -1;
    if ((bytes[1] & 0xFC) != 0xB0 || (bytes[2] & 0xC0) != 0x80)
        return -1;
    unsigned byte = (bytes[1] & 3u) << 6 | (bytes[2] & 63u);
    return is_escaped(byte_ids, byte) ? (int)byte : -1;
}

int cr_byte_escape_lacks(const int32_t byte_ids[256])
{
    for (int byte = 0x80; byte <= 0xBF; byte++)
        if (byte_ids[byte] < 0)
            return byte;
    return byte_ids[LEAD] < 0 ? (int)LEAD : -1;
}

static size_t put_escape(int32_t *ids, const int32_t byte_ids[256], unsigned byte)
{
    ids[0] = byte_ids[LEAD];
    ids[1] = byte_ids[0xB0u | byte >> 6];
    ids[2] = byte_ids[0x80u | (byte & 63u)];
    return CR_BYTE_ESCAPE_LENGTH;
}

size_t cr_byte_escape_split(int32_t *ids, const int32_t byte_ids[256], const char *bytes,
                            size_t length)
{
    const unsigned char *from = (const unsigned char *)bytes;
    size_t count = 0;
    for (size_t i = 0; i < length; i++) {
        bool lookalike = from[i] == LEAD && read_escape(byte_ids, from + i, length - i) >= 0;
        if (byte_ids[from[i]] < 0 || lookalike)
            count += put_escape(ids + count, byte_ids, from[i]);
        else
            ids[count++] = byte_ids[from[i]];
    }
    return count;
}

bool cr_byte_escape_at(const int32_t byte_ids[256], const char *bytes, size_t length)
{
    return read_escape(byte_ids, (const unsigned char *)bytes, length) >= 0;
}

size_t cr_byte_escape_undo(char *bytes, const int32_t byte_ids[256], size_t length)
{
    const unsigned char *from = (const unsigned char *)bytes;
    size_t written = 0;
    for (size_t at = 0; at < length;) {
        int byte = from[at] == LEAD ? read_escape(byte_ids, from + at, length - at) : -1;
        bytes[written++] = byte >= 0 ? (char)byte : bytes[at];
        at += byte >= 0 ? CR_BYTE_ESCAPE_LENGTH : 1;
    }
    return written;
}
