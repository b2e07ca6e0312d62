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

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "<0x0A>" means, or -1. */
static int spelled_byte(const cr_text *token)
{
    if (token->length != 6 || memcmp(token->bytes, "<0x", 3) != 0 || token->bytes[5] != '>')
        return -1;
    int high = hex_digit(token->bytes[3]), low = hex_digit(token->bytes[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* U+2581, which stands for a space. Returns the length, which is never more. */
static size_t copy_spaces(char *to, const cr_text *token)
{
    size_t length = 0;
    for (size_t i = 0; i < token->length;) {
        bool space = token->length - i >= 3 && memcmp(token->bytes + i, "\xE2\x96\x81", 3) == 0;
        to[length++] = space ? ' ' : token->bytes[i];
        i += space ? 3 : 1;
    }
    return length;
}

/* The same under SentencePiece's spelling. Of two tokens that mean the same the first is a piece. */
static char *copy_spelled(cr_vocabulary *out, int32_t id, char *to, const cr_text *token)
{
    int byte = out->kinds[id] == CR_TOKEN_BYTE ? spelled_byte(token) : -1;
    bool added = cr_vocabulary_is_added(out, id);
    bool verbatim = added && out->kinds[id] != CR_TOKEN_USER_DEFINED;
    size_t length = 1;
    if (byte >= 0)
        *to = (char)byte;
    else if (verbatim)
        memcpy(to, token->bytes, length = token->length);
    else
        length = copy_spaces(to, token);
    out->texts[id] = (cr_text){to, length};
    if (byte >= 0) {
        out->byte_ids[byte] = out->byte_ids[byte] < 0 ? id : out->byte_ids[byte];
        return to + length;
    }
    bool piece = length > 0 && !added && out->kinds[id] == CR_TOKEN_NORMAL;
    cr_text_index_add(piece ? &out->pieces : &out->verbatim, id);
    if (piece && length > out->longest_piece)
        out->longest_piece = length;
    return to + length;
}

/* Writes token `id` behind the bytes of those before it and returns the end. */
static char *copy_token(cr_vocabulary *out, cr_spelling spelling, int32_t id, char *to,
                        const cr_text *token)
{
    if (spelling == CR_SPELLING_SPACES)
        return copy_spelled(out, id, to, token);
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

/* SentencePiece: bytes that no piece holds are tokens of their own. */
static int check_byte_tokens(cr_vocabulary *out, const char *keys)
{
    out->has_all_bytes = true;
    for (int byte = 0; byte < 256; byte++)
        if (out->byte_ids[byte] < 0)
            return cr_fail(CR_EFORMAT,
                           "%stokens has no token <0x%02X>: expected one for each of the 256 bytes",
                           keys, (unsigned)byte);
    return CR_OK;
}

static int fill(cr_vocabulary *out, cr_spelling spelling, const cr_text *tokens,
                const int32_t *kinds, size_t count, const char *keys)
{
    CR_TRY(allocate(out, tokens, count, keys));
    CR_TRY(copy_kinds(out, kinds, keys));
    for (int byte = 0; byte < 256; byte++)
        out->byte_ids[byte] = -1;
    char *to = out->bytes;
    for (size_t i = 0; i < count; i++)
        to = copy_token(out, spelling, (int32_t)i, to, &tokens[i]);
    return spelling == CR_SPELLING_SPACES ? check_byte_tokens(out, keys) : find_bytes(out, keys);
}

int cr_vocabulary_create(cr_vocabulary *out, cr_spelling spelling, const cr_text *tokens,
                         const int32_t *kinds, size_t count, const char *keys)
{
    memset(out, 0, sizeof *out);
    int code = fill(out, spelling, tokens, kinds, count, keys);
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
