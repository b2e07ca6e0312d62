/* file_test.c: what the readers and writers of the file floor promise, and that values of every
 * element type are ggml's to the bit. Run by ctest; prints each broken promise.
 *
 *   file_test SCRATCH_FOLDER
 */
#include <stdio.h>
#include <string.h>

#include "file/fsio.h"
#include "file/gguf.h"
#include "file/gguf_writer.h"
#include "file/json.h"
#include "file/safetensors.h"
#include "file/sha256.h"

static int failures;

static void check(bool kept, const char *promise, const char *detail)
{
    if (kept)
        return;
    printf("not kept: %s (%s)\n", promise, detail);
    failures++;
}

/* A failure with this code whose message holds `part`. */
static void check_refused(int code, int expected, const char *part, const char *promise)
{
    const char *message = cr_error_message();
    check(code == expected && strstr(message, part), promise, code < 0 ? message : "accepted");
}

/* ---- element types -------------------------------------------------------------- */

/* SHA-256 over the f32 values of gguf.quants.dequantize (Python package gguf 0.19.0) for 64 blocks
 * (2048 single values) of the bytes of fill(), with bit 6 of the bytes at `high` cleared in each
 * block: they are the upper bytes of its f16 scales, which stay finite that way. */
static const struct {
    cr_dtype type;
    int high[2];
    const char *digest;
} expansions[] = {
    {CR_DTYPE_F32, {3, 3}, "b84037d7d3d16dc178fcdb8e148756b1f77d02317294f7821c279a621f46356a"},
    {CR_DTYPE_F16, {1, 1}, "106a77118ab11c015f97eaa8c22213b236f39ac485814a307fe7f559143215a6"},
    {CR_DTYPE_BF16, {1, 1}, "7fd63878acaf69ec653edbeb63f523d9d3d974091aa504d140f021780dd7d829"},
    {CR_DTYPE_Q4_0, {1, 1}, "3ef0d3296ae54113061ecd2cae8ad3ddd595e579f4f277ed6a4660aa59abc01c"},
    {CR_DTYPE_Q4_1, {1, 3}, "f34a5564c784eef48bb41aa68e5ba682b96bb2f73661a9884b12517feb5ec6d2"},
    {CR_DTYPE_Q5_0, {1, 1}, "585c5362b83eb1ef9dea26a9b9be47ccbf7fb8ebe75f1b7017806dd8feeebce0"},
    {CR_DTYPE_Q5_1, {1, 3}, "8dba97118adf451be27f9af552af90d7343c11e7a489c186c3f065878c21d671"},
    {CR_DTYPE_Q8_0, {1, 1}, "bc0f260c3cbd7e4ee81c277dae87137f2bb37e5ce85d8e3cd740a49f542675c0"},
    {CR_DTYPE_Q2_K, {81, 83}, "1134c9fc72a3e7679b2b9367a71cf65bd0936c2f92142c05fa69341c31fd3aa2"},
    {CR_DTYPE_Q3_K, {109, 109}, "a86b71614a8603c6b5af2f190c047b5ccbbb10bbd31116971111911744ba61e3"},
    {CR_DTYPE_Q4_K, {1, 3}, "b8c8e2dffaacfaf94f038fa46dc113faab1b0aabfa40e4636fd131721434ceff"},
    {CR_DTYPE_Q5_K, {1, 3}, "bce88929e67abac5225dd19a317948a6bcf3dc62af121c9abfae74ee6b618b9d"},
    {CR_DTYPE_Q6_K, {209, 209}, "1ff818bdce2c14125b7b1dbc9e26fcfb926ab86a9b341cc20c6d68d6489f3a68"},
    {CR_DTYPE_IQ4_NL, {1, 1}, "5e82118e4cfa8e85950814eeb8125696746433d7b11cf662944d027d530480fa"},
};

static void fill(unsigned char *bytes, size_t size)
{
    uint64_t state = 1;
    for (size_t i = 0; i < size; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        bytes[i] = (unsigned char)(state >> 56);
    }
}

