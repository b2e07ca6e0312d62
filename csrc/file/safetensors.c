/* safetensors.c: safetensors bytes to a checked table of views, and back.
 *
 * The format is that of Hugging Face's safetensors crate; its limits are kept (a header of at
 * most 100 MB that starts with '{', no overlaps, no holes, no trailing bytes), since a file that
 * it refuses is of no use to anybody.
 */
#include "file/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/fsio.h"
#include "file/json.h"

#define HEADER_MOST 100000000
#define METADATA "__metadata__"

typedef struct entry {
    cr_safetensor view;
    uint64_t begin, end; /* from the start of the data */
    bool left_out;       /* checked, but not in the table */
} entry;

struct cr_safetensors {
    cr_mapping mapping;           /* of cr_safetensors_open */
    cr_json *header;              /* owns the names */
    const cr_json_node *metadata; /* or NULL */
    entry *entries;               /* sorted by offset */
    size_t count;
    bool leaves_out_integers;
};

static const struct {
    const char *name;
    cr_dtype type;
    size_t bytes;
} dtypes[] = {{"F32", CR_DTYPE_F32, 4}, {"F16", CR_DTYPE_F16, 2}, {"BF16", CR_DTYPE_BF16, 2}};

#define DTYPE_COUNT (sizeof dtypes / sizeof dtypes[0])

