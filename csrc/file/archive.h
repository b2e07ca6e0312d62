/* archive.h: archives unpacked into a folder, and never out of it.
 *
 * Tar and zip in all common compressions, over libarchive. Only regular files and folders come out;
 * an entry with another kind (links, devices), an absolute name or a ".." is refused, and so is
 * what unpacks to more than the limits allow. Nothing of a refused archive is promised to be there
 * or not to be: unpack into a new folder and throw that away on failure.
 */
#ifndef CR_ARCHIVE_H
#define CR_ARCHIVE_H

#include "base/base.h"

/* Failures: those of file/fsio.h; CR_EFORMAT for what is no archive or is damaged; CR_EUNSUPPORTED for
 * an entry that is refused, by its name. `folder` is made. */
int cr_unpack(const char *path, const char *folder, uint64_t most_bytes, uint64_t most_entries);

#endif