static void hex_digest(char hex[65], const void *bytes, size_t size)
{
    cr_sha256 hash;
    unsigned char digest[CR_SHA256_BYTES];
    cr_sha256_init(&hash);
    cr_sha256_update(&hash, bytes, size);
    cr_sha256_final(&hash, digest);
    cr_sha256_hex(hex, digest);
}

static void check_expansions(void)
{
    static unsigned char bytes[64 * 256];
    static float values[64 * 256];
    for (size_t i = 0; i < sizeof expansions / sizeof expansions[0]; i++) {
        const cr_dtype_info *info = cr_dtype_find(expansions[i].type);
        const size_t blocks = info->block_length == 1 ? 2048 : 64;
        char hex[65];
        fill(bytes, blocks * info->block_bytes);
        for (size_t b = 0; b < blocks; b++)
            for (int h = 0; h < 2; h++)
                bytes[b * info->block_bytes + (size_t)expansions[i].high[h]] &= 0xbf;
        cr_dtype_expand(values, info, bytes, 0, blocks * info->block_length);
        hex_digest(hex, values, blocks * info->block_length * sizeof *values);
        check(strcmp(hex, expansions[i].digest) == 0, "values are ggml's to the bit", info->name);
    }
}

static void check_type_names(void)
{
    char buffer[24];
    check(strcmp(cr_dtype_name(12, buffer), "Q4_K") == 0, "names a type", "Q4_K");
    check(strcmp(cr_dtype_name(39, buffer), "MXFP4") == 0, "names a type it cannot expand",
          "MXFP4");
    check(strcmp(cr_dtype_name(4000000000u, buffer), "type 4000000000") == 0,
          "says the number of a type that nobody knows", buffer);
    check(!cr_dtype_find(39) && !cr_dtype_find(99), "finds no type it cannot expand", "39, 99");
}

/* ---- GGUF ------------------------------------------------------------------------ */

typedef struct builder {
    _Alignas(8) unsigned char bytes[1024];
    size_t size;
} builder;

static void put(builder *b, const void *bytes, size_t size)
{
    memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

static void put_u32(builder *b, uint32_t value)
{
    put(b, &value, sizeof value);
}

static void put_u64(builder *b, uint64_t value)
{
    put(b, &value, sizeof value);
}

static void put_text(builder *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static void put_head(builder *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
    *b = (builder){.size = 0};
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, tensors);
    put_u64(b, keys);
}

static void put_key(builder *b, const char *name, uint32_t type)
{
    put_text(b, name);
    put_u32(b, type);
}

static void put_array(builder *b, const char *name, uint32_t element, uint64_t count)
{
    put_key(b, name, 9);
    put_u32(b, element);
    put_u64(b, count);
}

static void put_tensor(builder *b, const char *name, uint64_t columns, uint64_t rows, uint32_t type,
                       uint64_t offset)
{
    put_text(b, name);
    put_u32(b, 2);
    put_u64(b, columns);
    put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}

static void put_data(builder *b, size_t bytes)
{
    b->size = (b->size + 31) / 32 * 32 + bytes;
}

static void check_bad_gguf(const builder *b, int expected, const char *part)
{
    cr_gguf *file;
    const int code = cr_gguf_parse(&file, b->bytes, b->size);
    check_refused(code, expected, part, part);
    cr_gguf_close(file);
}

static void check_gguf_heads(void)
{
    builder b;
    put_head(&b, 1, 0, 0);
    check_bad_gguf(&b, CR_EUNSUPPORTED, "version 1: expected 2 or 3");
    put_head(&b, 0x03000000, 0, 0);
    check_bad_gguf(&b, CR_EUNSUPPORTED, "big-endian");
    put_head(&b, 3, UINT64_C(1) << 63, 0);
    check_bad_gguf(&b, CR_EFORMAT, "tensors: 9223372036854775808 claimed");
    put_head(&b, 3, 0, UINT64_MAX);
    check_bad_gguf(&b, CR_EFORMAT, "keys: 18446744073709551615 claimed");
    b.size = 3;
    check_bad_gguf(&b, CR_EFORMAT, "expected \"GGUF\"");
}

static void check_gguf_keys(void)
{
    builder b;
    put_head(&b, 3, 0, 1);
    put_u64(&b, UINT64_MAX / 2);
    put_data(&b, 64);
    check_bad_gguf(&b, CR_EFORMAT, "a key's name claims 9223372036854775807 bytes");
    put_head(&b, 3, 0, 1);
    put_key(&b, "k", 13);
    check_bad_gguf(&b, CR_EFORMAT, "key k: unknown value type 13");
    put_head(&b, 3, 0, 1);
    put_array(&b, "k", 9, 1);
    check_bad_gguf(&b, CR_EUNSUPPORTED, "key k: arrays of arrays");
    put_head(&b, 3, 0, 1);
    put_array(&b, "k", 4, UINT64_C(1) << 62);
    check_bad_gguf(&b, CR_EFORMAT, "key k: array elements: 4611686018427387904 claimed");
    put_head(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_key(&b, "twin", 4);
        put_u32(&b, 1);
    }
    check_bad_gguf(&b, CR_EFORMAT, "key twin stands in the file twice");
}

static void check_gguf_alignment(uint32_t alignment)
{
    builder b;
    put_head(&b, 3, 0, 1);
    put_key(&b, "general.alignment", 4);
    put_u32(&b, alignment);
    check_bad_gguf(&b, CR_EFORMAT, "general.alignment: expected a power of two from 8");
}

static void check_gguf_tensor(uint64_t columns, uint64_t rows, uint32_t type, uint64_t offset,
                              const char *part)
{
    builder b;
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "first", 4, 1, CR_DTYPE_F32, 0);
    put_tensor(&b, "second", columns, rows, type, offset);
    put_data(&b, 64);
    check_bad_gguf(&b, CR_EFORMAT, part);
}

