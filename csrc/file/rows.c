/* rows.c: blocks of a file cut into records and parsed, on a thread ahead of the reader.
 *
 * A block is filled until it holds a whole record at least; what is left of the next one is carried over.
 * Cutting is a small automaton a byte, but for JSON Lines and text, whose records end at the next line break.
 */
#include "file/rows.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/ahead.h"
#include "file/unpacked.h"

#define SLOTS 4
#define BLOCK ((size_t)256 << 10)
#define NO_ERROR UINT32_MAX

typedef struct record {
    size_t start, length;
    size_t first; /* node */
    uint64_t line;
    uint32_t error; /* in the block's messages, or NO_ERROR */
} record;

typedef struct block {
    char *bytes;
    size_t size, capacity;
    record *records;
    size_t count, room;
    cr_values values;
    char *messages; /* terminated, one after another */
    size_t messages_size, messages_room;
} block;

/* Where in a record, or between two, the cutter is. */
typedef enum place {
    BETWEEN,
    INSIDE,
    QUOTED,
    ESCAPED,
    BEFORE_ARRAY,
    AFTER_VALUE,
    AFTER_ARRAY
} place;

typedef struct cutter {
    place place;
    size_t at, start; /* in the block: next byte, begin of the record under way */
    uint64_t line, start_line;
    int depth;        /* of brackets in an element of an array */
    bool field_start; /* CSV: the next byte begins a field */
    bool just_closed; /* CSV: the last byte closed a quoted field, unless another quote follows */
    bool skipping;    /* the record is too long: its bytes are dropped */
} cutter;

struct cr_rows {
    char *path;
    cr_unpacked *file;
    cr_rows_format format;
    size_t longest;
    cutter cutter;
    char *carry; /* the begin of a record that the next block continues */
    size_t carry_size, carry_room;
    bool begun, ended; /* the first bytes were seen; the file has no more */
    char *header;      /* CSV: the names, terminated one after another */
    size_t columns;
    uint32_t *widths; /* of the names */
    block blocks[SLOTS];
    cr_ahead *ahead;
    block *current; /* the reader's */
    size_t next;    /* record in it */
};

/* ---- growing ---------------------------------------------------------------------------------- */

/* Room for `need` units of `unit` bytes; capacities double. */
static int grow(void **list, size_t *room, size_t need, size_t unit)
{
    size_t wanted = *room ? *room : 64;
    if (need <= *room)
        return CR_OK;
    while (wanted < need)
        wanted *= 2;
    void *grown = cr_realloc(*list, *room * unit, wanted * unit);
    if (!grown)
        return CR_ENOMEM;
    *list = grown;
    *room = wanted;
    return CR_OK;
}

static int grow_bytes(char **bytes, size_t *room, size_t need)
{
    void *list = *bytes;
    const int code = grow(&list, room, need, 1);
    *bytes = list;
    return code;
}

static int add_record(block *b, record added)
{
    void *list = b->records;
    CR_TRY(grow(&list, &b->room, b->count + 1, sizeof *b->records));
    b->records = list;
    b->records[b->count++] = added;
    return CR_OK;
}

/* The thread's message as the error of a record. */
static int add_error(block *b, record *bad)
{
    const char *message = cr_error_message();
    const size_t size = strlen(message) + 1;
    if (b->messages_size + size >= NO_ERROR)
        return cr_fail(CR_ENOMEM, "more bad rows than their messages can be kept of (%zu bytes)", b->messages_size);
    CR_TRY(grow_bytes(&b->messages, &b->messages_room, b->messages_size + size));
    memcpy(b->messages + b->messages_size, message, size);
    bad->error = (uint32_t)b->messages_size;
    b->messages_size += size;
    return CR_OK;
}

/* ---- parsing a record ------------------------------------------------------------------------- */

static int add_string(block *b, const char *text, size_t length)
{
    return cr_values_add(
        &b->values,
        (cr_value){.as.text = text, .length = (uint32_t)length, .kind = CR_VALUE_STRING});
}

static size_t without_return(const char *text, size_t length)
{
    return length > 0 && text[length - 1] == '\r' ? length - 1 : length;
}

static int parse_text(block *b, char *text, size_t length)
{
    CR_TRY(cr_check_utf8(text, length));
    CR_TRY(cr_values_add(
        &b->values,
        (cr_value){.as.end = b->values.count + 3, .length = 1, .kind = CR_VALUE_OBJECT}));
    CR_TRY(add_string(b, "text", 4));
    return add_string(b, text, without_return(text, length));
}

