/* hub_tokenizer.c: parts of Hugging Face's tokenizer.json that BERT's and RoBERTa's family use. */
#include "text/hub_tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "file/fsio.h"
#include "file/json.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"
#include "text/wordpiece.h"

#define MOST_FRAME 16
#define FIRST (-1) /* in a frame: the place of a text */
#define SECOND (-2)

typedef struct frame {
    size_t count, specials;
    struct {
        int32_t id, type;
    } items[MOST_FRAME];
} frame;

struct cr_hub_tokenizer {
    cr_wordpiece *words; /* one of the two */
    cr_tokenizer *bytes;
    bool prefix_space; /* BPE: a space before a text that begins with none */
    size_t size;
    frame single, pair;
};

/* ---- looking into JSON ------------------------------------------------------------------ */

typedef struct reader {
    const cr_json *document;
    cr_hub_tokenizer *out;
    cr_text *tokens; /* [size] by id; bytes NULL = none yet */
    int32_t *kinds;
    size_t size;
} reader;

typedef const cr_json_node *node;

static const char *kind_name(cr_json_kind kind)
{
    static const char *const names[] = {"null",     "false",  "true",     "a number",
                                        "a string", "a list", "an object"};
    return names[kind];
}

static int wrong_kind(const char *key, node found, cr_json_kind kind)
{
    return cr_fail(CR_EFORMAT, "%s is %s: expected %s", key,
                   found ? kind_name(found->kind) : "missing", kind_name(kind));
}

/* A member that must be there, of that kind. */
static int get(const reader *r, node object, const char *key, cr_json_kind kind, node *out)
{
    *out = cr_json_member(r->document, object, key);
    return *out && (*out)->kind == kind ? CR_OK : wrong_kind(key, *out, kind);
}

static bool is_given(node found)
{
    return found && found->kind != CR_JSON_NULL;
}

static int get_flag(const reader *r, node object, const char *key, bool *out)
{
    node found = cr_json_member(r->document, object, key);
    if (!is_given(found))
        return CR_OK;
    if (found->kind != CR_JSON_TRUE && found->kind != CR_JSON_FALSE)
        return wrong_kind(key, found, CR_JSON_TRUE);
    *out = found->kind == CR_JSON_TRUE;
    return CR_OK;
}

/* The "type" of a part, "" when the part is null or missing. */
static int type_of(const reader *r, const char *part, node *object, const char **type)
{
    node found;
    *type = "";
    *object = cr_json_member(r->document, cr_json_root(r->document), part);
    if (!is_given(*object))
        return CR_OK;
    if ((*object)->kind != CR_JSON_OBJECT)
        return wrong_kind(part, *object, CR_JSON_OBJECT);
    CR_TRY(get(r, *object, "type", CR_JSON_STRING, &found));
    *type = found->text;
    return CR_OK;
}

static int refuse_type(const char *part, const char *type, const char *known)
{
    return cr_fail(CR_EUNSUPPORTED, "%s is '%.60s': supported is %s", part, *type ? type : "null",
                   known);
}

/* ---- the vocabulary ---------------------------------------------------------------------- */

static int put_token(reader *r, const char *text, size_t length, int64_t id, int32_t kind)
{
    if (id < 0 || (uint64_t)id >= r->size)
        return cr_fail(CR_EFORMAT,
                       "token '%.60s' has the id %lld: expected 0 to %zu, without holes", text,
                       (long long)id, r->size - 1);
    cr_text *place = &r->tokens[id];
    if (place->bytes && (place->length != length || memcmp(place->bytes, text, length) != 0))
        return cr_fail(CR_EFORMAT, "id %lld is '%.60s' and '%.60s'", (long long)id, place->bytes,
                       text);
    *place = (cr_text){text, length};
    r->kinds[id] = kind;
    return CR_OK;
}

