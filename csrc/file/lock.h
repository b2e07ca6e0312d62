/* lock.h: one process, and one place in it, at a time.
 *
 * A lock is an empty file that stays where it is (removing it would let two holders in) and an
 * advisory lock of the system on it (flock), which ends with its holder however that ends. Two
 * locks of one process on one path exclude each other too.
 *
 * Ownership: *out is the caller's; cr_lock_release closes it (NULL is accepted).
 */
#ifndef CR_LOCK_H
#define CR_LOCK_H

#include "base/base.h"

typedef struct cr_lock cr_lock;

/* Does not wait: *out is NULL with CR_OK when somebody else holds it. The file is made when it is
 * absent, its folder is not. */
int cr_lock_try(cr_lock **out, const char *path);
void cr_lock_release(cr_lock *lock);

#endif
