/* hub_folder.c: config.json, model.safetensors or its index and shards. */
#include "file/hub_folder.h"

#include <stdio.h>
#include <string.h>

#include "file/fsio.h"

#define MOST_SHARDS 1024
#define PATH_BYTES 4096

typedef struct shard {
    char *name;
    cr_safetensors *file;
} shard;

struct cr_hub_folder {
    char *path;
    cr_json *config;
    cr_json *index; /* NULL for one file */
    shard *shards;
    size_t count;
};

/* ---- JSON files ---------------------------------------------------------------------------- */

static int join(char out[PATH_BYTES], const cr_hub_folder *folder, const char *name)
{
    int length = snprintf(out, PATH_BYTES, "%s/%s", folder->path, name);
    if (length < 0 || length >= PATH_BYTES)
        return cr_fail(CR_EARG, "the path %.80s... is too long", folder->path);
    return CR_OK;
}

static int parse_object(cr_json **document, cr_json_object *out, const cr_mapping *file)
{
    CR_TRY(cr_json_parse(document, file->bytes ? file->bytes : "", file->size));
    *out = (cr_json_object){*document, cr_json_root(*document)};
    if (out->node->kind == CR_JSON_OBJECT)
        return CR_OK;
    cr_json_free(*document);
    *document = NULL;
    return cr_fail(CR_EFORMAT, "expected a JSON object");
}

int cr_hub_folder_json(const cr_hub_folder *folder, const char *name, cr_json **document,
                       cr_json_object *out)
{
    char path[PATH_BYTES];
    cr_mapping file;
    *document = NULL;
    CR_TRY(join(path, folder, name));
    CR_TRY(cr_map_file(&file, path));
    int code = parse_object(document, out, &file);
    cr_unmap(&file);
    return code < 0 ? cr_fail_context(code, "%s", path) : CR_OK;
}

int cr_hub_folder_text(const cr_hub_folder *folder, const char *name, char **out)
{
    char path[PATH_BYTES];
    cr_mapping file;
    *out = NULL;
    CR_TRY(join(path, folder, name));
    CR_TRY(cr_map_file(&file, path));
    *out = cr_alloc(file.size + 1);
    if (*out) {
        if (file.size)
            memcpy(*out, file.bytes, file.size);
        (*out)[file.size] = '\0';
    }
    cr_unmap(&file);
    return *out ? CR_OK : CR_ENOMEM;
}

/* ---- shards ---------------------------------------------------------------------------------- */

static shard *find_shard(const cr_hub_folder *folder, const char *name)
{
    for (size_t i = 0; i < folder->count; i++)
        if (strcmp(folder->shards[i].name, name) == 0)
            return &folder->shards[i];
    return NULL;
}

static int add_shard(cr_hub_folder *folder, const char *name)
{
    char path[PATH_BYTES];
    if (strchr(name, '/') || strchr(name, '\\') || *name == '.' || *name == '\0')
        return cr_fail(CR_EFORMAT, "the file '%.80s' does not lie in the folder itself", name);
    if (folder->count == MOST_SHARDS)
        return cr_fail(CR_EUNSUPPORTED, "more than %d files of weights", MOST_SHARDS);
    CR_TRY(join(path, folder, name));
    shard *added = &folder->shards[folder->count];
    added->name = cr_strdup(name);
    if (!added->name)
        return CR_ENOMEM;
    folder->count++;
    return cr_safetensors_open_floats(&added->file, path);
}

static int open_indexed(cr_hub_folder *folder)
{
    cr_json_object index, map;
    CR_TRY(cr_hub_folder_json(folder, "model.safetensors.index.json", &folder->index, &index));
    int code = cr_json_object_field(index, "weight_map", &map);
    if (code < 0)
        return cr_fail_context(CR_EFORMAT, "%s/model.safetensors.index.json", folder->path);
    for (const cr_json_node *e = cr_json_first(map.document, map.node); e;
         e = cr_json_next(map.document, e)) {
        if (e->kind != CR_JSON_STRING)
            return cr_fail(CR_EFORMAT, "%s/model.safetensors.index.json: weight_map.%.80s is no string",
                           folder->path, e->key);
        if (!find_shard(folder, e->text))
            CR_TRY(add_shard(folder, e->text));
    }
    return CR_OK;
}

static int open_weights(cr_hub_folder *folder)
{
    char path[PATH_BYTES];
    cr_file_status status;
    folder->shards = cr_calloc(MOST_SHARDS, sizeof *folder->shards);
    if (!folder->shards)
        return CR_ENOMEM;
    CR_TRY(join(path, folder, "model.safetensors"));
    CR_TRY(cr_file_stat(path, &status));
    if (status.exists)
        return add_shard(folder, "model.safetensors");
    int code = open_indexed(folder);
    if (code == CR_ENOTFOUND && folder->count == 0)
        return cr_fail(CR_ENOTFOUND,
                       "%s has neither model.safetensors nor model.safetensors.index.json",
                       folder->path);
    return code;
}

