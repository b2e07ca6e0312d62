/* tokenizer.c: BPE, byte-level or of SentencePiece, from GGUF metadata; the order of steps is
 * that of Hugging Face tokenizers (added tokens, pre-tokenizer, merges).
 */
#include "text/tokenizer.h"

#include <string.h>

#include "base/parallel.h"
#include "text/bpe.h"
#include "text/byte_escape.h"
#include "text/compose.h"
#include "text/pretokenize.h"
#include "text/sentencepiece.h"
#include "text/shown.h"
#include "text/special.h"
#include "text/vocabulary.h"

struct cr_tokenizer {
    cr_vocabulary vocabulary;
    cr_merges merges;
    cr_specials specials;
    cr_spelling spelling;
    int32_t bos, eos, pad, unknown;
    bool add_bos, space_prefix, prefixes_each, prefix_unless_spaced;
    /* byte-level */
    const cr_pretokenizer_rules *rules; /* NULL for SentencePiece */
    cr_pretokenizer *pretokenizer;
    bool *whole;   /* [size]: a piece with this token's bytes is this token */
    bool composes; /* to NFC */
    /* SentencePiece */
    cr_specials user_defined; /* cut out of every text: runs of spaces and line ends among them */
    bool cuts;
};

/* ---- from a file --------------------------------------------------------------- */

#define KEY(name) "tokenizer.ggml." name

/* A key that must be there: its absence is the file's fault. */
static int required(int code)
{
    return code == CR_ENOTFOUND ? CR_EFORMAT : code;
}

static bool is_text(const cr_text *text, const char *expected)
{
    return text->length == strlen(expected) && memcmp(text->bytes, expected, text->length) == 0;
}

static int read_spelling(cr_tokenizer *out, const cr_gguf *file)
{
    cr_text name;
    CR_TRY(required(cr_gguf_text(file, KEY("model"), &name)));
    out->spelling = is_text(&name, "llama") ? CR_SPELLING_SPACES : CR_SPELLING_BYTES;
    if (out->spelling == CR_SPELLING_SPACES || is_text(&name, "gpt2"))
        return CR_OK;
    return cr_fail(CR_EUNSUPPORTED,
                   KEY("model") " is '%s': supported are gpt2 (byte-level BPE) and llama "
                                "(SentencePiece BPE)",
                   cr_show(name.bytes, name.length).text);
}

static int read_rules(cr_tokenizer *out, const cr_gguf *file)
{
    cr_text name;
    if (out->spelling == CR_SPELLING_SPACES)
        return CR_OK;
    CR_TRY(required(cr_gguf_text(file, KEY("pre"), &name)));
    out->rules = cr_pretokenizer_find(name.bytes, name.length);
    if (!out->rules)
        return cr_fail_context(CR_EUNSUPPORTED, KEY("pre"));
    return cr_pretokenizer_create(&out->pretokenizer, out->rules);
}

/* The file's own spelling to id, which merges are written in. */
static int index_tokens(cr_text_index *out, const cr_bpe_lists *lists)
{
    CR_TRY(cr_text_index_create(out, lists->tokens, lists->count));
    for (size_t i = 0; i < lists->count; i++) {
        int32_t other = cr_text_index_add(out, (int32_t)i);
        if (other >= 0)
            return cr_fail(CR_EFORMAT, "%stokens[%zu] '%s' is also token %d", lists->keys, i,
                           cr_show(lists->tokens[i].bytes, lists->tokens[i].length).text,
                           (int)other);
    }
    return CR_OK;
}

static int read_kinds(const cr_gguf *file, size_t tokens, const int32_t **kinds)
{
    size_t count;
    CR_TRY(required(cr_gguf_i32_array(file, KEY("token_type"), kinds, &count)));
    if (count != tokens)
        return cr_fail(
            CR_EFORMAT,
            KEY("token_type") " has %zu entries: expected %zu, one for each of " KEY("tokens"),
            count, tokens);
    return CR_OK;
}

