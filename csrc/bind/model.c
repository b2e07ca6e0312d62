/* model.c: crucible.model: opening, describing, closing. */
#include "bind/bind.h"

#include <stddef.h>
#include <string.h>

int bind_model_open(lua_State *L)
{
    const char *path = bind_path(L, 1);
    bind_handle *handle = bind_new(L, &bind_model_class, sizeof *handle, 1);
    cr_model *model = NULL;
    int code = cr_model_open(&model, path);
    handle->core = model;
    return bind_result(L, code);
}

static int model_close(lua_State *L)
{
    cr_model_close(bind_take(L, 1, &bind_model_class));
    return 0;
}

/* Describes anew for each text: the allocation of the one before may have run a
 * finalizer that closed the model. */
static void set_text(lua_State *L, const char *name, size_t offset)
{
    cr_model_info info;
    cr_model_describe(bind_core(L, 1, &bind_model_class), &info);
    lua_pushstring(L, *(const char *const *)((const char *)&info + offset));
    lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static void set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, (lua_Number)value);
    lua_setfield(L, -2, name);
}

static int model_info(lua_State *L)
{
    cr_model_info info;
    cr_model_describe(bind_core(L, 1, &bind_model_class), &info);
    lua_createtable(L, 0, 17);
    set_text(L, "family", offsetof(cr_model_info, family));
    set_text(L, "name", offsetof(cr_model_info, name));
    set_text(L, "quantisation", offsetof(cr_model_info, quantisation));
    set_text(L, "chat_template", offsetof(cr_model_info, chat_template));
    set_integer(L, "layers", (uint64_t)info.layers);
    set_integer(L, "width", (uint64_t)info.width);
    set_integer(L, "heads", (uint64_t)info.heads);
    set_integer(L, "kv_heads", (uint64_t)info.kv_heads);
    set_integer(L, "head_size", (uint64_t)info.head_size);
    set_integer(L, "ffn_width", (uint64_t)info.ffn_width);
    set_integer(L, "vocabulary", (uint64_t)info.vocabulary);
    set_integer(L, "context", (uint64_t)info.context);
    set_integer(L, "parameters", info.parameters);
    set_integer(L, "file_bytes", info.file_bytes);
    set_number(L, "rope_base", info.rope_base);
    set_number(L, "norm_epsilon", info.norm_epsilon);
    lua_pushboolean(L, info.tied_head);
    lua_setfield(L, -2, "tied_head");
    return 1;
}

static void push_stored(lua_State *L, const cr_stored_tensor *tensor)
{
    lua_createtable(L, 0, 4);
    lua_pushlstring(L, tensor->name, tensor->name_length);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, tensor->type);
    lua_setfield(L, -2, "type");
    set_integer(L, "bytes", tensor->bytes);
    lua_createtable(L, tensor->dims, 0);
    for (int i = 0; i < tensor->dims; i++) {
        lua_pushinteger(L, (lua_Integer)tensor->shape[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "shape");
}

static int model_tensors(lua_State *L)
{
    bind_check(L, 1, &bind_model_class);
    const size_t count = cr_model_stored_count(bind_core(L, 1, &bind_model_class));
    lua_Integer found = 0;
    lua_settop(L, 1);
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        /* An allocation may have run a finalizer that closed the model. */
        cr_stored_tensor tensor;
        if (!cr_model_stored(bind_core(L, 1, &bind_model_class), i, &tensor))
            continue;
        char name[256]; /* a copy for the same reason */
        tensor.name_length = tensor.name_length < sizeof name ? tensor.name_length : sizeof name;
        memcpy(name, tensor.name, tensor.name_length);
        tensor.name = name;
        push_stored(L, &tensor);
        lua_rawseti(L, 2, ++found);
    }
    return 1;
}

static int model_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_model_class);
    if (handle->core == NULL) {
        lua_pushliteral(L, "crucible.model(closed)");
        return 1;
    }
    cr_model_info info;
    cr_model_describe(handle->core, &info);
    lua_pushfstring(L, "crucible.model(%s%s%s, %s; %d layers of %d)", info.family,
                    *info.name ? " " : "", info.name, info.quantisation, info.layers, info.width);
    return 1;
}

static const luaL_Reg methods[] = {
    {"info", model_info},
    {"tensors", model_tensors},
    {"tokenizer", bind_model_tokenizer},
    {"session", bind_model_session},
    {"close", model_close},
    {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", model_close},
    {"__close", model_close},
    {"__tostring", model_tostring},
    {NULL, NULL},
};

const bind_class bind_model_class = {"crucible.model", methods, metamethods};
