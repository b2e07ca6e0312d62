/* unpacked.c: plain reads, or libarchive's filters around one raw entry. */
#define _POSIX_C_SOURCE 200809L
#include "file/unpacked.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/fsio.h"

#define BLOCK (1 << 17)

struct cr_unpacked {
    int fd;
    struct archive *filter; /* NULL: the bytes as they are */
    char *path;
};

static int fail_filter(const cr_unpacked *file)
{
    const char *reason = archive_error_string(file->filter);
    return cr_fail(CR_EFORMAT, "%s: is damaged: %s", file->path,
                   reason ? reason : "it cannot be decompressed");
}

static bool begins(const unsigned char *bytes, ssize_t size, const char *magic, size_t length)
{
    return size >= (ssize_t)length && memcmp(bytes, magic, length) == 0;
}

static bool is_compressed(const unsigned char *bytes, ssize_t size)
{
    return begins(bytes, size, "\x1f\x8b", 2) || begins(bytes, size, "\x28\xb5\x2f\xfd", 4) ||
           begins(bytes, size, "BZh", 3) ||
           begins(bytes, size,
                  "\xfd"
                  "7zXZ",
                  5);
}

static int open_filter(cr_unpacked *file)
{
    struct archive_entry *entry;
    file->filter = archive_read_new();
    if (!file->filter)
        return cr_fail(CR_ENOMEM, "libarchive: no memory for a reader");
    archive_read_support_filter_gzip(file->filter);
    archive_read_support_filter_zstd(file->filter);
    archive_read_support_filter_bzip2(file->filter);
    archive_read_support_filter_xz(file->filter);
    archive_read_support_format_raw(file->filter);
    archive_read_support_format_empty(file->filter); /* nothing, compressed */
    if (archive_read_open_fd(file->filter, file->fd, BLOCK) != ARCHIVE_OK)
        return fail_filter(file);
    const int result = archive_read_next_header(file->filter, &entry);
    return result == ARCHIVE_OK || result == ARCHIVE_WARN || result == ARCHIVE_EOF
               ? CR_OK
               : fail_filter(file);
}

static int open_file(cr_unpacked *file)
{
    unsigned char first[8];
    struct stat status;
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0)
        return cr_fail_system(file->path, "open");
    if (fstat(file->fd, &status) != 0)
        return cr_fail_system(file->path, "read the size");
    if (!S_ISREG(status.st_mode))
        return cr_fail(CR_EIO, "%s: expected a regular file, found %s", file->path,
                       S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
    const ssize_t size = pread(file->fd, first, sizeof first, 0);
    if (size < 0)
        return cr_fail_system(file->path, "read");
    return is_compressed(first, size) ? open_filter(file) : CR_OK;
}

int cr_unpacked_open(cr_unpacked **out, const char *path)
{
    *out = NULL;
    cr_unpacked *file = cr_calloc(1, sizeof *file);
    if (!file)
        return CR_ENOMEM;
    file->fd = -1;
    file->path = cr_strdup(path);
    int code = file->path ? open_file(file) : CR_ENOMEM;
    if (code < 0) {
        cr_unpacked_close(file);
        return code;
    }
    *out = file;
    return CR_OK;
}

int cr_unpacked_read(cr_unpacked *file, void *bytes, size_t room, size_t *size)
{
    ssize_t count;
    if (file->filter) {
        count = archive_read_data(file->filter, bytes, room);
        if (count < 0)
            return fail_filter(file);
    } else {
        do
            count = read(file->fd, bytes, room);
        while (count < 0 && errno == EINTR);
        if (count < 0)
            return cr_fail_system(file->path, "read");
    }
    *size = (size_t)count;
    return CR_OK;
}

void cr_unpacked_close(cr_unpacked *file)
{
    if (!file)
        return;
    if (file->filter)
        archive_read_free(file->filter);
    if (file->fd >= 0)
        close(file->fd);
    cr_free(file->path);
    cr_free(file);
}
