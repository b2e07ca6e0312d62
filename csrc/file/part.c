/* part.c: a growing file: append, cut, sync. */
#define _POSIX_C_SOURCE 200809L
#include "file/part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/fsio.h"

struct cr_part {
    int fd;
    uint64_t size;
    char *path;
};

/* Moves to the end of a regular file. */
static int settle(cr_part *part)
{
    struct stat status;
    part->fd = open(part->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    if (part->fd < 0)
        return cr_fail_system(part->path, "open");
    if (fstat(part->fd, &status) != 0)
        return cr_fail_system(part->path, "read the size");
    if (!S_ISREG(status.st_mode))
        return cr_fail(CR_EIO, "%s: expected a regular file", part->path);
    part->size = (uint64_t)status.st_size;
    return lseek(part->fd, 0, SEEK_END) < 0 ? cr_fail_system(part->path, "move to the end") : CR_OK;
}

int cr_part_open(cr_part **out, const char *path)
{
    *out = NULL;
    cr_part *part = cr_calloc(1, sizeof *part);
    if (!part)
        return CR_ENOMEM;
    part->fd = -1;
    part->path = cr_strdup(path);
    int code = part->path ? settle(part) : CR_ENOMEM;
    if (code < 0) {
        cr_part_close(part);
        return code;
    }
    *out = part;
    return CR_OK;
}

uint64_t cr_part_size(const cr_part *part)
{
    return part->size;
}

const char *cr_part_path(const cr_part *part)
{
    return part->path;
}

int cr_part_cut(cr_part *part, uint64_t size)
{
    if (ftruncate(part->fd, (off_t)size) != 0)
        return cr_fail_system(part->path, "cut");
    if (lseek(part->fd, (off_t)size, SEEK_SET) < 0)
        return cr_fail_system(part->path, "move to the end");
    part->size = size;
    return CR_OK;
}

int cr_part_append(cr_part *part, const void *bytes, size_t size)
{
    const char *next = bytes;
    while (size > 0) {
        ssize_t written = write(part->fd, next, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            errno = written == 0 ? ENOSPC : errno;
            return cr_fail_system(part->path, "write");
        }
        next += written;
        size -= (size_t)written;
        part->size += (uint64_t)written;
    }
    return CR_OK;
}

int cr_part_sync(cr_part *part)
{
    int result;
    do
        result = fsync(part->fd);
    while (result != 0 && errno == EINTR);
    return result == 0 ? CR_OK : cr_fail_system(part->path, "sync");
}

void cr_part_close(cr_part *part)
{
    if (!part)
        return;
    if (part->fd >= 0)
        close(part->fd);
    cr_free(part->path);
    cr_free(part);
}
