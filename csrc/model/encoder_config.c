/* encoder_config.c: config.json of BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019). */
#include "model/encoder_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/fsio.h"
#include "file/json.h"

typedef const cr_json_node *node;

typedef struct reader {
    const cr_json *document;
    node object;
} reader;

static node member(const reader *r, const char *key)
{
    node found = cr_json_member(r->document, r->object, key);
    return found && found->kind != CR_JSON_NULL ? found : NULL;
}

/* A size from 1 (or `least`) to `most`; absent: *out stays, unless it is 0. */
static int get_size(const reader *r, const char *key, size_t least, size_t most, size_t *out)
{
    node found = member(r, key);
    if (!found && *out > 0)
        return CR_OK;
    if (!found)
        return cr_fail(CR_EFORMAT, "%s is missing", key);
    if (!found->integer || found->value < (int64_t)least || found->value > (int64_t)most)
        return cr_fail(CR_EFORMAT, "%s is %.17g: expected an integer from %zu to %zu", key,
                       found->number, least, most);
    *out = (size_t)found->value;
    return CR_OK;
}

/* The text of a member, `absent` where there is none. */
static int get_text(const reader *r, const char *key, const char *absent, const char **out)
{
    node found = member(r, key);
    *out = found ? found->text : absent;
    if (found && found->kind != CR_JSON_STRING)
        return cr_fail(CR_EFORMAT, "%s is no string", key);
    return *out ? CR_OK : cr_fail(CR_EFORMAT, "%s is missing", key);
}

static int read_family(const reader *r, cr_encoder_config *out)
{
    const char *type, *positions;
    CR_TRY(get_text(r, "model_type", NULL, &type));
    CR_TRY(get_text(r, "position_embedding_type", "absolute", &positions));
    out->roberta = strcmp(type, "roberta") == 0;
    if (!out->roberta && strcmp(type, "bert") != 0)
        return cr_fail(CR_EUNSUPPORTED, "model_type is '%.60s': supported is bert or roberta",
                       type);
    if (strcmp(positions, "absolute") != 0)
        return cr_fail(CR_EUNSUPPORTED, "position_embedding_type is '%.60s': supported is absolute",
                       positions);
    return CR_OK;
}

