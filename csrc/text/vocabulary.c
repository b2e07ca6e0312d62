/* vocabulary.c: the token list of a GGUF file, checked and turned into bytes. */
#include "text/vocabulary.h"

#include <string.h>

#include "text/byte_alphabet.h"
#include "text/byte_escape.h"

bool cr_vocabulary_is_added(const cr_vocabulary *vocabulary, int32_t id)
{
    uint8_t kind = vocabulary->kinds[id];
    return kind == CR_TOKEN_UNKNOWN || kind == CR_TOKEN_CONTROL || kind == CR_TOKEN_USER_DEFINED;
}

static int allocate(cr_vocabulary *out, const cr_text *tokens, size_t count, const char *keys)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        if (!cr_size_add(&bytes, bytes, tokens[i].length))
            return cr_fail(CR_ENOMEM, "%stokens: more bytes than memory can hold", keys);
    out->size = count;
    out->bytes = cr_alloc(bytes);
    out->texts = cr_calloc(count, sizeof *out->texts);
    out->kinds = cr_calloc(count, sizeof *out->kinds);
    if (!out->bytes || !out->texts || !out->kinds)
        return CR_ENOMEM;
    CR_TRY(cr_text_index_create(&out->pieces, out->texts, count));
    return cr_text_index_create(&out->verbatim, out->texts, count);
}

static int copy_kinds(cr_vocabulary *out, const int32_t *kinds, const char *keys)
{
    for (size_t i = 0; i < out->size; i++) {
        if (kinds[i] < CR_TOKEN_NORMAL || kinds[i] > CR_TOKEN_BYTE)
            return cr_fail(CR_EFORMAT, "%stoken_type[%zu] is %d: expected %d to %d", keys, i,
                           (int)kinds[i], CR_TOKEN_NORMAL, CR_TOKEN_BYTE);
        out->kinds[i] = (uint8_t)kinds[i];
    }
    return CR_OK;
}

/* Writes token `id` behind the bytes of those before it and returns the end. */
static char *copy_token(cr_vocabulary *out, int32_t id, char *to, const cr_text *token)
{
    size_t length = 0;
    bool piece = token->length > 0 && !cr_vocabulary_is_added(out, id) &&
                 cr_byte_alphabet_decode(to, &length, token->bytes, token->length);
    if (!piece) {
        length = token->length;
        memcpy(to, token->bytes, length);
    }
    out->texts[id] = (cr_text){to, length};
    cr_text_index_add(piece ? &out->pieces : &out->verbatim, id);
    if (piece && length > out->longest_piece)
        out->longest_piece = length;
    return to + length;
}

static int find_bytes(cr_vocabulary *out, const char *keys)
{
    out->has_all_bytes = true;
    for (int byte = 0; byte < 256; byte++) {
        char one = (char)byte;
        out->byte_ids[byte] = cr_text_index_find(&out->pieces, &one, 1);
        out->has_all_bytes = out->has_all_bytes && out->byte_ids[byte] >= 0;
    }
    int lacks = out->has_all_bytes ? -1 : cr_byte_escape_lacks(out->byte_ids);
    if (lacks < 0)
        return CR_OK;
    return cr_fail(CR_EFORMAT,
                   "%stokens has no token for the byte 0x%02X: expected a byte-level "
                   "vocabulary, with a token for each of the 256 bytes",
                   keys, (unsigned)lacks);
}

static int fill(cr_vocabulary *out, const cr_text *tokens, const int32_t *kinds, size_t count,
                const char *keys)
{
    CR_TRY(allocate(out, tokens, count, keys));
    CR_TRY(copy_kinds(out, kinds, keys));
    char *to = out->bytes;
    for (size_t i = 0; i < count; i++)
        to = copy_token(out, (int32_t)i, to, &tokens[i]);
    return find_bytes(out, keys);
}

int cr_vocabulary_create(cr_vocabulary *out, const cr_text *tokens, const int32_t *kinds,
                         size_t count, const char *keys)
{
    memset(out, 0, sizeof *out);
    int code = fill(out, tokens, kinds, count, keys);
    if (code < 0)
        cr_vocabulary_free(out);
    return code;
}

void cr_vocabulary_free(cr_vocabulary *vocabulary)
{
    cr_text_index_free(&vocabulary->pieces);
    cr_text_index_free(&vocabulary->verbatim);
    cr_free(vocabulary->kinds);
    cr_free(vocabulary->texts);
    cr_free(vocabulary->bytes);
    memset(vocabulary, 0, sizeof *vocabulary);
}

int32_t cr_vocabulary_find(const cr_vocabulary *vocabulary, const char *bytes, size_t length)
{
    int32_t id = cr_text_index_find(&vocabulary->verbatim, bytes, length);
    return id >= 0 ? id : cr_text_index_find(&vocabulary->pieces, bytes, length);
}
