/* tokenizer_json.c: which of the known tokenizers a tokenizer.json describes, and its roles. */
#include "text/tokenizer_json.h"

#include <stdio.h>
#include <string.h>

#include "text/token_list.h"

#define SPACE_MARK "\xE2\x96\x81" /* U+2581 */

/* What tokenizer.json says beside its lists. */
typedef struct description {
    const cr_pretokenizer_rules *rules; /* NULL for SentencePiece */
    bool space_prefix, prefixes_each, prefix_unless_spaced, composes;
    const char *first; /* the special token that the post-processor puts before a text, or NULL */
} description;

/* "" where the part is absent. */
static int type_of(cr_json_object object, const char **out)
{
    *out = "";
    return cr_json_optional(cr_json_string(object, "type", out));
}

static int part_of(cr_json_object root, const char *key, cr_json_object *part, const char **type)
{
    *type = "";
    int code = cr_json_object_field(root, key, part);
    return code < 0 ? cr_json_optional(code) : type_of(*part, type);
}

static int refuse(const char *part, const char *type, const char *known)
{
    return cr_fail(CR_EUNSUPPORTED, "%s '%.60s' is not supported; supported: %s", part, type, known);
}

/* The parts of a Sequence, or the part itself; at most `most`. */
static int steps_of(cr_json_object part, const char *type, const char *list, cr_json_object *steps,
                    size_t most, size_t *count)
{
    *count = 0;
    if (*type == '\0')
        return CR_OK;
    if (strcmp(type, "Sequence") != 0) {
        steps[(*count)++] = part;
        return CR_OK;
    }
    const cr_json_node *all = cr_json_field(part, list);
    if (!all || all->kind != CR_JSON_ARRAY || all->length > most)
        return cr_fail(CR_EUNSUPPORTED, "%s: expected a list of at most %zu steps", list, most);
    for (const cr_json_node *e = cr_json_first(part.document, all); e;
         e = cr_json_next(part.document, e)) {
        if (e->kind != CR_JSON_OBJECT)
            return cr_fail(CR_EFORMAT, "%s: expected objects", list);
        steps[(*count)++] = (cr_json_object){part.document, e};
    }
    return CR_OK;
}

/* ---- byte-level: which published pattern ---------------------------------------------------------- */

#define PUBLISHED(digits)                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits                \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *pattern, *rules;
} published[] = {{PUBLISHED("{1,3}"), "llama-bpe"}, {PUBLISHED(""), "qwen2"}};

static const cr_pretokenizer_rules *rules_named(const char *name)
{
    return cr_pretokenizer_find(name, strlen(name));
}

static int find_pattern(cr_json_object split, const cr_pretokenizer_rules **out)
{
    cr_json_object pattern;
    const char *regex = "";
    int code = cr_json_object_field(split, "pattern", &pattern);
    if (code == CR_OK)
        code = cr_json_string(pattern, "Regex", &regex);
    for (size_t i = 0; code == CR_OK && i < sizeof published / sizeof *published; i++)
        if (strcmp(published[i].pattern, regex) == 0) {
            *out = rules_named(published[i].rules);
            return CR_OK;
        }
    return refuse("pre_tokenizer: the pattern", regex,
                  "those of GPT-2, SmolLM2, Llama 3 and Qwen2 as published");
}

static bool is_type(cr_json_object step, const char *expected)
{
    const char *type;
    return type_of(step, &type) == CR_OK && strcmp(type, expected) == 0;
}

