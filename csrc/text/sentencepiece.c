/* sentencepiece.c: characters of a text as tokens; Kudo and Richardson, "SentencePiece", 2018. */
#include "text/sentencepiece.h"

#include <string.h>

#include "base/utf8.h"

/* Whether a space stands behind something else. */
static bool ends_word_inside(const cr_text *text)
{
    for (size_t i = 1; i < text->length; i++)
        if (text->bytes[i] == ' ' && text->bytes[i - 1] != ' ')
            return true;
    return false;
}

static bool is_piece(const cr_vocabulary *vocabulary, size_t id)
{
    const cr_text *text = &vocabulary->texts[id];
    return vocabulary->kinds[id] == CR_TOKEN_NORMAL &&
           cr_text_index_find(&vocabulary->pieces, text->bytes, text->length) == (int32_t)id;
}

bool cr_sentencepiece_cuts(const cr_vocabulary *vocabulary)
{
    for (size_t i = 0; i < vocabulary->size; i++)
        if (ends_word_inside(&vocabulary->texts[i]) && is_piece(vocabulary, i))
            return false;
    return true;
}

size_t cr_sentencepiece_next(const char *text, size_t length, size_t at, bool cuts)
{
    if (!cuts)
        return length;
    for (size_t i = at + 1; i < length; i++)
        if (text[i] == ' ' && text[i - 1] != ' ')
            return i;
    return length;
}

size_t cr_sentencepiece_split(int32_t *ids, const cr_vocabulary *vocabulary, const char *bytes,
                              size_t length)
{
    size_t count = 0;
    for (size_t at = 0; at < length;) {
        size_t size = cr_utf8_sequence(bytes + at, length - at);
        int32_t id = size ? cr_text_index_find(&vocabulary->pieces, bytes + at, size) : -1;
        size = size ? size : 1;
        if (id >= 0)
            ids[count++] = id;
        for (size_t i = 0; id < 0 && i < size; i++)
            ids[count++] = vocabulary->byte_ids[(unsigned char)bytes[at + i]];
        at += size;
    }
    return count;
}
