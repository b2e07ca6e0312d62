/* special.c: a sorted list narrowed byte by byte, which walks it like a trie. */
#include "text/special.h"

#include <stdlib.h>
#include <string.h>

static int compare_entries(const void *left, const void *right)
{
    const cr_text *a = &((const cr_special_entry *)left)->text;
    const cr_text *b = &((const cr_special_entry *)right)->text;
    int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

/* Whether a token is to be found; an empty text is found nowhere. */
static bool belongs(const cr_vocabulary *vocabulary, size_t id, bool user_defined)
{
    if (vocabulary->texts[id].length == 0)
        return false;
    return user_defined ? vocabulary->kinds[id] == CR_TOKEN_USER_DEFINED
                        : cr_vocabulary_is_added(vocabulary, (int32_t)id);
}

/* Their number; with out = NULL it only counts. */
static size_t collect(cr_special_entry *out, const cr_vocabulary *vocabulary, bool user_defined)
{
    size_t count = 0;
    for (size_t i = 0; i < vocabulary->size; i++) {
        if (!belongs(vocabulary, i, user_defined))
            continue;
        if (out)
            out[count] = (cr_special_entry){vocabulary->texts[i], (int32_t)i};
        count++;
    }
    return count;
}

static int first_byte(const cr_special_entry *entry)
{
    return (unsigned char)entry->text.bytes[0];
}

static void index_first_bytes(cr_specials *out, size_t count)
{
    size_t entry = 0;
    for (int byte = 0; byte <= 256; byte++) {
        while (entry < count && first_byte(&out->entries[entry]) < byte)
            entry++;
        out->first[byte] = entry;
    }
    out->only_byte = -1;
    if (count > 0 && first_byte(&out->entries[0]) == first_byte(&out->entries[count - 1]))
        out->only_byte = first_byte(&out->entries[0]);
}

int cr_specials_create(cr_specials *out, const cr_vocabulary *vocabulary, bool user_defined)
{
    memset(out, 0, sizeof *out);
    size_t count = collect(NULL, vocabulary, user_defined);
    out->entries = cr_calloc(count, sizeof *out->entries);
    if (!out->entries)
        return CR_ENOMEM;
    collect(out->entries, vocabulary, user_defined);
    qsort(out->entries, count, sizeof *out->entries, compare_entries);
    index_first_bytes(out, count);
    return CR_OK;
}

void cr_specials_free(cr_specials *specials)
{
    cr_free(specials->entries);
    memset(specials, 0, sizeof *specials);
}

/* The first of entries[low..high), equal up to `depth`, whose next byte is at least
 * `byte`. All of them are longer than `depth`, but for the first perhaps. */
static size_t narrow(const cr_special_entry *entries, size_t low, size_t high, size_t depth,
                     int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const cr_text *text = &entries[middle].text;
        int found = depth < text->length ? (unsigned char)text->bytes[depth] : -1;
        if (found < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest entry that `text` begins with, or NULL. */
static const cr_special_entry *longest_prefix(const cr_specials *specials, const char *text,
                                              size_t length)
{
    int byte = (unsigned char)text[0];
    size_t low = specials->first[byte], high = specials->first[byte + 1];
    const cr_special_entry *best = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (specials->entries[low].text.length == depth)
            best = &specials->entries[low];
        if (depth == length)
            break;
        byte = (unsigned char)text[depth];
        low = narrow(specials->entries, low, high, depth, byte);
        high = narrow(specials->entries, low, high, depth, byte + 1);
    }
    return best;
}

/* The next position where some entry may begin, or `length`. */
static size_t next_candidate(const cr_specials *specials, const char *text, size_t length,
                             size_t at)
{
    if (specials->only_byte >= 0) {
        const char *found =
            at < length ? memchr(text + at, specials->only_byte, length - at) : NULL;
        return found ? (size_t)(found - text) : length;
    }
    for (; at < length; at++) {
        unsigned char byte = (unsigned char)text[at];
        if (specials->first[byte] < specials->first[byte + 1])
            break;
    }
    return at;
}

const cr_special_entry *cr_specials_find(const cr_specials *specials, const char *text,
                                         size_t length, size_t from, size_t *at)
{
    for (;; from = *at + 1) {
        *at = next_candidate(specials, text, length, from);
        if (*at == length)
            return NULL;
        const cr_special_entry *found = longest_prefix(specials, text + *at, length - *at);
        if (found)
            return found;
    }
}
