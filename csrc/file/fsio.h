/* fsio.h: the file system as checkpoints need it: mapping, atomic replacement, folders.
 *
 * Every failure is CR_EIO (CR_ENOTFOUND where the path does not exist) and
 * names the path and the system's reason.
 */
#ifndef CR_FSIO_H
#define CR_FSIO_H

#include "base/base.h"

/* "path: cannot <what>: <the system's reason>", from errno; the code as above. */
int cr_fail_system(const char *path, const char *what);

typedef struct cr_mapping {
    const void *bytes; /* NULL for an empty file */
    size_t size;
} cr_mapping;

/* Read-only mapping of a regular file; a folder or a device is refused. Cutting the file short
 * while it is mapped makes later reads fault: replace files, never rewrite them in place. */
int cr_map_file(cr_mapping *out, const char *path);
void cr_unmap(cr_mapping *mapping);

/* Writing that never shows a partial file: bytes go to "<path>.tmp.<pid>.<n>"
 * beside the target; commit = fsync, rename, fsync of the folder. */
typedef struct cr_writer cr_writer;
int cr_writer_open(cr_writer **out, const char *path);
int cr_write(cr_writer *writer, const void *bytes, size_t size); /* a failure removes the temporary */
int cr_writer_commit(cr_writer *writer);  /* closes it, success or not */
void cr_writer_discard(cr_writer *writer); /* closes and removes the temporary file */

/* One write at the end of the file, created when absent: lines of several processes do not mix. */
int cr_append_file(const char *path, const void *bytes, size_t size);

/* Overwrites bytes inside a file and syncs it: for a draft that nobody else has open. */
int cr_patch_file(const char *path, uint64_t offset, const void *bytes, size_t size);

int cr_make_folder(const char *path);                 /* with parents; existing is fine */
int cr_sync_folder(const char *path);
int cr_rename(const char *from, const char *to);      /* replaces; syncs to's folder */
int cr_remove_tree(const char *path);                 /* absent is fine; links not followed */
int cr_list_folder(const char *path, char ***names, size_t *count); /* sorted; cr_free_names */
void cr_free_names(char **names, size_t count);

typedef struct cr_file_status {
    bool exists, folder;
    uint64_t size;
    double modified; /* seconds since 1970 */
} cr_file_status;
int cr_file_stat(const char *path, cr_file_status *out);

#endif
