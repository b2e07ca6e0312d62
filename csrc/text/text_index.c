/* text_index.c: linear probing at half load; words of eight bytes are mixed by multiplication
 * as in FxHash (Firefox, rustc).
 */
#include "text/text_index.h"

#include <string.h>

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return hash ^ hash >> 32;
}

static uint64_t hash_bytes(const char *bytes, size_t length)
{
    uint64_t hash = length, word;
    for (; length > sizeof word; bytes += sizeof word, length -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = mix(hash, word);
    }
    word = 0;
    memcpy(&word, bytes, length);
    return mix(mix(hash, word), 0);
}

int cr_text_index_create(cr_text_index *out, const cr_text *texts, size_t count)
{
    size_t slots = 16;
    while (slots < count * 2)
        slots *= 2;
    *out = (cr_text_index){texts, cr_calloc(slots, sizeof *out->slots), slots - 1};
    return out->slots ? CR_OK : CR_ENOMEM;
}

void cr_text_index_free(cr_text_index *index)
{
    cr_free(index->slots);
    *index = (cr_text_index){NULL, NULL, 0};
}

/* The slot that holds the string, or the free one where it belongs. */
static uint64_t *find_slot(const cr_text_index *index, uint64_t hash, const char *bytes,
                           size_t length)
{
    for (size_t at = hash & index->mask;; at = (at + 1) & index->mask) {
        uint64_t *slot = &index->slots[at];
        if (*slot == 0)
            return slot;
        if ((*slot ^ hash) >> 32)
            continue;
        const cr_text *text = &index->texts[(uint32_t)*slot - 1];
        if (text->length == length && memcmp(text->bytes, bytes, length) == 0)
            return slot;
    }
}

int32_t cr_text_index_add(cr_text_index *index, int32_t number)
{
    const cr_text *text = &index->texts[number];
    uint64_t hash = hash_bytes(text->bytes, text->length);
    uint64_t *slot = find_slot(index, hash, text->bytes, text->length);
    if (*slot != 0)
        return (int32_t)((uint32_t)*slot - 1);
    *slot = (hash >> 32) << 32 | ((uint32_t)number + 1);
    return -1;
}

int32_t cr_text_index_find(const cr_text_index *index, const char *bytes, size_t length)
{
    uint64_t slot = *find_slot(index, hash_bytes(bytes, length), bytes, length);
    return (int32_t)((uint32_t)slot - 1);
}
