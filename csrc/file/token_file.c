/* token_file.c: tokenised rows in a file: a header with key and checksum, then arrays. */
#include "include/crucible.h"

#include <string.h>

#include "file/fsio.h"

/* The file, in the byte order of the machine that made it:
 *
 *     header                 as below
 *     uint64_t ends[rows]    of each row's ids in `ids`
 *     uint32_t row[rows][4]  number, prompt, seam, end (as int32_t)
 *     int32_t ids[tokens]
 *     float weights[tokens]  weights[i] belongs to the target ids[i + 1]; a row's last is 0
 */
typedef struct header {
    char magic[8];
    uint32_t version, order;
    unsigned char key[CR_TOKEN_KEY_BYTES];
    uint64_t rows, tokens;
    uint64_t given, truncated, dropped;
    uint64_t checksum; /* of what was counted and all behind the header */
} header;

#define MAGIC "CRTOKENS"
#define VERSION 1
#define ORDER UINT32_C(0x01020304)
#define ROW_FIELDS 4

/* Against accidents, not intent: words of eight bytes mixed by multiplication as in FxHash. */
static uint64_t mix(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;
    for (; size > 0;) {
        uint64_t word = 0;
        size_t taken = size < sizeof word ? size : sizeof word;
        memcpy(&word, at, taken);
        hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 32;
        at += taken;
        size -= taken;
    }
    return hash;
}

static uint64_t mix_counts(const header *head)
{
    const uint64_t counts[3] = {head->given, head->truncated, head->dropped};
    return mix(0, counts, sizeof counts);
}

/* ---- writing ------------------------------------------------------------------------- */

typedef struct list {
    void *items;
    size_t count, capacity;
} list;

struct cr_token_writer {
    list ends, rows, ids, weights;
};

/* Room for `more` items of `size` bytes; where they go, or NULL. */
static void *grow(list *to, size_t more, size_t size)
{
    size_t needed = to->count + more;
    if (needed > to->capacity) {
        size_t capacity = needed + to->capacity / 2 + 1024, bytes;
        if (!cr_size_mul(&bytes, capacity, size)) {
            cr_set_message("out of memory for %zu tokens", needed);
            return NULL;
        }
        void *items = cr_realloc(to->items, to->count * size, bytes);
        if (!items)
            return NULL;
        to->items = items;
        to->capacity = capacity;
    }
    return (char *)to->items + to->count * size;
}

int cr_token_writer_create(cr_token_writer **out)
{
    *out = cr_calloc(1, sizeof **out);
    return *out ? CR_OK : CR_ENOMEM;
}

void cr_token_writer_free(cr_token_writer *writer)
{
    if (!writer)
        return;
    cr_free(writer->ends.items);
    cr_free(writer->rows.items);
    cr_free(writer->ids.items);
    cr_free(writer->weights.items);
    cr_free(writer);
}

int cr_token_writer_add(cr_token_writer *writer, const cr_token_row *row)
{
    if (row->count == 0 || row->prompt > row->count)
        return cr_fail(CR_EARG,
                       "row %u: %zu tokens with a prompt of %u: expected at least 1 and no more",
                       (unsigned)row->number, row->count, (unsigned)row->prompt);
    uint64_t *end = grow(&writer->ends, 1, sizeof *end);
    uint32_t *fields = grow(&writer->rows, ROW_FIELDS, sizeof *fields);
    int32_t *ids = grow(&writer->ids, row->count, sizeof *ids);
    float *weights = grow(&writer->weights, row->count, sizeof *weights);
    if (!end || !fields || !ids || !weights)
        return CR_ENOMEM;
    memcpy(ids, row->ids, row->count * sizeof *ids);
    if (row->count > 1)
        memcpy(weights, row->weights, (row->count - 1) * sizeof *weights);
    weights[row->count - 1] = 0;
    fields[0] = row->number;
    fields[1] = row->prompt;
    fields[2] = row->seam;
    memcpy(&fields[3], &row->end, sizeof row->end);
    writer->ends.count++;
    writer->rows.count += ROW_FIELDS;
    writer->ids.count += row->count;
    writer->weights.count += row->count;
    *end = writer->ids.count;
    return CR_OK;
}

