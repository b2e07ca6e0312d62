/* compose.c: normal form C by utf8proc. */
#include "text/compose.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/utf8.h"

/* Whether a text can hold a character that composition changes: all below U+0300 are as they should be, and
 * their first bytes are below 0xCC. */
static bool may_change(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] >= 0xCC)
            return true;
    return false;
}

typedef struct text_buffer {
    char *bytes;
    size_t size, capacity;
} text_buffer;

static int append(text_buffer *to, const char *bytes, size_t count)
{
    if (to->capacity - to->size < count) {
        size_t capacity = to->capacity + to->capacity / 2 + count;
        char *grown = cr_realloc(to->bytes, to->size, capacity);
        if (!grown)
            return CR_ENOMEM;
        to->bytes = grown;
        to->capacity = capacity;
    }
    if (count)
        memcpy(to->bytes + to->size, bytes, count);
    to->size += count;
    return CR_OK;
}

/* A stretch of well-formed UTF-8. utf8proc allocates for itself. */
static int append_composed(text_buffer *to, const char *text, size_t length)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t size =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &composed,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (size < 0)
        return cr_fail(size == UTF8PROC_ERROR_NOMEM ? CR_ENOMEM : CR_EARG,
                       "a text of %zu bytes cannot be composed: %s", length,
                       utf8proc_errmsg(size));
    int code = append(to, (const char *)composed, (size_t)size);
    free(composed);
    return code;
}

static int compose_all(text_buffer *to, const char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t valid = cr_utf8_valid(text + at, length - at);
        if (valid > 0)
            CR_TRY(append_composed(to, text + at, valid));
        at += valid;
        size_t invalid = at < length ? cr_utf8_invalid(text + at, length - at) : 0;
        CR_TRY(append(to, text + at, invalid));
        at += invalid;
    }
    return CR_OK;
}

int cr_compose(char **out, size_t *size, const char *text, size_t length)
{
    *out = NULL;
    *size = length;
    if (!may_change(text, length))
        return CR_OK;
    text_buffer made = {NULL, 0, 0};
    int code = compose_all(&made, text, length);
    if (code < 0) {
        cr_free(made.bytes);
        return code;
    }
    *out = made.bytes;
    *size = made.size;
    return CR_OK;
}
