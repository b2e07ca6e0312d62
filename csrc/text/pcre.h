/* pcre.h: PCRE2 with this library's memory, for the files of this floor that match by it. */
#ifndef CR_PCRE_H
#define CR_PCRE_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/base.h"

/* A context that takes its memory from cr_alloc; NULL when there is none. Freed by its taker. */
pcre2_general_context *cr_pcre_memory(void);

/* CR_ENOMEM, or CR_EFORMAT with *reason and *offset set: the caller words the message. */
int cr_pcre_compile(pcre2_code **out, pcre2_general_context *memory, const char *pattern,
                    uint32_t options, int *reason, size_t *offset);

#endif