static int read_tokens(const cr_gguf *file, const cr_text **tokens, size_t *count)
{
    CR_TRY(required(cr_gguf_text_array(file, KEY("tokens"), tokens, count)));
    if (*count > INT32_MAX / 2)
        return cr_fail(CR_EFORMAT, KEY("tokens") " has %zu entries: at most %d are possible",
                       *count, INT32_MAX / 2);
    return CR_OK;
}

/* A merge keeps the bytes of its halves, or decode would not give back what encode
 * took; special tokens, which stand verbatim, could break that. */
static int check_merge(const cr_tokenizer *tokenizer, const cr_merge_slot *slot, const char *keys)
{
    const cr_text *texts = tokenizer->vocabulary.texts;
    const cr_text *left = &texts[slot->left], *right = &texts[slot->right];
    const cr_text *merged = &texts[tokenizer->merges.merged[slot->rank]];
    if (merged->length == left->length + right->length &&
        memcmp(merged->bytes, left->bytes, left->length) == 0 &&
        memcmp(merged->bytes + left->length, right->bytes, right->length) == 0)
        return CR_OK;
    return cr_fail(CR_EFORMAT, "%smerges[%u] involves a special token that is not what it spells",
                   keys, (unsigned)slot->rank);
}

static int check_merges(const cr_tokenizer *tokenizer, const char *keys)
{
    for (size_t i = 0; i <= tokenizer->merges.mask; i++)
        if (tokenizer->merges.slots[i].rank != UINT32_MAX)
            CR_TRY(check_merge(tokenizer, &tokenizer->merges.slots[i], keys));
    return CR_OK;
}

static int create_merges(cr_tokenizer *out, const cr_bpe_lists *lists, const cr_text_index *index)
{
    if (lists->scores)
        return cr_merges_create_scored(&out->merges, &out->vocabulary, lists->scores, lists->keys);
    CR_TRY(cr_merges_create(&out->merges, lists->merges, lists->merge_count, index, lists->keys));
    return check_merges(out, lists->keys);
}

static int create_specials(cr_tokenizer *out)
{
    CR_TRY(cr_specials_create(&out->specials, &out->vocabulary, false));
    if (out->spelling == CR_SPELLING_BYTES)
        return CR_OK;
    out->cuts = cr_sentencepiece_cuts(&out->vocabulary);
    return cr_specials_create(&out->user_defined, &out->vocabulary, true);
}

static int take_lists(cr_tokenizer *out, const cr_bpe_lists *lists)
{
    cr_text_index index = {NULL, NULL, 0};
    int code;
    CR_TRY_GOTO(index_tokens(&index, lists), done);
    CR_TRY_GOTO(cr_vocabulary_create(&out->vocabulary, out->spelling, lists->tokens, lists->kinds,
                                     lists->count, lists->keys),
                done);
    CR_TRY_GOTO(create_merges(out, lists, &index), done);
    code = create_specials(out);
done:
    cr_text_index_free(&index);
    return code;
}

static int read_merges(const cr_gguf *file, cr_bpe_lists *lists)
{
    return required(cr_gguf_text_array(file, KEY("merges"), &lists->merges, &lists->merge_count));
}

static int read_scores(const cr_gguf *file, cr_bpe_lists *lists)
{
    size_t count;
    CR_TRY(required(cr_gguf_f32_array(file, KEY("scores"), &lists->scores, &count)));
    if (count != lists->count)
        return cr_fail(CR_EFORMAT,
                       KEY("scores") " has %zu entries: expected %zu, one for each of " KEY("tokens"),
                       count, lists->count);
    return CR_OK;
}

static int read_vocabulary(cr_tokenizer *out, const cr_gguf *file)
{
    cr_bpe_lists lists = {.keys = KEY("")};
    CR_TRY(read_tokens(file, &lists.tokens, &lists.count));
    CR_TRY(read_kinds(file, lists.count, &lists.kinds));
    CR_TRY(out->spelling == CR_SPELLING_SPACES ? read_scores(file, &lists)
                                               : read_merges(file, &lists));
    return take_lists(out, &lists);
}

