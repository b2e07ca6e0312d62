/* base.c: the thread's message, checked sizes, counted memory. */
#define _GNU_SOURCE
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MESSAGE_BYTES 1024

static _Thread_local char message[MESSAGE_BYTES];

const char *cr_error_message(void)
{
    return message;
}

void cr_set_message(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
}

int cr_fail_context(int code, const char *format, ...)
{
    char inner[MESSAGE_BYTES];
    memcpy(inner, message, sizeof inner);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (length >= 0 && (size_t)length < sizeof message)
        snprintf(message + length, sizeof message - (size_t)length, ": %s", inner);
    return code;
}

const char *cr_code_name(int code)
{
    switch (code) {
    case CR_OK:
        return "ok";
    case CR_EARG:
        return "argument";
    case CR_ENOMEM:
        return "memory";
    case CR_EIO:
        return "io";
    case CR_EFORMAT:
        return "format";
    case CR_EUNSUPPORTED:
        return "unsupported";
    case CR_ENOTFOUND:
        return "not_found";
    case CR_ECONTEXT:
        return "context_overflow";
    case CR_ECANCELLED:
        return "cancelled";
    default:
        return "unknown";
    }
}

bool cr_size_mul(size_t *out, size_t a, size_t b)
{
    if (a != 0 && b > SIZE_MAX / a)
        return false;
    *out = a * b;
    return true;
}

bool cr_size_add(size_t *out, size_t a, size_t b)
{
    if (b > SIZE_MAX - a)
        return false;
    *out = a + b;
    return true;
}

/* ---- memory ------------------------------------------------------------ */

#define ALIGNMENT 64
#define LARGE_PAGE ((size_t)2 << 20)
#define LARGE_BLOCK ((size_t)8 << 20)

#ifdef CR_DEBUG_MEMORY
#include <stdatomic.h>

/* Debug builds alone count; this is the one mutable state of the process and no
 * result depends on it. */
static atomic_uint_fast64_t allocations, live, fail_countdown;

static bool may_allocate(void)
{
    uint_fast64_t left = atomic_load(&fail_countdown);
    while (left != 0 && !atomic_compare_exchange_weak(&fail_countdown, &left, left - 1))
        ;
    if (left == 1)
        return false;
    atomic_fetch_add(&allocations, 1);
    atomic_fetch_add(&live, 1);
    return true;
}

static void note_release(void)
{
    atomic_fetch_sub(&live, 1);
}

cr_memory_counters cr_memory_count(void)
{
    return (cr_memory_counters){atomic_load(&allocations), atomic_load(&live)};
}

void cr_memory_fail_at(uint64_t nth)
{
    atomic_store(&fail_countdown, nth);
}
#else
static bool may_allocate(void)
{
    return true;
}

static void note_release(void)
{
}

cr_memory_counters cr_memory_count(void)
{
    return (cr_memory_counters){0, 0};
}

void cr_memory_fail_at(uint64_t nth)
{
    (void)nth;
}
#endif

/* Work space of megabytes is asked for in large pages: fewer page faults at first touch and
 * fewer misses when rows lie kilobytes apart. A kernel without them ignores the wish. */
static void *obtain(size_t bytes)
{
    void *block = NULL;
    bool large = bytes >= LARGE_BLOCK;
    if (posix_memalign(&block, large ? LARGE_PAGE : ALIGNMENT, bytes ? bytes : 1) != 0)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (large)
        madvise(block, bytes, MADV_HUGEPAGE);
#endif
    return block;
}

void *cr_alloc(size_t bytes)
{
    void *block = bytes <= SIZE_MAX / 2 && may_allocate() ? obtain(bytes) : NULL;
    if (!block)
        cr_fail(CR_ENOMEM, "out of memory: %zu bytes were asked for", bytes);
    return block;
}

void *cr_alloc_plain(size_t bytes)
{
    void *block = bytes <= SIZE_MAX / 2 && may_allocate() ? malloc(bytes ? bytes : 1) : NULL;
    if (!block)
        cr_fail(CR_ENOMEM, "out of memory: %zu bytes were asked for", bytes);
    return block;
}

void *cr_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (!cr_size_mul(&bytes, count, size)) {
        cr_fail(CR_ENOMEM, "out of memory: %zu items of %zu bytes were asked for", count, size);
        return NULL;
    }
    void *block = cr_alloc(bytes);
    if (block)
        memset(block, 0, bytes);
    return block;
}

void *cr_realloc(void *block, size_t old_bytes, size_t new_bytes)
{
    void *moved = cr_alloc(new_bytes);
    if (!moved)
        return NULL;
    if (block)
        memcpy(moved, block, old_bytes < new_bytes ? old_bytes : new_bytes);
    cr_free(block);
    return moved;
}

void cr_free(void *block)
{
    if (!block)
        return;
    note_release();
    free(block);
}

char *cr_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = cr_alloc(bytes);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}