static int read_byte_level(cr_json_object part, const char *type, description *out)
{
    cr_json_object steps[4];
    size_t count;
    bool digits_alone = false;
    CR_TRY(steps_of(part, type, "pretokenizers", steps, 4, &count));
    if (count == 0 || !is_type(steps[count - 1], "ByteLevel") || count > 2)
        return refuse("pre_tokenizer", type,
                      "ByteLevel, or a Sequence of Digits or Split and ByteLevel");
    if (count == 1) {
        out->rules = rules_named("gpt2");
        return CR_OK;
    }
    if (is_type(steps[0], "Split"))
        return find_pattern(steps[0], &out->rules);
    CR_TRY(cr_json_optional(cr_json_bool(steps[0], "individual_digits", &digits_alone)));
    if (!is_type(steps[0], "Digits") || !digits_alone)
        return refuse("pre_tokenizer", type,
                      "ByteLevel, or a Sequence of Digits or Split and ByteLevel");
    out->rules = rules_named("smollm");
    return CR_OK;
}

static int read_byte_normaliser(cr_json_object root, description *out)
{
    cr_json_object part;
    const char *type;
    CR_TRY(part_of(root, "normalizer", &part, &type));
    out->composes = strcmp(type, "NFC") == 0;
    if (*type && !out->composes)
        return refuse("normalizer", type, "null or NFC before ByteLevel");
    return CR_OK;
}

/* ---- SentencePiece --------------------------------------------------------------------------------- */

static int read_normaliser_step(cr_json_object step, description *out)
{
    cr_json_object pattern;
    const char *type, *content = "", *replaced = "";
    CR_TRY(type_of(step, &type));
    if (strcmp(type, "Prepend") == 0) {
        CR_TRY(cr_json_optional(cr_json_string(step, "prepend", &content)));
        out->space_prefix = out->prefixes_each = true;
        return strcmp(content, SPACE_MARK) == 0
                   ? CR_OK
                   : refuse("normalizer: Prepend of", content, "U+2581");
    }
    if (strcmp(type, "Replace") != 0)
        return refuse("normalizer", type, "Prepend and Replace, with byte_fallback");
    CR_TRY(cr_json_optional(cr_json_string(step, "content", &content)));
    if (cr_json_object_field(step, "pattern", &pattern) == CR_OK)
        CR_TRY(cr_json_optional(cr_json_string(pattern, "String", &replaced)));
    if (strcmp(content, SPACE_MARK) != 0 || strcmp(replaced, " ") != 0)
        return refuse("normalizer: Replace by", content, "U+2581 for a space");
    return CR_OK;
}

static int read_metaspace(cr_json_object part, description *out)
{
    const char *scheme = "always";
    bool prefix = true;
    CR_TRY(cr_json_optional(cr_json_string(part, "prepend_scheme", &scheme)));
    CR_TRY(cr_json_optional(cr_json_bool(part, "add_prefix_space", &prefix)));
    out->space_prefix = out->prefix_unless_spaced = prefix && strcmp(scheme, "never") != 0;
    out->prefixes_each = out->space_prefix && strcmp(scheme, "first") != 0;
    return CR_OK;
}

static int read_spaces(cr_json_object root, description *out)
{
    cr_json_object part, steps[4];
    const char *type;
    size_t count;
    CR_TRY(part_of(root, "normalizer", &part, &type));
    CR_TRY(steps_of(part, type, "normalizers", steps, 4, &count));
    for (size_t i = 0; i < count; i++)
        CR_TRY(read_normaliser_step(steps[i], out));
    CR_TRY(part_of(root, "pre_tokenizer", &part, &type));
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(part, out);
    /* Gemma's Split at spaces finds none: they were replaced before. */
    if (*type && strcmp(type, "Split") != 0)
        return refuse("pre_tokenizer", type, "null, Split or Metaspace, with byte_fallback");
    return CR_OK;
}

/* Tokens of bytes are spelled "<0x0A>". */
static void mark_bytes(cr_token_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        const cr_text *token = &list->tokens[i];
        bool byte = token->length == 6 && memcmp(token->bytes, "<0x", 3) == 0;
        if (byte && list->kinds[i] == CR_TOKEN_NORMAL)
            list->kinds[i] = CR_TOKEN_BYTE;
    }
}

/* ---- what stands before a text ----------------------------------------------------------------------- */