static void check_gguf_tensors(void)
{
    check_gguf_tensor(4, 0, 0, 32, "tensor second: dimension 2 is 0");
    check_gguf_tensor(100, 1, CR_DTYPE_Q4_1, 32, "tensor second: rows of 100 values");
    check_gguf_tensor(UINT64_C(1) << 32, UINT64_C(1) << 32, 0, 32,
                      "tensor second: the size of shape");
    check_gguf_tensor(UINT64_C(1) << 63, 4, 17, 32, "tensor second: the size of shape");
    check_gguf_tensor(4, 1, 0, 4, "tensor second: offset 4 is no multiple of the alignment 32");
    check_gguf_tensor(9, 1, 0, 32, "tensor second: 36 bytes at offset 32 end past the file");
    check_gguf_tensor(4, 1, 0, UINT64_MAX - 31, "tensor second: 16 bytes at offset");
    check_gguf_tensor(4, 1, 0, 0, "tensor second: overlaps tensor first");
    builder b;
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "twin", 4, 1, 0, 0);
    put_tensor(&b, "twin", 4, 1, 0, 32);
    put_data(&b, 64);
    check_bad_gguf(&b, CR_EFORMAT, "tensor twin stands in the file twice");
}

/* Integers behind an odd number of bytes, so that they must be copied to be read. */
static void put_good_gguf(builder *b)
{
    const int32_t integers[] = {1, -2, 3};
    put_head(b, 2, 2, 4);
    put_key(b, "odd", 8);
    put_text(b, "x");
    put_array(b, "texts", 8, 2);
    put_text(b, "");
    put_text(b, "token");
    put_array(b, "integers", 5, 3);
    put(b, integers, sizeof integers);
    put_key(b, "negative", 5);
    put_u32(b, (uint32_t)-3);
    put_tensor(b, "weight", 4, 2, CR_DTYPE_F32, 0);
    put_tensor(b, "strange", 256, 1, 16, 32);
    put_data(b, 98);
}

