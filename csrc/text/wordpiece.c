/* wordpiece.c: BERT's normaliser, pre-tokenizer and greedy longest match, in the order of Hugging Face's
 * BertNormalizer, BertPreTokenizer and WordPiece; Unicode by utf8proc. */
#include "text/wordpiece.h"

#include <string.h>

#include <utf8proc.h>

#include "text/shown.h"

#define MOST_PREFIX 8

struct cr_wordpiece {
    cr_wordpiece_rules rules;
    char prefix[MOST_PREFIX + 1];
    size_t prefix_length;
    char *bytes;          /* of all tokens */
    cr_text *texts;       /* [size], into bytes */
    size_t size, longest; /* longest: bytes of a token */
    cr_text_index index;
};

cr_wordpiece_rules cr_wordpiece_rules_default(void)
{
    return (cr_wordpiece_rules){.clean = true,
                                .chinese = true,
                                .lower_case = true,
                                .strip_accents = true,
                                .most_chars = 100,
                                .prefix = "##"};
}

/* ---- creation ------------------------------------------------------------------------ */

static int check_rules(const cr_wordpiece_rules *rules, size_t count)
{
    if (count == 0 || count > INT32_MAX / 2)
        return cr_fail(CR_EFORMAT, "the vocabulary has %zu tokens: expected 1 to %d", count,
                       INT32_MAX / 2);
    if (rules->unknown < 0 || (size_t)rules->unknown >= count)
        return cr_fail(CR_EFORMAT, "the unknown token is %d: expected 0 to %zu",
                       (int)rules->unknown, count - 1);
    if (strlen(rules->prefix) > MOST_PREFIX)
        return cr_fail(CR_EFORMAT, "the prefix of inner pieces has %zu bytes: expected at most %d",
                       strlen(rules->prefix), MOST_PREFIX);
    if (rules->most_chars < 1 || rules->most_chars > 10000)
        return cr_fail(CR_EFORMAT, "words of at most %zu characters: expected 1 to 10000",
                       rules->most_chars);
    return CR_OK;
}

static int copy_tokens(cr_wordpiece *out, const cr_text *tokens, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        if (!cr_size_add(&bytes, bytes, tokens[i].length))
            return cr_fail(CR_ENOMEM, "the vocabulary is larger than memory");
    out->bytes = cr_alloc(bytes);
    out->texts = cr_calloc(count, sizeof *out->texts);
    if (!out->bytes || !out->texts)
        return CR_ENOMEM;
    CR_TRY(cr_text_index_create(&out->index, out->texts, count));
    char *to = out->bytes;
    for (size_t i = 0; i < count; i++) {
        memcpy(to, tokens[i].bytes, tokens[i].length);
        out->texts[i] = (cr_text){to, tokens[i].length};
        to += tokens[i].length;
        if (tokens[i].length > out->longest)
            out->longest = tokens[i].length;
        int32_t other = cr_text_index_add(&out->index, (int32_t)i);
        if (other >= 0)
            return cr_fail(CR_EFORMAT, "token %zu '%s' is also token %d", i,
                           cr_show(tokens[i].bytes, tokens[i].length).text, (int)other);
    }
    out->size = count;
    return CR_OK;
}

int cr_wordpiece_create(cr_wordpiece **out, const cr_text *tokens, size_t count,
                        const cr_wordpiece_rules *rules)
{
    *out = NULL;
    CR_TRY(check_rules(rules, count));
    cr_wordpiece *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    made->rules = *rules;
    made->prefix_length = strlen(rules->prefix);
    memcpy(made->prefix, rules->prefix, made->prefix_length);
    made->rules.prefix = made->prefix;
    int code = copy_tokens(made, tokens, count);
    if (code < 0) {
        cr_wordpiece_free(made);
        return code;
    }
    *out = made;
    return CR_OK;
}

void cr_wordpiece_free(cr_wordpiece *wordpiece)
{
    if (!wordpiece)
        return;
    cr_text_index_free(&wordpiece->index);
    cr_free(wordpiece->texts);
    cr_free(wordpiece->bytes);
    cr_free(wordpiece);
}

/* ---- characters ------------------------------------------------------------------------ */

/* Unicode's White_Space. */
static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static bool is_dropped(int32_t c)
{
    if (c == 0 || c == 0xFFFD)
        return true;
    if (c == '\t' || c == '\n' || c == '\r')
        return false;
    utf8proc_category_t category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
           category == UTF8PROC_CATEGORY_CO;
}