/* *id = -1 when the key is absent. */
static int read_id(const cr_tokenizer *tokenizer, const cr_gguf *file, const char *key, int32_t *id)
{
    uint64_t value;
    *id = -1;
    int code = cr_gguf_u64(file, key, &value);
    if (code < 0)
        return code == CR_ENOTFOUND ? CR_OK : code;
    if (value >= tokenizer->vocabulary.size)
        return cr_fail(CR_EFORMAT, "%s is %llu: expected less than %zu, the number of tokens", key,
                       (unsigned long long)value, tokenizer->vocabulary.size);
    *id = (int32_t)value;
    return CR_OK;
}

/* A key that may be missing. */
static int optional(int code)
{
    return code == CR_ENOTFOUND ? CR_OK : code;
}

static int read_ids(cr_tokenizer *out, const cr_gguf *file)
{
    CR_TRY(read_id(out, file, KEY("bos_token_id"), &out->bos));
    CR_TRY(read_id(out, file, KEY("eos_token_id"), &out->eos));
    CR_TRY(read_id(out, file, KEY("padding_token_id"), &out->pad));
    CR_TRY(read_id(out, file, KEY("unknown_token_id"), &out->unknown));
    /* SentencePiece models begin with a BOS and a space unless the file says otherwise. */
    out->add_bos = out->rules ? out->rules->adds_bos : true;
    out->space_prefix = !out->rules;
    CR_TRY(optional(cr_gguf_bool(file, KEY("add_bos_token"), &out->add_bos)));
    if (!out->rules)
        CR_TRY(optional(cr_gguf_bool(file, KEY("add_space_prefix"), &out->space_prefix)));
    out->prefixes_each = out->space_prefix;
    if (out->add_bos && out->bos < 0)
        return cr_fail(CR_EFORMAT,
                       KEY("add_bos_token") " is true, but " KEY("bos_token_id") " is missing");
    return CR_OK;
}

static bool is_piece(const cr_vocabulary *vocabulary, int32_t id)
{
    const cr_text *text = &vocabulary->texts[id];
    return cr_text_index_find(&vocabulary->pieces, text->bytes, text->length) == id;
}

/* Ids at most for a piece of `length` bytes before merging. */
static size_t most_ids(const cr_vocabulary *vocabulary, size_t length)
{
    return vocabulary->has_all_bytes ? length : CR_BYTE_ESCAPE_LENGTH * length;
}

static size_t split_bytes(const cr_vocabulary *vocabulary, const char *bytes, size_t length,
                          int32_t *ids)
{
    if (!vocabulary->has_all_bytes)
        return cr_byte_escape_split(ids, vocabulary->byte_ids, bytes, length);
    for (size_t i = 0; i < length; i++)
        ids[i] = vocabulary->byte_ids[(unsigned char)bytes[i]];
    return length;
}

/* Most words are one token. Which tokens merging gives back from their own bytes is found
 * once, so that encode looks a piece up before it merges it. A token with a byte that
 * would be escaped is never taken whole. */
static int find_whole(cr_tokenizer *out, int32_t *ids, cr_bpe_work *work)
{
    for (size_t i = 0; i < out->vocabulary.size; i++) {
        if (!is_piece(&out->vocabulary, (int32_t)i))
            continue;
        const cr_text *text = &out->vocabulary.texts[i];
        size_t count = split_bytes(&out->vocabulary, text->bytes, text->length, ids);
        bool plain = count == text->length;
        if (plain && !out->rules->whole_pieces) {
            CR_TRY(cr_bpe_merge(&out->merges, work, ids, &count));
            plain = count == 1 && ids[0] == (int32_t)i;
        }
        out->whole[i] = plain;
    }
    return CR_OK;
}

static int mark_whole(cr_tokenizer *out)
{
    cr_bpe_work work = {NULL, 0};
    int32_t *ids =
        cr_calloc(most_ids(&out->vocabulary, out->vocabulary.longest_piece), sizeof *ids);
    out->whole = cr_calloc(out->vocabulary.size, sizeof *out->whole);
    int code = ids && out->whole ? find_whole(out, ids, &work) : CR_ENOMEM;
    cr_bpe_work_free(&work);
    cr_free(ids);
    return code;
}

