/* gguf.c: GGUF bytes to checked tables of keys and tensors.
 *
 * The format is ggml's docs/gguf.md, written out in gguf.h. A cursor that cannot leave the bytes
 * reads everything; a count is believed only when as many smallest entries fit into what is left.
 * Arrays that are handed out as C arrays are laid into one pool after all keys have been checked,
 * so memory is bounded by a small multiple of the file and a parse makes few allocations.
 */
#include "file/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/fsio.h"

enum { TYPE_COUNT = CR_GGUF_F64 + 1 };

/* Bytes of a value; of a string, its shortest form. */
static const struct {
    const char *name;
    size_t bytes;
} value_types[TYPE_COUNT] = {
    [CR_GGUF_U8] = {"u8", 1},       [CR_GGUF_I8] = {"i8", 1},     [CR_GGUF_U16] = {"u16", 2},
    [CR_GGUF_I16] = {"i16", 2},     [CR_GGUF_U32] = {"u32", 4},   [CR_GGUF_I32] = {"i32", 4},
    [CR_GGUF_F32] = {"f32", 4},     [CR_GGUF_BOOL] = {"bool", 1}, [CR_GGUF_STRING] = {"string", 8},
    [CR_GGUF_ARRAY] = {"array", 0}, [CR_GGUF_U64] = {"u64", 8},   [CR_GGUF_I64] = {"i64", 8},
    [CR_GGUF_F64] = {"f64", 8},
};

#define KEY_BYTES_LEAST (8 + 4 + 1)
#define TENSOR_BYTES_LEAST (8 + 4 + 8 + 4 + 8)
#define ALIGNMENT_DEFAULT 32
#define ALIGNMENT_LEAST 8 /* what the specification demands; floats are read in place */
#define ALIGNMENT_MOST (1u << 30)

typedef struct key {
    cr_text name;
    uint32_t type;
    uint32_t element;           /* of an array */
    size_t count;               /* of an array */
    const unsigned char *value; /* in the file: the scalar, a string's bytes, or the elements */
    cr_text entry;              /* in the file: all of it */
    const void *elements;       /* strings: cr_text[count]; f32, i32, u32: aligned values */
} key;

typedef struct tensor_entry {
    cr_gguf_tensor view;
    uint64_t offset; /* from the start of the data */
} tensor_entry;

struct cr_gguf {
    const unsigned char *bytes;
    cr_mapping mapping; /* of cr_gguf_open */
    char *path;         /* or NULL */
    key *keys;          /* sorted by name */
    size_t key_count;
    void *pool;             /* behind the keys' `elements` */
    tensor_entry *tensors;  /* in the file's order */
    tensor_entry **by_name; /* sorted by name; by offset while overlaps are looked for */
    size_t tensor_count;
};

/* ---- names in messages ------------------------------------------------------ */

typedef struct shown {
    char text[100];
} shown;

/* A name of any bytes as printable text of bounded length. */
static shown show(cr_text name)
{
    shown out;
    const size_t room = sizeof out.text - 4;
    const size_t length = name.length < room ? name.length : room;
    for (size_t i = 0; i < length; i++)
        out.text[i] = name.bytes[i] >= 0x20 && name.bytes[i] < 0x7f ? name.bytes[i] : '?';
    memcpy(out.text + length, length < name.length ? "..." : "", length < name.length ? 4 : 1);
    return out;
}

static const char *type_name(uint32_t type, char buffer[24])
{
    if (type < TYPE_COUNT)
        return value_types[type].name;
    snprintf(buffer, 24, "type %lu", (unsigned long)type);
    return buffer;
}

/* ---- the cursor ------------------------------------------------------------- */

typedef struct cursor {
    const unsigned char *bytes;
    size_t size, at;
} cursor;

static size_t left(const cursor *c)
{
    return c->size - c->at;
}