static int open_all(cr_hub_folder *folder, const char *path)
{
    cr_json_object config;
    folder->path = cr_strdup(path);
    if (!folder->path)
        return CR_ENOMEM;
    CR_TRY(cr_hub_folder_json(folder, "config.json", &folder->config, &config));
    return open_weights(folder);
}

int cr_hub_folder_open(cr_hub_folder **out, const char *path)
{
    *out = NULL;
    cr_hub_folder *folder = cr_calloc(1, sizeof *folder);
    if (!folder)
        return CR_ENOMEM;
    int code = open_all(folder, path);
    if (code < 0) {
        cr_hub_folder_close(folder);
        return code;
    }
    *out = folder;
    return CR_OK;
}

void cr_hub_folder_close(cr_hub_folder *folder)
{
    if (!folder)
        return;
    for (size_t i = 0; i < folder->count; i++) {
        cr_safetensors_close(folder->shards[i].file);
        cr_free(folder->shards[i].name);
    }
    cr_free(folder->shards);
    cr_json_free(folder->index);
    cr_json_free(folder->config);
    cr_free(folder->path);
    cr_free(folder);
}

cr_json_object cr_hub_folder_config(const cr_hub_folder *folder)
{
    return (cr_json_object){folder->config, cr_json_root(folder->config)};
}

uint64_t cr_hub_folder_bytes(const cr_hub_folder *folder)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < folder->count; i++)
        for (size_t t = 0; t < cr_safetensors_count(folder->shards[i].file); t++)
            bytes += cr_safetensors_at(folder->shards[i].file, t)->bytes;
    return bytes;
}

/* ---- tensors ---------------------------------------------------------------------------------- */

const cr_safetensor *cr_hub_folder_find(const cr_hub_folder *folder, const char *name)
{
    if (!folder->index)
        return cr_safetensors_find(folder->shards[0].file, name);
    cr_json_object map;
    const char *file;
    cr_json_object index = {folder->index, cr_json_root(folder->index)};
    if (cr_json_object_field(index, "weight_map", &map) < 0 ||
        cr_json_string(map, name, &file) < 0)
        return NULL;
    return cr_safetensors_find(find_shard(folder, file)->file, name);
}

size_t cr_hub_folder_count(const cr_hub_folder *folder)
{
    size_t count = 0;
    for (size_t i = 0; i < folder->count; i++)
        count += cr_safetensors_count(folder->shards[i].file);
    return count;
}

const cr_safetensor *cr_hub_folder_at(const cr_hub_folder *folder, size_t index)
{
    const shard *from = folder->shards;
    while (index >= cr_safetensors_count(from->file))
        index -= cr_safetensors_count((from++)->file);
    const cr_safetensor *tensor = cr_safetensors_at(from->file, index);
    return cr_hub_folder_find(folder, tensor->name) == tensor ? tensor : NULL;
}

/* "[576, 576]" */
static void show_shape(char out[96], const cr_safetensor *tensor)
{
    size_t used = 0;
    out[used++] = '[';
    for (int i = 0; i < tensor->dims; i++)
        used += (size_t)snprintf(out + used, 96 - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)tensor->shape[i]);
    snprintf(out + used, 96 - used, "]");
}

int cr_hub_folder_weight(const cr_hub_folder *folder, const char *name, uint64_t rows,
                         uint64_t columns, const cr_safetensor **out)
{
    const cr_safetensor *tensor = *out = cr_hub_folder_find(folder, name);
    if (!tensor)
        return cr_fail(CR_ENOTFOUND, "tensor %s is missing", name);
    bool vector = tensor->dims == 1 && rows == 1 && tensor->shape[0] == columns;
    bool matrix = tensor->dims == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns;
    char found[96];
    show_shape(found, tensor);
    if (!vector && !matrix && rows == 1)
        return cr_fail(CR_EFORMAT, "tensor %s: expected [%llu], the file has %s", name,
                       (unsigned long long)columns, found);
    if (!vector && !matrix)
        return cr_fail(CR_EFORMAT, "tensor %s: expected [%llu, %llu], the file has %s", name,
                       (unsigned long long)rows, (unsigned long long)columns, found);
    size_t size = tensor->type == CR_DTYPE_F32 ? 4 : 2;
    if ((uintptr_t)tensor->data % size != 0)
        return cr_fail(CR_EUNSUPPORTED,
                       "tensor %s does not lie at a multiple of its values' %zu bytes: write the "
                       "file again with a header padded to 8 bytes",
                       name, size);
    return CR_OK;
}