static int read_all(cr_tokenizer *out, const cr_gguf *file)
{
    CR_TRY(read_spelling(out, file));
    CR_TRY(read_rules(out, file));
    CR_TRY(read_vocabulary(out, file));
    CR_TRY(read_ids(out, file));
    return out->spelling == CR_SPELLING_BYTES ? mark_whole(out) : CR_OK;
}

static int take_or_free(cr_tokenizer **out, cr_tokenizer *made, int code)
{
    if (code < 0) {
        cr_tokenizer_free(made);
        return code;
    }
    *out = made;
    return CR_OK;
}

int cr_tokenizer_from_gguf(cr_tokenizer **out, const cr_gguf *file)
{
    *out = NULL;
    cr_tokenizer *made = cr_calloc(1, sizeof *made);
    return made ? take_or_free(out, made, read_all(made, file)) : CR_ENOMEM;
}

static int build(cr_tokenizer *out, const cr_bpe_lists *lists)
{
    out->rules = lists->rules;
    out->composes = lists->composes;
    out->spelling = lists->rules ? CR_SPELLING_BYTES : CR_SPELLING_SPACES;
    if (out->rules)
        CR_TRY(cr_pretokenizer_create(&out->pretokenizer, out->rules));
    CR_TRY(take_lists(out, lists));
    return out->rules ? mark_whole(out) : CR_OK;
}

void cr_tokenizer_set_roles(cr_tokenizer *tokenizer, const cr_token_roles *roles)
{
    tokenizer->bos = roles->bos;
    tokenizer->eos = roles->eos;
    tokenizer->pad = roles->pad;
    tokenizer->unknown = roles->unknown;
    tokenizer->add_bos = roles->add_bos;
    tokenizer->space_prefix = roles->space_prefix;
    tokenizer->prefixes_each = roles->prefixes_each;
    tokenizer->prefix_unless_spaced = roles->prefix_unless_spaced;
}

int cr_tokenizer_from_lists(cr_tokenizer **out, const cr_bpe_lists *lists)
{
    *out = NULL;
    cr_tokenizer *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    made->bos = made->eos = made->pad = made->unknown = -1;
    return take_or_free(out, made, build(made, lists));
}

void cr_tokenizer_free(cr_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    cr_free(tokenizer->whole);
    cr_pretokenizer_free(tokenizer->pretokenizer);
    cr_specials_free(&tokenizer->specials);
    cr_specials_free(&tokenizer->user_defined);
    cr_merges_free(&tokenizer->merges);
    cr_vocabulary_free(&tokenizer->vocabulary);
    cr_free(tokenizer);
}

/* ---- what it is ------------------------------------------------------------------ */

void cr_tokenizer_describe(const cr_tokenizer *tokenizer, cr_tokenizer_info *out)
{
    bool bytes = tokenizer->spelling == CR_SPELLING_BYTES;
    *out = (cr_tokenizer_info){.model = bytes ? "gpt2" : "llama",
                               .pretokenizer = bytes ? tokenizer->rules->name : "none",
                               .size = (int)tokenizer->vocabulary.size,
                               .bos = tokenizer->bos,
                               .eos = tokenizer->eos,
                               .pad = tokenizer->pad,
                               .unknown = tokenizer->unknown,
                               .add_bos = tokenizer->add_bos,
                               .space_prefix = tokenizer->space_prefix,
                               .prefixes_each = tokenizer->prefixes_each,
                               .prefix_unless_spaced = tokenizer->prefix_unless_spaced,
                               .composes = tokenizer->composes};
}

int32_t cr_tokenizer_find(const cr_tokenizer *tokenizer, const char *text, size_t length)
{
    return cr_vocabulary_find(&tokenizer->vocabulary, text, length);
}

static bool is_known(const cr_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && (size_t)id < tokenizer->vocabulary.size;
}