static const unsigned char *take(cursor *c, size_t bytes)
{
    const unsigned char *start = c->bytes + c->at;
    c->at += bytes;
    return start;
}

static int fail_short(const cursor *c, const char *what)
{
    return cr_fail(CR_EFORMAT, "the file ends inside %s (at byte %zu of %zu)", what, c->at,
                   c->size);
}

static int read_u32(cursor *c, uint32_t *out, const char *what)
{
    *out = 0;
    if (left(c) < sizeof *out)
        return fail_short(c, what);
    memcpy(out, take(c, sizeof *out), sizeof *out);
    return CR_OK;
}

static int read_u64(cursor *c, uint64_t *out, const char *what)
{
    *out = 0;
    if (left(c) < sizeof *out)
        return fail_short(c, what);
    memcpy(out, take(c, sizeof *out), sizeof *out);
    return CR_OK;
}

static int read_text(cursor *c, cr_text *out, const char *what)
{
    uint64_t length;
    CR_TRY(read_u64(c, &length, what));
    if (length > left(c))
        return cr_fail(CR_EFORMAT, "%s claims %llu bytes at byte %zu, the file has %zu left", what,
                       (unsigned long long)length, c->at, left(c));
    out->length = (size_t)length;
    out->bytes = (const char *)take(c, out->length);
    return CR_OK;
}

/* Padding that is taken for an entry begins with an empty name. */
static int read_name(cursor *c, cr_text *out, const char *what)
{
    CR_TRY(read_text(c, out, what));
    if (out->length == 0)
        return cr_fail(CR_EFORMAT, "%s before byte %zu is empty", what, c->at);
    return CR_OK;
}

/* A count of things of at least `least` bytes each. */
static int read_count(cursor *c, size_t *out, size_t least, const char *what)
{
    uint64_t count;
    CR_TRY(read_u64(c, &count, what));
    if (count > left(c) / least)
        return cr_fail(CR_EFORMAT, "%s: %llu claimed, the file has room for %zu at most", what,
                       (unsigned long long)count, left(c) / least);
    *out = (size_t)count;
    return CR_OK;
}

/* ---- the head ---------------------------------------------------------------- */

static int parse_head(cursor *c, size_t *tensors, size_t *keys)
{
    uint32_t version;
    uint64_t tensor_count;
    if (left(c) < 4 || memcmp(c->bytes, "GGUF", 4) != 0)
        return cr_fail(CR_EFORMAT, "not a GGUF file: expected \"GGUF\" at the start");
    take(c, 4);
    CR_TRY(read_u32(c, &version, "the version"));
    if (version == 0x02000000 || version == 0x03000000)
        return cr_fail(CR_EUNSUPPORTED, "big-endian GGUF: expected a little-endian file");
    if (version != 2 && version != 3)
        return cr_fail(CR_EUNSUPPORTED, "GGUF version %lu: expected 2 or 3",
                       (unsigned long)version);
    CR_TRY(read_u64(c, &tensor_count, "the tensor count"));
    CR_TRY(read_count(c, keys, KEY_BYTES_LEAST, "keys"));
    if (tensor_count > left(c) / TENSOR_BYTES_LEAST)
        return cr_fail(CR_EFORMAT, "tensors: %llu claimed, the file has room for %zu at most",
                       (unsigned long long)tensor_count, left(c) / TENSOR_BYTES_LEAST);
    *tensors = (size_t)tensor_count;
    return CR_OK;
}

/* ---- keys -------------------------------------------------------------------- */

static int skip_texts(cursor *c, size_t count)
{
    cr_text text;
    for (size_t i = 0; i < count; i++)
        CR_TRY(read_text(c, &text, "a string"));
    return CR_OK;
}

