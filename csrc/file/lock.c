/* lock.c: advisory locks by flock(2), which the system releases when a process ends. */
#define _DEFAULT_SOURCE
#include "file/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct cr_lock {
    int fd;
};

static int fail_lock(const char *path, const char *what)
{
    const int reason = errno;
    return cr_fail(reason == ENOENT || reason == ENOTDIR ? CR_ENOTFOUND : CR_EIO,
                   "%s: cannot %s: error %d", path, what, reason);
}

static int take(int fd)
{
    int result;
    do
        result = flock(fd, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    return result;
}

int cr_lock_try(cr_lock **out, const char *path)
{
    *out = NULL;
    cr_lock *lock = cr_calloc(1, sizeof *lock);
    if (!lock)
        return CR_ENOMEM;
    int code = CR_OK;
    lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->fd < 0)
        code = fail_lock(path, "open the lock");
    else if (take(lock->fd) != 0)
        code = errno == EWOULDBLOCK ? 1 : fail_lock(path, "lock");
    if (code == CR_OK) {
        *out = lock;
        return CR_OK;
    }
    cr_lock_release(lock);
    return code < 0 ? code : CR_OK;
}

void cr_lock_release(cr_lock *lock)
{
    if (!lock)
        return;
    if (lock->fd >= 0)
        close(lock->fd);
    cr_free(lock);
}