/* The field at *at: unquoted in place, *at moves behind its separator. False at the record's end. */
static bool take_field(char **at, char *end, char separator, const char **field, size_t *length)
{
    char *next = *at, *out = next;
    *field = next;
    if (next < end && *next == '"') {
        for (next++; next < end; next++) {
            if (*next == '"' && !(next + 1 < end && next[1] == '"'))
                break;
            next += *next == '"';
            *out++ = *next;
        }
        next += next < end;
    }
    while (next < end && *next != separator) /* also what stands behind a closing quote */
        *out++ = *next++;
    *length = (size_t)(out - *field);
    const bool more = next < end;
    *at = next + more;
    return more;
}

static int parse_fields(cr_rows *rows, block *b, char *text, size_t length)
{
    const char separator = rows->format == CR_ROWS_CSV ? ',' : '\t';
    char *at = text, *end = text + without_return(text, length);
    const char *name = rows->header;
    size_t found = 0;
    bool more = true;
    CR_TRY(cr_check_utf8(text, length));
    CR_TRY(cr_values_add(&b->values, (cr_value){.as.end = b->values.count + 1 + 2 * rows->columns,
                                                .length = (uint32_t)rows->columns,
                                                .kind = CR_VALUE_OBJECT}));
    for (; more; found++) {
        const char *field;
        size_t width;
        more = take_field(&at, end, separator, &field, &width);
        if (found >= rows->columns)
            continue;
        CR_TRY(add_string(b, name, rows->widths[found]));
        CR_TRY(add_string(b, field, width));
        name += rows->widths[found] + 1;
    }
    if (found == rows->columns)
        return CR_OK;
    return cr_fail(CR_EFORMAT, "has %zu fields, the first line %zu", found, rows->columns);
}

/* The first line of CSV and TSV: what the fields are called. */
static int parse_header(cr_rows *rows, char *text, size_t length)
{
    const char separator = rows->format == CR_ROWS_CSV ? ',' : '\t';
    char *at = text, *end = text + without_return(text, length);
    size_t size = 0, room = 0, widths_room = 0;
    CR_TRY(cr_check_utf8(text, length));
    for (bool more = true; more;) {
        const char *field;
        size_t width;
        more = take_field(&at, end, separator, &field, &width);
        void *widths = rows->widths;
        CR_TRY(grow(&widths, &widths_room, rows->columns + 1, sizeof *rows->widths));
        rows->widths = widths;
        CR_TRY(grow_bytes(&rows->header, &room, size + width + 1));
        for (size_t i = 0, from = 0; i < rows->columns; from += rows->widths[i++] + 1)
            if (rows->widths[i] == width && memcmp(rows->header + from, field, width) == 0)
                return cr_fail(CR_EFORMAT, "the first line names \"%.*s\" twice", (int)width,
                               field);
        memcpy(rows->header + size, field, width);
        rows->header[size + width] = '\0';
        size += width + 1;
        rows->widths[rows->columns++] = (uint32_t)width;
    }
    return CR_OK;
}

static int parse_record(cr_rows *rows, block *b, char *text, size_t length)
{
    if (rows->format == CR_ROWS_JSONL || rows->format == CR_ROWS_JSON)
        return cr_values_parse(&b->values, text, length);
    return rows->format == CR_ROWS_TEXT ? parse_text(b, text, length)
                                        : parse_fields(rows, b, text, length);
}

static bool is_blank(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r' && text[i] != '\n')
            return false;
    return true;
}

static bool is_table(const cr_rows *rows)
{
    return rows->format == CR_ROWS_CSV || rows->format == CR_ROWS_TSV;
}

/* Parses what was cut; a row that fails keeps its message and counts as one. */
static int parse_cut(cr_rows *rows, block *b, record *cut)
{
    char *text = b->bytes + cut->start;
    const size_t before = b->values.count;
    cut->first = before;
    const int code = parse_record(rows, b, text, cut->length);
    if (code == CR_ENOMEM)
        return code;
    if (code < 0) {
        b->values.count = before;
        CR_TRY(add_error(b, cut));
    }
    return add_record(b, *cut);
}

/* ---- cutting ------------------------------------------------------------------------------------ */