static int parse_array(cursor *c, key *k)
{
    char buffer[24];
    CR_TRY(read_u32(c, &k->element, "an array's type"));
    if (k->element == CR_GGUF_ARRAY)
        return cr_fail(CR_EUNSUPPORTED, "arrays of arrays are not supported");
    if (k->element >= TYPE_COUNT)
        return cr_fail(CR_EFORMAT, "an array of unknown value %s", type_name(k->element, buffer));
    const size_t bytes = value_types[k->element].bytes;
    CR_TRY(read_count(c, &k->count, bytes, "array elements"));
    k->value = c->bytes + c->at;
    if (k->element == CR_GGUF_STRING)
        return skip_texts(c, k->count);
    take(c, k->count * bytes);
    return CR_OK;
}

static int parse_scalar(cursor *c, key *k)
{
    if (left(c) < value_types[k->type].bytes)
        return fail_short(c, "a value");
    k->value = take(c, value_types[k->type].bytes);
    if (k->type == CR_GGUF_BOOL && *k->value > 1)
        return cr_fail(CR_EFORMAT, "expected a boolean of 0 or 1, found %d", *k->value);
    return CR_OK;
}

static int parse_value(cursor *c, key *k)
{
    char buffer[24];
    cr_text text;
    CR_TRY(read_u32(c, &k->type, "a value's type"));
    switch (k->type) {
    case CR_GGUF_ARRAY:
        return parse_array(c, k);
    case CR_GGUF_STRING:
        CR_TRY(read_text(c, &text, "a string"));
        k->value = (const unsigned char *)text.bytes;
        k->count = text.length;
        return CR_OK;
    default:
        if (k->type >= TYPE_COUNT)
            return cr_fail(CR_EFORMAT, "unknown value %s", type_name(k->type, buffer));
        return parse_scalar(c, k);
    }
}

static int parse_key(cursor *c, key *k)
{
    const size_t start = c->at;
    CR_TRY(read_name(c, &k->name, "a key's name"));
    int code = parse_value(c, k);
    k->entry = (cr_text){(const char *)c->bytes + start, c->at - start};
    return code < 0 ? cr_fail_context(code, "key %s", show(k->name).text) : CR_OK;
}

static int compare_texts(cr_text a, cr_text b)
{
    const size_t shorter = a.length < b.length ? a.length : b.length;
    const int order = memcmp(a.bytes, b.bytes, shorter);
    return order ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_keys(const void *a, const void *b)
{
    return compare_texts(((const key *)a)->name, ((const key *)b)->name);
}

static int parse_keys(cr_gguf *file, cursor *c)
{
    file->keys = cr_calloc(file->key_count, sizeof *file->keys);
    if (!file->keys)
        return CR_ENOMEM;
    for (size_t i = 0; i < file->key_count; i++)
        CR_TRY(parse_key(c, &file->keys[i]));
    qsort(file->keys, file->key_count, sizeof *file->keys, compare_keys);
    for (size_t i = 1; i < file->key_count; i++)
        if (compare_keys(&file->keys[i - 1], &file->keys[i]) == 0)
            return cr_fail(CR_EFORMAT, "key %s stands in the file twice",
                           show(file->keys[i].name).text);
    return CR_OK;
}

/* ---- arrays as C arrays --------------------------------------------------------- */

/* What the pool must hold for a key: text views, or a copy of floats or integers that the file
 * keeps at an odd address. */
static size_t pool_bytes(const key *k)
{
    if (k->type != CR_GGUF_ARRAY)
        return 0;
    if (k->element == CR_GGUF_STRING)
        return k->count * sizeof(cr_text);
    const bool read_in_place =
        k->element == CR_GGUF_F32 || k->element == CR_GGUF_I32 || k->element == CR_GGUF_U32;
    if (!read_in_place || (uintptr_t)k->value % _Alignof(float) == 0)
        return 0;
    return (k->count * 4 + sizeof(cr_text) - 1) / sizeof(cr_text) * sizeof(cr_text);
}

/* The strings were checked when the key was parsed. */
static void view_texts(cr_text *out, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t length;
        memcpy(&length, bytes, sizeof length);
        bytes += sizeof length;
        out[i] = (cr_text){(const char *)bytes, (size_t)length};
        bytes += length;
    }
}

