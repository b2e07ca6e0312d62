/* tinker.c: messages of the Tinker API in protobuf (net/tinker.h) for Lua. */
#include "bind/bind.h"

#include <string.h>

#include "net/tinker.h"

/* ---- encoding ---------------------------------------------------------------------------------- */

static bool is_text(lua_State *L, int index)
{
    return lua_type(L, index) == LUA_TSTRING &&
           strlen(lua_tostring(L, index)) == lua_rawlen(L, index);
}

/* A string of the table at `index`, which keeps it alive. */
static const char *text_field(lua_State *L, int index, bind_place place, const char *name)
{
    bind_get(L, index, name);
    if (!is_text(L, -1))
        bind_place_error(L, place, ".%s: expected a string without NUL, got %s", name,
                         luaL_typename(L, -1));
    const char *text = lua_tostring(L, -1);
    lua_pop(L, 1);
    return text;
}

/* Pushes the names of the table at `index` as work space, in the order of their bytes, as the
 * official writer has them. */
static const char **push_names(lua_State *L, int index, bind_place place, size_t *count)
{
    *count = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), ++*count)
        if (!is_text(L, -2))
            bind_place_error(L, place, ": expected names without NUL, got a key of type %s",
                             luaL_typename(L, -2));
    const char **names = bind_space(L, *count, sizeof *names);
    size_t made = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        const char *name = lua_tostring(L, -2);
        if (made == *count)
            continue;
        size_t at = made++;
        for (; at > 0 && strcmp(names[at - 1], name) > 0; at--)
            names[at] = names[at - 1];
        names[at] = name;
    }
    return names;
}

/* The list on top of the stack, as work space on top of it. */
static float *push_floats(lua_State *L, bind_place place, size_t count)
{
    float *values = bind_space(L, count, sizeof *values);
    lua_insert(L, -2);
    bind_read_floats(L, place, values, count);
    return values;
}

static int64_t *push_whole(lua_State *L, bind_place place, size_t count)
{
    int64_t *values = bind_space(L, count, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        int exact = 0;
        lua_rawgeti(L, -2, (lua_Integer)i + 1);
        values[i] = (int64_t)lua_tointegerx(L, -1, &exact);
        if (!exact || lua_type(L, -1) != LUA_TNUMBER)
            bind_place_error(L, place, ": expected whole numbers, got %s", luaL_typename(L, -1));
        lua_pop(L, 1);
    }
    return values;
}

static int32_t *push_ids(lua_State *L, bind_place place, size_t count)
{
    int32_t *ids = bind_space(L, count, sizeof *ids);
    lua_insert(L, -2);
    bind_read_ids(L, place, ids, count);
    return ids;
}

/* Puts the tensor at `index`: { dtype, values }. */
static void put_tensor(lua_State *L, int index, bind_place place, cr_tinker_request *request,
                       const char *name)
{
    if (!lua_istable(L, index))
        bind_place_error(L, place, ".%s: expected a tensor, got %s", name, luaL_typename(L, index));
    const char *dtype = text_field(L, index, place, "dtype");
    bind_get(L, index, "values");
    const size_t count = bind_list_length(L, place);
    if (strcmp(dtype, "float32") == 0)
        cr_tinker_put_floats(request, name, push_floats(L, place, count), count);
    else if (strcmp(dtype, "int64") == 0)
        cr_tinker_put_whole(request, name, push_whole(L, place, count), count);
    else
        bind_place_error(L, place, ".%s: dtype is '%s', expected 'float32' or 'int64'", name,
                         dtype);
}