bool cr_tokenizer_is_special(const cr_tokenizer *tokenizer, int32_t id)
{
    if (!is_known(tokenizer, id))
        return false;
    uint8_t kind = tokenizer->vocabulary.kinds[id];
    return kind == CR_TOKEN_CONTROL || kind == CR_TOKEN_UNKNOWN;
}

bool cr_tokenizer_is_ordinary(const cr_tokenizer *tokenizer, int32_t id)
{
    uint8_t kind = tokenizer->vocabulary.kinds[id];
    return (kind == CR_TOKEN_NORMAL || kind == CR_TOKEN_BYTE) &&
           tokenizer->vocabulary.texts[id].length > 0;
}

cr_text cr_tokenizer_bytes(const cr_tokenizer *tokenizer, int32_t id)
{
    return tokenizer->vocabulary.texts[id];
}

/* ---- encode ------------------------------------------------------------------------ */

typedef struct encoder {
    const cr_tokenizer *tokenizer;
    cr_splitter *splitter;
    cr_bpe_work work;
    int32_t *ids;
    size_t count, capacity;
} encoder;

static int reserve(encoder *e, size_t more)
{
    size_t needed = e->count + more;
    if (needed <= e->capacity)
        return CR_OK;
    size_t capacity = needed + e->capacity / 2;
    int32_t *ids = capacity > SIZE_MAX / sizeof *ids
                       ? NULL
                       : cr_realloc(e->ids, e->count * sizeof *ids, capacity * sizeof *ids);
    if (!ids)
        return cr_fail(CR_ENOMEM, "out of memory for %zu token ids", needed);
    e->ids = ids;
    e->capacity = capacity;
    return CR_OK;
}

static int32_t find_whole_piece(const cr_tokenizer *tokenizer, const char *piece, size_t length)
{
    const cr_vocabulary *vocabulary = &tokenizer->vocabulary;
    if (length > vocabulary->longest_piece)
        return -1;
    int32_t id = cr_text_index_find(&vocabulary->pieces, piece, length);
    return id >= 0 && tokenizer->whole[id] ? id : -1;
}

static int encode_piece(encoder *e, const char *piece, size_t length)
{
    CR_TRY(reserve(e, most_ids(&e->tokenizer->vocabulary, length)));
    int32_t *ids = e->ids + e->count;
    size_t count = 1;
    ids[0] = find_whole_piece(e->tokenizer, piece, length);
    if (ids[0] < 0) {
        count = split_bytes(&e->tokenizer->vocabulary, piece, length, ids);
        CR_TRY(cr_bpe_merge(&e->tokenizer->merges, &e->work, ids, &count));
    }
    e->count += count;
    return CR_OK;
}

static int encode_characters(encoder *e, const char *text, size_t length)
{
    CR_TRY(reserve(e, length));
    int32_t *ids = e->ids + e->count;
    size_t count = cr_sentencepiece_split(ids, &e->tokenizer->vocabulary, text, length);
    CR_TRY(cr_bpe_merge(&e->tokenizer->merges, &e->work, ids, &count));
    e->count += count;
    return CR_OK;
}

static int encode_stretches(encoder *e, const char *text, size_t length)
{
    for (size_t at = 0, end; at < length; at = end) {
        end = cr_sentencepiece_next(text, length, at, e->tokenizer->cuts);
        CR_TRY(encode_characters(e, text + at, end - at));
    }
    return CR_OK;
}

static int encode_pieces(encoder *e, const char *text, size_t length)
{
    cr_splitter_start(e->splitter, text, length);
    for (size_t at = 0, end;; at = end) {
        CR_TRY(cr_splitter_next(e->splitter, &end));
        if (end == 0)
            return CR_OK;
        CR_TRY(encode_piece(e, text + at, end - at));
    }
}

static int encode_composed(encoder *e, const char *text, size_t length)
{
    char *composed;
    size_t size;
    CR_TRY(cr_compose(&composed, &size, text, length));
    int code = composed ? encode_pieces(e, composed, size) : encode_pieces(e, text, length);
    cr_free(composed);
    return code;
}

