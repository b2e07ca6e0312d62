/* json_fields.c: checked access to members of JSON objects. */
#include "file/json_fields.h"

static const char *kind_name(cr_json_kind kind)
{
    static const char *const names[] = {"null",     "false",  "true",     "a number",
                                        "a string", "a list", "an object"};
    return names[kind];
}

const cr_json_node *cr_json_field(cr_json_object object, const char *key)
{
    const cr_json_node *found = cr_json_member(object.document, object.node, key);
    return found && found->kind != CR_JSON_NULL ? found : NULL;
}

static int find(cr_json_object object, const char *key, cr_json_kind kind,
                const cr_json_node **out)
{
    *out = cr_json_field(object, key);
    if (!*out)
        return cr_fail(CR_ENOTFOUND, "%s is missing", key);
    if ((*out)->kind != kind)
        return cr_fail(CR_EFORMAT, "%s is %s: expected %s", key, kind_name((*out)->kind),
                       kind_name(kind));
    return CR_OK;
}

int cr_json_size(cr_json_object object, const char *key, size_t least, size_t most, size_t *out)
{
    const cr_json_node *found;
    CR_TRY(find(object, key, CR_JSON_NUMBER, &found));
    if (!found->integer || found->value < 0 || (uint64_t)found->value < least ||
        (uint64_t)found->value > most)
        return cr_fail(CR_EFORMAT, "%s is %.17g: expected an integer from %zu to %zu", key,
                       found->number, least, most);
    *out = (size_t)found->value;
    return CR_OK;
}

int cr_json_number(cr_json_object object, const char *key, double *out)
{
    const cr_json_node *found;
    CR_TRY(find(object, key, CR_JSON_NUMBER, &found));
    *out = found->number;
    return CR_OK;
}

int cr_json_bool(cr_json_object object, const char *key, bool *out)
{
    const cr_json_node *found = cr_json_field(object, key);
    if (!found)
        return cr_fail(CR_ENOTFOUND, "%s is missing", key);
    if (found->kind != CR_JSON_TRUE && found->kind != CR_JSON_FALSE)
        return cr_fail(CR_EFORMAT, "%s is %s: expected true or false", key,
                       kind_name(found->kind));
    *out = found->kind == CR_JSON_TRUE;
    return CR_OK;
}

int cr_json_string(cr_json_object object, const char *key, const char **out)
{
    const cr_json_node *found;
    CR_TRY(find(object, key, CR_JSON_STRING, &found));
    *out = found->text;
    return CR_OK;
}

int cr_json_object_field(cr_json_object object, const char *key, cr_json_object *out)
{
    const cr_json_node *found;
    CR_TRY(find(object, key, CR_JSON_OBJECT, &found));
    *out = (cr_json_object){object.document, found};
    return CR_OK;
}