static void check_gguf_values(const cr_gguf *file)
{
    const int32_t *integers;
    const cr_text *texts;
    size_t count;
    uint64_t whole;
    double real;
    check(cr_gguf_i32_array(file, "integers", &integers, &count) == CR_OK && count == 3 &&
              integers[1] == -2,
          "reads integers at an odd address", cr_error_message());
    check(cr_gguf_text_array(file, "texts", &texts, &count) == CR_OK && count == 2 &&
              texts[0].length == 0 && memcmp(texts[1].bytes, "token", 5) == 0,
          "reads strings", cr_error_message());
    check(cr_gguf_f64(file, "negative", &real) == CR_OK && real == -3, "reads a number", "-3");
    check_refused(cr_gguf_u64(file, "negative", &whole), CR_EFORMAT,
                  "key negative: expected no negative number, the file has -3", "names the value");
    check_refused(cr_gguf_u64(file, "texts", &whole), CR_EFORMAT,
                  "key texts: expected an integer, the file has an array of string",
                  "names both types");
    check_refused(cr_gguf_u64(file, "absent", &whole), CR_ENOTFOUND, "key absent is missing",
                  "names the key");
}

static void check_gguf_weights(const cr_gguf *file)
{
    const cr_gguf_tensor *tensor;
    check(cr_gguf_weight(file, "weight", 2, 4, &tensor) == CR_OK && tensor->bytes == 32,
          "finds a weight of the expected shape", cr_error_message());
    check_refused(cr_gguf_weight(file, "weight", 4, 4, &tensor), CR_EFORMAT,
                  "tensor weight: expected [4, 4] (rows, columns), the file has [2, 4]",
                  "says expected and found shape");
    check_refused(cr_gguf_weight(file, "strange", 1, 256, &tensor), CR_EUNSUPPORTED,
                  "tensor strange: element type IQ2_XXS", "names an unknown element type");
    check_refused(cr_gguf_weight(file, "absent", 1, 1, &tensor), CR_ENOTFOUND,
                  "tensor absent is missing", "names a missing tensor");
}

static void check_good_gguf(void)
{
    builder b;
    cr_gguf *file;
    put_good_gguf(&b);
    const int code = cr_gguf_parse(&file, b.bytes, b.size);
    check(code == CR_OK, "reads version 2", cr_error_message());
    if (code < 0)
        return;
    check_gguf_values(file);
    check_gguf_weights(file);
    cr_gguf_close(file);
    for (size_t size = 0; size < b.size - 66; size++) {
        char detail[40];
        snprintf(detail, sizeof detail, "the first %zu bytes", size);
        check(cr_gguf_parse(&file, b.bytes, size) == CR_EFORMAT, "refuses every truncation",
              detail);
        cr_gguf_close(file);
    }
}

/* ---- safetensors ------------------------------------------------------------------- */

static void check_bad_safetensors(const char *header, size_t data, int expected, const char *part)
{
    builder b = {.size = 0};
    cr_safetensors *file;
    put_text(&b, header);
    b.size += data;
    check_refused(cr_safetensors_parse(&file, b.bytes, b.size), expected, part, part);
    cr_safetensors_close(file);
}

#define TENSOR(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void check_safetensors_refusals(void)
{
    check_bad_safetensors(
        "{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[4,12]") "}", 12,
        CR_EFORMAT, "tensor b: overlaps another tensor");
    check_bad_safetensors(
        "{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[12,20]") "}", 20,
        CR_EFORMAT, "tensor b: leaves a hole");
    check_bad_safetensors("{" TENSOR("a", "F32", "[2]", "[0,8]") "}", 9, CR_EFORMAT,
                          "1 bytes after the last tensor");
    check_bad_safetensors("{" TENSOR("a", "F32", "[3]", "[0,8]") "}", 8, CR_EFORMAT,
                          "tensor a: expected 3 values of 4 bytes, data_offsets span 8 bytes");
    check_bad_safetensors("{" TENSOR("a", "F32", "[2]", "[0,8]") "}", 7, CR_EFORMAT,
                          "tensor a: its data end at 8");
    check_bad_safetensors("{" TENSOR("a", "I64", "[1]", "[0,8]") "}", 8, CR_EUNSUPPORTED,
                          "tensor a: dtype \"I64\" is not supported");
    check_bad_safetensors("{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,8]") "}", 8,
                          CR_EFORMAT, "tensor a: the size of its shape overflows");
    check_bad_safetensors(
        "{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("a", "F32", "[2]", "[8,16]") "}", 16,
        CR_EFORMAT, "the key \"a\" stands twice");
    check_bad_safetensors("[]", 0, CR_EFORMAT, "expected a header that starts with '{'");
    check_bad_safetensors("{\"__metadata__\":{\"k\":1}}", 0, CR_EFORMAT,
                          "expected \"k\" as a string");
}