static int lay_out_arrays(cr_gguf *file)
{
    size_t total = 0;
    for (size_t i = 0; i < file->key_count; i++)
        total += pool_bytes(&file->keys[i]); /* at most twice the file */
    file->pool = cr_alloc(total);
    if (!file->pool)
        return CR_ENOMEM;
    unsigned char *next = file->pool;
    for (size_t i = 0; i < file->key_count; i++) {
        key *k = &file->keys[i];
        const size_t bytes = pool_bytes(k);
        k->elements = bytes || k->count == 0 ? next : k->value;
        if (bytes && k->element == CR_GGUF_STRING)
            view_texts((cr_text *)(void *)next, k->value, k->count);
        else if (bytes)
            memcpy(next, k->value, k->count * 4);
        next += bytes;
    }
    return CR_OK;
}

/* ---- looking keys up ---------------------------------------------------------------- */

/* Puts the path, where there is one, before the message. */
static int name_file(const cr_gguf *file, int code)
{
    return code < 0 && file->path ? cr_fail_context(code, "%s", file->path) : code;
}

static const key *find_key(const cr_gguf *file, const char *name)
{
    if (file->key_count == 0)
        return NULL;
    const key wanted = {.name = {name, strlen(name)}};
    return bsearch(&wanted, file->keys, file->key_count, sizeof wanted, compare_keys);
}

static int need_key(const cr_gguf *file, const char *name, const key **out)
{
    *out = find_key(file, name);
    if (!*out)
        return name_file(file, cr_fail(CR_ENOTFOUND, "key %s is missing", name));
    return CR_OK;
}

static int fail_type(const cr_gguf *file, const key *k, const char *expected)
{
    char buffer[24];
    if (k->type == CR_GGUF_ARRAY)
        return name_file(file,
                         cr_fail(CR_EFORMAT, "key %s: expected %s, the file has an array of %s",
                                 show(k->name).text, expected, type_name(k->element, buffer)));
    return name_file(file, cr_fail(CR_EFORMAT, "key %s: expected %s, the file has %s",
                                   show(k->name).text, expected, type_name(k->type, buffer)));
}

/* The integer behind k as magnitude and sign; false when k is none. */
static bool load_integer(const key *k, uint64_t *magnitude, bool *negative)
{
    uint64_t raw = 0;
    if (k->type == CR_GGUF_F32 || k->type == CR_GGUF_F64 || k->type == CR_GGUF_BOOL ||
        k->type == CR_GGUF_STRING || k->type == CR_GGUF_ARRAY)
        return false;
    const size_t bytes = value_types[k->type].bytes;
    memcpy(&raw, k->value, bytes);
    const bool is_signed =
        k->type == CR_GGUF_I8 || k->type == CR_GGUF_I16 || k->type == CR_GGUF_I32 || k->type == CR_GGUF_I64;
    const uint64_t sign = UINT64_C(1) << (8 * bytes - 1);
    *negative = is_signed && (raw & sign) != 0;
    *magnitude = *negative ? (sign << 1) - raw : raw;
    return true;
}

int cr_gguf_u64(const cr_gguf *file, const char *name, uint64_t *out)
{
    const key *k;
    bool negative;
    CR_TRY(need_key(file, name, &k));
    if (!load_integer(k, out, &negative))
        return fail_type(file, k, "an integer");
    if (negative)
        return name_file(file, cr_fail(CR_EFORMAT,
                                       "key %s: expected no negative number, the file has -%llu",
                                       name, (unsigned long long)*out));
    return CR_OK;
}

