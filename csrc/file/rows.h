/* rows.h: the rows of a data file, parsed a few blocks ahead of whoever reads them, in constant memory.
 *
 * JSON Lines, one JSON array, CSV, TSV or lines of text; each plain or compressed (file/unpacked.h). A row
 * comes as nodes of file/values.h: whatever a JSON row is; of CSV and TSV an object of strings by the names
 * in the first line; of text an object { text = the line }. Empty lines are no rows. A mark of byte order
 * at the start is skipped. CSV and TSV follow RFC 4180: a field that begins with a quote ends with one and
 * may hold separators, line breaks and doubled quotes.
 *
 * A row that cannot be parsed or is longer than allowed comes as its error, and the next ones follow; what
 * makes the rest of the file unreadable is a failure of cr_rows_next.
 *
 * Ownership: *out is the caller's; cr_rows_close closes it (NULL is accepted). A row lives until the next call.
 */
#ifndef CR_ROWS_H
#define CR_ROWS_H

#include "base/base.h"
#include "file/values.h"

typedef enum cr_rows_format {
    CR_ROWS_GUESS,
    CR_ROWS_JSONL,
    CR_ROWS_JSON,
    CR_ROWS_CSV,
    CR_ROWS_TSV,
    CR_ROWS_TEXT
} cr_rows_format;

#define CR_ROWS_LONGEST (16 << 20) /* bytes of a row, unless the options say otherwise */

typedef struct cr_rows_options {
    cr_rows_format
        format;     /* CR_ROWS_GUESS: by the name ("x.csv.gz"), else by the first character */
    bool ahead;     /* on a thread of its own; true */
    size_t longest; /* bytes of a row; CR_ROWS_LONGEST */
} cr_rows_options;

cr_rows_options cr_rows_options_default(void);

typedef struct cr_row {
    const cr_value *values; /* all nodes of its block; the row's own begin at `first` */
    size_t first;
    uint64_t line;     /* in the unpacked file, from 1: where it begins */
    const char *error; /* why it is none; else NULL */
} cr_row;

typedef struct cr_rows cr_rows;

int cr_rows_open(cr_rows **out, const char *path, const cr_rows_options *options);
int cr_rows_next(cr_rows *rows, cr_row *row); /* CR_OK, or CR_ROWS_END */
enum { CR_ROWS_END = 1 };
void cr_rows_close(cr_rows *rows);

#endif