/* Text between special tokens. */
static int encode_between(encoder *e, const char *text, size_t length)
{
    if (e->tokenizer->spelling == CR_SPELLING_SPACES)
        return encode_stretches(e, text, length);
    return e->tokenizer->composes ? encode_composed(e, text, length)
                                  : encode_pieces(e, text, length);
}

static int encode_around(encoder *e, const cr_specials *specials, const char *text, size_t length)
{
    for (size_t from = 0, at;;) {
        const cr_special_entry *special = cr_specials_find(specials, text, length, from, &at);
        CR_TRY(encode_between(e, text + from, at - from));
        if (!special)
            return CR_OK;
        CR_TRY(reserve(e, 1));
        e->ids[e->count++] = special->id;
        from = at + special->text.length;
    }
}

static int encode_text(encoder *e, const char *text, size_t length, bool parse_special)
{
    const cr_tokenizer *tokenizer = e->tokenizer;
    if (parse_special)
        return encode_around(e, &tokenizer->specials, text, length);
    if (tokenizer->spelling == CR_SPELLING_SPACES)
        return encode_around(e, &tokenizer->user_defined, text, length);
    return encode_between(e, text, length);
}

/* A splitter, where the tokenizer has a pattern. */
static int prepare_encoder(encoder *e)
{
    if (!e->tokenizer->pretokenizer)
        return CR_OK;
    return cr_splitter_create(&e->splitter, e->tokenizer->pretokenizer);
}

/* English has about four bytes a token; anything denser grows the list. */
static int encode(encoder *e, const char *text, size_t length, bool parse_special)
{
    CR_TRY(prepare_encoder(e));
    CR_TRY(reserve(e, length / 4 + 16));
    return encode_text(e, text, length, parse_special);
}

int cr_tokenizer_encode(const cr_tokenizer *tokenizer, const char *text, size_t length,
                        bool parse_special, int32_t **ids, size_t *count)
{
    encoder e = {.tokenizer = tokenizer};
    *ids = NULL;
    *count = 0;
    int code = encode(&e, length ? text : "", length, parse_special);
    cr_splitter_free(e.splitter);
    cr_bpe_work_free(&e.work);
    if (code < 0) {
        cr_free(e.ids);
        return code;
    }
    *ids = e.ids;
    *count = e.count;
    return CR_OK;
}

/* ---- many texts --------------------------------------------------------------------- */

#define BLOCK_BYTES 65536 /* of text that one task encodes; at least one text */

/* A run of texts and what became of it. */
typedef struct block {
    size_t first, count;
    int32_t *ids;
    size_t ids_count, failed; /* failed = number of the text that could not be encoded */
    int code;
} block;

typedef struct encode_job {
    const cr_tokenizer *tokenizer;
    const char *const *texts;
    const size_t *lengths;
    size_t *ends; /* of each text's ids in its block */
    block *blocks;
    bool parse_special;
} encode_job;

static int encode_block(encoder *e, const encode_job *job, block *b)
{
    CR_TRY(prepare_encoder(e));
    for (size_t i = b->first; i < b->first + b->count; i++) {
        const char *text = job->lengths[i] ? job->texts[i] : "";
        b->failed = i;
        CR_TRY(reserve(e, job->lengths[i] / 4 + 16));
        CR_TRY(encode_text(e, text, job->lengths[i], job->parse_special));
        job->ends[i] = e->count;
    }
    return CR_OK;
}

static void encode_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const encode_job *job = argument;
    block *b = &job->blocks[task];
    encoder e = {.tokenizer = job->tokenizer};
    b->code = encode_block(&e, job, b);
    cr_splitter_free(e.splitter);
    cr_bpe_work_free(&e.work);
    b->ids = e.ids;
    b->ids_count = e.count;
}

