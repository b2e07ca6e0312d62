/* fuzz_tokenizer.c: a vocabulary and a text out of one input; what is encoded must come back.
 *
 * Input: one byte that chooses the pre-tokenizer (low two bits), whether the
 * vocabulary lacks bytes (bit 2), and SentencePiece instead (bit 3: every byte has its token,
 * scores fall from line to line, merges are left out); then lines up to the first NUL, each a token, a merge
 * "left right", or a special token behind "!" (control) or "?" (user-defined); then the
 * text. A vocabulary may be refused; one that is taken must give every text back.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/gguf.h"
#include "fuzz/round_trip.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- GGUF bytes in memory ---------------------------------------------------------- */

enum { TYPE_I32 = 5, TYPE_F32 = 6, TYPE_STRING = 8, TYPE_ARRAY = 9 };

typedef struct buffer {
    char *bytes;
    size_t size, room;
} buffer;

static void put(buffer *b, const void *bytes, size_t size)
{
    if (size > b->room - b->size) {
        b->room = 2 * b->room + size;
        b->bytes = realloc(b->bytes, b->room);
        if (!b->bytes)
            abort();
    }
    if (size > 0)
        memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

static void put_u32(buffer *b, uint32_t value)
{
    put(b, &value, sizeof value);
}

static void put_f32(buffer *b, float value)
{
    put(b, &value, sizeof value);
}

static void put_u64(buffer *b, uint64_t value)
{
    put(b, &value, sizeof value);
}

static void put_text(buffer *b, const char *bytes, size_t size)
{
    put_u64(b, size);
    put(b, bytes, size);
}

static void put_text_key(buffer *b, const char *key, const char *value)
{
    put_text(b, key, strlen(key));
    put_u32(b, TYPE_STRING);
    put_text(b, value, strlen(value));
}

static void put_array_key(buffer *b, const char *key, uint32_t type, size_t count,
                          const buffer *elements)
{
    put_text(b, key, strlen(key));
    put_u32(b, TYPE_ARRAY);
    put_u32(b, type);
    put_u64(b, count);
    put(b, elements->bytes, elements->size);
}

/* ---- the vocabulary ------------------------------------------------------------------ */

typedef struct lists {
    buffer tokens, types, merges, scores;
    size_t token_count, merge_count;
} lists;

static void add_token(lists *l, const char *bytes, size_t size, uint32_t type)
{
    put_text(&l->tokens, bytes, size);
    put_u32(&l->types, type);
    put_f32(&l->scores, -(float)(l->token_count / 2)); /* two and two alike */
    l->token_count++;
}

/* GPT-2's letter for a byte, as UTF-8. */
static size_t letter(char out[2], unsigned byte)
{
    unsigned point = byte;
    if (byte <= 32)
        point = 256 + byte;
    else if (byte >= 127 && byte <= 160)
        point = 289 + byte - 127;
    else if (byte == 173)
        point = 323;
    if (point < 128) {
        out[0] = (char)point;
        return 1;
    }
    out[0] = (char)(0xC0 | point >> 6);
    out[1] = (char)(0x80 | (point & 63));
    return 2;
}

/* The bytes that SmolLM2's vocabulary lacks, or nearly. */
static bool is_left_out(unsigned byte)
{
    return byte == 4 || byte == 6 || byte == 0xC0 || byte == 0xC1 || byte >= 0xF5;
}

static void add_letters(lists *l, bool with_gaps)
{
    char bytes[2];
    for (unsigned byte = 0; byte < 256; byte++)
        if (!with_gaps || !is_left_out(byte))
            add_token(l, bytes, letter(bytes, byte), 1);
}

static void add_byte_tokens(lists *l)
{
    char name[8];
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(name, sizeof name, "<0x%02X>", byte);
        add_token(l, name, 6, 6);
    }
}

static void add_line(lists *l, const char *line, size_t size)
{
    if (size > 0 && (line[0] == '!' || line[0] == '?')) {
        add_token(l, line + 1, size - 1, line[0] == '!' ? 3 : 4);
    } else if (memchr(line, ' ', size)) {
        put_text(&l->merges, line, size);
        l->merge_count++;
    } else {
        add_token(l, line, size, 1);
    }
}

static void add_lines(lists *l, const char *text, size_t size)
{
    while (size > 0) {
        const char *end = memchr(text, '\n', size);
        size_t line = end ? (size_t)(end - text) : size;
        add_line(l, text, line);
        size_t taken = line + (end != NULL);
        text += taken;
        size -= taken;
    }
}

static void write_file(buffer *out, const lists *l, bool spaces, const char *pre)
{
    put(out, "GGUF", 4);
    put_u32(out, 3);
    put_u64(out, 0);
    put_u64(out, 6);
    put_text_key(out, "tokenizer.ggml.model", spaces ? "llama" : "gpt2");
    put_array_key(out, "tokenizer.ggml.scores", TYPE_F32, l->token_count, &l->scores);
    put_text_key(out, "tokenizer.ggml.pre", pre);
    put_array_key(out, "tokenizer.ggml.tokens", TYPE_STRING, l->token_count, &l->tokens);
    put_array_key(out, "tokenizer.ggml.token_type", TYPE_I32, l->token_count, &l->types);
    put_array_key(out, "tokenizer.ggml.merges", TYPE_STRING, l->merge_count, &l->merges);
}

static cr_tokenizer *make_tokenizer(unsigned choice, const char *lines, size_t size)
{
    static const char *const names[] = {"gpt2", "smollm", "llama-bpe", "qwen2"};
    lists l = {0};
    buffer file = {0};
    cr_gguf *parsed;
    cr_tokenizer *tokenizer = NULL;
    bool spaces = choice & 8;
    if (spaces)
        add_byte_tokens(&l);
    else
        add_letters(&l, choice & 4);
    add_lines(&l, lines, size);
    write_file(&file, &l, spaces, names[choice & 3]);
    if (cr_gguf_parse(&parsed, file.bytes, file.size) < 0)
        abort();
    (void)cr_tokenizer_from_gguf(&tokenizer, parsed);
    cr_gguf_close(parsed);
    free(file.bytes);
    free(l.tokens.bytes);
    free(l.types.bytes);
    free(l.merges.bytes);
    free(l.scores.bytes);
    return tokenizer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *lines = (const char *)data + 1;
    size_t left = size - 1;
    const char *border = memchr(lines, 0, left);
    size_t line_bytes = border ? (size_t)(border - lines) : left;
    size_t skipped = line_bytes + (border != NULL);
    cr_tokenizer *tokenizer = make_tokenizer(data[0], lines, line_bytes);
    if (tokenizer) {
        check_round_trip(tokenizer, lines + skipped, left - skipped, false);
        check_round_trip(tokenizer, lines + skipped, left - skipped, true);
    }
    cr_tokenizer_free(tokenizer);
    return 0;
}