typedef struct section {
    const void *bytes;
    size_t size;
} section;

static void list_sections(const cr_token_writer *writer, section out[4])
{
    out[0] = (section){writer->ends.items, writer->ends.count * sizeof(uint64_t)};
    out[1] = (section){writer->rows.items, writer->rows.count * sizeof(uint32_t)};
    out[2] = (section){writer->ids.items, writer->ids.count * sizeof(int32_t)};
    out[3] = (section){writer->weights.items, writer->weights.count * sizeof(float)};
}

/* The folder of a path, made when it is missing. */
static int make_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return CR_OK;
    char *folder = cr_strdup(path);
    if (!folder)
        return CR_ENOMEM;
    folder[slash - path] = '\0';
    int code = cr_make_folder(folder);
    cr_free(folder);
    return code;
}

static int write_sections(const char *path, const header *head, const section sections[4])
{
    cr_writer *to;
    CR_TRY(cr_writer_open(&to, path));
    int code = cr_write(to, head, sizeof *head);
    for (int i = 0; i < 4 && code == CR_OK; i++)
        if (sections[i].size > 0)
            code = cr_write(to, sections[i].bytes, sections[i].size);
    if (code == CR_OK)
        return cr_writer_commit(to);
    cr_writer_discard(to);
    return code;
}

int cr_token_writer_commit(cr_token_writer *writer, const char *path,
                           const unsigned char key[CR_TOKEN_KEY_BYTES],
                           const cr_token_counts *counts)
{
    header head = {.version = VERSION, .order = ORDER};
    section sections[4];
    list_sections(writer, sections);
    memcpy(head.magic, MAGIC, sizeof head.magic);
    memcpy(head.key, key, sizeof head.key);
    head.rows = writer->ends.count;
    head.tokens = writer->ids.count;
    head.given = counts->rows;
    head.truncated = counts->truncated;
    head.dropped = counts->dropped;
    head.checksum = mix_counts(&head);
    for (int i = 0; i < 4; i++)
        head.checksum = mix(head.checksum, sections[i].bytes, sections[i].size);
    CR_TRY(make_parent(path));
    return write_sections(path, &head, sections);
}

/* ---- reading ------------------------------------------------------------------------- */

struct cr_token_file {
    cr_mapping mapping;
    header head;
    const uint64_t *ends;
    const uint32_t *rows;
    const int32_t *ids;
    const float *weights;
};

/* The size that a header promises; false when it is beyond memory. */
static bool promised_size(const header *head, size_t *size)
{
    size_t per_rows, per_tokens;
    if (head->rows > SIZE_MAX / 64 || head->tokens > SIZE_MAX / 64)
        return false;
    return cr_size_mul(&per_rows, (size_t)head->rows,
                       sizeof(uint64_t) + ROW_FIELDS * sizeof(uint32_t)) &&
           cr_size_mul(&per_tokens, (size_t)head->tokens, sizeof(int32_t) + sizeof(float)) &&
           cr_size_add(size, per_rows, per_tokens) && cr_size_add(size, *size, sizeof *head);
}

static int refuse(const char *path, const char *why)
{
    return cr_fail(CR_EFORMAT, "%s: %s", path, why);
}

static int check_header(const cr_token_file *file, const char *path,
                        const unsigned char key[CR_TOKEN_KEY_BYTES])
{
    const header *head = &file->head;
    size_t size;
    if (memcmp(head->magic, MAGIC, sizeof head->magic) != 0)
        return refuse(path, "is no file of tokenised rows");
    if (head->order != ORDER)
        return refuse(path, "was made on a machine of another byte order");
    if (head->version != VERSION)
        return cr_fail(CR_EFORMAT, "%s: is of version %u, expected %d", path,
                       (unsigned)head->version, VERSION);
    if (memcmp(head->key, key, sizeof head->key) != 0)
        return refuse(path, "was made of other data");
    if (!promised_size(head, &size) || size != file->mapping.size)
        return refuse(path, "is not as long as its header says");
    return CR_OK;
}