/* The special token that a template's single form begins with, or NULL. */
static const char *first_of_template(cr_json_object part)
{
    const cr_json_node *single = cr_json_field(part, "single");
    const cr_json_node *first =
        single && single->kind == CR_JSON_ARRAY ? cr_json_first(part.document, single) : NULL;
    cr_json_object special;
    const char *id;
    if (!first || first->kind != CR_JSON_OBJECT ||
        cr_json_object_field((cr_json_object){part.document, first}, "SpecialToken", &special) < 0 ||
        cr_json_string(special, "id", &id) < 0)
        return NULL;
    return id;
}

static int read_post_processor(cr_json_object root, description *out)
{
    cr_json_object part, steps[4];
    const char *type;
    size_t count;
    CR_TRY(part_of(root, "post_processor", &part, &type));
    CR_TRY(steps_of(part, type, "processors", steps, 4, &count));
    for (size_t i = 0; i < count; i++)
        if (is_type(steps[i], "TemplateProcessing"))
            out->first = first_of_template(steps[i]);
    return CR_OK;
}

static int describe(cr_json_object root, description *out)
{
    cr_json_object model, part;
    const char *type;
    bool fallback = false, whole = false;
    CR_TRY(cr_json_object_field(root, "model", &model));
    CR_TRY(type_of(model, &type));
    if (*type && strcmp(type, "BPE") != 0)
        return refuse("model.type", type, "BPE");
    CR_TRY(cr_json_optional(cr_json_bool(model, "byte_fallback", &fallback)));
    CR_TRY(cr_json_optional(cr_json_bool(model, "ignore_merges", &whole)));
    CR_TRY(read_post_processor(root, out));
    if (fallback)
        return read_spaces(root, out);
    CR_TRY(part_of(root, "pre_tokenizer", &part, &type));
    CR_TRY(read_byte_level(part, type, out));
    if (whole != out->rules->whole_pieces)
        return cr_fail(CR_EUNSUPPORTED, "model.ignore_merges is %s: with the pattern of %s it is not",
                       whole ? "true" : "false", out->rules->name);
    return read_byte_normaliser(root, out);
}

/* ---- roles --------------------------------------------------------------------------------------------- */

/* "bos_token": a text, or an object with its content; NULL where it is absent. */
static const char *role_text(cr_json_object config, const char *key)
{
    const cr_json_node *found = cr_json_field(config, key);
    const char *content;
    if (!found || found->kind == CR_JSON_STRING)
        return found ? found->text : NULL;
    if (found->kind != CR_JSON_OBJECT)
        return NULL;
    return cr_json_string((cr_json_object){config.document, found}, "content", &content) < 0
               ? NULL
               : content;
}

/* config.json's "bos_token_id": a number or a list of them. */
static int32_t role_id(cr_json_object config, const char *key, size_t size)
{
    const cr_json_node *found = config.node ? cr_json_field(config, key) : NULL;
    if (found && found->kind == CR_JSON_ARRAY)
        found = cr_json_first(config.document, found);
    bool known = found && found->kind == CR_JSON_NUMBER && found->integer && found->value >= 0 &&
                 (uint64_t)found->value < size;
    return known ? (int32_t)found->value : -1;
}

typedef struct sources {
    cr_json_object tokenizer_config; /* node NULL where the folder has none */
    cr_json_object config;
    const cr_token_list *list;
} sources;

static int find_role(const sources *from, const char *key, const char *id_key, int32_t *out)
{
    const char *text = from->tokenizer_config.node ? role_text(from->tokenizer_config, key) : NULL;
    *out = text ? cr_token_list_find(from->list, text) : role_id(from->config, id_key, from->list->count);
    if (text && *out < 0)
        return cr_fail(CR_EFORMAT, "tokenizer_config.json: %s '%.60s' is no token", key, text);
    return CR_OK;
}