static bool is_punctuation(int32_t c)
{
    if (c < 128)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
               (c >= 123 && c <= 126);
    utf8proc_category_t category = utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

/* The CJK blocks that BERT cuts into single characters. */
static bool is_chinese(int32_t c)
{
    static const struct {
        int32_t first, last;
    } blocks[] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                  {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (c >= blocks[i].first && c <= blocks[i].last)
            return true;
    return false;
}

/* ---- words ---------------------------------------------------------------------------------- */

typedef struct walk {
    const cr_wordpiece *w;
    char *word; /* [4 · most_chars] */
    size_t bytes, chars;
    char *piece; /* [prefix + 4 · most_chars] */
    int32_t *ids;
    size_t count, capacity;
    int code;
} walk;

static void add_id(walk *k, int32_t id)
{
    if (k->count == k->capacity) {
        size_t capacity = k->capacity * 2 + 16;
        int32_t *ids = cr_realloc(k->ids, k->count * sizeof *ids, capacity * sizeof *ids);
        if (!ids) {
            k->code = CR_ENOMEM;
            return;
        }
        k->ids = ids;
        k->capacity = capacity;
    }
    k->ids[k->count++] = id;
}

/* The longest piece at `from`, and where it ends; -1 when there is none. */
static int32_t longest_piece(const walk *k, size_t from, size_t *end)
{
    const cr_wordpiece *w = k->w;
    size_t before = from > 0 ? w->prefix_length : 0;
    size_t most = w->longest > before ? w->longest - before : 0;
    memcpy(k->piece, w->prefix, before);
    memcpy(k->piece + before, k->word + from, k->bytes - from);
    for (size_t length = k->bytes - from < most ? k->bytes - from : most; length > 0; length--) {
        /* A piece ends where a character does. */
        if (from + length < k->bytes && ((unsigned char)k->word[from + length] & 0xC0) == 0x80)
            continue;
        int32_t id = cr_text_index_find(&w->index, k->piece, before + length);
        if (id >= 0) {
            *end = from + length;
            return id;
        }
    }
    return -1;
}

/* The word's pieces, or the unknown token alone. */
static void end_word(walk *k)
{
    size_t first = k->count;
    int32_t id = k->chars > k->w->rules.most_chars ? -1 : 0;
    for (size_t at = 0; at < k->bytes && id >= 0 && k->code == CR_OK;) {
        id = longest_piece(k, at, &at);
        if (id >= 0)
            add_id(k, id);
    }
    if (id < 0) {
        k->count = first;
        add_id(k, k->w->rules.unknown);
    }
    k->bytes = k->chars = 0;
}

static void put(walk *k, int32_t c)
{
    bool alone = is_punctuation(c);
    if ((alone || is_space(c)) && k->chars > 0)
        end_word(k);
    if (is_space(c))
        return;
    if (k->chars < k->w->rules.most_chars)
        k->bytes += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)k->word + k->bytes);
    k->chars++;
    if (alone)
        end_word(k);
}

static void put_lower(walk *k, int32_t c)
{
    if (!k->w->rules.lower_case) {
        put(k, c);
    } else if (c == 0x130) { /* the one letter whose lower case is two */
        put(k, 'i');
        put(k, 0x307);
    } else {
        put(k, utf8proc_tolower(c));
    }
}

static void put_folded(walk *k, int32_t c)
{
    utf8proc_int32_t parts[32];
    int boundary = 0;
    utf8proc_ssize_t count =
        k->w->rules.strip_accents
            ? utf8proc_decompose_char(c, parts, 32, UTF8PROC_DECOMPOSE, &boundary)
            : 0;
    if (count <= 0 || count > 32) {
        put_lower(k, c);
        return;
    }
    for (utf8proc_ssize_t i = 0; i < count; i++)
        if (utf8proc_category(parts[i]) != UTF8PROC_CATEGORY_MN)
            put_lower(k, parts[i]);
}

static void take(walk *k, int32_t c)
{
    const cr_wordpiece_rules *rules = &k->w->rules;
    if (rules->clean && is_dropped(c))
        return;
    bool alone = rules->chinese && is_chinese(c);
    if (alone)
        put(k, ' ');
    put_folded(k, c);
    if (alone)
        put(k, ' ');
}

static void walk_text(walk *k, const char *text, size_t length)
{
    for (size_t at = 0; at < length && k->code == CR_OK;) {
        utf8proc_int32_t c;
        size_t left = length - at < 4 ? length - at : 4;
        utf8proc_ssize_t step =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)left, &c);
        if (step > 0)
            take(k, c);
        at += step > 0 ? (size_t)step : 1;
    }
    if (k->chars > 0 && k->code == CR_OK)
        end_word(k);
}

int cr_wordpiece_encode(const cr_wordpiece *wordpiece, const char *text, size_t length,
                        int32_t **ids, size_t *count)
{
    walk k = {.w = wordpiece};
    *ids = NULL;
    *count = 0;
    k.word = cr_alloc(4 * wordpiece->rules.most_chars);
    k.piece = cr_alloc(4 * wordpiece->rules.most_chars + MOST_PREFIX);
    if (!k.word || !k.piece)
        k.code = CR_ENOMEM;
    else
        walk_text(&k, text, length);
    cr_free(k.word);
    cr_free(k.piece);
    if (k.code < 0) {
        cr_free(k.ids);
        return cr_fail(CR_ENOMEM, "out of memory for the ids of %zu bytes", length);
    }
    *ids = k.ids;
    *count = k.count;
    return CR_OK;
}