/* Puts the datum at `index`: { tokens, inputs }. */
static void put_datum(lua_State *L, int index, bind_place place, cr_tinker_request *request)
{
    const bind_place tokens = {place.arg, "data[%d].tokens", {place.at[0], 0}};
    const bind_place inputs = {place.arg, "data[%d].inputs", {place.at[0], 0}};
    if (!lua_istable(L, index))
        bind_place_error(L, place, ": expected a datum, got %s", luaL_typename(L, index));
    bind_get(L, index, "tokens");
    const size_t length = bind_list_length(L, tokens);
    cr_tinker_put_datum(request, push_ids(L, tokens, length), length);
    if (bind_get(L, index, "inputs") != LUA_TTABLE)
        bind_place_error(L, inputs, ": expected a table, got %s", luaL_typename(L, -1));
    const int table = lua_gettop(L);
    size_t count;
    const char **names = push_names(L, table, inputs, &count);
    const int top = lua_gettop(L);
    for (size_t i = 0; i < count; i++, lua_settop(L, top)) {
        bind_get(L, table, names[i]);
        put_tensor(L, lua_gettop(L), inputs, request, names[i]);
    }
}

static void put_data(lua_State *L, int arg, cr_tinker_request *request)
{
    bind_get(L, arg, "data");
    const int list = lua_gettop(L);
    const size_t count = bind_list_length(L, (bind_place){arg, "data", {0, 0}});
    for (size_t i = 0; i < count; i++, lua_settop(L, list)) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        put_datum(L, list + 1, (bind_place){arg, "data[%d]", {(int)i + 1, 0}}, request);
    }
}

/* Pushes the numbers by name in `loss_fn_config`, if there are any, as work space. */
static cr_tinker_setting *push_settings(lua_State *L, int arg, size_t *count)
{
    const bind_place place = {arg, "loss_fn_config", {0, 0}};
    *count = 0;
    if (bind_get(L, arg, "loss_fn_config") == LUA_TNIL)
        return NULL;
    luaL_argexpected(L, lua_istable(L, -1), arg, "a table as loss_fn_config");
    const int table = lua_gettop(L);
    const char **names = push_names(L, table, place, count);
    cr_tinker_setting *settings = bind_space(L, *count, sizeof *settings);
    for (size_t i = 0; i < *count; i++) {
        if (bind_get(L, table, names[i]) != LUA_TNUMBER)
            bind_place_error(L, place, ".%s: expected a number, got %s", names[i],
                             luaL_typename(L, -1));
        settings[i] = (cr_tinker_setting){names[i], (double)lua_tonumber(L, -1)};
        lua_pop(L, 1);
    }
    return settings;
}

static void drop_request(bind_box *box)
{
    cr_tinker_drop(box->memory);
}

static int finish_request(lua_State *L, int arg, cr_tinker_request *request)
{
    bind_box *box = bind_push_box(L, NULL);
    size_t size = 0, settings_count = 0;
    cr_tinker_setting *settings = push_settings(L, arg, &settings_count);
    const bind_place place = {arg, "the request", {0, 0}};
    const char *loss_fn = text_field(L, arg, place, "loss_fn");
    bind_get(L, arg, "forward_only");
    int code = cr_tinker_finish(request, &box->memory, &size, loss_fn, settings, settings_count,
                                lua_toboolean(L, -1) != 0);
    if (code == CR_OK)
        lua_pushlstring(L, box->memory, size);
    return bind_result(L, code);
}

/* tinker_encode("forward_backward", request) → bytes */
int bind_tinker_encode(lua_State *L)
{
    static const char *const kinds[] = {"forward_backward", NULL};
    luaL_checkoption(L, 1, NULL, kinds);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    const bind_place place = {2, "the request", {0, 0}};
    const char *model_id = text_field(L, 2, place, "model_id");
    bind_get(L, 2, "seq_id");
    int exact = 0;
    lua_Integer seq_id = lua_tointegerx(L, -1, &exact);
    luaL_argcheck(L, exact && lua_type(L, -1) == LUA_TNUMBER && seq_id >= 1 && seq_id <= INT32_MAX,
                  2, "seq_id: expected an integer from 1 to 2147483647");
    cr_tinker_request *request = bind_space(L, 1, sizeof *request);
    bind_push_box(L, drop_request)->memory = request;
    cr_tinker_begin(request, model_id, (int32_t)seq_id);
    put_data(L, 2, request);
    return finish_request(L, 2, request);
}

/* ---- decoding ---------------------------------------------------------------------------------- */

static void push_view(lua_State *L, cr_protobuf_view view)
{
    lua_pushlstring(L, (const char *)view.at, cr_protobuf_size(view));
}