static void check_written(const cr_safetensors *file, const float *values)
{
    const cr_safetensor *matrix = cr_safetensors_find(file, "a \"name\"\n");
    const char *note = cr_safetensors_metadata(file, "note");
    check(cr_safetensors_count(file) == 2, "reads back what was written", "count");
    check(matrix && matrix->dims == 2 && matrix->shape[0] == 2 && matrix->shape[1] == 3 &&
              memcmp(matrix->data, values, 24) == 0 && (uintptr_t)matrix->data % 8 == 0,
          "reads back what was written", "the matrix");
    check(note && strcmp(note, "x\\y") == 0, "reads back what was written", "metadata");
}

static void check_safetensors_writing(const char *path)
{
    const float values[] = {1, 2, 3, 4, 5, 6};
    const char *const metadata[] = {"format", "pt", "note", "x\\y", NULL};
    cr_safetensor_out tensors[] = {{"a \"name\"\n", 2, 3, values, CR_DTYPE_F32},
                                   {"vector", 5, 0, values, CR_DTYPE_F32}};
    cr_safetensors *file;
    check(cr_safetensors_write(path, tensors, 2, metadata) == CR_OK, "writes", cr_error_message());
    if (cr_safetensors_open(&file, path) == CR_OK)
        check_written(file, values);
    else
        check(false, "opens what was written", cr_error_message());
    cr_safetensors_close(file);
    tensors[0].name = tensors[1].name;
    check_refused(cr_safetensors_write(path, tensors, 2, NULL), CR_EARG,
                  "the key \"vector\" stands twice", "does not write a name twice");
    tensors[0].name = "\xff";
    check_refused(cr_safetensors_write(path, tensors, 2, NULL), CR_EARG, "expected UTF-8",
                  "does not write a name that cannot be read");
}

static cr_gguf_writer *start_gguf(const char *path)
{
    static const cr_text texts[] = {{"one", 3}, {"", 0}, {"t\0o", 3}};
    static const int32_t integers[] = {-1, 7};
    static const float floats[] = {0.5f};
    static const uint64_t matrix[] = {32, 3}, vector[] = {5};
    cr_gguf_writer *writer = NULL;
    bool made = cr_gguf_writer_create(&writer) == CR_OK;
    if (made)
        cr_gguf_writer_align(writer, 64);
    made = made && cr_gguf_put_u32(writer, "general.alignment", 64) == CR_OK &&
           cr_gguf_put_texts(writer, "texts", texts, 3) == CR_OK &&
           cr_gguf_put_i32s(writer, "integers", integers, 2) == CR_OK &&
           cr_gguf_put_f32s(writer, "floats", floats, 1) == CR_OK &&
           cr_gguf_put_bool(writer, "yes", true) == CR_OK &&
           cr_gguf_put_f64(writer, "later", 0) == CR_OK &&
           cr_gguf_put_tensor(writer, "m", 1, cr_dtype_find(CR_DTYPE_Q8_0), 2, matrix) == CR_OK &&
           cr_gguf_put_tensor(writer, "v", 1, cr_dtype_find(CR_DTYPE_F32), 1, vector) == CR_OK;
    check_refused(cr_gguf_put_tensor(writer, "odd", 3, cr_dtype_find(CR_DTYPE_Q8_0), 1, vector), CR_EARG,
                  "tensor odd: rows of 5 values do not fill Q8_0 blocks of 32", "refuses half blocks");
    check(made && cr_gguf_writer_begin(writer, path) == CR_OK, "begins", cr_error_message());
    return writer;
}