static int put_added(reader *r, node entry)
{
    node id, content;
    bool special = false;
    if (entry->kind != CR_JSON_OBJECT)
        return wrong_kind("added_tokens[]", entry, CR_JSON_OBJECT);
    CR_TRY(get(r, entry, "id", CR_JSON_NUMBER, &id));
    CR_TRY(get(r, entry, "content", CR_JSON_STRING, &content));
    CR_TRY(get_flag(r, entry, "special", &special));
    if (!id->integer)
        return cr_fail(CR_EFORMAT, "added_tokens: id %g is no integer", id->number);
    return put_token(r, content->text, content->length, id->value,
                     special ? CR_TOKEN_CONTROL : CR_TOKEN_USER_DEFINED);
}

/* The least size that holds every id; ids that leave a hole are refused later. */
static size_t count_tokens(const reader *r, node vocabulary, node added)
{
    size_t size = vocabulary->length;
    for (node e = added ? cr_json_first(r->document, added) : NULL; e;
         e = cr_json_next(r->document, e)) {
        node id = e->kind == CR_JSON_OBJECT ? cr_json_member(r->document, e, "id") : NULL;
        if (id && id->integer && id->value == (int64_t)size)
            size++;
    }
    return size;
}

static int check_holes(const reader *r)
{
    for (size_t i = 0; i < r->size; i++)
        if (!r->tokens[i].bytes)
            return cr_fail(CR_EFORMAT, "vocab has no token of the id %zu: expected 0 to %zu", i,
                           r->size - 1);
    return CR_OK;
}

static int read_tokens(reader *r, node model)
{
    node vocabulary, added = cr_json_member(r->document, cr_json_root(r->document), "added_tokens");
    CR_TRY(get(r, model, "vocab", CR_JSON_OBJECT, &vocabulary));
    if (is_given(added) && added->kind != CR_JSON_ARRAY)
        return wrong_kind("added_tokens", added, CR_JSON_ARRAY);
    added = is_given(added) ? added : NULL;
    r->size = count_tokens(r, vocabulary, added);
    r->tokens = cr_calloc(r->size, sizeof *r->tokens);
    r->kinds = cr_calloc(r->size, sizeof *r->kinds);
    if (!r->tokens || !r->kinds)
        return CR_ENOMEM;
    for (node e = cr_json_first(r->document, vocabulary); e; e = cr_json_next(r->document, e)) {
        if (e->kind != CR_JSON_NUMBER || !e->integer)
            return cr_fail(CR_EFORMAT, "vocab: '%.60s' has no integer for an id", e->key);
        CR_TRY(put_token(r, e->key, strlen(e->key), e->value, CR_TOKEN_NORMAL));
    }
    for (node e = added ? cr_json_first(r->document, added) : NULL; e;
         e = cr_json_next(r->document, e))
        CR_TRY(put_added(r, e));
    r->out->size = r->size;
    return check_holes(r);
}

static int find_token(const reader *r, const char *text, int32_t *out)
{
    for (size_t i = 0; i < r->size; i++)
        if (r->tokens[i].length == strlen(text) &&
            memcmp(r->tokens[i].bytes, text, r->tokens[i].length) == 0) {
            *out = (int32_t)i;
            return CR_OK;
        }
    return cr_fail(CR_EFORMAT, "the vocabulary has no token '%.60s'", text);
}

/* ---- WordPiece ------------------------------------------------------------------------------ */

static int read_normaliser(const reader *r, cr_wordpiece_rules *rules)
{
    node part;
    const char *type;
    CR_TRY(type_of(r, "normalizer", &part, &type));
    if (strcmp(type, "BertNormalizer") != 0)
        return refuse_type("normalizer", type, "BertNormalizer");
    CR_TRY(get_flag(r, part, "clean_text", &rules->clean));
    CR_TRY(get_flag(r, part, "handle_chinese_chars", &rules->chinese));
    CR_TRY(get_flag(r, part, "lowercase", &rules->lower_case));
    rules->strip_accents = rules->lower_case; /* unless it says otherwise */
    CR_TRY(get_flag(r, part, "strip_accents", &rules->strip_accents));
    CR_TRY(type_of(r, "pre_tokenizer", &part, &type));
    if (strcmp(type, "BertPreTokenizer") != 0)
        return refuse_type("pre_tokenizer", type, "BertPreTokenizer");
    return CR_OK;
}