/* The record that ends before `end`. */
static int end_record(cr_rows *rows, block *b, size_t end)
{
    cutter *c = &rows->cutter;
    record cut = {
        .start = c->start, .length = end - c->start, .line = c->start_line, .error = NO_ERROR};
    const bool skipped = c->skipping;
    c->skipping = false;
    if (skipped || cut.length > rows->longest) {
        cr_set_message("is longer than %zu bytes", rows->longest);
        CR_TRY(add_error(b, &cut));
        return add_record(b, cut);
    }
    if (rows->format != CR_ROWS_JSON && is_blank(b->bytes + cut.start, cut.length))
        return CR_OK;
    if (is_table(rows) && rows->columns == 0) {
        const int code = parse_header(rows, b->bytes + cut.start, cut.length);
        return code < 0 ? cr_fail_context(code, "%s:%llu", rows->path, (unsigned long long)cut.line)
                        : CR_OK;
    }
    return parse_cut(rows, b, &cut);
}

static void begin_record(cutter *c)
{
    c->start = c->at;
    c->start_line = c->line;
}

static int cut_lines(cr_rows *rows, block *b)
{
    cutter *c = &rows->cutter;
    char *newline;
    while ((newline = memchr(b->bytes + c->at, '\n', b->size - c->at)) != NULL) {
        const size_t end = (size_t)(newline - b->bytes);
        CR_TRY(end_record(rows, b, end));
        c->at = end + 1;
        c->line++;
        begin_record(c);
    }
    c->at = b->size;
    return CR_OK;
}

static int cut_table(cr_rows *rows, block *b)
{
    cutter *c = &rows->cutter;
    const char separator = rows->format == CR_ROWS_CSV ? ',' : '\t';
    for (; c->at < b->size; c->at++) {
        const char byte = b->bytes[c->at];
        const bool quote = byte == '"', closed = quote && c->place == QUOTED;
        c->line += byte == '\n';
        if (closed) {
            c->place = INSIDE;
        } else if (quote && (c->field_start || c->just_closed)) {
            c->place = QUOTED;
        } else if (byte == '\n' && c->place != QUOTED) {
            CR_TRY(end_record(rows, b, c->at));
            c->start = c->at + 1;
            c->start_line = c->line;
        }
        c->just_closed = closed;
        c->field_start = c->place != QUOTED && (byte == separator || byte == '\n');
    }
    return CR_OK;
}

static int fail_array(const cr_rows *rows, const char *what)
{
    return cr_fail(CR_EFORMAT, "%s:%llu: not a JSON array: expected %s", rows->path,
                   (unsigned long long)rows->cutter.line, what);
}

/* Between two elements. */
static int step_between(cr_rows *rows, char byte)
{
    cutter *c = &rows->cutter;
    if (byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t')
        return CR_OK;
    switch (c->place) {
    case BEFORE_ARRAY:
        c->place = BETWEEN;
        return byte == '[' ? CR_OK : fail_array(rows, "'[' at the start");
    case AFTER_VALUE:
        c->place = byte == ',' ? BETWEEN : AFTER_ARRAY;
        return byte == ',' || byte == ']' ? CR_OK : fail_array(rows, "',' or ']'");
    case AFTER_ARRAY:
        return fail_array(rows, "nothing behind it");
    default:
        if (byte == ']')
            c->place = AFTER_ARRAY;
        else if (byte == ',')
            return fail_array(rows, "an element before ','");
        else {
            begin_record(c);
            c->place = byte == '"' ? QUOTED : INSIDE;
            c->depth = byte == '{' || byte == '[';
        }
        return CR_OK;
    }
}

/* Inside an element; *ended when it ends before this byte (a bare number or word) or with it. */
static void step_inside(cutter *c, char byte, bool *ended, bool *with)
{
    *ended = *with = false;
    if (c->place == ESCAPED) {
        c->place = QUOTED;
    } else if (c->place == QUOTED) {
        c->place = byte == '\\' ? ESCAPED : byte == '"' ? INSIDE : QUOTED;
        *ended = *with = byte == '"' && c->depth == 0;
    } else if (byte == '"') {
        c->place = QUOTED;
    } else if (c->depth == 0) {
        *ended = byte == ',' || byte == ']' || byte == ' ' || byte == '\n' || byte == '\r' ||
                 byte == '\t';
    } else {
        c->depth += byte == '{' || byte == '[' ? 1 : byte == '}' || byte == ']' ? -1 : 0;
        *ended = *with = c->depth == 0;
    }
}

static int cut_array(cr_rows *rows, block *b)
{
    cutter *c = &rows->cutter;
    while (c->at < b->size) {
        const char byte = b->bytes[c->at];
        bool ended, with;
        if (c->place == INSIDE || c->place == QUOTED || c->place == ESCAPED) {
            step_inside(c, byte, &ended, &with);
            if (ended) {
                CR_TRY(end_record(rows, b, c->at + with));
                c->place = AFTER_VALUE;
                if (!with)
                    continue; /* the byte belongs to what follows */
            }
        } else {
            CR_TRY(step_between(rows, byte));
        }
        c->line += byte == '\n';
        c->at++;
    }
    return CR_OK;
}

static int cut(cr_rows *rows, block *b)
{
    if (rows->format == CR_ROWS_JSON)
        return cut_array(rows, b);
    return is_table(rows) ? cut_table(rows, b) : cut_lines(rows, b);
}

/* Whether bytes of the block behind `start` belong to a record that has not ended. */
static bool is_inside(const cr_rows *rows)
{
    const place p = rows->cutter.place;
    return rows->format != CR_ROWS_JSON || p == INSIDE || p == QUOTED || p == ESCAPED;
}

static int end_file(cr_rows *rows, block *b)
{
    cutter *c = &rows->cutter;
    rows->ended = true;
    if (rows->format == CR_ROWS_JSON) {
        if (c->place == AFTER_ARRAY)
            return CR_OK;
        return is_inside(rows)
                   ? cr_fail(CR_EFORMAT, "%s: ends within the element that begins in line %llu",
                             rows->path, (unsigned long long)c->start_line)
                   : fail_array(rows, c->place == BEFORE_ARRAY ? "'[', found an empty file"
                                                               : "']' at the end");
    }
    if (c->place == QUOTED)
        return cr_fail(CR_EFORMAT, "%s: ends within the quotes of the row that begins in line %llu",
                       rows->path, (unsigned long long)c->start_line);
    return c->start < b->size || c->skipping ? end_record(rows, b, b->size) : CR_OK;
}

/* ---- blocks --------------------------------------------------------------------------------------- */

/* By the first character that is no space: a bracket begins an array, anything else a line. */
static cr_rows_format format_of_bytes(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!is_blank(bytes + i, 1))
            return bytes[i] == '[' ? CR_ROWS_JSON : CR_ROWS_JSONL;
    return CR_ROWS_JSONL;
}