static int read_activation(const reader *r, cr_encoder_config *out)
{
    static const struct {
        const char *name;
        cr_activation kind;
    } known[] = {{"gelu", CR_ACTIVATION_GELU},
                 {"gelu_new", CR_ACTIVATION_GELU_TANH},
                 {"gelu_pytorch_tanh", CR_ACTIVATION_GELU_TANH},
                 {"relu", CR_ACTIVATION_RELU}};
    const char *name;
    CR_TRY(get_text(r, "hidden_act", "gelu", &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            out->activation = known[i].kind;
            return CR_OK;
        }
    return cr_fail(CR_EUNSUPPORTED,
                   "hidden_act is '%.60s': supported is gelu, gelu_new, gelu_pytorch_tanh or relu",
                   name);
}

static int read_sizes(const reader *r, cr_encoder_config *out)
{
    size_t padding = 0;
    CR_TRY(get_size(r, "num_hidden_layers", 1, 1024, &out->layers));
    CR_TRY(get_size(r, "hidden_size", 1, 1 << 20, &out->width));
    CR_TRY(get_size(r, "num_attention_heads", 1, 1 << 16, &out->heads));
    CR_TRY(get_size(r, "intermediate_size", 1, 1 << 22, &out->ffn_width));
    CR_TRY(get_size(r, "vocab_size", 1, 1 << 28, &out->vocabulary));
    CR_TRY(get_size(r, "max_position_embeddings", 1, 1 << 24, &out->positions));
    CR_TRY(get_size(r, "type_vocab_size", 1, 1024, &out->types));
    if (out->width % out->heads != 0)
        return cr_fail(CR_EFORMAT, "hidden_size %zu is no multiple of num_attention_heads %zu",
                       out->width, out->heads);
    if (out->roberta) {
        padding = 1;
        CR_TRY(get_size(r, "pad_token_id", 0, 1 << 24, &padding));
        out->first_position = padding + 1;
    }
    if (out->first_position >= out->positions)
        return cr_fail(CR_EFORMAT,
                       "max_position_embeddings %zu leaves no place after pad_token_id %zu",
                       out->positions, padding);
    out->context = out->positions - out->first_position;
    return CR_OK;
}

static int read_epsilon(const reader *r, cr_encoder_config *out)
{
    node found = member(r, "layer_norm_eps");
    double value = found && found->kind == CR_JSON_NUMBER ? found->number : 1e-12;
    if (!(value > 0 && value < 1))
        return cr_fail(CR_EFORMAT, "layer_norm_eps is %g: expected more than 0 and less than 1",
                       value);
    out->norm_epsilon = (float)value;
    return CR_OK;
}

/* Numbers 0 to count - 1 in any order, as keys of strings. */
static int read_label(cr_encoder_config *out, node entry)
{
    char number[24];
    if (entry->kind != CR_JSON_STRING)
        return cr_fail(CR_EFORMAT, "id2label.%.60s is no string", entry->key);
    for (size_t i = 0; i < out->label_count; i++) {
        snprintf(number, sizeof number, "%zu", i);
        if (strcmp(number, entry->key) != 0)
            continue;
        out->labels[i] = cr_strdup(entry->text);
        return out->labels[i] ? CR_OK : CR_ENOMEM;
    }
    return cr_fail(CR_EFORMAT, "id2label has the key '%.60s': expected 0 to %zu", entry->key,
                   out->label_count - 1);
}

static int read_labels(const reader *r, cr_encoder_config *out)
{
    node map = member(r, "id2label");
    if (!map)
        return CR_OK;
    if (map->kind != CR_JSON_OBJECT || map->length > 4096)
        return cr_fail(CR_EFORMAT, "id2label: expected an object of at most 4096 labels");
    out->labels = cr_calloc(map->length, sizeof *out->labels);
    if (!out->labels)
        return CR_ENOMEM;
    out->label_count = map->length;
    for (node e = cr_json_first(r->document, map); e; e = cr_json_next(r->document, e))
        CR_TRY(read_label(out, e));
    return CR_OK;
}

static int read_config(const reader *r, cr_encoder_config *out)
{
    CR_TRY(read_family(r, out));
    CR_TRY(read_sizes(r, out));
    CR_TRY(read_epsilon(r, out));
    CR_TRY(read_activation(r, out));
    return read_labels(r, out);
}

int cr_encoder_config_parse(cr_encoder_config *out, const char *json, size_t size)
{
    cr_json *document;
    *out = (cr_encoder_config){.normalise = true, .types = 0};
    CR_TRY(cr_json_parse(&document, json, size));
    reader r = {document, cr_json_root(document)};
    int code = r.object->kind == CR_JSON_OBJECT
                   ? read_config(&r, out)
                   : cr_fail(CR_EFORMAT, "expected an object at the top");
    cr_json_free(document);
    if (code < 0)
        cr_encoder_config_free(out);
    return code;
}

void cr_encoder_config_free(cr_encoder_config *config)
{
    for (size_t i = 0; i < config->label_count; i++)
        cr_free(config->labels[i]);
    cr_free(config->labels);
    *config = (cr_encoder_config){0};
}

const char *cr_pooling_name(cr_pooling pooling)
{
    static const char *const names[] = {"mean", "cls", "max"};
    return names[pooling];
}

/* ---- how a text becomes one vector ---------------------------------------------------------- */

/* Calls `read` on the root of a JSON file of the folder; an absent file is fine. */
static int with_file(const char *folder, const char *name, cr_encoder_config *out,
                     int (*read)(const reader *, cr_encoder_config *))
{
    char path[4096];
    cr_mapping file;
    cr_json *document;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int code = cr_map_file(&file, path);
    if (code < 0)
        return code == CR_ENOTFOUND ? CR_OK : code;
    code = cr_json_parse(&document, file.bytes, file.size);
    if (code == CR_OK) {
        reader r = {document, cr_json_root(document)};
        code = read(&r, out);
        cr_json_free(document);
    }
    cr_unmap(&file);
    return code < 0 ? cr_fail_context(code, "%s", path) : CR_OK;
}

/* A list of modules; one that normalises is the last, and without it vectors keep their length. */
static int read_modules(const reader *r, cr_encoder_config *out)
{
    if (r->object->kind != CR_JSON_ARRAY)
        return cr_fail(CR_EFORMAT, "expected a list of modules");
    out->normalise = false;
    for (node e = cr_json_first(r->document, r->object); e; e = cr_json_next(r->document, e)) {
        node type = e->kind == CR_JSON_OBJECT ? cr_json_member(r->document, e, "type") : NULL;
        if (!type || type->kind != CR_JSON_STRING)
            return cr_fail(CR_EFORMAT, "a module has no type");
        const char *name = strrchr(type->text, '.');
        name = name ? name + 1 : type->text;
        if (strcmp(name, "Normalize") == 0)
            out->normalise = true;
        else if (strcmp(name, "Transformer") != 0 && strcmp(name, "Pooling") != 0)
            return cr_fail(CR_EUNSUPPORTED,
                           "module '%.60s': supported is Transformer, Pooling and Normalize", name);
    }
    return CR_OK;
}

static int read_pooling(const reader *r, cr_encoder_config *out)
{
    static const struct {
        const char *key;
        cr_pooling pooling;
    } known[] = {{"pooling_mode_mean_tokens", CR_POOL_MEAN},
                 {"pooling_mode_cls_token", CR_POOL_FIRST},
                 {"pooling_mode_max_tokens", CR_POOL_MAX}};
    size_t chosen = 0;
    if (r->object->kind != CR_JSON_OBJECT)
        return cr_fail(CR_EFORMAT, "expected an object at the top");
    for (node e = cr_json_first(r->document, r->object); e; e = cr_json_next(r->document, e)) {
        if (strncmp(e->key, "pooling_mode_", 13) != 0 || e->kind != CR_JSON_TRUE)
            continue;
        chosen++;
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strcmp(e->key, known[i].key) == 0) {
                out->pooling = known[i].pooling;
                found = true;
            }
        if (!found)
            return cr_fail(CR_EUNSUPPORTED, "%.60s: supported is the mean, cls or max of tokens",
                           e->key);
    }
    return chosen == 1 ? CR_OK
                       : cr_fail(CR_EUNSUPPORTED, "%zu pooling modes are on: expected one", chosen);
}

static int read_length(const reader *r, cr_encoder_config *out)
{
    size_t length = out->context;
    if (r->object->kind != CR_JSON_OBJECT)
        return cr_fail(CR_EFORMAT, "expected an object at the top");
    CR_TRY(get_size(r, "max_seq_length", 1, 1 << 24, &length));
    if (length < out->context)
        out->context = length;
    return CR_OK;
}

int cr_encoder_config_open(cr_encoder_config *out, const char *folder)
{
    char path[4096];
    cr_mapping file;
    *out = (cr_encoder_config){0};
    snprintf(path, sizeof path, "%s/config.json", folder);
    CR_TRY(cr_map_file(&file, path));
    int code = cr_encoder_config_parse(out, file.bytes, file.size);
    cr_unmap(&file);
    if (code < 0)
        return cr_fail_context(code, "%s", path);
    CR_TRY_GOTO(with_file(folder, "modules.json", out, read_modules), failed);
    CR_TRY_GOTO(with_file(folder, "1_Pooling/config.json", out, read_pooling), failed);
    CR_TRY_GOTO(with_file(folder, "sentence_bert_config.json", out, read_length), failed);
    return CR_OK;
failed:
    cr_encoder_config_free(out);
    return code;
}