static int read_wordpiece(reader *r, node model)
{
    cr_wordpiece_rules rules = cr_wordpiece_rules_default();
    node unknown, prefix, most = cr_json_member(r->document, model, "max_input_chars_per_word");
    CR_TRY(get(r, model, "unk_token", CR_JSON_STRING, &unknown));
    CR_TRY(get(r, model, "continuing_subword_prefix", CR_JSON_STRING, &prefix));
    CR_TRY(find_token(r, unknown->text, &rules.unknown));
    rules.prefix = prefix->text;
    if (is_given(most))
        rules.most_chars = most->integer && most->value > 0 ? (size_t)most->value : 0;
    CR_TRY(read_normaliser(r, &rules));
    return cr_wordpiece_create(&r->out->words, r->tokens, r->size, &rules);
}

/* ---- byte-level BPE --------------------------------------------------------------------------- */

/* Two spellings of a merge: "left right" and ["left", "right"]; the latter is joined at *to. */
static int read_merge(const reader *r, node entry, cr_text *out, char **to)
{
    if (entry->kind == CR_JSON_STRING) {
        *out = (cr_text){entry->text, entry->length};
        return CR_OK;
    }
    node left = entry->kind == CR_JSON_ARRAY ? cr_json_first(r->document, entry) : NULL;
    node right = left ? cr_json_next(r->document, left) : NULL;
    if (!right || entry->length != 2 || left->kind != CR_JSON_STRING ||
        right->kind != CR_JSON_STRING)
        return cr_fail(CR_EFORMAT, "merges: expected \"left right\" or [\"left\", \"right\"]");
    out->bytes = *to;
    out->length = left->length + 1 + right->length;
    memcpy(*to, left->text, left->length);
    (*to)[left->length] = ' ';
    memcpy(*to + left->length + 1, right->text, right->length);
    *to += out->length;
    return CR_OK;
}

static size_t joined_bytes(const reader *r, node merges)
{
    size_t bytes = 0;
    for (node e = cr_json_first(r->document, merges); e; e = cr_json_next(r->document, e)) {
        node half = e->kind == CR_JSON_ARRAY ? cr_json_first(r->document, e) : NULL;
        for (; half; half = cr_json_next(r->document, half))
            bytes += half->kind == CR_JSON_STRING ? half->length + 1 : 0;
    }
    return bytes;
}

static int build_bpe(reader *r, node merges, cr_text *list, char *joined)
{
    size_t count = 0;
    for (node e = cr_json_first(r->document, merges); e; e = cr_json_next(r->document, e))
        CR_TRY(read_merge(r, e, &list[count++], &joined));
    cr_bpe_lists lists = {.keys = "model.",
                          .tokens = r->tokens,
                          .kinds = r->kinds,
                          .count = r->size,
                          .merges = list,
                          .merge_count = count,
                          .rules = cr_pretokenizer_find("gpt2", 4)};
    return cr_tokenizer_from_lists(&r->out->bytes, &lists);
}

static int check_byte_level(const reader *r)
{
    node part;
    const char *type;
    bool by_regex = true;
    CR_TRY(type_of(r, "normalizer", &part, &type));
    if (*type)
        return refuse_type("normalizer", type, "null, with a model of type BPE");
    CR_TRY(type_of(r, "pre_tokenizer", &part, &type));
    if (strcmp(type, "ByteLevel") != 0)
        return refuse_type("pre_tokenizer", type, "ByteLevel, with a model of type BPE");
    CR_TRY(get_flag(r, part, "add_prefix_space", &r->out->prefix_space));
    CR_TRY(get_flag(r, part, "use_regex", &by_regex));
    return by_regex ? CR_OK : refuse_type("pre_tokenizer.use_regex", "false", "true");
}