/* Once, with the first bytes: byte order, format. */
static int begin_file(cr_rows *rows, const block *b)
{
    cutter *c = &rows->cutter;
    rows->begun = true;
    if (b->size >= 2 &&
        (memcmp(b->bytes, "\xff\xfe", 2) == 0 || memcmp(b->bytes, "\xfe\xff", 2) == 0))
        return cr_fail(CR_EFORMAT, "%s: is UTF-16, expected UTF-8", rows->path);
    c->at = c->start = b->size >= 3 && memcmp(b->bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    c->line = c->start_line = 1;
    c->field_start = true;
    if (rows->format == CR_ROWS_GUESS)
        rows->format = format_of_bytes(b->bytes + c->at, b->size - c->at);
    c->place = rows->format == CR_ROWS_JSON ? BEFORE_ARRAY : BETWEEN;
    return CR_OK;
}

/* A record longer than allowed: its bytes so far are dropped, its end will tell. */
static void drop_long(cr_rows *rows, block *b)
{
    cutter *c = &rows->cutter;
    if (!is_inside(rows) || b->size - c->start <= rows->longest)
        return;
    c->skipping = true;
    b->size = c->start;
    c->at = b->size;
}

static int read_more(cr_rows *rows, block *b, size_t *size)
{
    CR_TRY(grow_bytes(&b->bytes, &b->capacity, b->size + BLOCK));
    CR_TRY(cr_unpacked_read(rows->file, b->bytes + b->size, BLOCK, size));
    b->size += *size;
    return CR_OK;
}

/* The begin of a record goes from the last block to this one. */
static int take_carry(cr_rows *rows, block *b)
{
    b->size = b->count = b->values.count = b->messages_size = 0;
    CR_TRY(grow_bytes(&b->bytes, &b->capacity, rows->carry_size));
    if (rows->carry_size > 0)
        memcpy(b->bytes, rows->carry, rows->carry_size);
    b->size = rows->carry_size;
    return CR_OK;
}

static int leave_carry(cr_rows *rows, const block *b)
{
    cutter *c = &rows->cutter;
    const size_t from = is_inside(rows) ? c->start : b->size;
    rows->carry_size = b->size - from;
    CR_TRY(grow_bytes(&rows->carry, &rows->carry_room, rows->carry_size));
    if (rows->carry_size > 0)
        memcpy(rows->carry, b->bytes + from, rows->carry_size);
    c->at -= from;
    c->start = 0;
    return CR_OK;
}

/* The bytes may move while a block grows, so nothing of it is parsed before its bytes are all there:
 * records are cut, and parsed, one reading at a time, and a block ends with the first that has some. */
static int fill(void *argument, int slot)
{
    cr_rows *rows = argument;
    block *b = &rows->blocks[slot];
    if (rows->ended)
        return CR_AHEAD_END;
    CR_TRY(take_carry(rows, b));
    while (b->count == 0 && !rows->ended) {
        size_t size;
        CR_TRY(read_more(rows, b, &size));
        if (!rows->begun)
            CR_TRY(begin_file(rows, b));
        if (size == 0)
            CR_TRY(end_file(rows, b));
        else
            CR_TRY(cut(rows, b));
        drop_long(rows, b);
    }
    CR_TRY(leave_carry(rows, b));
    return b->count > 0 ? CR_OK : CR_AHEAD_END;
}

/* ---- opening and reading ------------------------------------------------------------------------------ */

cr_rows_options cr_rows_options_default(void)
{
    return (cr_rows_options){CR_ROWS_GUESS, true, CR_ROWS_LONGEST};
}

static bool ends_with(const char *name, size_t length, const char *ending)
{
    const size_t width = strlen(ending);
    return length >= width && strncasecmp(name + length - width, ending, width) == 0;
}

/* By the name without ".gz" and the like; ".json" may hold either kind. */
static cr_rows_format format_of_name(const char *path)
{
    static const char *const packed[] = {".gz", ".zst", ".zstd", ".bz2", ".xz"};
    static const struct {
        const char *ending;
        cr_rows_format format;
    } known[] = {{".jsonl", CR_ROWS_JSONL}, {".ndjson", CR_ROWS_JSONL}, {".csv", CR_ROWS_CSV},
                 {".tsv", CR_ROWS_TSV},     {".tab", CR_ROWS_TSV},      {".txt", CR_ROWS_TEXT}};
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof packed / sizeof packed[0]; i++)
        if (ends_with(path, length, packed[i])) {
            length -= strlen(packed[i]);
            break;
        }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (ends_with(path, length, known[i].ending))
            return known[i].format;
    return CR_ROWS_GUESS;
}

