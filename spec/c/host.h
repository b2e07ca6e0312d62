/* host.h: what the hosts of spec/c share: looking at the process they are. */
#ifndef CR_SPEC_HOST_H
#define CR_SPEC_HOST_H

#include <dirent.h>
#include <fenv.h>
#include <lauxlib.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#if LUA_VERSION_NUM >= 505 /* a third argument: the seed of string hashes */
#define new_state_with(allocate, data) lua_newstate(allocate, data, 1)
#else
#define new_state_with(allocate, data) lua_newstate(allocate, data)
#endif

static int failures;

static void check(bool kept, const char *promise, const char *detail)
{
    if (kept)
        return;
    fprintf(stdout, "not kept: %s (%s)\n", promise, detail);
    failures++;
}

static int entries(const char *folder)
{
    DIR *stream = opendir(folder);
    int count = -3; /* ".", ".." and, of descriptors, the stream's own */
    while (stream && readdir(stream))
        count++;
    if (stream)
        closedir(stream);
    return count;
}

/* The kernel forgets a joined thread a moment after the join. */
static bool one_thread_is_left(void)
{
    for (int i = 0; i < 2000; i++) {
        if (entries("/proc/self/task") + 1 == 1)
            return true;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return false;
}

/* What belongs to the process and not to a library in it. */
typedef struct process_state {
    struct sigaction actions[32];
    sigset_t mask;
    char locale[256];
    int rounding;
    unsigned control; /* denormals, masks of exceptions */
    int descriptors;
} process_state;

static process_state look_at_process(void)
{
    process_state seen;
    memset(&seen, 0, sizeof seen);
    for (int i = 1; i < 32; i++)
        sigaction(i, NULL, &seen.actions[i]);
    sigprocmask(SIG_SETMASK, NULL, &seen.mask);
    snprintf(seen.locale, sizeof seen.locale, "%s", setlocale(LC_ALL, NULL));
    seen.rounding = fegetround();
#ifdef __SSE__
    seen.control = _mm_getcsr() & ~0x3fu; /* without the flags of what happened */
#endif
    seen.descriptors = entries("/proc/self/fd");
    return seen;
}

static void check_process(const process_state *before)
{
    process_state now = look_at_process();
    const int restorer = 0x04000000; /* the C library's own, in whatever it has set once */
    for (int i = 1; i < 32; i++)
        check(before->actions[i].sa_handler == now.actions[i].sa_handler &&
                  (before->actions[i].sa_flags | restorer) == (now.actions[i].sa_flags | restorer),
              "signal actions stay", strsignal(i));
    for (int i = 1; i < 32; i++)
        check(sigismember(&before->mask, i) == sigismember(&now.mask, i), "the signal mask stays",
              strsignal(i));
    check(strcmp(before->locale, now.locale) == 0, "the locale stays", now.locale);
    check(before->rounding == now.rounding && before->control == now.control,
          "the floating-point environment stays", "control word");
    check(before->descriptors == now.descriptors, "descriptors are closed", "/proc/self/fd");
    check(one_thread_is_left(), "no thread is left", "/proc/self/task");
}

/* Loads and calls a script with `count` arguments that are on the stack; an error is a broken promise. */
static bool run_script(lua_State *L, const char *path, int count, int results)
{
    if (luaL_loadfile(L, path) != LUA_OK) {
        check(false, "the script loads", lua_tostring(L, -1));
        return false;
    }
    lua_insert(L, -count - 1);
    bool fine = lua_pcall(L, count, results, 0) == LUA_OK;
    check(fine, "the script runs", fine ? "" : luaL_tolstring(L, -1, NULL));
    return fine;
}

#endif