static int find_roles(const sources *from, const description *about, cr_token_roles *out)
{
    CR_TRY(find_role(from, "bos_token", "bos_token_id", &out->bos));
    CR_TRY(find_role(from, "eos_token", "eos_token_id", &out->eos));
    CR_TRY(find_role(from, "pad_token", "pad_token_id", &out->pad));
    CR_TRY(find_role(from, "unk_token", "unk_token_id", &out->unknown));
    out->space_prefix = about->space_prefix;
    out->prefixes_each = about->prefixes_each;
    out->prefix_unless_spaced = about->prefix_unless_spaced;
    out->add_bos = false;
    if (about->first) {
        int32_t first = cr_token_list_find(from->list, about->first);
        out->add_bos = first >= 0 && first == out->bos;
        return CR_OK;
    }
    if (from->tokenizer_config.node)
        CR_TRY(cr_json_optional(
            cr_json_bool(from->tokenizer_config, "add_bos_token", &out->add_bos)));
    out->add_bos = out->add_bos && out->bos >= 0;
    return CR_OK;
}

/* ---- all together ---------------------------------------------------------------------------------------- */

static int build(cr_tokenizer **out, cr_json_object root, sources *from)
{
    description about = {0};
    cr_token_list list;
    cr_token_roles roles;
    CR_TRY(describe(root, &about));
    CR_TRY(cr_token_list_read(&list, root));
    if (!about.rules)
        mark_bytes(&list);
    from->list = &list;
    int code;
    CR_TRY_GOTO(find_roles(from, &about, &roles), done);
    cr_bpe_lists lists = {.keys = "model.",
                          .tokens = list.tokens,
                          .kinds = list.kinds,
                          .count = list.count,
                          .merges = list.merges,
                          .merge_count = list.merge_count,
                          .rules = about.rules,
                          .composes = about.composes};
    code = cr_tokenizer_from_lists(out, &lists);
    if (code == CR_OK)
        cr_tokenizer_set_roles(*out, &roles);
done:
    cr_token_list_free(&list);
    return code;
}

/* The template named "default" of a list of them. */
static const char *default_template(cr_json_object config, const cr_json_node *list)
{
    const char *name, *text = NULL;
    for (const cr_json_node *e = cr_json_first(config.document, list); e;
         e = cr_json_next(config.document, e)) {
        cr_json_object entry = {config.document, e};
        if (e->kind == CR_JSON_OBJECT && cr_json_string(entry, "name", &name) == CR_OK &&
            strcmp(name, "default") == 0 && cr_json_string(entry, "template", &text) == CR_OK)
            return text;
    }
    return NULL;
}

/* A file of its own comes before the one in tokenizer_config.json, as in transformers. */
static int copy_template(char **out, cr_json_object config, const cr_hub_folder *folder)
{
    int code = cr_hub_folder_text(folder, "chat_template.jinja", out);
    if (code != CR_ENOTFOUND)
        return code;
    const cr_json_node *found = config.node ? cr_json_field(config, "chat_template") : NULL;
    const char *text = found && found->kind == CR_JSON_STRING ? found->text : NULL;
    if (found && found->kind == CR_JSON_ARRAY)
        text = default_template(config, found);
    *out = cr_strdup(text ? text : "");
    return *out ? CR_OK : CR_ENOMEM;
}

static int from_documents(cr_tokenizer **out, char **chat_template, cr_json_object root,
                          const cr_hub_folder *folder)
{
    cr_json *document = NULL;
    sources from = {.config = cr_hub_folder_config(folder)};
    CR_TRY(cr_json_optional(
        cr_hub_folder_json(folder, "tokenizer_config.json", &document, &from.tokenizer_config)));
    int code = build(out, root, &from);
    if (code == CR_OK)
        code = copy_template(chat_template, from.tokenizer_config, folder);
    cr_json_free(document);
    return code;
}

