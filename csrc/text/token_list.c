/* token_list.c: reads vocab, added_tokens and merges of Hugging Face's tokenizer.json. */
#include "text/token_list.h"

#include <string.h>

#include "text/shown.h"

static int put_token(cr_token_list *list, const char *text, size_t length, int64_t id, int32_t kind)
{
    if (id < 0 || (uint64_t)id >= list->count)
        return cr_fail(CR_EFORMAT, "token '%s' has the id %lld: expected 0 to %zu, without holes",
                       cr_show(text, length).text, (long long)id, list->count - 1);
    cr_text *place = &list->tokens[id];
    if (place->bytes && (place->length != length || memcmp(place->bytes, text, length) != 0))
        return cr_fail(CR_EFORMAT, "id %lld is '%s' and also '%s'", (long long)id,
                       cr_show(place->bytes, place->length).text, cr_show(text, length).text);
    *place = (cr_text){text, length};
    list->kinds[id] = kind;
    return CR_OK;
}

static int put_added(cr_token_list *list, cr_json_object entry)
{
    size_t id;
    const char *content;
    bool special = false;
    CR_TRY(cr_json_size(entry, "id", 0, INT32_MAX / 2, &id));
    CR_TRY(cr_json_string(entry, "content", &content));
    CR_TRY(cr_json_optional(cr_json_bool(entry, "special", &special)));
    return put_token(list, content, cr_json_field(entry, "content")->length, (int64_t)id,
                     special ? CR_TOKEN_CONTROL : CR_TOKEN_USER_DEFINED);
}

/* The least size that holds every id: added tokens count where they come behind the vocabulary. */
static size_t count_tokens(cr_json_object root, cr_json_object vocabulary)
{
    size_t count = vocabulary.node->length, id;
    const cr_json_node *added = cr_json_field(root, "added_tokens");
    for (const cr_json_node *e = added ? cr_json_first(root.document, added) : NULL; e;
         e = cr_json_next(root.document, e)) {
        bool object = e->kind == CR_JSON_OBJECT;
        cr_json_object entry = {root.document, e};
        if (object && cr_json_size(entry, "id", 0, INT32_MAX / 2, &id) == CR_OK && id == count)
            count++;
    }
    return count;
}

static int read_vocabulary(cr_token_list *list, cr_json_object vocabulary)
{
    for (const cr_json_node *e = cr_json_first(vocabulary.document, vocabulary.node); e;
         e = cr_json_next(vocabulary.document, e)) {
        if (e->kind != CR_JSON_NUMBER || !e->integer)
            return cr_fail(CR_EFORMAT, "vocab: the id of '%s' is no integer",
                           cr_show(e->key, strlen(e->key)).text);
        CR_TRY(put_token(list, e->key, strlen(e->key), e->value, CR_TOKEN_NORMAL));
    }
    return CR_OK;
}

static int read_added(cr_token_list *list, cr_json_object root)
{
    const cr_json_node *added = cr_json_field(root, "added_tokens");
    if (added && added->kind != CR_JSON_ARRAY)
        return cr_fail(CR_EFORMAT, "added_tokens is no list");
    for (const cr_json_node *e = added ? cr_json_first(root.document, added) : NULL; e;
         e = cr_json_next(root.document, e)) {
        if (e->kind != CR_JSON_OBJECT)
            return cr_fail(CR_EFORMAT, "added_tokens: expected objects");
        CR_TRY(put_added(list, (cr_json_object){root.document, e}));
    }
    return CR_OK;
}

static int check_holes(const cr_token_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (!list->tokens[i].bytes)
            return cr_fail(CR_EFORMAT, "no token has the id %zu: expected 0 to %zu without holes", i,
                           list->count - 1);
    return CR_OK;
}

/* ---- merges ----------------------------------------------------------------------------------- */

