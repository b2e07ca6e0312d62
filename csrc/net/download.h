/* download.h: the body of one answer into a file that may be there in part.
 *
 * What this is: a sink for net/http.h that understands ranges: 200 writes the file anew, 206 goes on
 * at its end and is refused when the answer begins elsewhere. What it is not: a policy of retries
 * and checksums.
 *
 * Ownership: *out is the caller's and outlives the transfer.
 */
#ifndef CR_DOWNLOAD_H
#define CR_DOWNLOAD_H

#include "net/http.h"

typedef struct cr_download cr_download;

/* Without `html`, an answer that says it is an HTML page is refused: a page that explains an error
 * or asks to log in is not the file. `size`, unless 0, is what the whole file must have. */
int cr_download_open(cr_download **out, const char *path, bool html, uint64_t size);
uint64_t cr_download_size(const cr_download *download); /* bytes in the file */
cr_http_sink cr_download_sink(cr_download *download);
void cr_download_close(cr_download *download);

#endif
