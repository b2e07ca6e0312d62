/* base.h: result codes, the thread's last message, checked sizes, counted memory.
 *
 * What this is: the few things every floor needs. What it is not: a utility
 * drawer. Nothing here prints, exits or aborts.
 *
 * Ownership: memory from cr_alloc/cr_calloc/cr_realloc is released with
 * cr_free. The message behind cr_error_message() belongs to the calling thread
 * and lives until that thread's next failure.
 */
#ifndef CR_BASE_H
#define CR_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/crucible.h" /* result codes: CR_OK, CR_EARG, ... */

#if defined(__GNUC__)
#define CR_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define CR_UNUSED __attribute__((unused))
#define CR_RESTRICT __restrict__
#define cr_likely(x) __builtin_expect(!!(x), 1)
#define cr_unlikely(x) __builtin_expect(!!(x), 0)
#else
#define CR_PRINTF(fmt, args)
#define CR_UNUSED
#define CR_RESTRICT
#define cr_likely(x) (x)
#define cr_unlikely(x) (x)
#endif

/* Passes a failure up: `CR_TRY(f())` returns f's negative code unchanged. */
#define CR_TRY(call)                 \
    do {                             \
        int cr_try_code_ = (call);   \
        if (cr_try_code_ < 0)        \
            return cr_try_code_;     \
    } while (0)

/* The same for functions that release what they hold at a label `done:` and
 * keep their result in `code`. */
#define CR_TRY_GOTO(call, label)     \
    do {                             \
        code = (call);               \
        if (code < 0)                \
            goto label;              \
    } while (0)

/* Sets the thread's message and returns `code`, so that a failure is one line:
 * `return cr_fail(CR_EFORMAT, "%s: expected %s", path, what);` */
#define cr_fail(code, ...) (cr_set_message(__VA_ARGS__), cr_same_code(code))
static inline int cr_same_code(int code) /* lets the compiler see which code comes back */
{
    return code;
}
void cr_set_message(const char *format, ...) CR_PRINTF(1, 2);

/* Puts "context: " before the thread's message and returns `code`. */
int cr_fail_context(int code, const char *format, ...) CR_PRINTF(2, 3);

/* Size arithmetic that cannot wrap: false when the result does not fit. */
bool cr_size_mul(size_t *out, size_t a, size_t b);
bool cr_size_add(size_t *out, size_t a, size_t b);

/* Memory, 64-byte aligned, zero bytes allowed (a unique pointer comes back).
 * NULL with the message set when there is none. In debug builds every call is
 * counted and can be made to fail (cr_memory_* below). */
void *cr_alloc(size_t bytes);
void *cr_calloc(size_t count, size_t size);

/* The same, 16-byte aligned: for large blocks that come and go. malloc gives a freed block to the
 * next request of its size; aligned requests are larger than what they leave behind, so that the
 * heap of the GNU C library grows with each. */
void *cr_alloc_plain(size_t bytes);
void *cr_realloc(void *block, size_t old_bytes, size_t new_bytes);
char *cr_strdup(const char *text);

typedef struct cr_memory_counters {
    uint64_t allocations; /* calls that obtained memory since the process began */
    uint64_t live;        /* blocks not yet released */
} cr_memory_counters;

/* Debug builds (CR_DEBUG_MEMORY): the counters, and the n-th allocation from
 * now failing (0 = never). In other builds the counters read zero. */
cr_memory_counters cr_memory_count(void);
void cr_memory_fail_at(uint64_t nth);

#endif