static int read_bpe(reader *r, node model)
{
    node merges;
    CR_TRY(check_byte_level(r));
    CR_TRY(get(r, model, "merges", CR_JSON_ARRAY, &merges));
    cr_text *list = cr_calloc(merges->length, sizeof *list);
    char *joined = cr_alloc(joined_bytes(r, merges));
    int code = list && joined ? build_bpe(r, merges, list, joined) : CR_ENOMEM;
    cr_free(joined);
    cr_free(list);
    return code;
}

/* ---- special tokens around the texts ------------------------------------------------------------- */

static int add_item(frame *f, int32_t id, int32_t type)
{
    if (f->count == MOST_FRAME)
        return cr_fail(CR_EUNSUPPORTED, "post_processor: at most %d parts around the texts",
                       MOST_FRAME);
    f->items[f->count].id = id;
    f->items[f->count++].type = type;
    f->specials += id >= 0;
    return CR_OK;
}

/* ["</s>", 2] of a RobertaProcessing or BertProcessing. */
static int get_special(const reader *r, node part, const char *key, int32_t *out)
{
    node entry;
    CR_TRY(get(r, part, key, CR_JSON_ARRAY, &entry));
    node text = cr_json_first(r->document, entry);
    node id = text ? cr_json_next(r->document, text) : NULL;
    if (!id || !id->integer || id->value < 0 || (uint64_t)id->value >= r->size)
        return cr_fail(CR_EFORMAT, "post_processor.%s: expected [token, id] with an id of 0 to %zu",
                       key, r->size - 1);
    *out = (int32_t)id->value;
    return CR_OK;
}

/* BERT: [CLS] a [SEP] b [SEP], b and its end of type 1; RoBERTa: <s> a </s></s> b </s>, all of type 0. */
static void fill_frames(cr_hub_tokenizer *out, int32_t begin, int32_t end, bool roberta)
{
    int32_t second = roberta ? 0 : 1;
    frame *single = &out->single, *pair = &out->pair;
    *single = *pair = (frame){0};
    (void)add_item(single, begin, 0);
    (void)add_item(single, FIRST, 0);
    (void)add_item(single, end, 0);
    *pair = *single;
    if (roberta)
        (void)add_item(pair, end, 0);
    (void)add_item(pair, SECOND, second);
    (void)add_item(pair, end, second);
}

static int read_named_frame(reader *r, node part, bool roberta)
{
    int32_t begin, end;
    CR_TRY(get_special(r, part, "cls", &begin));
    CR_TRY(get_special(r, part, "sep", &end));
    fill_frames(r->out, begin, end, roberta);
    return CR_OK;
}

/* All ids of a special token's name; most have one. */
static int add_special(const reader *r, node specials, const char *name, int32_t type, frame *out)
{
    node entry, ids;
    CR_TRY(get(r, specials, name, CR_JSON_OBJECT, &entry));
    CR_TRY(get(r, entry, "ids", CR_JSON_ARRAY, &ids));
    for (node id = cr_json_first(r->document, ids); id; id = cr_json_next(r->document, id)) {
        if (!id->integer || id->value < 0 || (uint64_t)id->value >= r->size)
            return cr_fail(CR_EFORMAT, "post_processor.special_tokens: '%.60s' has no valid ids",
                           name);
        CR_TRY(add_item(out, (int32_t)id->value, type));
    }
    return CR_OK;
}

