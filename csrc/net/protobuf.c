/* protobuf.c: the wire format of Protocol Buffers (protobuf.dev/programming-guides/encoding). */
#include "net/protobuf.h"

#include <string.h>

#define VARINT_BYTES 10
#define FIRST_BYTES 256

/* ---- reading -------------------------------------------------------------------------------- */

cr_protobuf_view cr_protobuf_look(const void *bytes, size_t size)
{
    return (cr_protobuf_view){bytes, (const uint8_t *)bytes + size};
}

size_t cr_protobuf_size(cr_protobuf_view view)
{
    return (size_t)(view.end - view.at);
}

static int take_varint(cr_protobuf_view *view, uint64_t *out)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 7 * VARINT_BYTES; shift += 7) {
        if (view->at == view->end)
            return cr_fail(CR_EFORMAT, "protobuf: the bytes end within a number");
        const uint8_t byte = *view->at++;
        if (shift == 63 && byte > 1)
            break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return CR_OK;
        }
    }
    return cr_fail(CR_EFORMAT, "protobuf: a number is longer than 64 bits");
}

static int take_fixed(cr_protobuf_view *view, size_t size, uint64_t *out)
{
    if (cr_protobuf_size(*view) < size)
        return cr_fail(CR_EFORMAT, "protobuf: the bytes end within a number of %d bytes",
                       (int)size);
    *out = 0;
    memcpy(out, view->at, size);
    view->at += size;
    return CR_OK;
}

static int take_bytes(cr_protobuf_view *view, cr_protobuf_view *out)
{
    uint64_t length = 0;
    CR_TRY(take_varint(view, &length));
    if (length > cr_protobuf_size(*view))
        return cr_fail(CR_EFORMAT, "protobuf: a field of %llu bytes, %llu are left",
                       (unsigned long long)length, (unsigned long long)cr_protobuf_size(*view));
    *out = cr_protobuf_look(view->at, (size_t)length);
    view->at += length;
    return CR_OK;
}

static int take_value(cr_protobuf_view *view, cr_protobuf_field *out)
{
    switch (out->kind) {
    case CR_PROTOBUF_VARINT:
        return take_varint(view, &out->integer);
    case CR_PROTOBUF_64:
        return take_fixed(view, 8, &out->integer);
    case CR_PROTOBUF_32:
        return take_fixed(view, 4, &out->integer);
    case CR_PROTOBUF_BYTES:
        return take_bytes(view, &out->bytes);
    }
    return cr_fail(CR_EFORMAT, "protobuf: field %u is of kind %d, which is not read", out->number,
                   (int)out->kind);
}

int cr_protobuf_next(cr_protobuf_view *view, cr_protobuf_field *out)
{
    uint64_t key = 0;
    *out = (cr_protobuf_field){0};
    if (view->at == view->end)
        return 0;
    CR_TRY(take_varint(view, &key));
    if (key >> 3 == 0 || key >> 3 > 0x1fffffff)
        return cr_fail(CR_EFORMAT, "protobuf: %llu is no number of a field",
                       (unsigned long long)(key >> 3));
    out->number = (uint32_t)(key >> 3);
    out->kind = (cr_protobuf_kind)(key & 7);
    CR_TRY(take_value(view, out));
    return 1;
}

int cr_protobuf_next_varint(cr_protobuf_view *view, uint64_t *out)
{
    if (view->at == view->end)
        return 0;
    CR_TRY(take_varint(view, out));
    return 1;
}

double cr_protobuf_as_double(const cr_protobuf_field *field)
{
    double value;
    memcpy(&value, &field->integer, sizeof value);
    return value;
}

/* ---- writing -------------------------------------------------------------------------------- */

