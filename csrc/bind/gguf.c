/* gguf.c: crucible.core: what stands in a GGUF file, whatever it is: keys and the table of tensors. */
#include "bind/bind.h"

#include <string.h>

#include "file/gguf.h"

static void release_file(bind_box *box)
{
    cr_gguf_close(box->memory);
}

/* ---- values ------------------------------------------------------------------------------ */

static size_t width_of(cr_gguf_type type)
{
    static const unsigned char bytes[] = {
        [CR_GGUF_U8] = 1,  [CR_GGUF_I8] = 1,  [CR_GGUF_U16] = 2, [CR_GGUF_I16] = 2,
        [CR_GGUF_U32] = 4, [CR_GGUF_I32] = 4, [CR_GGUF_F32] = 4, [CR_GGUF_BOOL] = 1,
        [CR_GGUF_U64] = 8, [CR_GGUF_I64] = 8, [CR_GGUF_F64] = 8,
    };
    return bytes[type];
}

static lua_Integer integer_at(const void *at, cr_gguf_type type)
{
    const size_t width = width_of(type);
    uint64_t raw = 0;
    memcpy(&raw, at, width);
    const bool is_signed = type == CR_GGUF_I8 || type == CR_GGUF_I16 || type == CR_GGUF_I32;
    if (is_signed && raw >> (8 * width - 1) != 0)
        raw |= ~UINT64_C(0) << (8 * width);
    return (lua_Integer)raw;
}

static lua_Number real_at(const void *at, cr_gguf_type type)
{
    float single;
    double real;
    if (type == CR_GGUF_F64) {
        memcpy(&real, at, sizeof real);
        return (lua_Number)real;
    }
    memcpy(&single, at, sizeof single);
    return (lua_Number)single;
}

static void push_scalar(lua_State *L, const void *at, cr_gguf_type type)
{
    if (type == CR_GGUF_BOOL)
        lua_pushboolean(L, *(const unsigned char *)at);
    else if (type == CR_GGUF_F32 || type == CR_GGUF_F64)
        lua_pushnumber(L, real_at(at, type));
    else
        lua_pushinteger(L, integer_at(at, type));
}

/* Pushes the string that stands at `at` and returns what follows it. */
static const unsigned char *push_string(lua_State *L, const unsigned char *at)
{
    uint64_t length;
    memcpy(&length, at, sizeof length);
    lua_pushlstring(L, (const char *)at + sizeof length, (size_t)length);
    return at + sizeof length + length;
}

static void push_array(lua_State *L, const cr_gguf_key *key)
{
    const unsigned char *at = key->value;
    bind_new_list(L, key->count);
    for (size_t i = 0; i < key->count; i++) {
        if (key->element == CR_GGUF_STRING) {
            at = push_string(L, at);
        } else {
            push_scalar(L, at, key->element);
            at += width_of(key->element);
        }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static void push_value(lua_State *L, const cr_gguf_key *key)
{
    if (key->type == CR_GGUF_ARRAY)
        push_array(L, key);
    else if (key->type == CR_GGUF_STRING)
        lua_pushlstring(L, key->value, key->count);
    else
        push_scalar(L, key->value, key->type);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void push_keys(lua_State *L, const cr_gguf *file)
{
    lua_createtable(L, 0, (int)cr_gguf_key_count(file));
    for (size_t i = 0; i < cr_gguf_key_count(file); i++) {
        cr_gguf_key key;
        cr_gguf_key_at(file, i, &key);
        lua_pushlstring(L, key.name.bytes, key.name.length);
        push_value(L, &key);
        lua_rawset(L, -3);
    }
}

/* Shapes outermost first, as people write them. */
static void push_tensor(lua_State *L, const cr_gguf *file, const cr_gguf_tensor *tensor)
{
    char type[24];
    lua_createtable(L, 0, 5);
    lua_pushlstring(L, tensor->name.bytes, tensor->name.length);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, cr_dtype_name(tensor->type, type));
    lua_setfield(L, -2, "type");
    lua_pushinteger(L, (lua_Integer)cr_gguf_offset(file, tensor->data));
    lua_setfield(L, -2, "offset");
    lua_pushinteger(L, (lua_Integer)tensor->bytes);
    lua_setfield(L, -2, "bytes");
    lua_createtable(L, tensor->dims, 0);
    for (int i = 0; i < tensor->dims; i++) {
        lua_pushinteger(L, (lua_Integer)tensor->shape[tensor->dims - 1 - i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "shape");
}

static void push_tensors(lua_State *L, const cr_gguf *file)
{
    lua_createtable(L, (int)cr_gguf_tensor_count(file), 0);
    for (size_t i = 0; i < cr_gguf_tensor_count(file); i++) {
        push_tensor(L, file, cr_gguf_tensor_at(file, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

int bind_read_gguf(lua_State *L)
{
    const char *path = bind_path(L, 1);
    bind_box *box = bind_push_box(L, release_file);
    cr_gguf *file = NULL;
    int code = cr_gguf_open(&file, path);
    if (code < 0)
        return bind_failure(L, code);
    box->memory = file;
    lua_createtable(L, 0, 2);
    push_keys(L, file);
    lua_setfield(L, -2, "keys");
    push_tensors(L, file);
    lua_setfield(L, -2, "tensors");
    return 1;
}

/* The tensor of that name, checked to be of a type that can be expanded and not too large for a list. */
static int find_tensor(const cr_gguf *file, const char *name, const cr_gguf_tensor **out)
{
    enum { MOST = 1 << 24 };
    char type[24];
    uint64_t values = 1;
    const cr_gguf_tensor *tensor = *out = cr_gguf_tensor_find(file, name);
    if (!tensor)
        return cr_fail(CR_ENOTFOUND, "tensor %.80s is missing", name);
    if (!cr_dtype_find(tensor->type))
        return cr_fail(CR_EUNSUPPORTED, "tensor %.80s: element type %s is not supported", name,
                       cr_dtype_name(tensor->type, type));
    for (int i = 0; i < tensor->dims; i++)
        values = tensor->shape[i] <= MOST / values ? values * tensor->shape[i] : MOST + 1;
    return values <= MOST ? CR_OK
                          : cr_fail(CR_EARG, "tensor %.80s has more than %d values", name, MOST);
}

static void push_values(lua_State *L, const cr_gguf_tensor *tensor)
{
    size_t count = 1;
    for (int i = 0; i < tensor->dims; i++)
        count *= (size_t)tensor->shape[i];
    float *values = bind_space(L, count, sizeof *values);
    cr_dtype_expand(values, cr_dtype_find(tensor->type), tensor->data, 0, count);
    bind_push_floats(L, values, count);
}

int bind_read_gguf_tensor(lua_State *L)
{
    const char *path = bind_path(L, 1);
    const char *name = luaL_checkstring(L, 2);
    bind_box *box = bind_push_box(L, release_file);
    cr_gguf *file = NULL;
    const cr_gguf_tensor *tensor;
    int code = cr_gguf_open(&file, path);
    if (code < 0)
        return bind_failure(L, code);
    box->memory = file;
    code = find_tensor(file, name, &tensor);
    if (code < 0)
        return bind_failure(L, code);
    push_values(L, tensor);
    return 1;
}

int bind_set_gguf_number(lua_State *L)
{
    const char *path = bind_path(L, 1);
    const char *key = luaL_checkstring(L, 2);
    return bind_true(L, cr_gguf_set_number(path, key, (double)luaL_checknumber(L, 3)));
}
