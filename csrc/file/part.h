/* part.h: a file that grows in place and may be taken up again: the unfinished part of a download.
 *
 * Unlike cr_writer it survives its process. Nobody else may write it meanwhile: hold a lock
 * (file/lock.h). Failures are those of file/fsio.h.
 *
 * Ownership: *out is the caller's; cr_part_close closes it (NULL is accepted) and keeps the file.
 */
#ifndef CR_PART_H
#define CR_PART_H

#include "base/base.h"

typedef struct cr_part cr_part;

/* Opens or makes the file; what it holds already counts as its beginning. */
int cr_part_open(cr_part **out, const char *path);
uint64_t cr_part_size(const cr_part *part);
const char *cr_part_path(const cr_part *part); /* borrowed */
int cr_part_cut(cr_part *part, uint64_t size); /* keeps the first `size` bytes */
int cr_part_append(cr_part *part, const void *bytes, size_t size);
int cr_part_sync(cr_part *part); /* what was written is on the disk */
void cr_part_close(cr_part *part);

#endif
