/* shown.h: bytes of a file as text that may stand in a message.
 *
 * At most 60 bytes of well-formed UTF-8; control characters and stray bytes read "?".
 */
#ifndef CR_SHOWN_H
#define CR_SHOWN_H

#include <stddef.h>

typedef struct cr_shown {
    char text[68];
} cr_shown;

/* By value, so that several may stand in one message. */
cr_shown cr_show(const char *bytes, size_t length);

#endif
