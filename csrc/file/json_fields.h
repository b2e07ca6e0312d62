/* json_fields.h: members of a JSON object by name and kind.
 *
 * What this is: for readers of configuration files: a member that is absent, or null, is
 * CR_ENOTFOUND and leaves *out as it is; one of another kind or out of range is CR_EFORMAT. Both name
 * the member.
 */
#ifndef CR_JSON_FIELDS_H
#define CR_JSON_FIELDS_H

#include "file/json.h"

typedef struct cr_json_object {
    const cr_json *document;
    const cr_json_node *node; /* an object */
} cr_json_object;

/* The member, NULL where it is absent or null. */
const cr_json_node *cr_json_field(cr_json_object object, const char *key);

int cr_json_size(cr_json_object object, const char *key, size_t least, size_t most, size_t *out);
int cr_json_number(cr_json_object object, const char *key, double *out);
int cr_json_bool(cr_json_object object, const char *key, bool *out);
int cr_json_string(cr_json_object object, const char *key, const char **out); /* borrowed */
int cr_json_object_field(cr_json_object object, const char *key, cr_json_object *out);

/* Absence is no failure. */
static inline int cr_json_optional(int code)
{
    return code == CR_ENOTFOUND ? CR_OK : code;
}

#endif