static void check_gguf_read_back(const char *path, const unsigned char *data)
{
    cr_gguf *file;
    const cr_text *texts;
    const cr_gguf_tensor *m = NULL, *v = NULL;
    size_t count;
    double later = 0;
    if (cr_gguf_open(&file, path) < 0) {
        check(false, "reads what it wrote", cr_error_message());
        return;
    }
    check(cr_gguf_text_array(file, "texts", &texts, &count) == CR_OK && count == 3 &&
              texts[2].length == 3 && texts[2].bytes[1] == '\0',
          "writes texts", "texts");
    check(cr_gguf_weight(file, "m", 3, 32, &m) == CR_OK && m->bytes == 102 &&
              memcmp(m->data, data, 102) == 0,
          "writes a matrix in pieces", "m");
    check(cr_gguf_weight(file, "v", 1, 5, &v) == CR_OK && memcmp(v->data, data + 102, 20) == 0 &&
              cr_gguf_offset(file, v->data) % 64 == 0 && cr_gguf_alignment(file) == 64,
          "aligns a tensor", "v");
    check(cr_gguf_f64(file, "later", &later) == CR_OK && later == 2.5, "fills in a number", "later");
    cr_gguf_close(file);
}

static void check_gguf_writing(const char *path)
{
    unsigned char data[122];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)i;
    cr_gguf_writer *writer = start_gguf(path);
    check(cr_gguf_writer_data(writer, data, 50) == CR_OK, "takes a piece", cr_error_message());
    check_refused(cr_gguf_writer_commit(writer), CR_EARG, "the data of tensor 1 are missing",
                  "does not end early");
    writer = start_gguf(path);
    check(cr_gguf_writer_data(writer, data, 50) == CR_OK &&
              cr_gguf_writer_data(writer, data + 50, 72) == CR_OK,
          "takes pieces across tensors", cr_error_message());
    check_refused(cr_gguf_writer_data(writer, data, 1), CR_EARG, "1 bytes more than the 2 tensors have",
                  "does not go on behind the end");
    check(cr_gguf_writer_commit(writer) == CR_OK, "ends", cr_error_message());
    check(cr_gguf_set_number(path, "later", 2.5) == CR_OK, "patches", cr_error_message());
    check_gguf_read_back(path, data);
}

/* ---- JSON ----------------------------------------------------------------------------- */

static void check_bad_json(const char *text, const char *part)
{
    cr_json *document;
    check_refused(cr_json_parse(&document, text, strlen(text)), CR_EFORMAT, part, text);
    cr_json_free(document);
}

static void check_json(void)
{
    static const char text[] =
        "{\"n\": [1, -2.5e-1, 1e-05, 9223372036854775807, 9223372036854775808],"
        " \"s\": \"\\ud83d\\ude00\\n\\u0000.\"}";
    cr_json *document;
    if (cr_json_parse(&document, text, sizeof text - 1) < 0) {
        check(false, "reads JSON", cr_error_message());
        return;
    }
    const cr_json_node *node =
        cr_json_first(document, cr_json_member(document, cr_json_root(document), "n"));
    check(node->integer && node->value == 1, "reads an integer", "1");
    node = cr_json_next(document, node);
    check(!node->integer && node->number == -0.25, "reads a fraction", "-0.25");
    node = cr_json_next(document, node);
    check(node->number == 1e-05, "rounds a fraction as C does", "1e-05");
    node = cr_json_next(document, node);
    check(node->integer && node->value == INT64_MAX, "reads the largest integer", "2^63 - 1");
    node = cr_json_next(document, node);
    check(!node->integer && node->number == 0x1p63, "reads a larger one as a double", "2^63");
    node = cr_json_member(document, cr_json_root(document), "s");
    check(node->length == 7 && memcmp(node->text, "\xf0\x9f\x98\x80\n\0.", 8) == 0,
          "unescapes a pair and a NUL", node->text);
    cr_json_free(document);
}