static bool reserve(cr_protobuf_writer *writer, size_t more)
{
    size_t needed, capacity = writer->capacity ? writer->capacity : FIRST_BYTES;
    if (writer->code < 0)
        return false;
    if (!cr_size_add(&needed, writer->size, more) || needed > SIZE_MAX / 2) {
        writer->code = cr_fail(CR_ENOMEM, "protobuf: a message of so many bytes has no room");
        return false;
    }
    if (needed <= writer->capacity)
        return true;
    while (capacity < needed)
        capacity *= 2;
    uint8_t *grown = cr_realloc(writer->bytes, writer->capacity, capacity);
    if (!grown) {
        writer->code = CR_ENOMEM;
        return false;
    }
    writer->bytes = grown;
    writer->capacity = capacity;
    return true;
}

static size_t write_varint(uint8_t *out, uint64_t value)
{
    size_t count = 0;
    for (; value >= 0x80; value >>= 7)
        out[count++] = (uint8_t)(value | 0x80);
    out[count++] = (uint8_t)value;
    return count;
}

void cr_protobuf_put_varint(cr_protobuf_writer *writer, uint64_t value)
{
    if (reserve(writer, VARINT_BYTES))
        writer->size += write_varint(writer->bytes + writer->size, value);
}

static void put_key(cr_protobuf_writer *writer, uint32_t number, cr_protobuf_kind kind)
{
    cr_protobuf_put_varint(writer, (uint64_t)number << 3 | (uint64_t)kind);
}

void cr_protobuf_put_integer(cr_protobuf_writer *writer, uint32_t number, uint64_t value)
{
    put_key(writer, number, CR_PROTOBUF_VARINT);
    cr_protobuf_put_varint(writer, value);
}

void cr_protobuf_put_double(cr_protobuf_writer *writer, uint32_t number, double value)
{
    put_key(writer, number, CR_PROTOBUF_64);
    if (reserve(writer, sizeof value)) {
        memcpy(writer->bytes + writer->size, &value, sizeof value);
        writer->size += sizeof value;
    }
}

void *cr_protobuf_put_space(cr_protobuf_writer *writer, uint32_t number, size_t size)
{
    put_key(writer, number, CR_PROTOBUF_BYTES);
    cr_protobuf_put_varint(writer, size);
    if (!reserve(writer, size))
        return NULL;
    writer->size += size;
    return writer->bytes + writer->size - size;
}

void cr_protobuf_put_bytes(cr_protobuf_writer *writer, uint32_t number, const void *bytes,
                           size_t size)
{
    void *space = cr_protobuf_put_space(writer, number, size);
    if (space && size > 0)
        memcpy(space, bytes, size);
}

void cr_protobuf_put_text(cr_protobuf_writer *writer, uint32_t number, const char *text)
{
    cr_protobuf_put_bytes(writer, number, text, strlen(text));
}

size_t cr_protobuf_begin(cr_protobuf_writer *writer, uint32_t number)
{
    put_key(writer, number, CR_PROTOBUF_BYTES);
    return writer->size;
}

/* The length stands before what it counts: what was put makes room for it. */
void cr_protobuf_end(cr_protobuf_writer *writer, size_t began)
{
    uint8_t length[VARINT_BYTES];
    const size_t size = writer->size - began, width = write_varint(length, size);
    if (!reserve(writer, width))
        return;
    memmove(writer->bytes + began + width, writer->bytes + began, size);
    memcpy(writer->bytes + began, length, width);
    writer->size += width;
}

int cr_protobuf_release(cr_protobuf_writer *writer, void **out, size_t *size)
{
    const int code = reserve(writer, 1) ? CR_OK : writer->code; /* an empty message is no NULL */
    *out = NULL;
    *size = 0;
    if (code < 0) {
        cr_protobuf_drop(writer);
        return code;
    }
    *out = writer->bytes;
    *size = writer->size;
    *writer = (cr_protobuf_writer){0};
    return CR_OK;
}

void cr_protobuf_drop(cr_protobuf_writer *writer)
{
    cr_free(writer->bytes);
    *writer = (cr_protobuf_writer){0};
}
