/* hub_tokenizer.c: parts of Hugging Face's tokenizer.json that BERT's and RoBERTa's family use. */
#include "text/hub_tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "file/fsio.h"
#include "file/json.h"
#include "text/pretokenize.h"
#include "text/token_list.h"
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
    cr_token_list list;
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

static int find_token(const reader *r, const char *text, int32_t *out)
{
    *out = cr_token_list_find(&r->list, text);
    if (*out < 0)
        return cr_fail(CR_EFORMAT, "the vocabulary has no token '%.60s'", text);
    return CR_OK;
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
    return cr_wordpiece_create(&r->out->words, r->list.tokens, r->list.count, &rules);
}

/* ---- byte-level BPE --------------------------------------------------------------------------- */

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

static int read_bpe(reader *r)
{
    const cr_token_list *list = &r->list;
    CR_TRY(check_byte_level(r));
    if (!list->merges)
        return cr_fail(CR_EFORMAT, "merges is missing: expected a list");
    cr_bpe_lists lists = {.keys = "model.",
                          .tokens = list->tokens,
                          .kinds = list->kinds,
                          .count = list->count,
                          .merges = list->merges,
                          .merge_count = list->merge_count,
                          .rules = cr_pretokenizer_find("gpt2", 4)};
    return cr_tokenizer_from_lists(&r->out->bytes, &lists);
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
    if (!id || !id->integer || id->value < 0 || (uint64_t)id->value >= r->list.count)
        return cr_fail(CR_EFORMAT, "post_processor.%s: expected [token, id] with an id of 0 to %zu",
                       key, r->list.count - 1);
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
        if (!id->integer || id->value < 0 || (uint64_t)id->value >= r->list.count)
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
    CR_TRY(cr_token_list_read(&r->list, (cr_json_object){r->document, root}));
    r->out->size = r->list.count;
    CR_TRY(bpe ? read_bpe(r) : read_wordpiece(r, model));
    return read_frames(r);
}

static int read_json(cr_hub_tokenizer *made, const char *json, size_t size)
{
    cr_json *document;
    CR_TRY(cr_json_parse(&document, json, size));
    reader r = {.document = document, .out = made};
    int code = read_document(&r);
    cr_token_list_free(&r.list);
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
    made->size = r->list.count;
    return cr_wordpiece_create(&made->words, r->list.tokens, r->list.count, &rules);
}

int cr_hub_tokenizer_from_lines(cr_hub_tokenizer **out, const char *lines, size_t size,
                                bool lower_case)
{
    *out = NULL;
    cr_hub_tokenizer *made = cr_calloc(1, sizeof *made);
    reader r = {.out = made, .list.count = split_lines(NULL, lines, size)};
    r.list.tokens = cr_calloc(r.list.count, sizeof *r.list.tokens);
    int code = CR_ENOMEM;
    if (made && r.list.tokens) {
        split_lines(r.list.tokens, lines, size);
        code = read_lines(made, &r, lower_case);
    }
    cr_free(r.list.tokens);
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
