/* values.h: the values of many small JSON texts, one after another, in one growing list.
 *
 * What this is: the fast sibling of file/json.h for rows of data. A text is parsed into a run of nodes
 * in writing order: a container, then its children. Strings stay in the text: the parser unescapes
 * them in place, so it needs the text writable and the text must outlive the nodes. What it is not: an
 * index; members are found by walking.
 *
 * Strict like file/json.h (RFC 8259, UTF-8) but for keys that occur twice: both stay, the later
 * wins for whoever reads them in order. Failures are CR_EFORMAT (or CR_ENOMEM), say at which byte, and
 * name no file.
 */
#ifndef CR_VALUES_H
#define CR_VALUES_H

#include "base/base.h"

#define CR_VALUES_DEPTH 200

typedef enum cr_value_kind {
    CR_VALUE_NULL,
    CR_VALUE_FALSE,
    CR_VALUE_TRUE,
    CR_VALUE_INTEGER,
    CR_VALUE_NUMBER,
    CR_VALUE_STRING,
    CR_VALUE_ARRAY,
    CR_VALUE_OBJECT
} cr_value_kind;

typedef struct cr_value {
    union {
        int64_t integer;
        double number;
        const char *text; /* not terminated */
        uint64_t end;     /* containers: index of the first node behind it */
    } as;
    uint32_t
        length; /* strings: bytes; arrays: elements; objects: members, each a string and a value */
    uint32_t kind; /* cr_value_kind */
} cr_value;

typedef struct cr_values {
    cr_value *list;
    size_t count, capacity;
} cr_values;

/* Appends the nodes of one text; on failure *values is as before. */
int cr_values_parse(cr_values *values, char *text, size_t size);

/* Appends one node by hand, for rows that are no JSON. */
int cr_values_add(cr_values *values, cr_value value);

/* CR_EFORMAT, naming the byte, unless all of the text is UTF-8. */
int cr_check_utf8(const char *text, size_t size);

void cr_values_free(cr_values *values);

#endif
