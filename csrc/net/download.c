/* download.c: answers with ranges (RFC 9110, section 14) appended to a growing file. */
#include "net/download.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "file/part.h"

struct cr_download {
    cr_part *part;
    bool html;
    uint64_t size; /* of the whole file; 0 = unknown */
};

int cr_download_open(cr_download **out, const char *path, bool html, uint64_t size)
{
    *out = NULL;
    cr_download *download = cr_calloc(1, sizeof *download);
    if (!download)
        return CR_ENOMEM;
    download->html = html;
    download->size = size;
    int code = cr_part_open(&download->part, path);
    if (code < 0) {
        cr_download_close(download);
        return code;
    }
    *out = download;
    return CR_OK;
}

uint64_t cr_download_size(const cr_download *download)
{
    return cr_part_size(download->part);
}

void cr_download_close(cr_download *download)
{
    if (!download)
        return;
    cr_part_close(download->part);
    cr_free(download);
}

static bool is_page(const cr_http_transfer *transfer)
{
    const char *type = cr_http_header(transfer, "Content-Type");
    return type && strncasecmp(type, "text/html", 9) == 0;
}

/* "bytes 100-199/1000" must go on where the file ends. */
static int check_range(const cr_download *download, const cr_http_transfer *transfer)
{
    const char *range = cr_http_header(transfer, "Content-Range");
    uint64_t first, last;
    if (!range || sscanf(range, "bytes %" SCNu64 "-%" SCNu64, &first, &last) != 2)
        return cr_fail(CR_EFORMAT, "the server sent a part of the file without saying which");
    if (first != cr_part_size(download->part))
        return cr_fail(CR_EFORMAT,
                       "asked for the bytes from %" PRIu64 ", the server sent those from %" PRIu64,
                       cr_part_size(download->part), first);
    return CR_OK;
}

/* `kept` bytes of the file stay. */
static int check_length(const cr_download *download, uint64_t kept, int64_t expected)
{
    if (download->size == 0 || expected < 0 || kept + (uint64_t)expected == download->size)
        return CR_OK;
    return cr_fail(CR_EFORMAT,
                   "expected a file of %" PRIu64 " bytes, the server announces %" PRIu64,
                   download->size, kept + (uint64_t)expected);
}

static int start(void *self, const cr_http_transfer *transfer)
{
    cr_download *download = self;
    cr_http_state state;
    cr_http_look(transfer, &state);
    if (!download->html && is_page(transfer))
        return cr_fail(CR_EFORMAT, "expected a file, the server sent an HTML page");
    if (state.status == 206) {
        CR_TRY(check_range(download, transfer));
        return check_length(download, cr_part_size(download->part), state.expected);
    }
    CR_TRY(check_length(download, 0, state.expected));
    return cr_part_cut(download->part, 0);
}

static int write_bytes(void *self, const void *bytes, size_t size)
{
    cr_download *download = self;
    if (download->size != 0 && cr_part_size(download->part) + size > download->size)
        return cr_fail(CR_EFORMAT, "expected a file of %" PRIu64 " bytes, the server sends more",
                       download->size);
    return cr_part_append(download->part, bytes, size);
}

static int finish(void *self)
{
    cr_download *download = self;
    return cr_part_sync(download->part);
}

cr_http_sink cr_download_sink(cr_download *download)
{
    return (cr_http_sink){start, write_bytes, finish, download};
}