/* Cuts the texts into blocks; their number. With blocks = NULL it only counts. */
static size_t cut_blocks(block *blocks, const size_t *lengths, size_t count)
{
    size_t made = 0;
    for (size_t first = 0, next; first < count; first = next, made++) {
        size_t bytes = 0;
        for (next = first; next < count && bytes < BLOCK_BYTES; next++)
            bytes = lengths[next] < SIZE_MAX - bytes ? bytes + lengths[next] : SIZE_MAX;
        if (blocks)
            blocks[made] = (block){.first = first, .count = next - first};
    }
    return made;
}

/* A task's message stays in its thread: the text is encoded again for it. */
static int block_failure(const encode_job *job, const block *b)
{
    int32_t *ids;
    size_t count;
    int code = cr_tokenizer_encode(job->tokenizer, job->texts[b->failed], job->lengths[b->failed],
                                   job->parse_special, &ids, &count);
    cr_free(ids);
    return code < 0 ? code
                    : cr_fail(b->code, "out of memory while encoding text %zu", b->failed + 1);
}

static int join_blocks(const encode_job *job, size_t count, int32_t **ids)
{
    size_t total = 0, at = 0;
    for (size_t i = 0; i < count; i++) {
        if (job->blocks[i].code < 0)
            return block_failure(job, &job->blocks[i]);
        total += job->blocks[i].ids_count;
    }
    *ids = cr_calloc(total, sizeof **ids);
    if (!*ids)
        return CR_ENOMEM;
    for (size_t i = 0; i < count; i++) {
        const block *b = &job->blocks[i];
        if (b->ids_count)
            memcpy(*ids + at, b->ids, b->ids_count * sizeof **ids);
        for (size_t text = b->first; text < b->first + b->count; text++)
            job->ends[text] += at;
        at += b->ids_count;
    }
    return CR_OK;
}

static int run_blocks(encode_job *job, size_t count, int threads)
{
    cr_pool *pool = NULL;
    CR_TRY(cr_pool_create(&pool, threads));
    cr_parallel_for(pool, count, encode_task, job);
    cr_pool_free(pool);
    return CR_OK;
}

int cr_tokenizer_encode_all(const cr_tokenizer *tokenizer, const char *const *texts,
                            const size_t *lengths, size_t count, bool parse_special, int threads,
                            int32_t **ids, size_t **ends)
{
    *ids = NULL;
    *ends = cr_calloc(count, sizeof **ends);
    size_t blocks = cut_blocks(NULL, lengths, count);
    encode_job job = {tokenizer,    texts, lengths, *ends, cr_calloc(blocks, sizeof(block)),
                      parse_special};
    int code = *ends && job.blocks ? CR_OK : CR_ENOMEM;
    if (code == CR_OK) {
        cut_blocks(job.blocks, lengths, count);
        code = run_blocks(&job, blocks, threads);
    }
    if (code == CR_OK)
        code = join_blocks(&job, blocks, ids);
    for (size_t i = 0; job.blocks && i < blocks; i++)
        cr_free(job.blocks[i].ids);
    cr_free(job.blocks);
    if (code < 0) {
        cr_free(*ends);
        *ends = NULL;
    }
    return code;
}

/* ---- decode ------------------------------------------------------------------------- */

/* The bytes an id stands for in the output. */
static cr_text shown_text(const cr_tokenizer *tokenizer, int32_t id, bool skip_special)
{
    if (skip_special && cr_tokenizer_is_special(tokenizer, id))
        return (cr_text){"", 0};
    return tokenizer->vocabulary.texts[id];
}

static int measure(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                   bool skip_special, size_t *bytes)
{
    *bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (!is_known(tokenizer, ids[i]))
            return cr_fail(CR_EARG, "token id %d at position %zu: expected 0 to %zu", (int)ids[i],
                           i + 1, tokenizer->vocabulary.size - 1);
        if (!cr_size_add(bytes, *bytes, shown_text(tokenizer, ids[i], skip_special).length))
            return cr_fail(CR_ENOMEM, "the text of %zu tokens is longer than memory", count);
    }
    return CR_OK;
}

/* Writes the bytes and returns their number. Escapes are undone between added tokens, the
 * stretches that were escaped as a whole. */