int cr_tokenizer_from_folder(cr_tokenizer **out, char **chat_template, const cr_hub_folder *folder)
{
    cr_json *document;
    cr_json_object root;
    *out = NULL;
    *chat_template = NULL;
    CR_TRY(cr_hub_folder_json(folder, "tokenizer.json", &document, &root));
    int code = from_documents(out, chat_template, root, folder);
    cr_json_free(document);
    if (code == CR_ENOTFOUND)
        code = CR_EFORMAT;
    return code < 0 ? cr_fail_context(code, "tokenizer.json") : CR_OK;
}

int cr_tokenizer_parse_json(cr_tokenizer **out, const char *json, size_t size)
{
    cr_json *document;
    sources from = {.list = NULL};
    *out = NULL;
    CR_TRY(cr_json_parse(&document, json, size));
    cr_json_object root = {document, cr_json_root(document)};
    int code = root.node->kind == CR_JSON_OBJECT ? build(out, root, &from)
                                                 : cr_fail(CR_EFORMAT, "expected a JSON object");
    cr_json_free(document);
    return code == CR_ENOTFOUND ? CR_EFORMAT : code;
}

/* ---- as keys of a GGUF file ------------------------------------------------------------------------------- */

#define KEY(name) "tokenizer.ggml." name
#define NO_MERGE (-1e6f) /* the score of a token that no merge gives */

typedef struct gguf_lists {
    cr_text *tokens; /* [count] */
    int32_t *kinds;
    float *scores;   /* of SentencePiece */
    char *spare;     /* behind the tokens that fill the vocabulary */
    size_t count;
} gguf_lists;

#define SPARE_BYTES 24 /* "[PAD4294967295]" */

static int fill_lists(gguf_lists *out, const cr_token_list *list, size_t vocabulary)
{
    out->count = list->count > vocabulary ? list->count : vocabulary;
    out->tokens = cr_calloc(out->count, sizeof *out->tokens);
    out->kinds = cr_calloc(out->count, sizeof *out->kinds);
    out->scores = cr_calloc(out->count, sizeof *out->scores);
    out->spare = cr_calloc(out->count - list->count, SPARE_BYTES);
    if (!out->tokens || !out->kinds || !out->scores || !out->spare)
        return CR_ENOMEM;
    for (size_t i = 0; i < out->count; i++) {
        if (i < list->count) {
            out->tokens[i] = list->tokens[i];
            out->kinds[i] = list->kinds[i];
            continue;
        }
        char *name = out->spare + (i - list->count) * SPARE_BYTES;
        const int length = snprintf(name, SPARE_BYTES, "[PAD%zu]", i);
        out->tokens[i] = (cr_text){name, (size_t)length};
        out->kinds[i] = CR_TOKEN_UNUSED;
    }
    return CR_OK;
}

/* Id of what a merge gives; `joined` has room for it. */
static int32_t merged_id(const cr_text_index *tokens, cr_text merge, char *joined)
{
    const char *space = memchr(merge.bytes, ' ', merge.length);
    const size_t left = space ? (size_t)(space - merge.bytes) : 0;
    if (!space)
        return -1;
    memcpy(joined, merge.bytes, left);
    memcpy(joined + left, space + 1, merge.length - left - 1);
    return cr_text_index_find(tokens, joined, merge.length - 1);
}

static int score_by_rank(gguf_lists *out, const cr_token_list *list, cr_text_index *index)
{
    size_t longest = 0;
    for (size_t i = 0; i < list->count; i++) {
        cr_text_index_add(index, (int32_t)i);
        out->scores[i] = list->kinds[i] == CR_TOKEN_NORMAL ? NO_MERGE : 0;
    }
    for (size_t m = 0; m < list->merge_count; m++)
        longest = list->merges[m].length > longest ? list->merges[m].length : longest;
    char *joined = cr_alloc(longest);
    if (!joined)
        return CR_ENOMEM;
    for (size_t m = list->merge_count; m-- > 0;) {
        const int32_t id = merged_id(index, list->merges[m], joined);
        if (id >= 0)
            out->scores[id] = -(float)m;
    }
    cr_free(joined);
    return CR_OK;
}