int cr_gguf_f64(const cr_gguf *file, const char *name, double *out)
{
    const key *k;
    uint64_t magnitude;
    bool negative;
    float single;
    CR_TRY(need_key(file, name, &k));
    if (k->type == CR_GGUF_F64) {
        memcpy(out, k->value, sizeof *out);
    } else if (k->type == CR_GGUF_F32) {
        memcpy(&single, k->value, sizeof single);
        *out = single;
    } else if (load_integer(k, &magnitude, &negative)) {
        *out = negative ? -(double)magnitude : (double)magnitude;
    } else {
        return fail_type(file, k, "a number");
    }
    return CR_OK;
}

int cr_gguf_bool(const cr_gguf *file, const char *name, bool *out)
{
    const key *k;
    CR_TRY(need_key(file, name, &k));
    if (k->type != CR_GGUF_BOOL)
        return fail_type(file, k, "bool");
    *out = *k->value != 0;
    return CR_OK;
}

int cr_gguf_text(const cr_gguf *file, const char *name, cr_text *out)
{
    const key *k;
    CR_TRY(need_key(file, name, &k));
    if (k->type != CR_GGUF_STRING)
        return fail_type(file, k, "string");
    *out = (cr_text){(const char *)k->value, k->count};
    return CR_OK;
}

static bool is_array(const key *k, uint32_t element)
{
    return k->type == CR_GGUF_ARRAY && k->element == element;
}

int cr_gguf_text_array(const cr_gguf *file, const char *name, const cr_text **out, size_t *count)
{
    const key *k;
    CR_TRY(need_key(file, name, &k));
    if (!is_array(k, CR_GGUF_STRING))
        return fail_type(file, k, "an array of string");
    *out = k->elements;
    *count = k->count;
    return CR_OK;
}

int cr_gguf_f32_array(const cr_gguf *file, const char *name, const float **out, size_t *count)
{
    const key *k;
    CR_TRY(need_key(file, name, &k));
    if (!is_array(k, CR_GGUF_F32))
        return fail_type(file, k, "an array of f32");
    *out = k->elements;
    *count = k->count;
    return CR_OK;
}

int cr_gguf_i32_array(const cr_gguf *file, const char *name, const int32_t **out, size_t *count)
{
    const key *k;
    CR_TRY(need_key(file, name, &k));
    if (!is_array(k, CR_GGUF_I32) && !is_array(k, CR_GGUF_U32))
        return fail_type(file, k, "an array of i32");
    const int32_t *values = k->elements;
    for (size_t i = 0; k->element == CR_GGUF_U32 && i < k->count; i++)
        if (values[i] < 0)
            return name_file(file, cr_fail(CR_EFORMAT,
                                           "key %s: expected 31-bit numbers, element %zu is %lu",
                                           name, i, (unsigned long)(uint32_t)values[i]));
    *out = values;
    *count = k->count;
    return CR_OK;
}

/* ---- keys as they stand ----------------------------------------------------------------- */

size_t cr_gguf_key_count(const cr_gguf *file)
{
    return file->key_count;
}

static cr_gguf_key key_view(const key *k)
{
    return (cr_gguf_key){k->name,
                         k->entry,
                         (cr_gguf_type)k->type,
                         (cr_gguf_type)k->element,
                         k->count,
                         k->value};
}

void cr_gguf_key_at(const cr_gguf *file, size_t index, cr_gguf_key *out)
{
    *out = key_view(&file->keys[index]);
}

int cr_gguf_key_find(const cr_gguf *file, const char *name, cr_gguf_key *out)
{
    const key *k;
    CR_TRY(need_key(file, name, &k));
    *out = key_view(k);
    return CR_OK;
}

uint64_t cr_gguf_offset(const cr_gguf *file, const void *inside)
{
    return (uint64_t)((const unsigned char *)inside - file->bytes);
}

size_t cr_gguf_alignment(const cr_gguf *file)
{
    uint64_t alignment = ALIGNMENT_DEFAULT;
    if (find_key(file, "general.alignment"))
        cr_gguf_u64(file, "general.alignment", &alignment); /* checked by the parser */
    return (size_t)alignment;
}

