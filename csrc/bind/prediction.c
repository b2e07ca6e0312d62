/* prediction.c: crucible.session: a forward pass that waits for slopes, and its backward.
 *
 * Positions and spans count from 1 here. What is asked of a datum is flat lists; the shapes that a
 * loss sees are made in Lua.
 */
#include "bind/tensor.h"

#include <math.h>
#include <string.h>

static cr_session *session_core(lua_State *L)
{
    return bind_core(L, 1, &bind_session_class);
}

/* ---- the request ----------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned bit;
} output_bits[] = {
    {"logprobs", CR_LOGPROBS},           {"entropy", CR_ENTROPY},
    {"candidates", CR_CANDIDATES},       {"hidden", CR_HIDDEN},
    {"base_logprobs", CR_BASE_LOGPROBS}, {"base_candidates", CR_BASE_CANDIDATES},
    {"mean_logprobs", CR_MEAN_LOGPROBS}, {"likeliest", CR_LIKELIEST},
};

#define OUTPUTS (sizeof output_bits / sizeof output_bits[0])

/* The bit of the output named on top of the stack. */
static unsigned output_bit(lua_State *L, int arg)
{
    const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1);
    for (size_t i = 0; i < OUTPUTS; i++)
        if (strcmp(name, output_bits[i].name) == 0)
            return output_bits[i].bit;
    luaL_argerror(L, arg, lua_pushfstring(L, "outputs: there is no output %s", name));
    return 0;
}

static unsigned read_outputs(lua_State *L, int arg)
{
    unsigned bits = 0;
    bind_get(L, arg, "outputs");
    size_t count = bind_list_length(L, (bind_place){arg, "outputs", {0, 0}});
    for (size_t i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i);
        bits |= output_bit(L, arg);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return bits;
}

/* The list in a field of the question on top of the stack, as work space left below it; positions
 * become ones from 0. */
static int32_t *read_list(lua_State *L, bind_place place, const char *field, bool positions,
                          size_t *count)
{
    int question = lua_gettop(L);
    bind_get(L, question, field);
    *count = lua_isnil(L, -1) ? 0 : bind_list_length(L, place);
    int32_t *values = bind_space(L, *count, sizeof *values);
    lua_insert(L, question); /* space, question, list */
    if (*count > 0)
        bind_read_ids(L, place, values, *count);
    lua_pop(L, 1);
    for (size_t i = 0; positions && i < *count; i++)
        values[i]--;
    return values;
}

/* Reads the question on top of the stack and leaves its work space in its place. */
static void read_question(lua_State *L, bind_place place, cr_question *out)
{
    size_t counts, ids, spans, wanted = 0;
    place.format = "question %d: positions";
    out->positions = read_list(L, place, "positions", true, &out->position_count);
    place.format = "question %d: counts";
    out->counts = read_list(L, place, "counts", false, &counts);
    place.format = "question %d: ids";
    out->ids = read_list(L, place, "ids", false, &ids);
    place.format = "question %d: spans";
    out->spans = read_list(L, place, "spans", true, &spans);
    out->span_count = spans / 2;
    place.format = "question %d";
    if (counts != out->position_count || spans % 2 != 0)
        bind_place_error(L, place, ": expected a count a position and two ends a span");
    for (size_t i = 0; i < counts; i++)
        wanted += out->counts[i] > 0 ? (size_t)out->counts[i] : 0;
    if (wanted != ids)
        bind_place_error(L, place, " has %I ids, expected %I", (LUAI_UACINT)ids,
                         (LUAI_UACINT)wanted);
    lua_pop(L, 1); /* the question */
}

static cr_question *read_questions(lua_State *L, int arg, size_t datums)
{
    if (bind_get(L, arg, "questions") == LUA_TNIL)
        return NULL;
    int list = lua_gettop(L);
    size_t count = bind_list_length(L, (bind_place){arg, "questions", {0, 0}});
    luaL_argcheck(L, count == datums, arg, "questions: expected one a datum");
    cr_question *questions = bind_space(L, count, sizeof *questions);
    for (size_t i = 0; i < count; i++) {
        bind_place place = {arg, "question %d", {(int)i + 1, 0}};
        luaL_checkstack(L, 12, "too many questions");
        if (lua_rawgeti(L, list, (lua_Integer)i + 1) != LUA_TTABLE)
            bind_place_error(L, place, ": expected a table, got %s", luaL_typename(L, -1));
        read_question(L, place, &questions[i]);
    }
    return questions;
}