static void check_json_refusals(void)
{
    char deep[70];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    check_bad_json(deep, "nested deeper than 64 at byte 64");
    check_bad_json("", "expected a value at byte 0, found the end");
    check_bad_json("[1,]", "expected a value at byte 3, found ']'");
    check_bad_json("[01]", "expected ',' or ']' at byte 2, found '1'");
    check_bad_json("{\"a\":1,\"\\u0061\":2}", "the key \"a\" stands twice");
    check_bad_json("{\"\\u0000\":1}", "contains a NUL");
    check_bad_json("\"\\ud83d\\u0041\"", "a surrogate pair at byte 1");
    check_bad_json("\"\xc0\x80\"", "expected UTF-8 at byte 1, found byte 0xc0");
    check_bad_json("\"\n\"", "raw control character at byte 1");
    check_bad_json("1e999", "too large for a double");
    check_bad_json("nan", "expected a value");
    check_bad_json("1 2", "expected the end at byte 2");
}

/* ---- files ------------------------------------------------------------------------------ */

static void check_no_leftovers(const char *folder, size_t expected)
{
    char **names;
    size_t count = 0;
    check(cr_list_folder(folder, &names, &count) == CR_OK && count == expected,
          "leaves no temporary file", count ? names[0] : "none");
    cr_free_names(names, count);
}

static void check_atomic_writing(const char *folder)
{
    char path[600];
    cr_writer *first, *second;
    cr_mapping mapping = {NULL, 0};
    snprintf(path, sizeof path, "%s/target", folder);
    if (cr_writer_open(&first, path) < 0 || cr_writer_open(&second, path) < 0) {
        check(false, "two may write the same target", cr_error_message());
        return;
    }
    cr_write(first, "old", 3);
    cr_write(second, "lost", 4);
    check(cr_map_file(&mapping, path) == CR_ENOTFOUND, "shows nothing before the commit", path);
    check(cr_writer_commit(first) == CR_OK, "commits", cr_error_message());
    cr_writer_discard(second);
    check(cr_map_file(&mapping, path) == CR_OK && mapping.size == 3 &&
              memcmp(mapping.bytes, "old", 3) == 0,
          "shows the committed content", path);
    cr_unmap(&mapping);
    check_no_leftovers(folder, 1);
    check_refused(cr_map_file(&mapping, folder), CR_EIO, "found a folder", "maps no folder");
    check_refused(cr_writer_open(&first, folder), CR_EIO, "found a folder", "replaces no folder");
    check_refused(cr_writer_open(&first, "/dev/null"), CR_EIO, "a device", "replaces no device");
    check_refused(cr_remove_tree("/"), CR_EARG, "with a name", "does not remove the root");
}

int main(int count, char **arguments)
{
    char folder[512], path[600];
    if (count != 2)
        return 2;
    snprintf(folder, sizeof folder, "%s/file_test", arguments[1]);
    snprintf(path, sizeof path, "%s/written.safetensors", folder);
    if (cr_remove_tree(folder) < 0 || cr_make_folder(folder) < 0) {
        printf("%s\n", cr_error_message());
        return 2;
    }
    check_expansions();
    check_type_names();
    check_gguf_heads();
    check_gguf_keys();
    for (int i = 0; i < 4; i++)
        check_gguf_alignment((const uint32_t[]){0, 4, 48, UINT32_C(1) << 31}[i]);
    check_gguf_tensors();
    check_good_gguf();
    check_json();
    check_json_refusals();
    check_atomic_writing(folder);
    check_safetensors_refusals();
    check_safetensors_writing(path);
    check_gguf_writing(path);
    check_no_leftovers(folder, 2);
    check(cr_remove_tree(folder) == CR_OK, "removes a tree", cr_error_message());
    check(cr_memory_count().live == 0, "releases what it took", "blocks are live");
    printf("%d promises not kept\n", failures);
    return failures > 0;
}