/* ---- the tensor table ------------------------------------------------------------------ */

/* Outermost first, as people write shapes: "[576, 192]". */
static void show_shape(char *out, size_t size, const cr_gguf_tensor *tensor)
{
    int used = 0;
    for (int i = tensor->dims - 1; i >= 0; i--)
        used += snprintf(out + used, size - (size_t)used, "%s%llu",
                         i == tensor->dims - 1 ? "[" : ", ", (unsigned long long)tensor->shape[i]);
    snprintf(out + used, size - (size_t)used, "]");
}

#define SHAPE_TEXT 100 /* four numbers of 20 digits */

static int read_shape(cursor *c, cr_gguf_tensor *t)
{
    uint32_t dims;
    CR_TRY(read_u32(c, &dims, "a dimension count"));
    if (dims < 1 || dims > 4)
        return cr_fail(CR_EFORMAT, "expected 1 to 4 dimensions, the file has %lu",
                       (unsigned long)dims);
    t->dims = (int)dims;
    for (int i = 0; i < 4; i++)
        t->shape[i] = 1;
    for (int i = 0; i < t->dims; i++) {
        CR_TRY(read_u64(c, &t->shape[i], "a dimension"));
        if (t->shape[i] == 0)
            return cr_fail(CR_EFORMAT, "dimension %d is 0", i + 1);
    }
    return CR_OK;
}

/* Rows of a whole number of blocks, and no size that does not fit. */
static int measure(cr_gguf_tensor *t)
{
    size_t rows = 1, values, bytes;
    char shape[SHAPE_TEXT];
    const cr_dtype_info *info = cr_dtype_find(t->type);
    bool fits = t->shape[0] <= SIZE_MAX;
    for (int i = 1; i < 4; i++)
        fits = fits && t->shape[i] <= SIZE_MAX && cr_size_mul(&rows, rows, (size_t)t->shape[i]);
    fits = fits && cr_size_mul(&values, rows, (size_t)t->shape[0]);
    if (fits && info && t->shape[0] % info->block_length != 0)
        return cr_fail(CR_EFORMAT, "rows of %llu values are no multiple of %s's block of %zu",
                       (unsigned long long)t->shape[0], info->name, info->block_length);
    if (fits && info)
        fits = cr_dtype_row_bytes(info, (size_t)t->shape[0], &bytes) &&
               cr_size_mul(&t->bytes, rows, bytes);
    if (fits)
        return CR_OK;
    show_shape(shape, sizeof shape, t);
    return cr_fail(CR_EFORMAT, "the size of shape %s overflows", shape);
}

static int parse_tensor_body(cursor *c, tensor_entry *entry)
{
    CR_TRY(read_shape(c, &entry->view));
    CR_TRY(read_u32(c, &entry->view.type, "a tensor's type"));
    CR_TRY(read_u64(c, &entry->offset, "a tensor's offset"));
    return measure(&entry->view);
}

static int fail_tensor(int code, const tensor_entry *entry)
{
    return cr_fail_context(code, "tensor %s", show(entry->view.name).text);
}

static int compare_tensor_names(const void *a, const void *b)
{
    const tensor_entry *x = *(tensor_entry *const *)a, *y = *(tensor_entry *const *)b;
    return compare_texts(x->view.name, y->view.name);
}

static int compare_offsets(const void *a, const void *b)
{
    const tensor_entry *x = *(tensor_entry *const *)a, *y = *(tensor_entry *const *)b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x > y) - (x < y);
}

static int parse_tensors(cr_gguf *file, cursor *c)
{
    file->tensors = cr_calloc(file->tensor_count, sizeof *file->tensors);
    file->by_name = cr_calloc(file->tensor_count, sizeof *file->by_name);
    if (!file->tensors || !file->by_name)
        return CR_ENOMEM;
    for (size_t i = 0; i < file->tensor_count; i++) {
        tensor_entry *entry = file->by_name[i] = &file->tensors[i];
        CR_TRY(read_name(c, &entry->view.name, "a tensor's name"));
        int code = parse_tensor_body(c, entry);
        if (code < 0)
            return fail_tensor(code, entry);
    }
    return CR_OK;
}