static const struct {
    const char *name;
    size_t bytes;
} integers[] = {{"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1}, {"U8", 1}, {"BOOL", 1}};

#define INTEGER_COUNT (sizeof integers / sizeof integers[0])

/* ---- one tensor -------------------------------------------------------------- */

static const cr_json_node *need(const cr_json *header, const cr_json_node *node, const char *key,
                                cr_json_kind kind)
{
    const cr_json_node *found = cr_json_member(header, node, key);
    return found && found->kind == kind ? found : NULL;
}

static bool is_named(const cr_json_node *dtype, const char *name)
{
    return dtype->length == strlen(name) && strcmp(dtype->text, name) == 0;
}

static int read_dtype(const cr_json *header, const cr_json_node *node, entry *e, bool integers_too,
                      size_t *value_bytes)
{
    const cr_json_node *dtype = need(header, node, "dtype", CR_JSON_STRING);
    if (!dtype)
        return cr_fail(CR_EFORMAT, "expected \"dtype\" as a string");
    for (size_t i = 0; i < DTYPE_COUNT; i++)
        if (is_named(dtype, dtypes[i].name)) {
            e->view.type = dtypes[i].type;
            *value_bytes = dtypes[i].bytes;
            return CR_OK;
        }
    for (size_t i = 0; integers_too && i < INTEGER_COUNT; i++)
        if (is_named(dtype, integers[i].name)) {
            e->left_out = true;
            *value_bytes = integers[i].bytes;
            return CR_OK;
        }
    return cr_fail(CR_EUNSUPPORTED, "dtype \"%.40s\" is not supported (F32, F16 and BF16 are)",
                   dtype->text);
}

static int read_shape(const cr_json *header, const cr_json_node *node, cr_safetensor *tensor,
                      size_t *values)
{
    const cr_json_node *shape = need(header, node, "shape", CR_JSON_ARRAY);
    if (!shape)
        return cr_fail(CR_EFORMAT, "expected \"shape\" as an array");
    if (shape->length > 4)
        return cr_fail(CR_EUNSUPPORTED, "expected at most 4 dimensions, the file has %zu",
                       shape->length);
    for (int i = 0; i < 4; i++)
        tensor->shape[i] = 1;
    *values = 1;
    const cr_json_node *item = cr_json_first(header, shape);
    for (; item; item = cr_json_next(header, item)) {
        if (!item->integer || item->value < 0)
            return cr_fail(CR_EFORMAT, "expected \"shape\" of whole numbers");
        if ((uint64_t)item->value > SIZE_MAX || !cr_size_mul(values, *values, (size_t)item->value))
            return cr_fail(CR_EFORMAT, "the size of its shape overflows");
        tensor->shape[tensor->dims++] = (uint64_t)item->value;
    }
    return CR_OK;
}

static int read_offsets(const cr_json *header, const cr_json_node *node, entry *e, size_t size)
{
    const cr_json_node *pair = need(header, node, "data_offsets", CR_JSON_ARRAY);
    if (!pair || pair->length != 2)
        return cr_fail(CR_EFORMAT, "expected \"data_offsets\" as an array of two");
    const cr_json_node *begin = cr_json_first(header, pair), *end = cr_json_next(header, begin);
    if (!begin->integer || !end->integer || begin->value < 0 || begin->value > end->value)
        return cr_fail(CR_EFORMAT, "expected \"data_offsets\" as [begin, end), begin <= end");
    if ((uint64_t)end->value > size)
        return cr_fail(CR_EFORMAT, "its data end at %lld, past the file's %zu bytes of data",
                       (long long)end->value, size);
    e->begin = (uint64_t)begin->value;
    e->end = (uint64_t)end->value;
    return CR_OK;
}

static int read_entry(const cr_safetensors *file, const cr_json_node *node, entry *e,
                      const unsigned char *data, size_t size)
{
    const cr_json *header = file->header;
    size_t values = 0, value_bytes = 0;
    if (node->kind != CR_JSON_OBJECT)
        return cr_fail(CR_EFORMAT, "expected an object");
    CR_TRY(read_dtype(header, node, e, file->leaves_out_integers, &value_bytes));
    CR_TRY(read_shape(header, node, &e->view, &values));
    CR_TRY(read_offsets(header, node, e, size));
    const uint64_t length = e->end - e->begin;
    if (!cr_size_mul(&e->view.bytes, values, value_bytes) || e->view.bytes != length)
        return cr_fail(CR_EFORMAT, "expected %zu values of %zu bytes, data_offsets span %llu bytes",
                       values, value_bytes, (unsigned long long)length);
    e->view.data = data + e->begin;
    return CR_OK;
}

/* ---- the table ------------------------------------------------------------------ */

/* Empty tensors come before the tensor that starts where they stand. */
static int compare_entries(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->view.name, y->view.name);
}

static int check_cover(const cr_safetensors *file, size_t size)
{
    uint64_t covered = 0;
    for (size_t i = 0; i < file->count; i++) {
        const entry *e = &file->entries[i];
        if (e->begin != covered)
            return cr_fail(CR_EFORMAT, "tensor %.100s: %s: expected its data at %llu, found %llu",
                           e->view.name,
                           e->begin < covered ? "overlaps another tensor" : "leaves a hole",
                           (unsigned long long)covered, (unsigned long long)e->begin);
        covered = e->end;
    }
    if (covered != size)
        return cr_fail(CR_EFORMAT, "%llu bytes after the last tensor belong to none",
                       (unsigned long long)(size - covered));
    return CR_OK;
}

static int check_metadata(const cr_json *header, const cr_json_node *metadata)
{
    if (metadata->kind != CR_JSON_OBJECT)
        return cr_fail(CR_EFORMAT, METADATA ": expected an object");
    const cr_json_node *item = cr_json_first(header, metadata);
    for (; item; item = cr_json_next(header, item))
        if (item->kind != CR_JSON_STRING || strlen(item->text) != item->length)
            return cr_fail(CR_EFORMAT, METADATA ": expected \"%.100s\" as a string without NUL",
                           item->key);
    return CR_OK;
}

static void drop_left_out(cr_safetensors *file)
{
    size_t kept = 0;
    for (size_t i = 0; i < file->count; i++)
        if (!file->entries[i].left_out)
            file->entries[kept++] = file->entries[i];
    file->count = kept;
}

static int read_table(cr_safetensors *file, const unsigned char *data, size_t size)
{
    const cr_json *header = file->header;
    const cr_json_node *root = cr_json_root(header);
    if (root->kind != CR_JSON_OBJECT)
        return cr_fail(CR_EFORMAT, "expected the header to be an object");
    file->entries = cr_calloc(root->length, sizeof *file->entries);
    if (!file->entries)
        return CR_ENOMEM;
    file->metadata = cr_json_member(header, root, METADATA);
    if (file->metadata)
        CR_TRY(check_metadata(header, file->metadata));
    const cr_json_node *node = cr_json_first(header, root);
    for (; node; node = cr_json_next(header, node)) {
        if (node == file->metadata)
            continue;
        entry *e = &file->entries[file->count++];
        e->view.name = node->key;
        int code = read_entry(file, node, e, data, size);
        if (code < 0)
            return cr_fail_context(code, "tensor %.100s", node->key);
    }
    qsort(file->entries, file->count, sizeof *file->entries, compare_entries);
    CR_TRY(check_cover(file, size));
    drop_left_out(file);
    return CR_OK;
}

/* ---- files ------------------------------------------------------------------------ */

static int parse(cr_safetensors *file, const unsigned char *bytes, size_t size)
{
    uint64_t length;
    if (size < sizeof length)
        return cr_fail(CR_EFORMAT, "not a safetensors file: %zu bytes", size);
    memcpy(&length, bytes, sizeof length);
    size -= sizeof length;
    bytes += sizeof length;
    if (length > HEADER_MOST || length > size)
        return cr_fail(CR_EFORMAT,
                       "not a safetensors file: a header of %llu bytes is claimed, expected at "
                       "most %d and the file has %zu left",
                       (unsigned long long)length, HEADER_MOST, size);
    if (length == 0 || bytes[0] != '{')
        return cr_fail(CR_EFORMAT,
                       "not a safetensors file: expected a header that starts with '{'");
    CR_TRY(cr_json_parse(&file->header, (const char *)bytes, (size_t)length));
    return read_table(file, bytes + length, size - (size_t)length);
}

static int parse_new(cr_safetensors **out, const void *bytes, size_t size, bool leave_out)
{
    *out = NULL;
    cr_safetensors *file = cr_calloc(1, sizeof *file);
    if (!file)
        return CR_ENOMEM;
    file->leaves_out_integers = leave_out;
    int code = parse(file, bytes, size);
    if (code < 0) {
        cr_safetensors_close(file);
        return code;
    }
    *out = file;
    return CR_OK;
}

int cr_safetensors_parse(cr_safetensors **out, const void *bytes, size_t size)
{
    return parse_new(out, bytes, size, false);
}

static int open_new(cr_safetensors **out, const char *path, bool leave_out)
{
    cr_mapping mapping;
    *out = NULL;
    CR_TRY(cr_map_file(&mapping, path));
    int code = parse_new(out, mapping.bytes, mapping.size, leave_out);
    if (code < 0) {
        cr_unmap(&mapping);
        return cr_fail_context(code, "%s", path);
    }
    (*out)->mapping = mapping;
    return CR_OK;
}

int cr_safetensors_open(cr_safetensors **out, const char *path)
{
    return open_new(out, path, false);
}

int cr_safetensors_open_floats(cr_safetensors **out, const char *path)
{
    return open_new(out, path, true);
}

void cr_safetensors_close(cr_safetensors *file)
{
    if (!file)
        return;
    cr_json_free(file->header);
    cr_free(file->entries);
    cr_unmap(&file->mapping);
    cr_free(file);
}

size_t cr_safetensors_count(const cr_safetensors *file)
{
    return file->count;
}

const cr_safetensor *cr_safetensors_at(const cr_safetensors *file, size_t index)
{
    return &file->entries[index].view;
}

/* The header's index finds the node; its offsets find the entry. */
const cr_safetensor *cr_safetensors_find(const cr_safetensors *file, const char *name)
{
    const cr_json *header = file->header;
    const cr_json_node *node = cr_json_member(header, cr_json_root(header), name);
    if (!node || node == file->metadata)
        return NULL;
    const cr_json_node *begin = cr_json_first(header, cr_json_member(header, node, "data_offsets"));
    const entry wanted = {.view.name = node->key,
                          .begin = (uint64_t)begin->value,
                          .end = (uint64_t)cr_json_next(header, begin)->value};
    const entry *found =
        bsearch(&wanted, file->entries, file->count, sizeof wanted, compare_entries);
    return found ? &found->view : NULL;
}

const char *cr_safetensors_metadata(const cr_safetensors *file, const char *key)
{
    if (!file->metadata)
        return NULL;
    const cr_json_node *item = cr_json_member(file->header, file->metadata, key);
    return item ? item->text : NULL;
}

/* ---- writing ------------------------------------------------------------------------ */

typedef struct text {
    char *bytes;
    size_t length, capacity;
} text;

static int reserve(text *t, size_t more)
{
    if (t->capacity - t->length >= more)
        return CR_OK;
    const size_t capacity = 2 * t->capacity + more;
    char *bytes = cr_realloc(t->bytes, t->length, capacity);
    if (!bytes)
        return CR_ENOMEM;
    t->bytes = bytes;
    t->capacity = capacity;
    return CR_OK;
}

static int add(text *t, const char *string)
{
    const size_t length = strlen(string);
    CR_TRY(reserve(t, length));
    memcpy(t->bytes + t->length, string, length);
    t->length += length;
    return CR_OK;
}

static int add_quoted(text *t, const char *string)
{
    CR_TRY(reserve(t, cr_json_quoted_most(strlen(string))));
    const size_t length = cr_json_quote(t->bytes + t->length, string);
    if (length == 0)
        return cr_fail(CR_EARG, "\"%.100s\": expected UTF-8", string);
    t->length += length;
    return CR_OK;
}

static int add_metadata(text *t, const char *const *metadata)
{
    CR_TRY(add(t, "\"" METADATA "\":{"));
    for (size_t i = 0; metadata[i]; i += 2) {
        CR_TRY(add(t, i > 0 ? "," : ""));
        CR_TRY(add_quoted(t, metadata[i]));
        CR_TRY(add(t, ":"));
        CR_TRY(add_quoted(t, metadata[i + 1]));
    }
    return add(t, "}");
}

static bool tensor_bytes(const cr_safetensor_out *tensor, size_t *out)
{
    const uint64_t columns = tensor->columns ? tensor->columns : 1;
    return tensor->rows <= SIZE_MAX && columns <= SIZE_MAX &&
           cr_size_mul(out, (size_t)tensor->rows, (size_t)columns) &&
           cr_size_mul(out, *out, tensor->type == CR_DTYPE_F32 ? 4 : 2);
}

static int add_tensor(text *t, const cr_safetensor_out *tensor, size_t *offset)
{
    char shape[160];
    size_t bytes, end;
    if (strcmp(tensor->name, METADATA) == 0)
        return cr_fail(CR_EARG, "a tensor cannot be named " METADATA);
    if (!tensor_bytes(tensor, &bytes) || !cr_size_add(&end, *offset, bytes))
        return cr_fail(CR_ENOMEM, "tensor %.100s: its size overflows", tensor->name);
    char buffer[24];
    int used = snprintf(shape, sizeof shape, ":{\"dtype\":\"%s\",\"shape\":[%llu",
                        cr_dtype_name((uint32_t)tensor->type, buffer),
                        (unsigned long long)tensor->rows);
    if (tensor->columns)
        used += snprintf(shape + used, sizeof shape - (size_t)used, ",%llu",
                         (unsigned long long)tensor->columns);
    snprintf(shape + used, sizeof shape - (size_t)used, "],\"data_offsets\":[%zu,%zu]}", *offset,
             end);
    CR_TRY(add_quoted(t, tensor->name));
    *offset = end;
    return add(t, shape);
}

/* Spaces bring the data to a multiple of 8 from the start of the file. */
static int add_padding(text *t)
{
    while (t->length % 8 != 0)
        CR_TRY(add(t, " "));
    if (t->length > HEADER_MOST)
        return cr_fail(CR_EARG, "a header of %zu bytes: at most %d can be read back", t->length,
                       HEADER_MOST);
    return CR_OK;
}

static int build_header(text *t, const cr_safetensor_out *tensors, size_t count,
                        const char *const *metadata)
{
    size_t offset = 0;
    CR_TRY(add(t, "{"));
    if (metadata)
        CR_TRY(add_metadata(t, metadata));
    for (size_t i = 0; i < count; i++) {
        CR_TRY(add(t, metadata || i > 0 ? "," : ""));
        CR_TRY(add_tensor(t, &tensors[i], &offset));
    }
    CR_TRY(add(t, "}"));
    return add_padding(t);
}

/* The reader finds what must not be written: a name or a key that stands there twice. */
static int check_header(const text *t)
{
    cr_json *header;
    const int code = cr_json_parse(&header, t->bytes, t->length);
    cr_json_free(header);
    return code == CR_EFORMAT ? CR_EARG : code; /* the caller's names, no file */
}

static int write_header(cr_writer *writer, const text *header)
{
    const uint64_t length = header->length;
    CR_TRY(cr_write(writer, &length, sizeof length));
    return cr_write(writer, header->bytes, header->length);
}

static int open_with_header(cr_writer **out, const char *path, const text *header)
{
    CR_TRY(cr_writer_open(out, path));
    int code = write_header(*out, header);
    if (code < 0) {
        cr_writer_discard(*out);
        *out = NULL;
    }
    return code;
}

int cr_safetensors_begin(cr_writer **out, const char *path, const cr_safetensor_out *tensors,
                         size_t count, const char *const *metadata)
{
    text header = {NULL, 0, 0};
    *out = NULL;
    int code = build_header(&header, tensors, count, metadata);
    if (code == CR_OK)
        code = check_header(&header);
    if (code < 0)
        cr_fail_context(code, "%s", path);
    else
        code = open_with_header(out, path, &header);
    cr_free(header.bytes);
    return code;
}

static int write_all(cr_writer *writer, const cr_safetensor_out *tensors, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        tensor_bytes(&tensors[i], &bytes);
        CR_TRY(cr_write(writer, tensors[i].data, bytes));
    }
    return CR_OK;
}

int cr_safetensors_write(const char *path, const cr_safetensor_out *tensors, size_t count,
                         const char *const *metadata)
{
    cr_writer *writer;
    CR_TRY(cr_safetensors_begin(&writer, path, tensors, count, metadata));
    int code = write_all(writer, tensors, count);
    if (code < 0) {
        cr_writer_discard(writer);
        return code;
    }
    return cr_writer_commit(writer);
}
