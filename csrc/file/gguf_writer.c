/* gguf_writer.c: GGUF's keys, tensor table and padded data (ggml's docs/gguf.md). */
#include "file/gguf_writer.h"

#include <string.h>

#include "file/fsio.h"

#define ALIGNMENT_DEFAULT 32
#define VERSION 3

typedef struct bytes_list {
    unsigned char *bytes;
    size_t size, capacity;
} bytes_list;

struct cr_gguf_writer {
    bytes_list keys, table;
    uint64_t key_count, tensor_count;
    size_t alignment;
    uint64_t data_bytes; /* of all tensors, padded */
    size_t *sizes;       /* [tensor_count], of the data without padding */
    size_t sizes_room;
    cr_writer *file;      /* from `begin` on */
    size_t current, done; /* the tensor that is being written, and how much of it is */
};

/* ---- collecting ------------------------------------------------------------------------------ */

static int reserve(bytes_list *list, size_t more)
{
    size_t need, capacity;
    if (!cr_size_add(&need, list->size, more))
        return cr_fail(CR_ENOMEM, "more keys than memory can hold");
    if (need <= list->capacity)
        return CR_OK;
    if (!cr_size_mul(&capacity, need, 2))
        capacity = need;
    unsigned char *bytes = cr_realloc(list->bytes, list->size, capacity);
    if (!bytes)
        return CR_ENOMEM;
    list->bytes = bytes;
    list->capacity = capacity;
    return CR_OK;
}

static int add(bytes_list *list, const void *bytes, size_t size)
{
    CR_TRY(reserve(list, size));
    if (size)
        memcpy(list->bytes + list->size, bytes, size);
    list->size += size;
    return CR_OK;
}

static int add_u32(bytes_list *list, uint32_t value)
{
    return add(list, &value, sizeof value);
}

static int add_u64(bytes_list *list, uint64_t value)
{
    return add(list, &value, sizeof value);
}

static int add_text(bytes_list *list, const char *text, size_t length)
{
    CR_TRY(add_u64(list, length));
    return add(list, text, length);
}

int cr_gguf_writer_create(cr_gguf_writer **out)
{
    *out = cr_calloc(1, sizeof **out);
    if (!*out)
        return CR_ENOMEM;
    (*out)->alignment = ALIGNMENT_DEFAULT;
    return CR_OK;
}

void cr_gguf_writer_align(cr_gguf_writer *writer, size_t alignment)
{
    writer->alignment = alignment;
}

int cr_gguf_put_entry(cr_gguf_writer *writer, cr_text entry)
{
    writer->key_count++;
    return add(&writer->keys, entry.bytes, entry.length);
}

static int put(cr_gguf_writer *writer, const char *key, uint32_t type, const void *value,
               size_t size)
{
    writer->key_count++;
    CR_TRY(add_text(&writer->keys, key, strlen(key)));
    CR_TRY(add_u32(&writer->keys, type));
    return add(&writer->keys, value, size);
}

int cr_gguf_put_u32(cr_gguf_writer *writer, const char *key, uint32_t value)
{
    return put(writer, key, CR_GGUF_U32, &value, sizeof value);
}

int cr_gguf_put_f32(cr_gguf_writer *writer, const char *key, float value)
{
    return put(writer, key, CR_GGUF_F32, &value, sizeof value);
}

int cr_gguf_put_f64(cr_gguf_writer *writer, const char *key, double value)
{
    return put(writer, key, CR_GGUF_F64, &value, sizeof value);
}

int cr_gguf_put_bool(cr_gguf_writer *writer, const char *key, bool value)
{
    const unsigned char byte = value;
    return put(writer, key, CR_GGUF_BOOL, &byte, 1);
}

int cr_gguf_put_text(cr_gguf_writer *writer, const char *key, const char *value)
{
    CR_TRY(put(writer, key, CR_GGUF_STRING, NULL, 0));
    return add_text(&writer->keys, value, strlen(value));
}

static int put_array(cr_gguf_writer *writer, const char *key, uint32_t element, size_t count,
                     const void *values, size_t size)
{
    CR_TRY(put(writer, key, CR_GGUF_ARRAY, NULL, 0));
    CR_TRY(add_u32(&writer->keys, element));
    CR_TRY(add_u64(&writer->keys, count));
    return add(&writer->keys, values, size);
}

int cr_gguf_put_texts(cr_gguf_writer *writer, const char *key, const cr_text *values, size_t count)
{
    CR_TRY(put_array(writer, key, CR_GGUF_STRING, count, NULL, 0));
    for (size_t i = 0; i < count; i++)
        CR_TRY(add_text(&writer->keys, values[i].bytes, values[i].length));
    return CR_OK;
}

int cr_gguf_put_f32s(cr_gguf_writer *writer, const char *key, const float *values, size_t count)
{
    return put_array(writer, key, CR_GGUF_F32, count, values, count * sizeof *values);
}

int cr_gguf_put_i32s(cr_gguf_writer *writer, const char *key, const int32_t *values, size_t count)
{
    return put_array(writer, key, CR_GGUF_I32, count, values, count * sizeof *values);
}

/* ---- the tensor table ----------------------------------------------------------------------------- */

static size_t padding(size_t size, size_t alignment)
{
    const size_t past = size % alignment;
    return past ? alignment - past : 0;
}