static void find_sections(cr_token_file *file)
{
    const char *at = (const char *)file->mapping.bytes + sizeof(header);
    const size_t rows = (size_t)file->head.rows, tokens = (size_t)file->head.tokens;
    file->ends = (const uint64_t *)(const void *)at;
    at += rows * sizeof *file->ends;
    file->rows = (const uint32_t *)(const void *)at;
    at += rows * ROW_FIELDS * sizeof *file->rows;
    file->ids = (const int32_t *)(const void *)at;
    at += tokens * sizeof *file->ids;
    file->weights = (const float *)(const void *)at;
}

static uint64_t checksum_of(const cr_token_file *file)
{
    const size_t rows = (size_t)file->head.rows, tokens = (size_t)file->head.tokens;
    uint64_t hash = mix(mix_counts(&file->head), file->ends, rows * sizeof *file->ends);
    hash = mix(hash, file->rows, rows * ROW_FIELDS * sizeof *file->rows);
    hash = mix(hash, file->ids, tokens * sizeof *file->ids);
    return mix(hash, file->weights, tokens * sizeof *file->weights);
}

/* Rows are not empty, in order, and fill the ids; prompts lie within them. */
static bool rows_fit(const cr_token_file *file)
{
    uint64_t start = 0;
    for (size_t i = 0; i < (size_t)file->head.rows; i++) {
        uint64_t end = file->ends[i];
        if (end <= start || end > file->head.tokens || file->rows[i * ROW_FIELDS + 1] > end - start)
            return false;
        start = end;
    }
    return start == file->head.tokens;
}

static int read_all(cr_token_file *file, const char *path,
                    const unsigned char key[CR_TOKEN_KEY_BYTES])
{
    CR_TRY(cr_map_file(&file->mapping, path));
    if (file->mapping.size < sizeof(header))
        return refuse(path, "is no file of tokenised rows");
    memcpy(&file->head, file->mapping.bytes, sizeof(header));
    CR_TRY(check_header(file, path, key));
    find_sections(file);
    if (checksum_of(file) != file->head.checksum || !rows_fit(file))
        return refuse(path, "is damaged");
    return CR_OK;
}

int cr_token_file_open(cr_token_file **out, const char *path,
                       const unsigned char key[CR_TOKEN_KEY_BYTES])
{
    *out = NULL;
    cr_token_file *made = cr_calloc(1, sizeof *made);
    if (!made)
        return CR_ENOMEM;
    int code = read_all(made, path, key);
    if (code < 0) {
        cr_token_file_close(made);
        return code;
    }
    *out = made;
    return CR_OK;
}

size_t cr_token_file_size(const cr_token_file *file)
{
    return (size_t)file->head.rows;
}

void cr_token_file_counts(const cr_token_file *file, cr_token_counts *out)
{
    *out = (cr_token_counts){file->head.given, file->head.truncated, file->head.dropped};
}

int cr_token_file_row(const cr_token_file *file, size_t index, cr_token_row *out)
{
    if (index >= cr_token_file_size(file))
        return cr_fail(CR_EARG, "row %zu: the file has %zu", index + 1, cr_token_file_size(file));
    const uint32_t *fields = file->rows + index * ROW_FIELDS;
    size_t start = index ? (size_t)file->ends[index - 1] : 0;
    *out = (cr_token_row){.ids = file->ids + start,
                          .weights = file->weights + start,
                          .count = (size_t)file->ends[index] - start,
                          .number = fields[0],
                          .prompt = fields[1],
                          .seam = fields[2]};
    memcpy(&out->end, &fields[3], sizeof out->end);
    return CR_OK;
}

void cr_token_file_close(cr_token_file *file)
{
    if (!file)
        return;
    cr_unmap(&file->mapping);
    cr_free(file);
}
