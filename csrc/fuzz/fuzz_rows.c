/* fuzz_rows.c: any bytes as a data file of each format: rows and errors in bounded memory, then an end. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "file/rows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const char *path, cr_rows_format format)
{
    cr_rows *rows;
    cr_row row;
    cr_rows_options options = {format, false, 64};
    size_t count = 0;
    if (cr_rows_open(&rows, path, &options) != CR_OK)
        return;
    while (cr_rows_next(rows, &row) == CR_OK) {
        if (!row.error && row.values[row.first].kind > CR_VALUE_OBJECT)
            abort();
        if (count++ > 1 << 20)
            abort(); /* more rows than bytes */
    }
    cr_rows_close(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[] = "/tmp/crucible-fuzz-rows-XXXXXX";
    const int fd = mkstemp(path);
    if (fd < 0)
        return 0;
    FILE *file = fdopen(fd, "wb");
    if (size > 0)
        fwrite(data, 1, size, file);
    fclose(file);
    for (int format = CR_ROWS_GUESS; format <= CR_ROWS_TEXT; format++)
        read_all(path, (cr_rows_format)format);
    unlink(path);
    return 0;
}
