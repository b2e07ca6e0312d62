/* parallel.c: a fixed pool of threads that take numbered tasks from one counter. */
#define _GNU_SOURCE
#include "base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_THREADS 256
/* Polls before a worker sleeps: a step has thousands of short loops, and a wake-up costs more than most of the
 * pauses between them. About 50 microseconds. */
#define SPINS 2000

struct cr_pool {
    int threads; /* the caller included */
    int started;
    pthread_t *workers;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    atomic_uint generation; /* of the current loop */
    bool stopping;

    cr_task_fn function;
    void *argument;
    size_t count;
    atomic_size_t next;  /* first task nobody has taken */
    atomic_int active;   /* workers still inside the loop */
};

typedef struct worker_start {
    cr_pool *pool;
    int thread;
} worker_start;

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void run_tasks(cr_pool *pool, int thread)
{
    for (;;) {
        size_t task = atomic_fetch_add(&pool->next, 1);
        if (task >= pool->count)
            return;
        pool->function(pool->argument, task, thread);
    }
}

/* Waits for a loop after generation `*seen`; false when the pool ends. A worker that comes when every
 * task is taken stays out of it (*joined), so that no loop waits for a thread that the system has not
 * run yet: on a busy machine that takes longer than most loops. */
static bool wait_for_work(cr_pool *pool, unsigned *seen, bool *joined)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&pool->generation) != *seen)
            break;
        relax();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->generation) == *seen && !pool->stopping)
        pthread_cond_wait(&pool->wake, &pool->lock);
    *seen = atomic_load(&pool->generation);
    bool work = !pool->stopping;
    *joined = work && atomic_load(&pool->next) < pool->count;
    if (*joined)
        atomic_fetch_add(&pool->active, 1);
    pthread_mutex_unlock(&pool->lock);
    return work;
}

static void leave_loop(cr_pool *pool)
{
    if (atomic_fetch_sub(&pool->active, 1) != 1)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->idle);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *start)
{
    cr_pool *pool = ((worker_start *)start)->pool;
    int thread = ((worker_start *)start)->thread;
    cr_free(start);
    unsigned seen = 0;
    bool joined;
    while (wait_for_work(pool, &seen, &joined)) {
        if (!joined)
            continue;
        run_tasks(pool, thread);
        leave_loop(pool);
    }
    return NULL;
}

/* Workers take no signals: the host's handlers run in the host's threads. */
static int start_worker(cr_pool *pool, int thread)
{
    worker_start *start = cr_alloc(sizeof *start);
    if (!start)
        return CR_ENOMEM;
    *start = (worker_start){pool, thread};
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&pool->workers[thread - 1], NULL, worker_main, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        cr_free(start);
        return cr_fail(CR_ENOMEM, "thread %d of %d could not be started: %s", thread + 1,
                       pool->threads, strerror(error));
    }
    pool->started++;
    return CR_OK;
}

int cr_pool_create(cr_pool **out, int threads)
{
    *out = NULL;
    if (threads == 0)
        threads = cr_available_threads();
    if (threads < 1 || threads > MAX_THREADS)
        return cr_fail(CR_EARG, "threads must be 1 to %d, got %d", MAX_THREADS, threads);
    cr_pool *pool = cr_calloc(1, sizeof *pool);
    if (!pool)
        return CR_ENOMEM;
    pool->threads = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->idle, NULL);
    pool->workers = cr_calloc((size_t)threads, sizeof *pool->workers);
    int code = pool->workers ? CR_OK : CR_ENOMEM;
    for (int i = 1; i < threads && code == CR_OK; i++)
        code = start_worker(pool, i);
    if (code < 0) {
        cr_pool_free(pool);
        return code;
    }
    *out = pool;
    return CR_OK;
}

void cr_pool_free(cr_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    cr_free(pool->workers);
    cr_free(pool);
}

int cr_pool_threads(const cr_pool *pool)
{
    return pool->threads;
}

static void run_in_place(size_t count, cr_task_fn function, void *argument)
{
    for (size_t task = 0; task < count; task++)
        function(argument, task, 0);
}

/* Workers join under the lock, and none does once every task is taken: seen under the lock, zero
 * stays zero. */
static void wait_until_idle(cr_pool *pool)
{
    for (int i = 0; i < SPINS && atomic_load(&pool->active) != 0; i++)
        relax();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->active) != 0)
        pthread_cond_wait(&pool->idle, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void cr_parallel_for(cr_pool *pool, size_t count, cr_task_fn function, void *argument)
{
    if (pool->started == 0 || count < 2) {
        run_in_place(count, function, argument);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->function = function;
    pool->argument = argument;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    run_tasks(pool, 0);
    wait_until_idle(pool);
}

/* ---- how many threads ---------------------------------------------------- */

static bool read_small_file(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t count = fread(text, 1, size - 1, file);
    fclose(file);
    text[count] = '\0';
    return count > 0;
}

/* Processors granted by the control group, rounded up; 0 = no limit. */
static int quota_threads(void)
{
    char text[128];
    long long quota = 0, period = 0;
    if (read_small_file("/sys/fs/cgroup/cpu.max", text, sizeof text)) {
        if (sscanf(text, "%lld %lld", &quota, &period) != 2)
            return 0;
    } else {
        if (!read_small_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", text, sizeof text) ||
            sscanf(text, "%lld", &quota) != 1 ||
            !read_small_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us", text, sizeof text) ||
            sscanf(text, "%lld", &period) != 1)
            return 0;
    }
    if (quota <= 0 || period <= 0 || quota / period > MAX_THREADS)
        return 0;
    return (int)((quota + period - 1) / period);
}

static int affinity_threads(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

int cr_available_threads(void)
{
    int threads = affinity_threads();
    int quota = quota_threads();
    if (quota > 0 && quota < threads)
        threads = quota;
    if (threads < 1)
        threads = 1;
    return threads < MAX_THREADS ? threads : MAX_THREADS;
}