static int read_piece(const reader *r, node specials, node piece, frame *out)
{
    node body = piece->kind == CR_JSON_OBJECT ? cr_json_first(r->document, piece) : NULL;
    if (!body || body->kind != CR_JSON_OBJECT)
        return cr_fail(CR_EFORMAT, "post_processor: expected SpecialToken or Sequence");
    node id, type;
    CR_TRY(get(r, body, "id", CR_JSON_STRING, &id));
    CR_TRY(get(r, body, "type_id", CR_JSON_NUMBER, &type));
    if (!type->integer || type->value < 0 || type->value > 1)
        return cr_fail(CR_EFORMAT, "post_processor: type_id %g: expected 0 or 1", type->number);
    if (strcmp(body->key, "SpecialToken") == 0)
        return add_special(r, specials, id->text, (int32_t)type->value, out);
    return add_item(out, strcmp(id->text, "A") == 0 ? FIRST : SECOND, (int32_t)type->value);
}

/* Each text of the frame once, and nothing else. */
static bool holds(const frame *f, bool pair)
{
    size_t firsts = 0, seconds = 0;
    for (size_t i = 0; i < f->count; i++) {
        firsts += f->items[i].id == FIRST;
        seconds += f->items[i].id == SECOND;
    }
    return firsts == 1 && seconds == (pair ? 1 : 0);
}

static int read_template(const reader *r, node part, const char *key, frame *out)
{
    node list, specials;
    CR_TRY(get(r, part, key, CR_JSON_ARRAY, &list));
    CR_TRY(get(r, part, "special_tokens", CR_JSON_OBJECT, &specials));
    *out = (frame){0};
    for (node e = cr_json_first(r->document, list); e; e = cr_json_next(r->document, e))
        CR_TRY(read_piece(r, specials, e, out));
    bool pair = strcmp(key, "pair") == 0;
    if (!holds(out, pair))
        return cr_fail(CR_EFORMAT, "post_processor.%s: expected each of its texts once", key);
    return CR_OK;
}

static int read_frames(reader *r)
{
    node part;
    const char *type;
    CR_TRY(type_of(r, "post_processor", &part, &type));
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return read_named_frame(r, part, *type == 'R');
    if (strcmp(type, "TemplateProcessing") != 0)
        return refuse_type("post_processor", type,
                           "TemplateProcessing, BertProcessing or RobertaProcessing");
    CR_TRY(read_template(r, part, "single", &r->out->single));
    return read_template(r, part, "pair", &r->out->pair);
}

/* ---- from files ------------------------------------------------------------------------------------ */

static int read_document(reader *r)
{
    node root = cr_json_root(r->document), model, type;
    if (root->kind != CR_JSON_OBJECT)
        return wrong_kind("the file", root, CR_JSON_OBJECT);
    CR_TRY(get(r, root, "model", CR_JSON_OBJECT, &model));
    CR_TRY(get(r, model, "type", CR_JSON_STRING, &type));
    bool bpe = strcmp(type->text, "BPE") == 0;
    if (!bpe && strcmp(type->text, "WordPiece") != 0)
        return refuse_type("model.type", type->text, "WordPiece or BPE");
    CR_TRY(read_tokens(r, model));
    CR_TRY(bpe ? read_bpe(r, model) : read_wordpiece(r, model));
    return read_frames(r);
}

static int read_json(cr_hub_tokenizer *made, const char *json, size_t size)
{
    cr_json *document;
    CR_TRY(cr_json_parse(&document, json, size));
    reader r = {.document = document, .out = made};
    int code = read_document(&r);
    cr_free(r.tokens);
    cr_free(r.kinds);
    cr_json_free(document);
    return code;
}

static int finish(cr_hub_tokenizer **out, cr_hub_tokenizer *made, int code)
{
    if (code < 0) {
        cr_hub_tokenizer_free(made);
        return code;
    }
    *out = made;
    return CR_OK;
}

int cr_hub_tokenizer_parse(cr_hub_tokenizer **out, const char *json, size_t size)
{
    *out = NULL;
    cr_hub_tokenizer *made = cr_calloc(1, sizeof *made);
    return made ? finish(out, made, read_json(made, json, size)) : CR_ENOMEM;
}