static int start(cr_rows *rows, const char *path, const cr_rows_options *options)
{
    rows->format = options->format == CR_ROWS_GUESS ? format_of_name(path) : options->format;
    rows->longest = options->longest;
    rows->path = cr_strdup(path);
    if (!rows->path)
        return CR_ENOMEM;
    CR_TRY(cr_unpacked_open(&rows->file, path));
    return cr_ahead_start(&rows->ahead, SLOTS, options->ahead, fill, rows);
}

int cr_rows_open(cr_rows **out, const char *path, const cr_rows_options *options)
{
    *out = NULL;
    cr_rows *rows = cr_calloc(1, sizeof *rows);
    if (!rows)
        return CR_ENOMEM;
    const int code = start(rows, path, options);
    if (code < 0) {
        cr_rows_close(rows);
        return code;
    }
    *out = rows;
    return CR_OK;
}

static int take_block(cr_rows *rows)
{
    int slot;
    if (rows->current)
        cr_ahead_give(rows->ahead);
    rows->current = NULL;
    const int code = cr_ahead_take(rows->ahead, &slot);
    if (code == CR_OK) {
        rows->current = &rows->blocks[slot];
        rows->next = 0;
    }
    return code;
}

int cr_rows_next(cr_rows *rows, cr_row *row)
{
    if (!rows->current || rows->next == rows->current->count) {
        const int code = take_block(rows);
        if (code != CR_OK)
            return code < 0 ? code : CR_ROWS_END;
    }
    const block *b = rows->current;
    const record *cut = &b->records[rows->next++];
    *row = (cr_row){b->values.list, cut->first, cut->line,
                    cut->error == NO_ERROR ? NULL : b->messages + cut->error};
    return CR_OK;
}

void cr_rows_close(cr_rows *rows)
{
    if (!rows)
        return;
    cr_ahead_stop(rows->ahead);
    cr_unpacked_close(rows->file);
    for (int i = 0; i < SLOTS; i++) {
        cr_free(rows->blocks[i].bytes);
        cr_free(rows->blocks[i].records);
        cr_free(rows->blocks[i].messages);
        cr_values_free(&rows->blocks[i].values);
    }
    cr_free(rows->header);
    cr_free(rows->widths);
    cr_free(rows->carry);
    cr_free(rows->path);
    cr_free(rows);
}
