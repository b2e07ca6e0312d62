/* tokens.c: crucible.tokens and crucible.tokenwriter: tokenised rows in a file. */
#include "bind/bind.h"

#include <string.h>

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The key at `arg`, a digest in hexadecimal. */
static void read_key(lua_State *L, int arg, unsigned char key[CR_TOKEN_KEY_BYTES])
{
    size_t length;
    const char *text = luaL_checklstring(L, arg, &length);
    bool good = length == 2 * CR_TOKEN_KEY_BYTES;
    for (size_t i = 0; good && i < CR_TOKEN_KEY_BYTES; i++) {
        int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);
        good = high >= 0 && low >= 0;
        key[i] = (unsigned char)(good ? high << 4 | low : 0);
    }
    luaL_argcheck(L, good, arg, "key: expected 64 hexadecimal digits");
}

/* ---- writing ------------------------------------------------------------------------- */

int bind_write_tokens(lua_State *L)
{
    bind_handle *handle = bind_new(L, &bind_tokenwriter_class, sizeof *handle, 0);
    cr_token_writer *writer = NULL;
    int code = cr_token_writer_create(&writer);
    handle->core = writer;
    return bind_result(L, code);
}

/* The whole number of 32 bits under a name in the table at 2; `missing` when there is none. */
static int64_t field(lua_State *L, const char *name, int64_t missing)
{
    if (bind_get(L, 2, name) == LUA_TNIL) {
        lua_pop(L, 1);
        return missing;
    }
    int whole;
    lua_Integer value = lua_tointegerx(L, -1, &whole);
    if (!whole || value < 0 || value > INT32_MAX)
        luaL_argerror(L, 2, lua_pushfstring(L, "%s: expected an integer of 0 to 2^31 - 1", name));
    lua_pop(L, 1);
    return value;
}

/* Pushes the list under a name; raises when there is none. */
static size_t push_list(lua_State *L, const char *name, bind_place place)
{
    if (bind_get(L, 2, name) == LUA_TNIL)
        bind_place_error(L, place, " is missing");
    return bind_list_length(L, place);
}

static int writer_add(lua_State *L)
{
    const bind_place tokens = {2, "tokens", {0, 0}}, weights = {2, "weights", {0, 0}};
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    cr_token_row row = {.number = (uint32_t)field(L, "row", 0),
                        .prompt = (uint32_t)field(L, "prompt_length", 0),
                        .seam = (uint32_t)field(L, "seam", 0),
                        .end = (int32_t)field(L, "end_id", -1)};
    row.count = push_list(L, "tokens", tokens);
    int32_t *ids = bind_space(L, row.count, sizeof *ids);
    lua_pushvalue(L, 3);
    bind_read_ids(L, tokens, ids, row.count);
    lua_settop(L, 4);
    size_t count = push_list(L, "weights", weights);
    if (count + 1 != row.count)
        bind_place_error(L, weights, " has %I values, expected one fewer than tokens has (%I)",
                         (LUAI_UACINT)count, (LUAI_UACINT)row.count);
    float *values = bind_space(L, count, sizeof *values);
    lua_pushvalue(L, 5);
    bind_read_floats(L, weights, values, count);
    row.ids = ids;
    row.weights = values;
    return bind_true(L, cr_token_writer_add(bind_core(L, 1, &bind_tokenwriter_class), &row));
}

static int writer_commit(lua_State *L)
{
    static const bind_field fields[] = {
        {"rows", BIND_SEED, offsetof(cr_token_counts, rows), 0, 0, 0},
        {"truncated", BIND_SEED, offsetof(cr_token_counts, truncated), 0, 0, 0},
        {"dropped", BIND_SEED, offsetof(cr_token_counts, dropped), 0, 0, 0},
        {NULL, BIND_LIST, 0, 0, 0, 0}};
    unsigned char key[CR_TOKEN_KEY_BYTES];
    cr_token_counts counts = {0, 0, 0};
    const char *path = bind_path(L, 2);
    read_key(L, 3, key);
    bind_read_record(L, 4, fields, &counts);
    return bind_true(
        L, cr_token_writer_commit(bind_core(L, 1, &bind_tokenwriter_class), path, key, &counts));
}

static int writer_close(lua_State *L)
{
    cr_token_writer_free(bind_take(L, 1, &bind_tokenwriter_class));
    return 0;
}