/* One token a line; "\r\n" ends a line too. */
static size_t split_lines(cr_text *out, const char *lines, size_t size)
{
    size_t count = 0;
    while (size > 0) {
        const char *end = memchr(lines, '\n', size);
        size_t length = end ? (size_t)(end - lines) : size;
        size_t taken = length + (end != NULL);
        if (length > 0 && lines[length - 1] == '\r')
            length--;
        if (out)
            out[count] = (cr_text){lines, length};
        count++;
        lines += taken;
        size -= taken;
    }
    return count;
}

static int read_lines(cr_hub_tokenizer *made, reader *r, bool lower_case)
{
    cr_wordpiece_rules rules = cr_wordpiece_rules_default();
    int32_t begin, end;
    rules.lower_case = rules.strip_accents = lower_case;
    CR_TRY(find_token(r, "[UNK]", &rules.unknown));
    CR_TRY(find_token(r, "[CLS]", &begin));
    CR_TRY(find_token(r, "[SEP]", &end));
    fill_frames(made, begin, end, false);
    made->size = r->size;
    return cr_wordpiece_create(&made->words, r->tokens, r->size, &rules);
}

int cr_hub_tokenizer_from_lines(cr_hub_tokenizer **out, const char *lines, size_t size,
                                bool lower_case)
{
    *out = NULL;
    cr_hub_tokenizer *made = cr_calloc(1, sizeof *made);
    reader r = {.out = made, .size = split_lines(NULL, lines, size)};
    r.tokens = cr_calloc(r.size, sizeof *r.tokens);
    int code = CR_ENOMEM;
    if (made && r.tokens) {
        split_lines(r.tokens, lines, size);
        code = read_lines(made, &r, lower_case);
    }
    cr_free(r.tokens);
    return made ? finish(out, made, code) : CR_ENOMEM;
}

/* vocab.txt does not say whether case matters; tokenizer_config.json beside it may. */
static bool lower_case_of(const char *folder)
{
    char path[4096];
    cr_mapping file;
    cr_json *document;
    bool lower_case = true;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    if (cr_map_file(&file, path) < 0)
        return true;
    if (cr_json_parse(&document, file.bytes, file.size) == CR_OK) {
        node root = cr_json_root(document);
        node found =
            root->kind == CR_JSON_OBJECT ? cr_json_member(document, root, "do_lower_case") : NULL;
        lower_case = !(found && found->kind == CR_JSON_FALSE);
        cr_json_free(document);
    }
    cr_unmap(&file);
    return lower_case;
}

static int open_lines(cr_hub_tokenizer **out, const char *folder)
{
    char path[4096];
    cr_mapping file;
    snprintf(path, sizeof path, "%s/vocab.txt", folder);
    int code = cr_map_file(&file, path);
    if (code == CR_ENOTFOUND)
        return cr_fail(CR_ENOTFOUND, "%s: expected a tokenizer.json or a vocab.txt in the folder",
                       folder);
    CR_TRY(code);
    code = cr_hub_tokenizer_from_lines(out, file.bytes, file.size, lower_case_of(folder));
    cr_unmap(&file);
    return code < 0 ? cr_fail_context(code, "%s", path) : CR_OK;
}

int cr_hub_tokenizer_open(cr_hub_tokenizer **out, const char *folder)
{
    char path[4096];
    cr_mapping file;
    *out = NULL;
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    int code = cr_map_file(&file, path);
    if (code == CR_ENOTFOUND)
        return open_lines(out, folder);
    CR_TRY(code);
    code = cr_hub_tokenizer_parse(out, file.bytes, file.size);
    cr_unmap(&file);
    return code < 0 ? cr_fail_context(code, "%s", path) : CR_OK;
}

void cr_hub_tokenizer_free(cr_hub_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    cr_wordpiece_free(tokenizer->words);
    cr_tokenizer_free(tokenizer->bytes);
    cr_free(tokenizer);
}

const char *cr_hub_tokenizer_kind(const cr_hub_tokenizer *tokenizer)
{
    return tokenizer->words ? "wordpiece" : "bpe";
}