static int remember_size(cr_gguf_writer *writer, size_t bytes)
{
    if (writer->tensor_count == writer->sizes_room) {
        const size_t room = writer->sizes_room ? 2 * writer->sizes_room : 256;
        size_t *sizes =
            cr_realloc(writer->sizes, writer->sizes_room * sizeof *sizes, room * sizeof *sizes);
        if (!sizes)
            return CR_ENOMEM;
        writer->sizes = sizes;
        writer->sizes_room = room;
    }
    writer->sizes[writer->tensor_count++] = bytes;
    return CR_OK;
}

static bool measure(size_t *bytes, const cr_dtype_info *type, int dims, const uint64_t *shape)
{
    bool fits = cr_dtype_row_bytes(type, (size_t)shape[0], bytes);
    for (int i = 1; i < dims; i++)
        fits = fits && cr_size_mul(bytes, *bytes, (size_t)shape[i]);
    return fits && *bytes < SIZE_MAX / 2;
}

int cr_gguf_put_tensor(cr_gguf_writer *writer, const char *name, size_t name_length,
                       const cr_dtype_info *type, int dims, const uint64_t *shape)
{
    size_t bytes;
    if (!measure(&bytes, type, dims, shape))
        return cr_fail(CR_EARG, "tensor %.*s: rows of %llu values do not fill %s blocks of %zu",
                       (int)(name_length < 96 ? name_length : 96), name,
                       (unsigned long long)shape[0], type->name, type->block_length);
    CR_TRY(add_text(&writer->table, name, name_length));
    CR_TRY(add_u32(&writer->table, (uint32_t)dims));
    for (int i = 0; i < dims; i++)
        CR_TRY(add_u64(&writer->table, shape[i]));
    CR_TRY(add_u32(&writer->table, (uint32_t)type->type));
    CR_TRY(add_u64(&writer->table, writer->data_bytes));
    writer->data_bytes += bytes + padding(bytes, writer->alignment);
    return remember_size(writer, bytes);
}

/* ---- writing -------------------------------------------------------------------------------------- */

static int write_padding(cr_gguf_writer *writer, size_t size)
{
    static const unsigned char zeros[64];
    for (size_t left = padding(size, writer->alignment); left > 0;) {
        const size_t piece = left < sizeof zeros ? left : sizeof zeros;
        CR_TRY(cr_write(writer->file, zeros, piece));
        left -= piece;
    }
    return CR_OK;
}

static int write_head(cr_gguf_writer *writer)
{
    bytes_list head = {0};
    int code;
    CR_TRY_GOTO(add(&head, "GGUF", 4), done);
    CR_TRY_GOTO(add_u32(&head, VERSION), done);
    CR_TRY_GOTO(add_u64(&head, writer->tensor_count), done);
    CR_TRY_GOTO(add_u64(&head, writer->key_count), done);
    CR_TRY_GOTO(cr_write(writer->file, head.bytes, head.size), done);
    CR_TRY_GOTO(cr_write(writer->file, writer->keys.bytes, writer->keys.size), done);
    CR_TRY_GOTO(cr_write(writer->file, writer->table.bytes, writer->table.size), done);
    code = write_padding(writer, head.size + writer->keys.size + writer->table.size);
done:
    cr_free(head.bytes);
    return code;
}

int cr_gguf_writer_begin(cr_gguf_writer *writer, const char *path)
{
    CR_TRY(cr_writer_open(&writer->file, path));
    return write_head(writer);
}

int cr_gguf_writer_data(cr_gguf_writer *writer, const void *bytes, size_t size)
{
    const unsigned char *next = bytes;
    while (size > 0) {
        if (writer->current == writer->tensor_count)
            return cr_fail(CR_EARG, "%zu bytes more than the %zu tensors have", size,
                           (size_t)writer->tensor_count);
        const size_t whole = writer->sizes[writer->current], left = whole - writer->done;
        const size_t piece = size < left ? size : left;
        CR_TRY(cr_write(writer->file, next, piece));
        writer->done += piece;
        next += piece;
        size -= piece;
        if (writer->done < whole)
            continue;
        CR_TRY(write_padding(writer, whole));
        writer->current++;
        writer->done = 0;
    }
    return CR_OK;
}

static void release(cr_gguf_writer *writer)
{
    cr_free(writer->keys.bytes);
    cr_free(writer->table.bytes);
    cr_free(writer->sizes);
    cr_free(writer);
}

int cr_gguf_writer_commit(cr_gguf_writer *writer)
{
    if (writer->current < writer->tensor_count) {
        const size_t written = writer->current;
        cr_gguf_writer_discard(writer);
        return cr_fail(CR_EARG, "the data of tensor %zu are missing", written + 1);
    }
    const int code = cr_writer_commit(writer->file);
    release(writer);
    return code;
}

void cr_gguf_writer_discard(cr_gguf_writer *writer)
{
    if (!writer)
        return;
    cr_writer_discard(writer->file);
    release(writer);
}

/* ---- patching ---------------------------------------------------------------------------------------- */

static int find_f64(const char *path, const char *key, uint64_t *offset)
{
    cr_gguf *file;
    cr_gguf_key found;
    CR_TRY(cr_gguf_open(&file, path));
    int code = cr_gguf_key_find(file, key, &found);
    if (code == CR_OK && found.type != CR_GGUF_F64)
        code = cr_fail(CR_EFORMAT, "%s: key %s: expected f64", path, key);
    if (code == CR_OK)
        *offset = cr_gguf_offset(file, found.value);
    cr_gguf_close(file);
    return code;
}

int cr_gguf_set_number(const char *path, const char *key, double value)
{
    uint64_t offset = 0;
    CR_TRY(find_f64(path, key, &offset));
    return cr_patch_file(path, offset, &value, sizeof value);
}