/* ---- the data --------------------------------------------------------------------------- */

static int find_alignment(const cr_gguf *file, uint64_t *out)
{
    *out = ALIGNMENT_DEFAULT;
    if (!find_key(file, "general.alignment"))
        return CR_OK;
    CR_TRY(cr_gguf_u64(file, "general.alignment", out));
    if (*out < ALIGNMENT_LEAST || *out > ALIGNMENT_MOST || (*out & (*out - 1)) != 0)
        return cr_fail(CR_EFORMAT,
                       "key general.alignment: expected a power of two from %d to %u, the file has "
                       "%llu",
                       ALIGNMENT_LEAST, ALIGNMENT_MOST, (unsigned long long)*out);
    return CR_OK;
}

static int place(tensor_entry *entry, const unsigned char *data, size_t size, uint64_t alignment)
{
    const unsigned long long offset = entry->offset;
    if (offset % alignment != 0)
        return cr_fail(CR_EFORMAT, "offset %llu is no multiple of the alignment %llu", offset,
                       (unsigned long long)alignment);
    /* A type of unknown size still has a first byte. */
    const size_t least = entry->view.bytes ? entry->view.bytes : 1;
    if (offset > size || least > size - offset)
        return cr_fail(CR_EFORMAT, "%zu bytes at offset %llu end past the file, whose data are %zu",
                       least, offset, size);
    entry->view.data = data + offset;
    return CR_OK;
}

static int place_tensors(cr_gguf *file, const cursor *c)
{
    uint64_t alignment;
    CR_TRY(find_alignment(file, &alignment));
    const size_t past = c->at % alignment, padding = past ? (size_t)alignment - past : 0;
    const size_t start = padding <= left(c) ? c->at + padding : c->size;
    for (size_t i = 0; i < file->tensor_count; i++) {
        tensor_entry *entry = &file->tensors[i];
        int code = place(entry, c->bytes + start, c->size - start, alignment);
        if (code < 0)
            return fail_tensor(code, entry);
    }
    return CR_OK;
}

static int refuse_overlaps(cr_gguf *file)
{
    if (file->tensor_count == 0)
        return CR_OK;
    qsort(file->by_name, file->tensor_count, sizeof *file->by_name, compare_offsets);
    for (size_t i = 1; i < file->tensor_count; i++) {
        const tensor_entry *before = file->by_name[i - 1], *entry = file->by_name[i];
        if (entry->offset == before->offset || entry->offset < before->offset + before->view.bytes)
            return fail_tensor(
                cr_fail(CR_EFORMAT, "overlaps tensor %s in the file", show(before->view.name).text),
                entry);
    }
    return CR_OK;
}