static const cr_json_node *second_half(const cr_json *document, const cr_json_node *pair)
{
    const cr_json_node *left = pair->length == 2 ? cr_json_first(document, pair) : NULL;
    const cr_json_node *right = left ? cr_json_next(document, left) : NULL;
    return right && left->kind == CR_JSON_STRING && right->kind == CR_JSON_STRING ? right : NULL;
}

/* "left right", or ["left", "right"], which is joined at *to. */
static int read_merge(const cr_json *document, const cr_json_node *entry, cr_text *out, char **to)
{
    if (entry->kind == CR_JSON_STRING) {
        *out = (cr_text){entry->text, entry->length};
        return CR_OK;
    }
    const cr_json_node *right =
        entry->kind == CR_JSON_ARRAY ? second_half(document, entry) : NULL;
    if (!right)
        return cr_fail(CR_EFORMAT, "merges: expected \"left right\" or [\"left\", \"right\"]");
    const cr_json_node *left = cr_json_first(document, entry);
    *out = (cr_text){*to, left->length + 1 + right->length};
    memcpy(*to, left->text, left->length);
    (*to)[left->length] = ' ';
    memcpy(*to + left->length + 1, right->text, right->length);
    *to += out->length;
    return CR_OK;
}

static size_t joined_bytes(const cr_json *document, const cr_json_node *merges)
{
    size_t bytes = 0;
    for (const cr_json_node *e = cr_json_first(document, merges); e; e = cr_json_next(document, e)) {
        const cr_json_node *right = e->kind == CR_JSON_ARRAY ? second_half(document, e) : NULL;
        bytes += right ? cr_json_first(document, e)->length + 1 + right->length : 0;
    }
    return bytes;
}

static int read_merges(cr_token_list *list, cr_json_object model)
{
    const cr_json *document = model.document;
    const cr_json_node *merges = cr_json_field(model, "merges");
    if (!merges)
        return CR_OK;
    if (merges->kind != CR_JSON_ARRAY)
        return cr_fail(CR_EFORMAT, "model.merges is no list");
    list->merges = cr_calloc(merges->length, sizeof *list->merges);
    list->joined = cr_alloc(joined_bytes(document, merges));
    if (!list->merges || !list->joined)
        return CR_ENOMEM;
    char *to = list->joined;
    for (const cr_json_node *e = cr_json_first(document, merges); e; e = cr_json_next(document, e))
        CR_TRY(read_merge(document, e, &list->merges[list->merge_count++], &to));
    return CR_OK;
}

static int read_all(cr_token_list *list, cr_json_object root)
{
    cr_json_object model, vocabulary;
    CR_TRY(cr_json_object_field(root, "model", &model));
    CR_TRY(cr_json_object_field(model, "vocab", &vocabulary));
    list->count = count_tokens(root, vocabulary);
    if (list->count > INT32_MAX / 2)
        return cr_fail(CR_EFORMAT, "vocab has %zu tokens: at most %d are possible", list->count,
                       INT32_MAX / 2);
    list->tokens = cr_calloc(list->count, sizeof *list->tokens);
    list->kinds = cr_calloc(list->count, sizeof *list->kinds);
    if (!list->tokens || !list->kinds)
        return CR_ENOMEM;
    CR_TRY(read_vocabulary(list, vocabulary));
    CR_TRY(read_added(list, root));
    CR_TRY(check_holes(list));
    return read_merges(list, model);
}

int cr_token_list_read(cr_token_list *out, cr_json_object root)
{
    *out = (cr_token_list){0};
    int code = read_all(out, root);
    if (code == CR_ENOTFOUND)
        code = CR_EFORMAT;
    if (code < 0)
        cr_token_list_free(out);
    return code;
}

void cr_token_list_free(cr_token_list *list)
{
    cr_free(list->tokens);
    cr_free(list->kinds);
    cr_free(list->merges);
    cr_free(list->joined);
    *list = (cr_token_list){0};
}

int32_t cr_token_list_find(const cr_token_list *list, const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < list->count; i++)
        if (list->tokens[i].length == length && memcmp(list->tokens[i].bytes, text, length) == 0)
            return (int32_t)i;
    return -1;
}
