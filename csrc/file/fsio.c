/* fsio.c: POSIX mapping, atomic replacement and folders. */
#define _POSIX_C_SOURCE 200809L
#include "file/fsio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder nested deeper than this is not one of ours; each level holds a descriptor open. */
#define REMOVE_DEPTH 128

#define TEMPORARY_NAMES 10000

int cr_fail_system(const char *path, const char *what)
{
    const int reason = errno;
    char text[128];
    if (strerror_r(reason, text, sizeof text) != 0)
        snprintf(text, sizeof text, "error %d", reason);
    return cr_fail(reason == ENOENT || reason == ENOTDIR ? CR_ENOTFOUND : CR_EIO,
                   "%s: cannot %s: %s", path, what, text);
}

static int open_retrying(const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Closes without disturbing the reason that is about to be reported. */
static void close_quietly(int fd)
{
    const int reason = errno;
    close(fd);
    errno = reason;
}

/* ---- mapping ------------------------------------------------------------ */

static int map_descriptor(cr_mapping *out, const char *path, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return cr_fail_system(path, "read the size");
    if (!S_ISREG(status.st_mode))
        return cr_fail(CR_EIO, "%s: expected a regular file, found %s", path,
                       S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
    *out = (cr_mapping){NULL, 0};
    if (status.st_size == 0)
        return CR_OK;
    if ((uintmax_t)status.st_size > SIZE_MAX / 2)
        return cr_fail(CR_ENOMEM, "%s: %jd bytes do not fit into the address space", path,
                       (intmax_t)status.st_size);
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return cr_fail_system(path, "map the file");
    *out = (cr_mapping){bytes, (size_t)status.st_size};
    return CR_OK;
}

int cr_map_file(cr_mapping *out, const char *path)
{
    /* Without O_NONBLOCK, opening a pipe would wait for a writer. */
    int fd = open_retrying(path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0)
        return cr_fail_system(path, "open");
    int code = map_descriptor(out, path, fd);
    close(fd);
    return code;
}

void cr_unmap(cr_mapping *mapping)
{
    if (mapping->bytes)
        munmap((void *)(uintptr_t)mapping->bytes, mapping->size);
    *mapping = (cr_mapping){NULL, 0};
}

/* ---- durable folders ----------------------------------------------------- */

static int sync_descriptor(int fd)
{
    int result;
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

int cr_sync_folder(const char *path)
{
    int fd = open_retrying(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return cr_fail_system(path, "open the folder");
    /* Some file systems have nothing to sync for a folder and say EINVAL. */
    int code =
        sync_descriptor(fd) == 0 || errno == EINVAL ? CR_OK : cr_fail_system(path, "sync the folder");
    close(fd);
    return code;
}

/* The folder that holds `path`: "a/b" and "a/b/" → "a", "b" → ".", "/b" → "/". The caller's. */
static char *parent_of(const char *path)
{
    char *parent = cr_strdup(path);
    if (!parent)
        return NULL;
    size_t length = strlen(parent);
    while (length > 1 && parent[length - 1] == '/')
        length--;
    while (length > 0 && parent[length - 1] != '/')
        length--;
    while (length > 1 && parent[length - 1] == '/')
        length--;
    if (length == 0 && parent[0] != '\0')
        parent[length++] = '.';
    parent[length] = '\0';
    return parent;
}

static int sync_parent(const char *path)
{
    char *parent = parent_of(path);
    if (!parent)
        return CR_ENOMEM;
    int code = cr_sync_folder(parent);
    cr_free(parent);
    return code;
}

/* ---- the writer ----------------------------------------------------------- */

struct cr_writer {
    int fd;        /* -1 after a failure: the temporary file is gone already */
    char *path;    /* the target */
    char *folder;  /* that holds it; ready before the rename, after which no memory may be asked for */
    char *scratch; /* the temporary name beside it */
};

static int writer_free(cr_writer *writer, int code)
{
    cr_free(writer->path);
    cr_free(writer->folder);
    cr_free(writer->scratch);
    cr_free(writer);
    return code;
}

/* Frees the disk at once: after ENOSPC nobody wants to wait for the caller. */
static void writer_abandon(cr_writer *writer)
{
    if (writer->fd < 0)
        return;
    const int reason = errno;
    close(writer->fd);
    unlink(writer->scratch);
    writer->fd = -1;
    errno = reason;
}

/* Renaming over a folder fails late and over a device would replace the device. */
static int check_target(const char *path)
{
    struct stat status;
    if (path[0] == '\0')
        return cr_fail(CR_EARG, "expected a path to write to, found an empty one");
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return cr_fail(CR_EIO, "%s: cannot be replaced: expected a regular file, found %s", path,
                       S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
    return CR_OK;
}

/* O_EXCL settles who gets a name, so neither threads nor a stale file of an earlier process
 * with the same id can share it. */
static int create_scratch(cr_writer *writer)
{
    const size_t size = strlen(writer->path) + 48;
    writer->scratch = cr_alloc(size);
    if (!writer->scratch)
        return CR_ENOMEM;
    for (int n = 0; n < TEMPORARY_NAMES; n++) {
        snprintf(writer->scratch, size, "%s.tmp.%ld.%d", writer->path, (long)getpid(), n);
        writer->fd = open_retrying(writer->scratch, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (writer->fd >= 0)
            return CR_OK;
        if (errno != EEXIST)
            break;
    }
    return cr_fail_system(writer->path, "create a temporary file beside it");
}

int cr_writer_open(cr_writer **out, const char *path)
{
    *out = NULL;
    CR_TRY(check_target(path));
    cr_writer *writer = cr_calloc(1, sizeof *writer);
    if (!writer)
        return CR_ENOMEM;
    writer->fd = -1;
    writer->path = cr_strdup(path);
    writer->folder = parent_of(path);
    int code = writer->path && writer->folder ? create_scratch(writer) : CR_ENOMEM;
    if (code < 0)
        return writer_free(writer, code);
    *out = writer;
    return CR_OK;
}

int cr_write(cr_writer *writer, const void *bytes, size_t size)
{
    if (writer->fd < 0)
        return cr_fail(CR_EIO, "%s: an earlier write failed", writer->path);
    const char *next = bytes;
    while (size > 0) {
        /* More than 2 GiB at once is refused or cut by common systems. */
        size_t piece = size < (size_t)1 << 30 ? size : (size_t)1 << 30;
        ssize_t written = write(writer->fd, next, piece);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            errno = written == 0 ? ENOSPC : errno;
            writer_abandon(writer);
            return cr_fail_system(writer->path, "write");
        }
        next += written;
        size -= (size_t)written;
    }
    return CR_OK;
}

/* Contents must be on the disk before the name points at them. */
static int publish(cr_writer *writer)
{
    if (sync_descriptor(writer->fd) != 0) {
        writer_abandon(writer);
        return cr_fail_system(writer->path, "sync");
    }
    const int fd = writer->fd;
    writer->fd = -1;
    if (close(fd) != 0 && errno != EINTR) {
        cr_fail_system(writer->path, "close");
        unlink(writer->scratch);
        return CR_EIO;
    }
    if (rename(writer->scratch, writer->path) != 0) {
        int code = cr_fail_system(writer->path, "rename the temporary file to it");
        unlink(writer->scratch);
        return code;
    }
    return cr_sync_folder(writer->folder);
}

int cr_writer_commit(cr_writer *writer)
{
    if (writer->fd < 0)
        return writer_free(writer, cr_fail(CR_EIO, "%s: an earlier write failed", writer->path));
    return writer_free(writer, publish(writer));
}

void cr_writer_discard(cr_writer *writer)
{
    if (!writer)
        return;
    writer_abandon(writer);
    writer_free(writer, CR_OK);
}

int cr_append_file(const char *path, const void *bytes, size_t size)
{
    int fd = open_retrying(path, O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (fd < 0)
        return cr_fail_system(path, "open for appending");
    ssize_t written;
    do
        written = write(fd, bytes, size);
    while (written < 0 && errno == EINTR);
    int code = CR_OK;
    if (written < 0)
        code = cr_fail_system(path, "append");
    else if ((size_t)written < size)
        code = cr_fail(CR_EIO, "%s: cannot append: %zd of %zu bytes fitted", path, written, size);
    close(fd);
    return code;
}

static int patch_descriptor(int fd, const char *path, uint64_t offset, const void *bytes,
                            size_t size)
{
    ssize_t written;
    do
        written = pwrite(fd, bytes, size, (off_t)offset);
    while (written < 0 && errno == EINTR);
    if (written < 0)
        return cr_fail_system(path, "write");
    if ((size_t)written < size)
        return cr_fail(CR_EIO, "%s: cannot write: %zd of %zu bytes fitted", path, written, size);
    return sync_descriptor(fd) == 0 ? CR_OK : cr_fail_system(path, "sync");
}

int cr_patch_file(const char *path, uint64_t offset, const void *bytes, size_t size)
{
    int fd = open_retrying(path, O_WRONLY, 0);
    if (fd < 0)
        return cr_fail_system(path, "open for writing");
    int code = patch_descriptor(fd, path, offset, bytes, size);
    close(fd);
    return code;
}

/* ---- folders --------------------------------------------------------------- */

static int make_one_folder(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return sync_parent(path);
    const int reason = errno;
    struct stat status;
    if (stat(path, &status) == 0) /* also where mkdir says EROFS or EACCES first */
        return S_ISDIR(status.st_mode)
                   ? CR_OK
                   : cr_fail(CR_EIO, "%s: cannot make the folder: a file has its name", path);
    errno = reason;
    return cr_fail_system(path, "make the folder");
}

int cr_make_folder(const char *path)
{
    char *partial = cr_strdup(path);
    if (!partial)
        return CR_ENOMEM;
    int code = CR_OK;
    for (char *end = partial; code == CR_OK && *end != '\0'; end++) {
        if (*end != '/' || end == partial || end[-1] == '/')
            continue;
        *end = '\0';
        code = make_one_folder(partial);
        *end = '/';
    }
    if (code == CR_OK)
        code = make_one_folder(partial);
    cr_free(partial);
    return code;
}

int cr_rename(const char *from, const char *to)
{
    char *folder = parent_of(to);
    if (!folder)
        return CR_ENOMEM;
    char what[512];
    snprintf(what, sizeof what, "rename to %s", to);
    int code = rename(from, to) != 0 ? cr_fail_system(from, what) : cr_sync_folder(folder);
    cr_free(folder);
    return code;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int remove_entry(int parent, const char *name, const char *root, int depth);

static int remove_children(int fd, const char *root, int depth)
{
    DIR *folder = fdopendir(fd);
    if (!folder) {
        close_quietly(fd);
        return cr_fail_system(root, "list a folder inside");
    }
    int code = CR_OK;
    while (code == CR_OK) {
        errno = 0;
        struct dirent *entry = readdir(folder);
        if (!entry) {
            code = errno ? cr_fail_system(root, "list a folder inside") : CR_OK;
            break;
        }
        if (!is_dots(entry->d_name))
            code = remove_entry(dirfd(folder), entry->d_name, root, depth + 1);
    }
    closedir(folder);
    return code;
}

static int fail_remove(const char *root, const char *name)
{
    char what[320];
    snprintf(what, sizeof what, "remove %s in it", name);
    return cr_fail_system(root, what);
}

/* What is no folder, or an empty folder that may not be listed. */
static int remove_leaf(int parent, const char *name, const char *root)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return CR_OK;
    if ((errno == EISDIR || errno == EPERM) && unlinkat(parent, name, AT_REMOVEDIR) == 0)
        return CR_OK;
    return fail_remove(root, name);
}

/* O_NOFOLLOW: a link to a folder fails to open and is then removed itself. */
static int remove_entry(int parent, const char *name, const char *root, int depth)
{
    if (depth > REMOVE_DEPTH)
        return cr_fail(CR_EIO, "%s: cannot remove: folders nest deeper than %d", root,
                       REMOVE_DEPTH);
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP || errno == EACCES))
        return remove_leaf(parent, name, root);
    if (fd < 0)
        return errno == ENOENT ? CR_OK : fail_remove(root, name);
    CR_TRY(remove_children(fd, root, depth));
    if (unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        return fail_remove(root, name);
    return CR_OK;
}

int cr_remove_tree(const char *path)
{
    char *trimmed = cr_strdup(path);
    if (!trimmed)
        return CR_ENOMEM;
    /* "link/" would name what the link points to. */
    size_t length = strlen(trimmed);
    while (length > 0 && trimmed[length - 1] == '/')
        trimmed[--length] = '\0';
    const char *slash = strrchr(trimmed, '/');
    const char *last = slash ? slash + 1 : trimmed;
    int code = *last == '\0' || is_dots(last)
                   ? cr_fail(CR_EARG, "\"%s\": expected a folder to remove with a name", path)
                   : remove_entry(AT_FDCWD, trimmed, path, 0);
    cr_free(trimmed);
    return code;
}

/* ---- listing ---------------------------------------------------------------- */

typedef struct name_list {
    char **names;
    size_t count, capacity;
} name_list;

static int name_list_add(name_list *list, const char *name)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 32;
        char **names =
            cr_realloc(list->names, list->count * sizeof *names, capacity * sizeof *names);
        if (!names)
            return CR_ENOMEM;
        list->names = names;
        list->capacity = capacity;
    }
    char *copy = cr_strdup(name);
    if (!copy)
        return CR_ENOMEM;
    list->names[list->count++] = copy;
    return CR_OK;
}

static int read_names(name_list *list, DIR *folder, const char *path)
{
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(folder);
        if (!entry)
            return errno ? cr_fail_system(path, "list the folder") : CR_OK;
        if (!is_dots(entry->d_name))
            CR_TRY(name_list_add(list, entry->d_name));
    }
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int cr_list_folder(const char *path, char ***names, size_t *count)
{
    *names = NULL;
    *count = 0;
    DIR *folder = opendir(path);
    if (!folder)
        return cr_fail_system(path, "open the folder");
    name_list list = {NULL, 0, 0};
    int code = read_names(&list, folder, path);
    closedir(folder);
    if (code < 0) {
        cr_free_names(list.names, list.count);
        return code;
    }
    if (list.count > 0)
        qsort(list.names, list.count, sizeof *list.names, compare_names);
    *names = list.names;
    *count = list.count;
    return CR_OK;
}

void cr_free_names(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        cr_free(names[i]);
    cr_free(names);
}

int cr_file_stat(const char *path, cr_file_status *out)
{
    struct stat status;
    *out = (cr_file_status){0};
    if (stat(path, &status) != 0)
        return errno == ENOENT || errno == ENOTDIR ? CR_OK : cr_fail_system(path, "look up");
    out->exists = true;
    out->folder = S_ISDIR(status.st_mode);
    out->size = (uint64_t)status.st_size;
#ifdef __APPLE__ /* whose headers, asked for POSIX, name the two apart */
    out->modified = (double)status.st_mtime + 1e-9 * (double)status.st_mtimensec;
#else
    out->modified = (double)status.st_mtim.tv_sec + 1e-9 * (double)status.st_mtim.tv_nsec;
#endif
    return CR_OK;
}