static int index_tensors(cr_gguf *file)
{
    if (file->tensor_count == 0)
        return CR_OK;
    qsort(file->by_name, file->tensor_count, sizeof *file->by_name, compare_tensor_names);
    for (size_t i = 1; i < file->tensor_count; i++)
        if (compare_tensor_names(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return cr_fail(CR_EFORMAT, "tensor %s stands in the file twice",
                           show(file->by_name[i]->view.name).text);
    return CR_OK;
}

/* ---- files ------------------------------------------------------------------------------- */

static int parse(cr_gguf *file, const void *bytes, size_t size)
{
    cursor c = {bytes, size, 0};
    file->bytes = bytes;
    if ((uintptr_t)bytes % ALIGNMENT_LEAST != 0)
        return cr_fail(CR_EARG, "expected GGUF bytes at an address that is a multiple of %d",
                       ALIGNMENT_LEAST);
    CR_TRY(parse_head(&c, &file->tensor_count, &file->key_count));
    CR_TRY(parse_keys(file, &c));
    CR_TRY(lay_out_arrays(file));
    CR_TRY(parse_tensors(file, &c));
    CR_TRY(place_tensors(file, &c));
    CR_TRY(refuse_overlaps(file));
    return index_tensors(file);
}

int cr_gguf_parse(cr_gguf **out, const void *bytes, size_t size)
{
    *out = NULL;
    cr_gguf *file = cr_calloc(1, sizeof *file);
    if (!file)
        return CR_ENOMEM;
    int code = parse(file, bytes, size);
    if (code < 0) {
        cr_gguf_close(file);
        return code;
    }
    *out = file;
    return CR_OK;
}

int cr_gguf_open(cr_gguf **out, const char *path)
{
    cr_mapping mapping;
    *out = NULL;
    CR_TRY(cr_map_file(&mapping, path));
    char *name = cr_strdup(path);
    int code = name ? cr_gguf_parse(out, mapping.bytes, mapping.size) : CR_ENOMEM;
    if (code < 0) {
        cr_free(name);
        cr_unmap(&mapping);
        return cr_fail_context(code, "%s", path);
    }
    (*out)->mapping = mapping;
    (*out)->path = name;
    return CR_OK;
}

void cr_gguf_close(cr_gguf *file)
{
    if (!file)
        return;
    cr_free(file->keys);
    cr_free(file->pool);
    cr_free(file->tensors);
    cr_free(file->by_name);
    cr_free(file->path);
    cr_unmap(&file->mapping);
    cr_free(file);
}

/* ---- tensors ------------------------------------------------------------------------------ */

size_t cr_gguf_tensor_count(const cr_gguf *file)
{
    return file->tensor_count;
}

const cr_gguf_tensor *cr_gguf_tensor_at(const cr_gguf *file, size_t index)
{
    return &file->tensors[index].view;
}

const cr_gguf_tensor *cr_gguf_tensor_find(const cr_gguf *file, const char *name)
{
    if (file->tensor_count == 0)
        return NULL;
    tensor_entry wanted = {.view.name = {name, strlen(name)}};
    tensor_entry *pointer = &wanted;
    tensor_entry *const *found =
        bsearch(&pointer, file->by_name, file->tensor_count, sizeof pointer, compare_tensor_names);
    return found ? &(*found)->view : NULL;
}

static int fail_shape(const cr_gguf *file, const cr_gguf_tensor *tensor, uint64_t rows,
                      uint64_t columns)
{
    char found[SHAPE_TEXT], expected[SHAPE_TEXT];
    show_shape(found, sizeof found, tensor);
    if (rows == 1)
        snprintf(expected, sizeof expected, "[%llu]", (unsigned long long)columns);
    else
        snprintf(expected, sizeof expected, "[%llu, %llu] (rows, columns)",
                 (unsigned long long)rows, (unsigned long long)columns);
    return name_file(file, cr_fail(CR_EFORMAT, "tensor %s: expected %s, the file has %s",
                                   show(tensor->name).text, expected, found));
}

int cr_gguf_weight(const cr_gguf *file, const char *name, uint64_t rows, uint64_t columns,
                   const cr_gguf_tensor **out)
{
    char buffer[24];
    const cr_gguf_tensor *tensor = cr_gguf_tensor_find(file, name);
    if (!tensor)
        return name_file(file, cr_fail(CR_ENOTFOUND, "tensor %s is missing", name));
    if (tensor->shape[0] != columns || tensor->shape[1] != rows || tensor->shape[2] != 1 ||
        tensor->shape[3] != 1)
        return fail_shape(file, tensor, rows, columns);
    if (!cr_dtype_find(tensor->type))
        return name_file(file,
                         cr_fail(CR_EUNSUPPORTED, "tensor %s: element type %s is not supported",
                                 name, cr_dtype_name(tensor->type, buffer)));
    *out = tensor;
    return CR_OK;
}
