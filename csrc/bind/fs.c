/* fs.c: crucible.core.fs: durable files, and the few facts of the system that Lua does not tell.
 * With debug.c the only file of this floor that looks below crucible.h. */
#define _DEFAULT_SOURCE
#include "bind/bind.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

#include "file/archive.h"
#include "file/fsio.h"
#include "file/lock.h"
#include "file/sha256.h"

/* ---- files and folders --------------------------------------------------------- */

static int write_whole(const char *path, const char *bytes, size_t size)
{
    cr_writer *writer = NULL;
    CR_TRY(cr_writer_open(&writer, path));
    int code = cr_write(writer, bytes, size);
    if (code == CR_OK)
        return cr_writer_commit(writer);
    cr_writer_discard(writer);
    return code;
}

static int fs_write_file(lua_State *L)
{
    size_t size;
    const char *path = bind_path(L, 1);
    const char *bytes = luaL_checklstring(L, 2, &size);
    return bind_true(L, write_whole(path, bytes, size));
}

static void release_mapping(bind_box *box)
{
    cr_mapping mapping = {box->memory, box->size};
    cr_unmap(&mapping);
}

static int fs_read_file(lua_State *L)
{
    const char *path = bind_path(L, 1);
    bind_box *box = bind_push_box(L, release_mapping);
    cr_mapping mapping = {NULL, 0};
    int code = cr_map_file(&mapping, path);
    if (code < 0)
        return bind_failure(L, code);
    box->memory = (void *)(uintptr_t)mapping.bytes;
    box->size = mapping.size;
    lua_pushlstring(L, mapping.bytes ? mapping.bytes : "", mapping.size);
    return 1;
}

static int fs_append_file(lua_State *L)
{
    size_t size;
    const char *path = bind_path(L, 1);
    const char *bytes = luaL_checklstring(L, 2, &size);
    return bind_true(L, cr_append_file(path, bytes, size));
}

static int fs_make_folder(lua_State *L)
{
    return bind_true(L, cr_make_folder(bind_path(L, 1)));
}

static int fs_rename(lua_State *L)
{
    const char *from = bind_path(L, 1);
    const char *to = bind_path(L, 2);
    return bind_true(L, cr_rename(from, to));
}

static int fs_remove_tree(lua_State *L)
{
    return bind_true(L, cr_remove_tree(bind_path(L, 1)));
}

static int fs_sync_folder(lua_State *L)
{
    return bind_true(L, cr_sync_folder(bind_path(L, 1)));
}

static void release_names(bind_box *box)
{
    cr_free_names(box->memory, box->size);
}

static int fs_list(lua_State *L)
{
    const char *path = bind_path(L, 1);
    bind_box *box = bind_push_box(L, release_names);
    char **names = NULL;
    size_t count = 0;
    int code = cr_list_folder(path, &names, &count);
    if (code < 0)
        return bind_failure(L, code);
    box->memory = names;
    box->size = count;
    lua_newtable(L);
    for (size_t i = 0; i < count; i++) {
        lua_pushstring(L, names[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int fs_stat(lua_State *L)
{
    cr_file_status status = {0};
    int code = cr_file_stat(bind_path(L, 1), &status);
    if (code < 0)
        return bind_failure(L, code);
    if (!status.exists) {
        luaL_pushfail(L);
        return 1;
    }
    lua_createtable(L, 0, 3);
    lua_pushboolean(L, status.folder);
    lua_setfield(L, -2, "folder");
    lua_pushinteger(L, (lua_Integer)status.size);
    lua_setfield(L, -2, "size");
    lua_pushnumber(L, (lua_Number)status.modified);
    lua_setfield(L, -2, "modified");
    return 1;
}

/* ---- archives --------------------------------------------------------------------- */

typedef struct unpack_options {
    double most_bytes;
    int most_entries;
} unpack_options;

static int fs_unpack(lua_State *L)
{
    static const bind_field fields[] = {
        {"most_bytes", BIND_NUMBER, offsetof(unpack_options, most_bytes), 0, 0x1p53, 0},
        {"most_entries", BIND_INTEGER, offsetof(unpack_options, most_entries), 0, 1e9, 0},
        {NULL, BIND_LIST, 0, 0, 0, 0}};
    unpack_options options = {.most_bytes = 0x1p34, .most_entries = 100000};
    const char *path = bind_path(L, 1);
    const char *folder = bind_path(L, 2);
    bind_read_options(L, 3, fields, &options);
    return bind_true(
        L, cr_unpack(path, folder, (uint64_t)options.most_bytes, (uint64_t)options.most_entries));
}

/* ---- locks ------------------------------------------------------------------------ */

static int fs_lock(lua_State *L)
{
    const char *path = bind_path(L, 1);
    bind_handle *handle = bind_new(L, &bind_lock_class, sizeof *handle, 0);
    cr_lock *lock = NULL;
    int code = cr_lock_try(&lock, path);
    handle->core = lock;
    if (code == CR_OK && lock == NULL) { /* somebody else has it */
        luaL_pushfail(L);
        return 1;
    }
    return bind_result(L, code);
}

static int lock_close(lua_State *L)
{
    cr_lock_release(bind_take(L, 1, &bind_lock_class));
    return 0;
}

static int lock_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_lock_class);
    lua_pushstring(L, handle->core ? "crucible.lock" : "crucible.lock (closed)");
    return 1;
}

static const luaL_Reg lock_methods[] = {{"close", lock_close}, {NULL, NULL}};

static const luaL_Reg lock_metamethods[] = {
    {"__gc", lock_close},
    {"__close", lock_close},
    {"__tostring", lock_tostring},
    {NULL, NULL},
};

const bind_class bind_lock_class = {"crucible.lock", lock_methods, lock_metamethods};

/* ---- digests --------------------------------------------------------------------- */

/* The path in { file = path } at argument 1. */
static const char *file_option(lua_State *L)
{
    static const bind_field fields[] = {{"file", BIND_TEXT, 0, 0, 0, BIND_REQUIRED},
                                        {NULL, BIND_LIST, 0, 0, 0, 0}};
    const char *path = NULL;
    bind_read_record(L, 1, fields, &path);
    return path;
}

static int fs_sha256(lua_State *L)
{
    unsigned char digest[CR_SHA256_BYTES];
    char text[2 * CR_SHA256_BYTES + 1];
    if (lua_istable(L, 1)) {
        int code = cr_sha256_file(file_option(L), digest);
        if (code < 0)
            return bind_failure(L, code);
    } else {
        size_t size;
        const char *bytes = luaL_checklstring(L, 1, &size);
        cr_sha256 state;
        cr_sha256_init(&state);
        cr_sha256_update(&state, bytes, size);
        cr_sha256_final(&state, digest);
    }
    cr_sha256_hex(text, digest);
    lua_pushstring(L, text);
    return 1;
}

/* ---- the system ------------------------------------------------------------------- */

static int fs_clock(lua_State *L)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (lua_Number)now.tv_sec + 1e-9 * (lua_Number)now.tv_nsec);
    return 1;
}

