/* protobuf.h: the wire format of Protocol Buffers: fields of a message, read in place and written.
 *
 * What this is: what every message shares. A message is a run of fields, each a number, a kind and
 * a value; who reads one decides by the number, so fields that are not known are passed over. What it
 * is not: messages (net/tinker.h), descriptions of messages, or groups, which are refused.
 *
 * Bounded: reading allocates nothing and never leaves the view; a length is checked before it is
 * used. Ownership: views borrow the bytes they look at; a writer's bytes are its own until
 * cr_protobuf_release or cr_protobuf_drop.
 *
 * Source: protobuf.dev/programming-guides/encoding.
 */
#ifndef CR_PROTOBUF_H
#define CR_PROTOBUF_H

#include "base/base.h"

/* ---- reading -------------------------------------------------------------------------------- */

typedef struct cr_protobuf_view {
    const uint8_t *at, *end;
} cr_protobuf_view;

typedef enum cr_protobuf_kind {
    CR_PROTOBUF_VARINT = 0, /* int32, int64, bool, enum: `integer` */
    CR_PROTOBUF_64 = 1,     /* double: its bits in `integer` */
    CR_PROTOBUF_BYTES = 2,  /* string, bytes, message, packed list: `bytes` */
    CR_PROTOBUF_32 = 5      /* float: its bits in `integer` */
} cr_protobuf_kind;

typedef struct cr_protobuf_field {
    uint32_t number;
    cr_protobuf_kind kind;
    uint64_t integer;
    cr_protobuf_view bytes;
} cr_protobuf_field;

cr_protobuf_view cr_protobuf_look(const void *bytes, size_t size);
size_t cr_protobuf_size(cr_protobuf_view view);

/* Takes the next field: 1, or 0 at the end, or CR_EFORMAT. */
int cr_protobuf_next(cr_protobuf_view *view, cr_protobuf_field *out);

/* Takes one integer of a packed list: the same. */
int cr_protobuf_next_varint(cr_protobuf_view *view, uint64_t *out);

double cr_protobuf_as_double(const cr_protobuf_field *field);

/* ---- writing -------------------------------------------------------------------------------- */

/* {0} is an empty one. After a failure further calls do nothing and `code` stays. */
typedef struct cr_protobuf_writer {
    uint8_t *bytes;
    size_t size, capacity;
    int code;
} cr_protobuf_writer;

void cr_protobuf_put_integer(cr_protobuf_writer *writer, uint32_t number, uint64_t value);
void cr_protobuf_put_double(cr_protobuf_writer *writer, uint32_t number, double value);
void cr_protobuf_put_bytes(cr_protobuf_writer *writer, uint32_t number, const void *bytes,
                           size_t size);
void cr_protobuf_put_text(cr_protobuf_writer *writer, uint32_t number, const char *text);

/* A field of `size` bytes to be filled in by the caller at once; NULL after a failure. */
void *cr_protobuf_put_space(cr_protobuf_writer *writer, uint32_t number, size_t size);

/* What is put between the two is a message, or a packed list, in field `number`. */
size_t cr_protobuf_begin(cr_protobuf_writer *writer, uint32_t number);
void cr_protobuf_end(cr_protobuf_writer *writer, size_t began);
void cr_protobuf_put_varint(cr_protobuf_writer *writer, uint64_t value); /* of a packed list */

/* Hands the bytes to the caller (cr_free), or returns the failure; the writer is empty again. */
int cr_protobuf_release(cr_protobuf_writer *writer, void **out, size_t *size);
void cr_protobuf_drop(cr_protobuf_writer *writer);

#endif
