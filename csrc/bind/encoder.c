/* encoder.c: crucible.encoder: vectors of texts, and labels of texts or pairs of texts. */
#include "bind/bind.h"

static cr_encoder *encoder_core(lua_State *L)
{
    return bind_core(L, 1, &bind_encoder_class);
}

typedef struct encoder_options {
    int threads;
} encoder_options;

static const bind_field option_fields[] = {
    {"threads", BIND_INTEGER, offsetof(encoder_options, threads), 0, 1024, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

int bind_encoder_open(lua_State *L)
{
    const char *path = bind_path(L, 1);
    encoder_options options = {0};
    lua_settop(L, 2);
    bind_read_options(L, 2, option_fields, &options);
    bind_handle *handle = bind_new(L, &bind_encoder_class, sizeof *handle, 0);
    cr_encoder *encoder = NULL;
    int code = cr_encoder_open(&encoder, path, options.threads);
    handle->core = encoder;
    if (code == CR_OK) {
        cr_encoder_info info;
        cr_encoder_describe(encoder, &info);
        bind_charge(L, 4 * info.parameters);
    }
    return bind_result(L, code);
}

static int encoder_close(lua_State *L)
{
    cr_encoder_close(bind_take(L, 1, &bind_encoder_class));
    return 0;
}

/* ---- what it is -------------------------------------------------------------------- */

static void set_text(lua_State *L, const char *name, const char *text)
{
    lua_pushstring(L, text);
    lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

/* Making a text may run a finalizer that closes the encoder, whose labels then are gone: it is checked
 * for each. */
static void push_labels(lua_State *L, int count)
{
    lua_createtable(L, count, 0);
    for (int i = 0; i < count; i++) {
        lua_pushstring(L, cr_encoder_label(encoder_core(L), i));
        lua_rawseti(L, -2, i + 1);
    }
}

static int encoder_info(lua_State *L)
{
    cr_encoder_info info; /* its texts are constants */
    cr_encoder_describe(encoder_core(L), &info);
    lua_createtable(L, 0, 12);
    set_text(L, "family", info.family);
    set_text(L, "tokenizer", info.tokenizer);
    set_text(L, "pooling", info.pooling);
    lua_pushboolean(L, info.normalises);
    lua_setfield(L, -2, "normalises");
    set_integer(L, "layers", (uint64_t)info.layers);
    set_integer(L, "width", (uint64_t)info.width);
    set_integer(L, "heads", (uint64_t)info.heads);
    set_integer(L, "ffn_width", (uint64_t)info.ffn_width);
    set_integer(L, "vocabulary", (uint64_t)info.vocabulary);
    set_integer(L, "context", (uint64_t)info.context);
    set_integer(L, "parameters", info.parameters);
    push_labels(L, info.labels);
    lua_setfield(L, -2, "labels");
    return 1;
}

static int encoder_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_encoder_class);
    if (handle->core == NULL) {
        lua_pushliteral(L, "crucible.encoder(closed)");
        return 1;
    }
    cr_encoder_info info;
    cr_encoder_describe(handle->core, &info);
    lua_pushfstring(L, "crucible.encoder(%s; %d layers of %d, %d labels)", info.family, info.layers,
                    info.width, info.labels);
    return 1;
}

/* ---- texts -------------------------------------------------------------------------- */

typedef struct texts {
    cr_text_pair *pairs;
    size_t count;
} texts;

/* The string on top of the stack, which the list at `arg` keeps alive. */
static const char *text_at(lua_State *L, bind_place place, size_t *length)
{
    if (lua_type(L, -1) != LUA_TSTRING)
        bind_place_error(L, place, ": expected a string, got %s", luaL_typename(L, -1));
    return lua_tolstring(L, -1, length);
}

static void read_pair(lua_State *L, bind_place place, cr_text_pair *pair)
{
    if (bind_list_length(L, place) != 2)
        bind_place_error(L, place, ": expected two strings");
    place.format = "texts[%d][%d]";
    lua_rawgeti(L, -1, place.at[1] = 1);
    pair->first = text_at(L, place, &pair->first_length);
    lua_rawgeti(L, -2, place.at[1] = 2);
    pair->second = text_at(L, place, &pair->second_length);
    lua_pop(L, 2);
}

/* Reads the list at `arg` of strings and, if `pairs`, of pairs of strings; the list keeps them alive. */
static texts read_texts(lua_State *L, int arg, bool pairs)
{
    bind_place place = {arg, "texts", {0, 0}};
    lua_pushvalue(L, arg);
    texts all = {NULL, bind_list_length(L, place)};
    all.pairs = bind_space(L, all.count, sizeof *all.pairs);
    place.format = "texts[%d]";
    for (size_t i = 0; i < all.count; i++) {
        lua_rawgeti(L, arg, place.at[0] = (int)i + 1);
        if (pairs && lua_istable(L, -1))
            read_pair(L, place, &all.pairs[i]);
        else
            all.pairs[i].first = text_at(L, place, &all.pairs[i].first_length);
        lua_pop(L, 1);
    }
    return all;
}

static int push_rows(lua_State *L, const float *values, size_t rows, size_t columns)
{
    bind_new_list(L, rows);
    for (size_t i = 0; i < rows; i++) {
        bind_push_floats(L, values + i * columns, columns);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int encoder_embed(lua_State *L)
{
    cr_encoder_info info;
    cr_encoder_describe(encoder_core(L), &info);
    lua_settop(L, 2);
    texts all = read_texts(L, 2, false);
    size_t width = (size_t)info.width;
    float *out = bind_space(L, all.count, width * sizeof *out);
    int code = cr_encoder_embed(encoder_core(L), all.pairs, all.count, out);
    return code < 0 ? bind_failure(L, code) : push_rows(L, out, all.count, width);
}

static int encoder_classify(lua_State *L)
{
    cr_encoder_info info;
    cr_encoder_describe(encoder_core(L), &info);
    lua_settop(L, 2);
    texts all = read_texts(L, 2, true);
    size_t labels = (size_t)info.labels;
    float *out = bind_space(L, all.count, labels * sizeof *out);
    int code = cr_encoder_classify(encoder_core(L), all.pairs, all.count, out);
    return code < 0 ? bind_failure(L, code) : push_rows(L, out, all.count, labels);
}

static int encoder_tokens(lua_State *L)
{
    cr_text_pair pair = {0};
    encoder_core(L);
    pair.first = luaL_checklstring(L, 2, &pair.first_length);
    if (!lua_isnoneornil(L, 3))
        pair.second = luaL_checklstring(L, 3, &pair.second_length);
    bind_box *box = bind_push_box(L, NULL);
    int32_t *ids = NULL;
    size_t count, cut;
    int code = cr_encoder_tokens(encoder_core(L), &pair, &ids, &count, &cut);
    box->memory = ids;
    if (code < 0)
        return bind_failure(L, code);
    bind_push_ids(L, ids, count);
    lua_pushinteger(L, (lua_Integer)cut);
    return 2;
}

static const luaL_Reg methods[] = {
    {"info", encoder_info},     {"embed", encoder_embed}, {"classify", encoder_classify},
    {"tokens", encoder_tokens}, {"close", encoder_close}, {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", encoder_close},
    {"__close", encoder_close},
    {"__tostring", encoder_tostring},
    {NULL, NULL},
};

const bind_class bind_encoder_class = {"crucible.encoder", methods, metamethods};