static int writer_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_tokenwriter_class);
    lua_pushstring(L, handle->core ? "crucible.tokenwriter" : "crucible.tokenwriter (closed)");
    return 1;
}

static const luaL_Reg writer_methods[] = {
    {"add", writer_add},
    {"commit", writer_commit},
    {"close", writer_close},
    {NULL, NULL},
};

static const luaL_Reg writer_metamethods[] = {
    {"__gc", writer_close},
    {"__close", writer_close},
    {"__tostring", writer_tostring},
    {NULL, NULL},
};

const bind_class bind_tokenwriter_class = {"crucible.tokenwriter", writer_methods,
                                           writer_metamethods};

/* ---- reading ------------------------------------------------------------------------- */

int bind_open_tokens(lua_State *L)
{
    unsigned char key[CR_TOKEN_KEY_BYTES];
    const char *path = bind_path(L, 1);
    read_key(L, 2, key);
    bind_handle *handle = bind_new(L, &bind_tokens_class, sizeof *handle, 0);
    cr_token_file *file = NULL;
    int code = cr_token_file_open(&file, path, key);
    handle->core = file;
    return bind_result(L, code);
}

/* Looked up anew for each use: an allocation may have run a finalizer that closed the file. */
static cr_token_row row_at(lua_State *L, size_t index)
{
    cr_token_row row = {.count = 0};
    if (cr_token_file_row(bind_core(L, 1, &bind_tokens_class), index, &row) < 0)
        luaL_argerror(L, 2, cr_error_message());
    return row;
}

static void set_integer(lua_State *L, const char *name, lua_Integer value)
{
    lua_pushinteger(L, value);
    lua_setfield(L, -2, name);
}

/* Values go through work space: pushing a list allocates. */
static int tokens_row(lua_State *L)
{
    lua_Integer number = luaL_checkinteger(L, 2);
    luaL_argcheck(L, number >= 1, 2, "rows are numbered from 1");
    const size_t index = (size_t)number - 1;
    cr_token_row row = row_at(L, index);
    int32_t *ids = bind_space(L, row.count, sizeof *ids);
    float *weights = bind_space(L, row.count, sizeof *weights);
    row = row_at(L, index);
    memcpy(ids, row.ids, row.count * sizeof *ids);
    memcpy(weights, row.weights, row.count * sizeof *weights);
    lua_createtable(L, 0, 8);
    bind_push_ids(L, ids, row.count);
    lua_setfield(L, -2, "tokens");
    bind_push_floats(L, weights, row.count - 1);
    lua_setfield(L, -2, "weights");
    set_integer(L, "row", row.number);
    set_integer(L, "prompt_length", row.prompt);
    set_integer(L, "seam", row.seam);
    if (row.end >= 0)
        set_integer(L, "end_id", row.end);
    return 1;
}

static int tokens_counts(lua_State *L)
{
    cr_token_counts counts;
    cr_token_file_counts(bind_core(L, 1, &bind_tokens_class), &counts);
    lua_createtable(L, 0, 3);
    set_integer(L, "rows", (lua_Integer)counts.rows);
    set_integer(L, "truncated", (lua_Integer)counts.truncated);
    set_integer(L, "dropped", (lua_Integer)counts.dropped);
    return 1;
}

static int tokens_length(lua_State *L)
{
    const cr_token_file *file = bind_core(L, 1, &bind_tokens_class);
    lua_pushinteger(L, (lua_Integer)cr_token_file_size(file));
    return 1;
}

static int tokens_close(lua_State *L)
{
    cr_token_file_close(bind_take(L, 1, &bind_tokens_class));
    return 0;
}

static int tokens_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_tokens_class);
    if (handle->core == NULL)
        lua_pushliteral(L, "crucible.tokens (closed)");
    else
        lua_pushfstring(L, "crucible.tokens (%I rows)",
                        (LUAI_UACINT)cr_token_file_size(handle->core));
    return 1;
}

static const luaL_Reg methods[] = {
    {"row", tokens_row},
    {"counts", tokens_counts},
    {"close", tokens_close},
    {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__len", tokens_length},        {"__gc", tokens_close}, {"__close", tokens_close},
    {"__tostring", tokens_tostring}, {NULL, NULL},
};

const bind_class bind_tokens_class = {"crucible.tokens", methods, metamethods};
