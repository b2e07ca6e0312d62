/* batch.c: lists of datums, prompts and continuations as the library's arrays, and
 * log-probabilities as lists. */
#include "bind/bind.h"

/* ---- datums ---------------------------------------------------------------- */

/* Where the values of the next datum go. */
typedef struct cursor {
    int32_t *ids;
    float *weights;
} cursor;

static size_t target_count(const cr_datum *datum)
{
    return datum->targets ? datum->count : datum->count - 1;
}

/* Pushes the datum that the place names. */
static void push_datum(lua_State *L, bind_place place)
{
    if (lua_rawgeti(L, place.arg, place.at[0]) != LUA_TTABLE)
        bind_place_error(L, place, ": expected a table with tokens, got %s", luaL_typename(L, -1));
}

/* Pushes the field, nil or a list, of the datum on top of the stack; false for nil. */
static bool push_list(lua_State *L, bind_place place, const char *field, size_t *length)
{
    bool given = bind_get(L, -1, field) != LUA_TNIL;
    *length = given ? bind_list_length(L, place) : 0;
    return given;
}

static void check_length(lua_State *L, bind_place place, size_t found, size_t expected,
                         const char *per)
{
    if (found != expected)
        bind_place_error(L, place, " has %I values, expected %I (one per %s)", (LUAI_UACINT)found,
                         (LUAI_UACINT)expected, per);
}

static void read_tokens(lua_State *L, bind_place place, cr_datum *datum, cursor *at)
{
    place.format = "datum %d: tokens";
    size_t length;
    if (!push_list(L, place, "tokens", &length))
        bind_place_error(L, place, " is missing");
    bind_read_ids(L, place, at->ids, datum->count);
    datum->tokens = at->ids;
    at->ids += datum->count;
    lua_pop(L, 1);
}

static void read_targets(lua_State *L, bind_place place, cr_datum *datum, cursor *at)
{
    place.format = "datum %d: targets";
    size_t length;
    if (push_list(L, place, "targets", &length)) {
        check_length(L, place, length, datum->count, "token");
        bind_read_ids(L, place, at->ids, length);
        datum->targets = at->ids;
        at->ids += length;
    }
    lua_pop(L, 1);
}

static void read_weights(lua_State *L, bind_place place, cr_datum *datum, cursor *at)
{
    place.format = "datum %d: weights";
    size_t length;
    if (push_list(L, place, "weights", &length)) {
        check_length(L, place, length, target_count(datum), "target");
        bind_read_floats(L, place, at->weights, length);
        datum->weights = at->weights;
        at->weights += length;
    }
    lua_pop(L, 1);
}

static void read_datum(lua_State *L, bind_place place, cr_datum *datum, cursor *at)
{
    push_datum(L, place);
    read_tokens(L, place, datum, at);
    read_targets(L, place, datum, at);
    if (datum->count < (datum->targets ? 1 : 2))
        bind_place_error(L, place, ": tokens has %I values, expected at least %s",
                         (LUAI_UACINT)datum->count,
                         datum->targets ? "1" : "2 (tokens[2..n] are the targets)");
    read_weights(L, place, datum, at);
    lua_pop(L, 1);
}

static size_t measure_datums(lua_State *L, int arg, bind_batch batch)
{
    size_t total = 0;
    for (size_t i = 0; i < batch.count; i++) {
        bind_place place = {arg, "datum %d", {(int)i + 1, 0}};
        push_datum(L, place);
        place.format = "datum %d: tokens";
        push_list(L, place, "tokens", &batch.datums[i].count);
        total += batch.datums[i].count;
        lua_pop(L, 2);
    }
    return total;
}

/* Length of the argument, a list that must not be empty. */
static size_t argument_length(lua_State *L, int arg, const char *name, const char *element)
{
    lua_pushvalue(L, arg);
    size_t length = bind_list_length(L, (bind_place){arg, name, {0, 0}});
    lua_pop(L, 1);
    if (length == 0)
        luaL_argerror(L, arg, lua_pushfstring(L, "%s: expected at least one %s", name, element));
    return length;
}

bind_batch bind_read_batch(lua_State *L, int arg)
{
    bind_batch batch = {NULL, argument_length(L, arg, "batch", "datum")};
    batch.datums = bind_space(L, batch.count, sizeof *batch.datums);
    size_t total = measure_datums(L, arg, batch);
    /* Room for targets and weights of every datum, whether or not it brings them. */
    cursor at = {bind_space(L, total, 2 * sizeof *at.ids + sizeof *at.weights), NULL};
    at.weights = (float *)(at.ids + 2 * total);
    for (size_t i = 0; i < batch.count; i++) {
        bind_place place = {arg, "datum %d", {(int)i + 1, 0}};
        read_datum(L, place, &batch.datums[i], &at);
    }
    return batch;
}

