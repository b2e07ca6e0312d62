/* round_trip.h: what is encoded must come back, whatever the bytes; anything else aborts. Composed text does
 * not come back as it was: there only that it can be decoded. */
#ifndef CR_ROUND_TRIP_H
#define CR_ROUND_TRIP_H

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

static void check_round_trip(const cr_tokenizer *tokenizer, const char *text, size_t size,
                             bool parse_special)
{
    int32_t *ids;
    size_t count, length;
    char *back;
    if (cr_tokenizer_encode(tokenizer, text, size, parse_special, &ids, &count) < 0)
        abort();
    if (cr_tokenizer_decode(tokenizer, ids, count, false, &back, &length) < 0)
        abort();
    cr_tokenizer_info info;
    cr_tokenizer_describe(tokenizer, &info);
    if (!info.composes && (length != size || memcmp(back, text, size) != 0))
        abort();
    cr_free(back);
    cr_free(ids);
}

#endif