static void push_values(lua_State *L, cr_tinker_values values)
{
    const bool whole = cr_tinker_is_whole(values.dtype);
    bind_new_list(L, values.count);
    for (size_t i = 0; i < values.count; i++) {
        if (whole)
            lua_pushinteger(L, (lua_Integer)cr_tinker_whole(values, i));
        else
            lua_pushnumber(L, (lua_Number)cr_tinker_number(values, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* A table for each datum of the record, appended to the list on top of the stack. */
static void append_record(lua_State *L, const cr_tinker_record *record, lua_Integer *made)
{
    for (size_t d = 0; d < record->datums; d++) {
        lua_createtable(L, 0, (int)record->field_count);
        for (size_t f = 0; f < record->field_count; f++) {
            push_view(L, record->fields[f].name);
            push_values(L, cr_tinker_field_values(&record->fields[f], d));
            lua_rawset(L, -3);
        }
        lua_rawseti(L, -2, ++*made);
    }
}

static void push_output(lua_State *L, const cr_tinker_output *output)
{
    lua_Integer made = 0;
    lua_createtable(L, 0, 3);
    push_view(L, output->type);
    lua_setfield(L, -2, "type");
    lua_newtable(L);
    for (size_t i = 0; i < output->metric_count; i++) {
        push_view(L, output->metrics[i].name);
        lua_pushnumber(L, (lua_Number)output->metrics[i].value);
        lua_rawset(L, -3);
    }
    lua_setfield(L, -2, "metrics");
    bind_new_list(L, output->datums);
    for (size_t i = 0; i < output->record_count; i++)
        append_record(L, &output->records[i], &made);
    lua_setfield(L, -2, "outputs");
}

static void free_output(bind_box *box)
{
    cr_tinker_output_free(box->memory);
}

static int decode_output(lua_State *L, const char *bytes, size_t size)
{
    cr_tinker_output *output = bind_space(L, 1, sizeof *output);
    bind_box *box = bind_push_box(L, free_output);
    int code = cr_tinker_read_output(output, bytes, size);
    if (code < 0)
        return bind_failure(L, code);
    box->memory = output;
    push_output(L, output);
    return 1;
}

static void push_sequence(lua_State *L, const cr_tinker_sequence *sequence)
{
    lua_createtable(L, 0, 3);
    lua_pushstring(L, sequence->length ? "length" : "stop");
    lua_setfield(L, -2, "stop_reason");
    push_values(L, sequence->tokens);
    lua_setfield(L, -2, "tokens");
    if (!sequence->has_logprobs)
        return;
    push_values(L, sequence->logprobs);
    lua_setfield(L, -2, "logprobs");
}

static void push_samples(lua_State *L, const cr_tinker_samples *samples)
{
    lua_createtable(L, 0, 2);
    bind_new_list(L, samples->count);
    for (size_t i = 0; i < samples->count; i++) {
        push_sequence(L, &samples->sequences[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "sequences");
    if (!samples->has_prompt_logprobs)
        return;
    push_values(L, samples->prompt_logprobs);
    lua_setfield(L, -2, "prompt_logprobs");
}

static void free_samples(bind_box *box)
{
    cr_tinker_samples_free(box->memory);
}

static int decode_samples(lua_State *L, const char *bytes, size_t size)
{
    cr_tinker_samples *samples = bind_space(L, 1, sizeof *samples);
    bind_box *box = bind_push_box(L, free_samples);
    int code = cr_tinker_read_samples(samples, bytes, size);
    if (code < 0)
        return bind_failure(L, code);
    box->memory = samples;
    push_samples(L, samples);
    return 1;
}

/* tinker_decode(kind, bytes) → table */
int bind_tinker_decode(lua_State *L)
{
    static const char *const kinds[] = {"forward_backward_output", "sample_response", NULL};
    const int kind = luaL_checkoption(L, 1, NULL, kinds);
    size_t size;
    const char *bytes = luaL_checklstring(L, 2, &size);
    lua_settop(L, 2);
    return kind == 0 ? decode_output(L, bytes, size) : decode_samples(L, bytes, size);
}
