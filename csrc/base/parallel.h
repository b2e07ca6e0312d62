/* parallel.h: a pool of threads and a parallel-for; the only file that knows threads.
 *
 * Tasks are numbered 0..count-1 and any thread may run any task, so a task's
 * result must depend on its number alone. Reductions are therefore done per
 * task and joined in task order by the caller: the same bytes at any thread
 * count.
 *
 * Ownership: the pool owns its threads; they sleep between calls and end in
 * cr_pool_free. One thread at a time may call cr_parallel_for on a pool.
 */
#ifndef CR_PARALLEL_H
#define CR_PARALLEL_H

#include "base/base.h"

typedef struct cr_pool cr_pool;

/* `thread` is 0..cr_pool_threads()-1 and names the scratch the task may use. */
typedef void (*cr_task_fn)(void *argument, size_t task, int thread);

/* threads = 0: as many as the cgroup's CPU quota and the affinity mask allow. */
int cr_pool_create(cr_pool **out, int threads);
void cr_pool_free(cr_pool *pool);
int cr_pool_threads(const cr_pool *pool);

/* Runs all tasks and returns when they are done. The caller works too. A task must
 * not start another loop on its pool. */
void cr_parallel_for(cr_pool *pool, size_t count, cr_task_fn function, void *argument);

/* How many threads this process may use (quota, affinity), at least 1. */
int cr_available_threads(void);

#endif