static int put_scores(cr_gguf_writer *writer, gguf_lists *out, const cr_token_list *list)
{
    cr_text_index index = {NULL, NULL, 0};
    int code = cr_text_index_create(&index, list->tokens, list->count);
    if (code == CR_OK)
        code = score_by_rank(out, list, &index);
    if (code == CR_OK)
        code = cr_gguf_put_f32s(writer, KEY("scores"), out->scores, out->count);
    cr_text_index_free(&index);
    return code;
}

static int put_role(cr_gguf_writer *writer, const char *key, int32_t id)
{
    return id < 0 ? CR_OK : cr_gguf_put_u32(writer, key, (uint32_t)id);
}

static int put_roles(cr_gguf_writer *writer, const cr_token_roles *roles, bool spaces)
{
    CR_TRY(put_role(writer, KEY("bos_token_id"), roles->bos));
    CR_TRY(put_role(writer, KEY("eos_token_id"), roles->eos));
    CR_TRY(put_role(writer, KEY("unknown_token_id"), roles->unknown));
    CR_TRY(put_role(writer, KEY("padding_token_id"), roles->pad));
    CR_TRY(cr_gguf_put_bool(writer, KEY("add_bos_token"), roles->add_bos));
    return spaces ? cr_gguf_put_bool(writer, KEY("add_space_prefix"), roles->space_prefix) : CR_OK;
}

static int put_lists(cr_gguf_writer *writer, gguf_lists *lists, const cr_token_list *list,
                     const description *about)
{
    CR_TRY(cr_gguf_put_text(writer, KEY("model"), about->rules ? "gpt2" : "llama"));
    CR_TRY(cr_gguf_put_text(writer, KEY("pre"), about->rules ? about->rules->name : "default"));
    CR_TRY(cr_gguf_put_texts(writer, KEY("tokens"), lists->tokens, lists->count));
    CR_TRY(cr_gguf_put_i32s(writer, KEY("token_type"), lists->kinds, lists->count));
    if (about->rules)
        return cr_gguf_put_texts(writer, KEY("merges"), list->merges, list->merge_count);
    return put_scores(writer, lists, list);
}

static int put_tokenizer(cr_gguf_writer *writer, cr_json_object root, sources *from,
                         size_t vocabulary)
{
    description about = {0};
    cr_token_list list;
    cr_token_roles roles;
    gguf_lists lists = {0};
    CR_TRY(describe(root, &about));
    CR_TRY(cr_token_list_read(&list, root));
    from->list = &list;
    int code;
    CR_TRY_GOTO(find_roles(from, &about, &roles), done);
    if (!about.rules) {
        mark_bytes(&list);
        if (roles.unknown >= 0)
            list.kinds[roles.unknown] = CR_TOKEN_UNKNOWN;
    }
    CR_TRY_GOTO(fill_lists(&lists, &list, vocabulary), done);
    CR_TRY_GOTO(put_lists(writer, &lists, &list, &about), done);
    code = put_roles(writer, &roles, !about.rules);
done:
    cr_free(lists.tokens);
    cr_free(lists.kinds);
    cr_free(lists.scores);
    cr_free(lists.spare);
    cr_token_list_free(&list);
    return code;
}

int cr_tokenizer_folder_to_gguf(cr_gguf_writer *writer, const cr_hub_folder *folder,
                                size_t vocabulary)
{
    cr_json *tokenizer, *config = NULL;
    cr_json_object root;
    sources from = {.config = cr_hub_folder_config(folder)};
    CR_TRY(cr_hub_folder_json(folder, "tokenizer.json", &tokenizer, &root));
    int code = cr_json_optional(
        cr_hub_folder_json(folder, "tokenizer_config.json", &config, &from.tokenizer_config));
    if (code == CR_OK)
        code = put_tokenizer(writer, root, &from, vocabulary);
    cr_json_free(config);
    cr_json_free(tokenizer);
    return code < 0 ? cr_fail_context(code, "tokenizer.json") : CR_OK;
}
