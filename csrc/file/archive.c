/* archive.c: unpacking over libarchive. */
#include "file/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "file/fsio.h"

#define PIECE (1 << 16)

typedef struct unpacking {
    struct archive *reader;
    const char *path, *folder;
    uint64_t bytes_left, entries_left;
} unpacking;

static int fail_reader(const unpacking *job)
{
    const char *reason = archive_error_string(job->reader);
    return cr_fail(CR_EFORMAT, "%s: cannot be unpacked: %s", job->path,
                   reason ? reason : "unknown reason");
}

/* A relative name without ".." and without anything that other systems read as one. */
static bool stays_inside(const char *name)
{
    if (name[0] == '/' || name[0] == '\\' || (name[0] != '\0' && name[1] == ':'))
        return false;
    for (const char *part = name; *part != '\0';) {
        const size_t length = strcspn(part, "/\\");
        if (length == 2 && part[0] == '.' && part[1] == '.')
            return false;
        part += length + (part[length] != '\0');
    }
    return true;
}

static char *join(const char *folder, const char *name)
{
    const size_t size = strlen(folder) + strlen(name) + 2;
    char *joined = cr_alloc(size);
    if (joined)
        snprintf(joined, size, "%s/%s", folder, name);
    return joined;
}

static int make_parent(char *target, const char *folder)
{
    char *slash = strrchr(target, '/');
    if (!slash || slash == target + strlen(folder))
        return CR_OK; /* the folder itself, which is there */
    *slash = '\0';
    int code = cr_make_folder(target);
    *slash = '/';
    return code;
}

static int copy_data(unpacking *job, cr_writer *writer)
{
    char piece[PIECE];
    for (;;) {
        const la_ssize_t size = archive_read_data(job->reader, piece, sizeof piece);
        if (size < 0)
            return fail_reader(job);
        if (size == 0)
            return CR_OK;
        if ((uint64_t)size > job->bytes_left)
            return cr_fail(CR_EUNSUPPORTED, "%s: unpacks to more bytes than are allowed",
                           job->path);
        job->bytes_left -= (uint64_t)size;
        CR_TRY(cr_write(writer, piece, (size_t)size));
    }
}

static int unpack_file(unpacking *job, char *target)
{
    cr_writer *writer = NULL;
    CR_TRY(make_parent(target, job->folder));
    CR_TRY(cr_writer_open(&writer, target));
    int code = copy_data(job, writer);
    if (code == CR_OK)
        return cr_writer_commit(writer);
    cr_writer_discard(writer);
    return code;
}

static int unpack_entry(unpacking *job, struct archive_entry *entry)
{
    const char *name = archive_entry_pathname(entry);
    if (!name || name[0] == '\0')
        return cr_fail(CR_EUNSUPPORTED, "%s: an entry has no name that this system can write",
                       job->path);
    const bool folder = archive_entry_filetype(entry) == AE_IFDIR;
    if (folder && name[strspn(name, "/")] == '\0')
        return CR_OK; /* some writers name the folder that they packed "/": it is there */
    if (!stays_inside(name))
        return cr_fail(CR_EUNSUPPORTED, "%s: the entry \"%s\" would leave the folder: refused",
                       job->path, name);
    if (archive_entry_hardlink(entry) || (!folder && archive_entry_filetype(entry) != AE_IFREG))
        return cr_fail(CR_EUNSUPPORTED, "%s: the entry \"%s\" is a link or a device: refused",
                       job->path, name);
    char *target = join(job->folder, name);
    if (!target)
        return CR_ENOMEM;
    int code = folder ? cr_make_folder(target) : unpack_file(job, target);
    cr_free(target);
    return code;
}

static int unpack_all(unpacking *job)
{
    struct archive_entry *entry;
    for (;;) {
        const int result = archive_read_next_header(job->reader, &entry);
        if (result == ARCHIVE_EOF)
            return CR_OK;
        if (result != ARCHIVE_OK && result != ARCHIVE_WARN)
            return fail_reader(job);
        if (job->entries_left == 0)
            return cr_fail(CR_EUNSUPPORTED, "%s: has more entries than are allowed", job->path);
        job->entries_left--;
        CR_TRY(unpack_entry(job, entry));
    }
}

int cr_unpack(const char *path, const char *folder, uint64_t most_bytes, uint64_t most_entries)
{
    unpacking job = {NULL, path, folder, most_bytes, most_entries};
    cr_mapping bytes; /* mapped, so that folders and absent files fail as they do elsewhere */
    CR_TRY(cr_make_folder(folder));
    CR_TRY(cr_map_file(&bytes, path));
    int code = CR_OK;
    job.reader = archive_read_new();
    if (!job.reader)
        code = cr_fail(CR_ENOMEM, "libarchive: no memory for a reader");
    else if (archive_read_support_filter_all(job.reader) < ARCHIVE_WARN ||
             archive_read_support_format_tar(job.reader) < ARCHIVE_WARN ||
             archive_read_support_format_zip(job.reader) < ARCHIVE_WARN ||
             archive_read_open_memory(job.reader, bytes.bytes ? bytes.bytes : "", bytes.size) !=
                 ARCHIVE_OK)
        code = fail_reader(&job);
    if (code == CR_OK)
        code = unpack_all(&job);
    if (job.reader)
        archive_read_free(job.reader);
    cr_unmap(&bytes);
    return code;
}