typedef struct comparison_fields {
    const char *kind;
    double temperature;
} comparison_fields;

static const bind_field one_comparison[] = {
    {"kind", BIND_TEXT, offsetof(comparison_fields, kind), 0, 0, BIND_REQUIRED},
    {"temperature", BIND_NUMBER, offsetof(comparison_fields, temperature), 0, INFINITY, BIND_ABOVE},
    {"teacher", BIND_HANDLE, 0, 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

static int comparison_kind(lua_State *L, int arg, const char *name)
{
    static const char *const kinds[] = {"forward_kl", "reverse_kl", "jensen_shannon",
                                        "logit_square", "hidden_square"};
    for (int i = 0; i < 5; i++)
        if (strcmp(name, kinds[i]) == 0)
            return i; /* CR_FORWARD_KL and so on */
    return luaL_argerror(L, arg, lua_pushfstring(L, "comparisons: there is no kind %s", name));
}

/* Reads the comparison on top of the stack and leaves it there, for its teacher. */
static void read_comparison(lua_State *L, int arg, cr_comparison *out)
{
    comparison_fields fields = {NULL, 1};
    int table = lua_gettop(L);
    luaL_argcheck(L, lua_type(L, table) == LUA_TTABLE, arg, "comparisons: expected tables");
    bind_read_record(L, table, one_comparison, &fields);
    *out = (cr_comparison){comparison_kind(L, arg, fields.kind), fields.temperature, NULL};
    if (bind_get(L, table, "teacher") == LUA_TNIL)
        return;
    luaL_argcheck(L, luaL_testudata(L, -1, bind_session_class.name), arg,
                  "comparisons: expected a session as teacher");
    out->teacher = bind_core(L, lua_gettop(L), &bind_session_class);
}

static void read_comparisons(lua_State *L, int arg, cr_predict_request *request)
{
    if (bind_get(L, arg, "comparisons") == LUA_TNIL)
        return;
    int list = lua_gettop(L);
    size_t count = bind_list_length(L, (bind_place){arg, "comparisons", {0, 0}});
    luaL_argcheck(L, count <= CR_MOST_COMPARISONS, arg, "comparisons: expected at most 8");
    cr_comparison *comparisons = bind_space(L, count, sizeof *comparisons);
    luaL_checkstack(L, 4 * CR_MOST_COMPARISONS, "too many comparisons");
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        read_comparison(L, arg, &comparisons[i]);
    }
    request->comparisons = comparisons;
    request->comparison_count = count;
}

static const bind_field request_fields[] = {
    {"outputs", BIND_LIST, 0, 0, 0, BIND_REQUIRED},
    {"every_position", BIND_BOOLEAN, offsetof(cr_predict_request, every_position), 0, 0, 0},
    {"train", BIND_BOOLEAN, offsetof(cr_predict_request, train), 0, 0, 0},
    {"questions", BIND_LIST, 0, 0, 0, 0},
    {"comparisons", BIND_LIST, 0, 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

/* ---- the answer ------------------------------------------------------------------------------ */

static void set_integer(lua_State *L, const char *field, size_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, field);
}

/* Where a datum's outputs begin, from 1. */
static void push_answer(lua_State *L, const cr_answer *answer)
{
    lua_createtable(L, 0, 10);
    set_integer(L, "length", answer->length);
    set_integer(L, "spans", answer->spans);
    set_integer(L, "logprobs", answer->logprobs_at + 1);
    set_integer(L, "entropy", answer->entropy_at + 1);
    set_integer(L, "candidates", answer->candidates_at + 1);
    set_integer(L, "hidden", answer->hidden_at + 1);
    set_integer(L, "base_logprobs", answer->base_logprobs_at + 1);
    set_integer(L, "base_candidates", answer->base_candidates_at + 1);
    set_integer(L, "likeliest", answer->likeliest_at + 1);
    set_integer(L, "mean_logprobs", answer->mean_logprobs_at + 1);
    set_integer(L, "comparisons", answer->comparisons_at + 1);
}

static void push_prediction(lua_State *L, const cr_prediction *prediction, size_t datums)
{
    lua_createtable(L, 0, 6);
    lua_createtable(L, (int)datums, 0);
    for (size_t i = 0; i < datums; i++) {
        push_answer(L, &prediction->answers[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "answers");
    set_integer(L, "width", prediction->width);
    set_integer(L, "supervised", (size_t)prediction->supervised);
    set_integer(L, "tokens", (size_t)prediction->tokens);
    lua_pushboolean(L, prediction->finite);
    lua_setfield(L, -2, "finite");
}

/* ---- methods ------------------------------------------------------------------------------------ */

/* predict(batch, request) */
int bind_session_predict(lua_State *L)
{
    session_core(L);
    lua_settop(L, 3);
    cr_predict_request request = {0};
    bind_read_record(L, 3, request_fields, &request);
    request.outputs = read_outputs(L, 3);
    bind_batch batch = bind_read_batch(L, 2);
    request.questions = read_questions(L, 3, batch.count);
    read_comparisons(L, 3, &request);
    cr_prediction prediction;
    int code =
        cr_session_predict(session_core(L), batch.datums, batch.count, &request, &prediction);
    if (code < 0)
        return bind_failure(L, code);
    push_prediction(L, &prediction, batch.count);
    return 1;
}

/* prediction_tensor("values" | "slopes") */
int bind_session_prediction_tensor(lua_State *L)
{
    static const char *const which[] = {"values", "slopes", NULL};
    session_core(L);
    int slopes = luaL_checkoption(L, 2, NULL, which);
    bind_result_tensor result = bind_new_tensor(L, 2);
    int code = cr_session_prediction_tensor(&result.made, session_core(L), slopes != 0);
    return bind_tensor_result(L, &result, code);
}

/* backward(term) */
int bind_session_backward(lua_State *L)
{
    cr_session *core = session_core(L);
    if (lua_isnoneornil(L, 2))
        return bind_true(L, cr_session_backward(core));
    lua_Integer term = luaL_checkinteger(L, 2);
    luaL_argcheck(L, term >= 1, 2, "expected a term's number from 1");
    return bind_true(L, cr_session_backward_share(core, (size_t)term - 1));
}

/* share_gradients(terms) */
int bind_session_share_gradients(lua_State *L)
{
    cr_session *core = session_core(L);
    lua_Integer terms = luaL_checkinteger(L, 2);
    luaL_argcheck(L, terms >= 0 && terms <= 1024, 2, "expected a number of terms from 0 to 1024");
    return bind_true(L, cr_session_share_gradients(core, (size_t)terms));
}

/* share(term) → norm, cosine */
int bind_session_share(lua_State *L)
{
    cr_session *core = session_core(L);
    lua_Integer term = luaL_checkinteger(L, 2);
    luaL_argcheck(L, term >= 1, 2, "expected a term's number from 1");
    cr_share share;
    int code = cr_session_share(core, (size_t)term - 1, &share);
    if (code < 0)
        return bind_failure(L, code);
    lua_pushnumber(L, (lua_Number)share.norm);
    lua_pushnumber(L, (lua_Number)share.cosine);
    return 2;
}

int bind_session_end_prediction(lua_State *L)
{
    cr_session_end_prediction(session_core(L));
    return 0;
}

/* pass_over(datums) */
int bind_session_pass_over(lua_State *L)
{
    cr_session *core = session_core(L);
    lua_Integer datums = luaL_checkinteger(L, 2);
    luaL_argcheck(L, datums >= 0, 2, "expected a number of datums >= 0");
    cr_session_pass_over(core, (size_t)datums);
    return 0;
}
