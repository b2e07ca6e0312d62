/* unpacked.h: the bytes of a file, decompressed on the way when it is compressed.
 *
 * gzip, zstd, bzip2 and xz are recognised by their first bytes, whatever the name. Failures are those of
 * file/fsio.h, and CR_EFORMAT for a compressed file that is damaged or cut short.
 *
 * Ownership: *out is the caller's; cr_unpacked_close closes it (NULL is accepted).
 */
#ifndef CR_UNPACKED_H
#define CR_UNPACKED_H

#include "base/base.h"

typedef struct cr_unpacked cr_unpacked;

int cr_unpacked_open(cr_unpacked **out, const char *path);
int cr_unpacked_read(cr_unpacked *file, void *bytes, size_t room,
                     size_t *size); /* *size 0: the end */
void cr_unpacked_close(cr_unpacked *file);

#endif