static int fs_time(lua_State *L)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    lua_pushinteger(L, (lua_Integer)now.tv_sec);
    return 1;
}

static int fs_random_bytes(lua_State *L)
{
    enum { MOST = 1 << 20, PIECE = 256 /* what getentropy gives at a time */ };
    lua_Integer count = luaL_checkinteger(L, 1);
    luaL_argcheck(L, count >= 0 && count <= MOST, 1, "expected 0 to 1048576 bytes");
    luaL_Buffer buffer;
    char *bytes = luaL_buffinitsize(L, &buffer, (size_t)count);
    for (size_t done = 0; done < (size_t)count; done += PIECE) {
        size_t left = (size_t)count - done;
        if (getentropy(bytes + done, left < PIECE ? left : PIECE) != 0)
            return bind_failure(
                L, cr_fail(CR_EIO, "the system's random source failed (error %d)", errno));
    }
    luaL_pushresultsize(&buffer, (size_t)count);
    return 1;
}

static int stream_option(lua_State *L)
{
    static const char *const streams[] = {"stdout", "stderr", "stdin", NULL};
    static const int descriptors[] = {STDOUT_FILENO, STDERR_FILENO, STDIN_FILENO};
    return descriptors[luaL_checkoption(L, 1, NULL, streams)];
}

static int fs_is_terminal(lua_State *L)
{
    lua_pushboolean(L, isatty(stream_option(L)));
    return 1;
}

/* Columns and rows; nil where there is no terminal or it does not say. */
static int fs_terminal_size(lua_State *L)
{
    struct winsize size = {0};
    if (ioctl(stream_option(L), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushinteger(L, size.ws_col);
    lua_pushinteger(L, size.ws_row);
    return 2;
}

static int fs_peak_memory(lua_State *L)
{
#ifdef __APPLE__
    const lua_Integer unit = 1;
#else
    const lua_Integer unit = 1024;
#endif
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    lua_pushinteger(L, (lua_Integer)usage.ru_maxrss * unit);
    return 1;
}

const luaL_Reg bind_fs_functions[] = {
    {"write_file", fs_write_file},
    {"read_file", fs_read_file},
    {"append_file", fs_append_file},
    {"make_folder", fs_make_folder},
    {"rename", fs_rename},
    {"remove_tree", fs_remove_tree},
    {"sync_folder", fs_sync_folder},
    {"unpack", fs_unpack},
    {"lock", fs_lock},
    {"list", fs_list},
    {"stat", fs_stat},
    {"sha256", fs_sha256},
    {"clock", fs_clock},
    {"time", fs_time},
    {"random_bytes", fs_random_bytes},
    {"is_terminal", fs_is_terminal},
    {"terminal_size", fs_terminal_size},
    {"peak_memory", fs_peak_memory},
    {NULL, NULL},
};