size_t cr_hub_tokenizer_size(const cr_hub_tokenizer *tokenizer)
{
    return tokenizer->size;
}

size_t cr_hub_tokenizer_frame(const cr_hub_tokenizer *tokenizer, bool pair)
{
    return pair ? tokenizer->pair.specials : tokenizer->single.specials;
}

/* ---- encode ------------------------------------------------------------------------------------------ */

static int encode_spaced(const cr_hub_tokenizer *t, const char *text, size_t length, int32_t **ids,
                         size_t *count)
{
    char *spaced = cr_alloc(length + 1);
    if (!spaced)
        return CR_ENOMEM;
    spaced[0] = ' ';
    memcpy(spaced + 1, text, length);
    int code = cr_tokenizer_encode(t->bytes, spaced, length + 1, false, ids, count);
    cr_free(spaced);
    return code;
}

static int encode_text(const cr_hub_tokenizer *t, const char *text, size_t length, int32_t **ids,
                       size_t *count)
{
    if (t->words)
        return cr_wordpiece_encode(t->words, text, length, ids, count);
    if (t->prefix_space && length > 0 && text[0] != ' ')
        return encode_spaced(t, text, length, ids, count);
    return cr_tokenizer_encode(t->bytes, text, length, false, ids, count);
}

/* Lengths after cutting to `room` in all: the longer one first, then both to half. */
static void cut_lengths(size_t *n1, size_t *n2, size_t room)
{
    if (*n1 + *n2 <= room)
        return;
    size_t *shorter = *n1 > *n2 ? n2 : n1, *longer = *n1 > *n2 ? n1 : n2;
    if (2 * *shorter <= room) {
        *longer = room - *shorter;
        return;
    }
    *shorter = room / 2;
    *longer = room - room / 2;
}

static int lay_out(const frame *f, const int32_t *const ids[2], const size_t lengths[2],
                   cr_hub_row *out)
{
    size_t total = f->specials + lengths[0] + lengths[1], at = 0;
    out->ids = cr_calloc(2 * total, sizeof *out->ids);
    if (!out->ids)
        return CR_ENOMEM;
    out->types = out->ids + total;
    out->count = total;
    for (size_t i = 0; i < f->count; i++) {
        int32_t id = f->items[i].id;
        size_t from = at;
        if (id >= 0) {
            out->ids[at++] = id;
        } else if (lengths[id == SECOND] > 0) {
            memcpy(out->ids + at, ids[id == SECOND], lengths[id == SECOND] * sizeof **ids);
            at += lengths[id == SECOND];
        }
        for (; from < at; from++)
            out->types[from] = f->items[i].type;
    }
    return CR_OK;
}

int cr_hub_tokenizer_encode(const cr_hub_tokenizer *tokenizer, const char *first,
                            size_t first_length, const char *second, size_t second_length,
                            size_t most, cr_hub_row *out)
{
    const frame *f = second ? &tokenizer->pair : &tokenizer->single;
    int32_t *ids[2] = {NULL, NULL};
    size_t lengths[2] = {0, 0};
    *out = (cr_hub_row){0};
    if (most <= f->specials)
        return cr_fail(CR_EARG, "%zu tokens leave no room for text beside %zu special ones", most,
                       f->specials);
    int code = encode_text(tokenizer, first, first_length, &ids[0], &lengths[0]);
    if (code == CR_OK && second)
        code = encode_text(tokenizer, second, second_length, &ids[1], &lengths[1]);
    if (code == CR_OK) {
        out->cut = lengths[0] + lengths[1];
        cut_lengths(&lengths[0], &lengths[1], most - f->specials);
        out->cut -= lengths[0] + lengths[1];
        code = lay_out(f, (const int32_t *const *)ids, lengths, out);
    }
    cr_free(ids[0]);
    cr_free(ids[1]);
    return code;
}

void cr_hub_row_free(cr_hub_row *row)
{
    cr_free(row->ids);
    *row = (cr_hub_row){0};
}