static size_t write_text(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                         bool skip_special, char *out)
{
    const cr_vocabulary *vocabulary = &tokenizer->vocabulary;
    size_t at = 0, stretch = 0;
    for (size_t i = 0; i <= count; i++) {
        bool border = i == count || cr_vocabulary_is_added(vocabulary, ids[i]);
        if (border && !vocabulary->has_all_bytes)
            at = stretch + cr_byte_escape_undo(out + stretch, vocabulary->byte_ids, at - stretch);
        if (i == count)
            break;
        cr_text token = shown_text(tokenizer, ids[i], skip_special);
        memcpy(out + at, token.bytes, token.length);
        at += token.length;
        if (border)
            stretch = at;
    }
    return at;
}

int cr_tokenizer_decode(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                        bool skip_special, char **text, size_t *length)
{
    *text = NULL;
    *length = 0;
    size_t bytes;
    CR_TRY(measure(tokenizer, ids, count, skip_special, &bytes));
    char *out = bytes < SIZE_MAX ? cr_alloc(bytes + 1) : NULL;
    if (!out)
        return cr_fail(CR_ENOMEM, "out of memory for a text of %zu bytes", bytes);
    *length = write_text(tokenizer, ids, count, skip_special, out);
    out[*length] = '\0';
    *text = out;
    return CR_OK;
}

/* ---- where tokens end ------------------------------------------------------------------ */

/* The text of `count` ids without an added token among them, escapes as they are. */
static void copy_tokens(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count, char *out)
{
    for (size_t i = 0; i < count; i++) {
        cr_text token = tokenizer->vocabulary.texts[ids[i]];
        memcpy(out, token.bytes, token.length);
        out += token.length;
    }
}

/* Ends of tokens in a stretch whose text holds escapes: a token that ends within an escape ends
 * where the byte does. */
static void end_escaped(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                        const char *text, size_t length, size_t start, size_t *ends)
{
    const int32_t *byte_ids = tokenizer->vocabulary.byte_ids;
    size_t token = 0, token_end = tokenizer->vocabulary.texts[ids[0]].length, written = 0;
    for (size_t at = 0; at < length;) {
        bool escape = cr_byte_escape_at(byte_ids, text + at, length - at);
        at += escape ? CR_BYTE_ESCAPE_LENGTH : 1;
        written++;
        for (; token < count && token_end <= at; token++) {
            ends[token] = start + written;
            token_end += token + 1 < count ? tokenizer->vocabulary.texts[ids[token + 1]].length : 0;
        }
    }
}

static size_t text_length(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        length += tokenizer->vocabulary.texts[ids[i]].length;
    return length;
}

/* Ends of a stretch between added tokens; *start moves behind it. `scratch` has room for its text. */
static void end_stretch(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                        char *scratch, size_t *start, size_t *ends)
{
    if (count == 0)
        return;
    size_t length = text_length(tokenizer, ids, count), at = *start;
    for (size_t i = 0; i < count; i++)
        ends[i] = at += tokenizer->vocabulary.texts[ids[i]].length;
    if (!tokenizer->vocabulary.has_all_bytes) {
        copy_tokens(tokenizer, ids, count, scratch);
        end_escaped(tokenizer, ids, count, scratch, length, *start, ends);
    }
    *start = ends[count - 1];
}

int cr_tokenizer_ends(const cr_tokenizer *tokenizer, const int32_t *ids, size_t count, size_t *ends)
{
    size_t bytes, start = 0, first = 0;
    CR_TRY(measure(tokenizer, ids, count, false, &bytes));
    char *scratch = cr_alloc(bytes);
    if (!scratch)
        return CR_ENOMEM;
    for (size_t i = 0; i <= count; i++) {
        if (i < count && !cr_vocabulary_is_added(&tokenizer->vocabulary, ids[i]))
            continue;
        end_stretch(tokenizer, ids + first, i - first, scratch, &start, ends + first);
        if (i < count)
            ends[i] = start += tokenizer->vocabulary.texts[ids[i]].length;
        first = i + 1;
    }
    cr_free(scratch);
    return CR_OK;
}