float **bind_logprob_rows(lua_State *L, bind_batch batch)
{
    size_t total = 0;
    for (size_t i = 0; i < batch.count; i++)
        total += target_count(&batch.datums[i]);
    float **rows = bind_space(L, batch.count, sizeof *rows);
    float *values = bind_space(L, total, sizeof *values);
    for (size_t i = 0; i < batch.count; i++) {
        rows[i] = values;
        values += target_count(&batch.datums[i]);
    }
    return rows;
}

void bind_push_logprobs(lua_State *L, bind_batch batch, float *const *rows)
{
    lua_createtable(L, (int)batch.count, 0);
    for (size_t i = 0; i < batch.count; i++) {
        bind_push_floats(L, rows[i], target_count(&batch.datums[i]));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* ---- prompts and continuations ------------------------------------------------ */

/* Sets the lengths of `row`, the token lists in the list on top of the stack; returns their sum.
 * `level` says which number of the place counts them. */
static size_t measure_row(lua_State *L, bind_place place, int level, cr_prompt *row, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        place.at[level] = (int)i + 1;
        lua_rawgeti(L, -1, place.at[level]);
        row[i].count = bind_list_length(L, place);
        if (row[i].count == 0)
            bind_place_error(L, place, " is empty: expected at least one token");
        total += row[i].count;
        lua_pop(L, 1);
    }
    return total;
}

/* Reads the tokens of what measure_row measured; returns where the next row's go. */
static int32_t *fill_row(lua_State *L, bind_place place, int level, cr_prompt *row, size_t count,
                         int32_t *ids)
{
    for (size_t i = 0; i < count; i++) {
        place.at[level] = (int)i + 1;
        lua_rawgeti(L, -1, place.at[level]);
        bind_list_length(L, place);
        bind_read_ids(L, place, ids, row[i].count);
        row[i].tokens = ids;
        ids += row[i].count;
        lua_pop(L, 1);
    }
    return ids;
}

bind_prompts bind_read_prompts(lua_State *L, int arg)
{
    bind_prompts all = {NULL, argument_length(L, arg, "prompts", "prompt"), 1};
    bind_place place = {arg, "prompts[%d]", {0, 0}};
    all.prompts = bind_space(L, all.rows, sizeof *all.prompts);
    lua_pushvalue(L, arg);
    size_t total = measure_row(L, place, 0, all.prompts, all.rows);
    int32_t *ids = bind_space(L, total, sizeof *ids);
    lua_pushvalue(L, arg);
    fill_row(L, place, 0, all.prompts, all.rows, ids);
    lua_pop(L, 1);
    return all;
}

/* Pushes the list of choices that the place names; there must be `expected` (0 = at least one). */
static size_t push_choices(lua_State *L, bind_place place, size_t expected)
{
    place.format = "continuations[%d]";
    lua_rawgeti(L, place.arg, place.at[0]);
    size_t found = bind_list_length(L, place);
    if (found == 0)
        bind_place_error(L, place, " is empty: expected at least one choice");
    if (expected != 0 && found != expected)
        bind_place_error(L, place, " has %I choices, expected %I as for prompt 1",
                         (LUAI_UACINT)found, (LUAI_UACINT)expected);
    return found;
}

static size_t measure_choices(lua_State *L, bind_place place, bind_prompts all)
{
    size_t total = 0;
    for (size_t i = 0; i < all.rows; i++) {
        place.at[0] = (int)i + 1;
        push_choices(L, place, all.columns);
        total += measure_row(L, place, 1, all.prompts + i * all.columns, all.columns);
        lua_pop(L, 1);
    }
    return total;
}

static void fill_choices(lua_State *L, bind_place place, bind_prompts all, int32_t *ids)
{
    for (size_t i = 0; i < all.rows; i++) {
        place.at[0] = (int)i + 1;
        push_choices(L, place, all.columns);
        ids = fill_row(L, place, 1, all.prompts + i * all.columns, all.columns, ids);
        lua_pop(L, 1);
    }
}

bind_prompts bind_read_continuations(lua_State *L, int arg, size_t rows)
{
    bind_place place = {arg, "continuations", {1, 0}};
    check_length(L, place, argument_length(L, arg, "continuations", "list"), rows, "prompt");
    place.format = "continuations[%d][%d]";
    bind_prompts all = {NULL, rows, push_choices(L, place, 0)};
    all.prompts = bind_space(L, rows, all.columns * sizeof *all.prompts);
    size_t total = measure_choices(L, place, all);
    fill_choices(L, place, all, bind_space(L, total, sizeof(int32_t)));
    return all;
}
