/* embed_test.c: hosts of several kinds with the module linked in. Run by spec/embed/host_spec.lua.
 *
 *   embed_test quiet SCRIPT MODEL FOLDER     the process is as it was after a life of sessions,
 *   embed_test bare SCRIPT MODEL FOLDER      a state without os, io, package and debug
 *   embed_test limit MODEL                   a state with a limit of memory
 *   embed_test states MODEL                  several states at once, closed in another order
 *   embed_test cancel MODEL                  another thread ends the call that runs
 *   embed_test shared MODEL                  several threads on one open model, without Lua
 *
 * Prints each broken promise.
 */
#define _GNU_SOURCE
#include <lualib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "host.h"
#include "include/crucible_lua.h"

static lua_State *new_state(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    luaL_requiref(L, "crucible.core", luaopen_crucible_core, 0);
    lua_pop(L, 1);
    return L;
}

static void do_string(lua_State *L, const char *code, int count, int results)
{
    bool fine = luaL_loadstring(L, code) == LUA_OK;
    if (fine) {
        lua_insert(L, -count - 1);
        fine = lua_pcall(L, count, results, 0) == LUA_OK;
    }
    check(fine, "the code runs", fine ? "" : luaL_tolstring(L, -1, NULL));
}

/* ---- a process that is left as it was ------------------------------------------------------ */

static void live(const char *script, const char *model, const char *folder)
{
    lua_State *L = new_state();
    lua_pushstring(L, model);
    lua_pushstring(L, folder);
    run_script(L, script, 2, 0);
    lua_close(L);
}

static void quiet(char **argv)
{
    /* A host that has its own ideas: a locale, a rounding direction, where its streams go. */
    setlocale(LC_ALL, "C.UTF-8");
    FILE *heard = tmpfile();
    fflush(stdout);
    int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    process_state before = look_at_process();
    dup2(fileno(heard), STDOUT_FILENO);
    dup2(fileno(heard), STDERR_FILENO);
    int failed = failures;
    live(argv[0], argv[1], argv[2]);
    bool ran = failures == failed;
    fflush(stdout);
    fflush(stderr);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    rewind(heard);
    char text[1000];
    text[fread(text, 1, sizeof text - 1, heard)] = '\0';
    check(ran && text[0] == '\0', "nothing is printed", text);
    check_process(&before);
    fclose(heard);
    close(out);
    close(err);
}

/* ---- a state with little in it -------------------------------------------------------------- */

static void bare(char **argv)
{
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},          {LUA_COLIBNAME, luaopen_coroutine},
        {LUA_TABLIBNAME, luaopen_table},    {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math},    {LUA_UTF8LIBNAME, luaopen_utf8},
    };
    lua_State *L = luaL_newstate();
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
        lua_pop(L, 1);
    }
    lua_pushstring(L, argv[1]);
    lua_pushstring(L, argv[2]);
    lua_pushcfunction(L, luaopen_crucible_core);
    if (lua_pcall(L, 0, 1, 0) == LUA_OK)
        run_script(L, argv[0], 3, 0);
    else
        check(false, "the module opens", lua_tostring(L, -1));
    lua_close(L);
}

/* ---- a limit of memory ------------------------------------------------------------------------ */

typedef struct heap {
    size_t held, limit;
} heap;

static void *allocate(void *data, void *block, size_t old_size, size_t size)
{
    heap *given = data;
    size_t before = block ? old_size : 0;
    if (size > before && given->held - before + size > given->limit)
        return NULL;
    void *moved = size ? realloc(block, size) : (free(block), NULL);
    if (moved || size == 0)
        given->held += size - before;
    return moved;
}

static void limit(char **argv)
{
    heap given = {0, 300 << 10};
    lua_State *L = new_state_with(allocate, &given);
    luaL_openlibs(L);
    luaL_requiref(L, "crucible.core", luaopen_crucible_core, 0);
    lua_pop(L, 1);
    lua_pushstring(L, argv[0]);
    do_string(L,
              "local core = require 'crucible.core'\n"
              "local model <close> = assert(core.open_model(...))\n"
              "local session <close> = assert(model:session { rank = 4, alpha = 8, dropout = 0,\n"
              "  targets = { 'q_proj' }, threads = 1 })\n"
              "local function step() return session:forward_backward { { tokens = { 1, 2, 3 } } } end\n"
              "local first = assert(step()).loss\n"
              "local ok, why = pcall(function()\n"
              "  local rows = {}\n"
              "  for i = 1, 1e6 do rows[i] = { tokens = { i, i + 1 } } end\n"
              "  return session:forward_backward(rows)\n"
              "end)\n"
              "assert(not ok and why == 'not enough memory', why)\n"
              "session:zero_gradients()\n"
              "assert(step().loss == first)\n",
              1, 0);
    lua_close(L);
    check(given.held == 0, "every byte is given back", "lua_newstate");
}

/* ---- several states ----------------------------------------------------------------------------- */

static const char *const begin =
    "local core = require 'crucible.core'\n"
    "local model = assert(core.open_model(...))\n"
    "session = assert(model:session { rank = 4, alpha = 8, dropout = 0, seed = 1,\n"
    "  targets = { 'q_proj', 'v_proj' }, threads = 2 })\n";
static const char *const step =
    "local result = assert(session:forward_backward { { tokens = { 1, 2, 3, 4 } } })\n"
    "assert(session:optim_step { lr = 1e-2 })\n"
    "return result.loss\n";

static double loss_of_step(lua_State *L)
{
    do_string(L, step, 0, 1);
    double loss = lua_tonumber(L, -1);
    lua_pop(L, 1);
    return loss;
}

static void states(char **argv)
{
    enum { COUNT = 3, STEPS = 3 };
    lua_State *all[COUNT];
    double losses[STEPS], found;
    for (int i = 0; i < COUNT; i++) {
        all[i] = new_state();
        lua_pushstring(all[i], argv[0]);
        do_string(all[i], begin, 1, 0);
    }
    for (int s = 0; s < STEPS; s++)
        for (int i = 0; i < COUNT; i++) {
            found = loss_of_step(all[i]);
            if (i == 0)
                losses[s] = found;
            check(found == losses[s], "states do not see each other", "losses differ");
        }
    lua_close(all[1]);
    found = loss_of_step(all[2]);
    lua_close(all[0]);
    check(found == found && loss_of_step(all[2]) < found, "the others go on", "loss");
    lua_close(all[2]);
    check(one_thread_is_left(), "no thread is left", "/proc/self/task");
}

/* ---- another thread cancels ------------------------------------------------------------------------ */

static atomic_bool wanted;
static cr_session *running;

static void *cancel_again_and_again(void *unused)
{
    (void)unused;
    while (atomic_load(&wanted)) {
        cr_session_cancel(running);
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    return NULL;
}

static void cancel(char **argv)
{
    lua_State *L = new_state();
    lua_pushstring(L, argv[0]);
    do_string(L, begin, 1, 0);
    lua_getglobal(L, "session");
    running = cr_lua_session(L, -1);
    check(running != NULL, "a session is found behind its handle", "NULL");
    lua_newtable(L);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "core");
    check(cr_lua_session(L, -1) == running, "and behind the object that keeps it", "another");
    check(cr_lua_model(L, -1) == NULL, "a session is no model", "a pointer");
    pthread_t thread;
    atomic_store(&wanted, true);
    if (pthread_create(&thread, NULL, cancel_again_and_again, NULL) != 0)
        abort();
    do_string(L,
              "local tokens = {}\n"
              "for i = 1, 200 do tokens[i] = i end\n"
              "repeat\n"
              "  local found, message, code = session:forward_backward { { tokens = tokens } }\n"
              "until not found\n",
              0, 0);
    atomic_store(&wanted, false);
    pthread_join(thread, NULL);
    do_string(L,
              "session:forward { { tokens = { 1, 2 } } }\n" /* one call may still be cancelled */
              "assert(session:forward_backward { { tokens = { 1, 2 } } })\n"
              "session:close()\n",
              0, 0);
    lua_getglobal(L, "session");
    check(cr_lua_session(L, -1) == NULL, "a closed session is none", "a pointer");
    lua_close(L);
}

/* ---- several threads, one model ----------------------------------------------------------------------- */

typedef struct trainer {
    cr_model *model;
    double losses[4];
    int code;
} trainer;

static void *train(void *argument)
{
    trainer *self = argument;
    static const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    cr_datum datum = {.tokens = tokens, .count = sizeof tokens / sizeof *tokens};
    cr_adam_params adam = {
        .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .max_grad_norm = 1};
    cr_session_config config = cr_session_config_default();
    config.threads = 2;
    cr_session *session = NULL;
    self->code = cr_session_create(&session, self->model, &config);
    for (int i = 0; i < 4 && self->code == CR_OK; i++) {
        cr_loss_result result;
        cr_optim_result update;
        self->code =
            cr_session_forward_backward(session, &datum, 1, &(cr_loss){0}, &result, NULL);
        if (self->code == CR_OK)
            self->code = cr_session_optim_step(session, &adam, &update);
        self->losses[i] = result.loss;
    }
    cr_session_close(session);
    return NULL;
}

static void shared(char **argv)
{
    enum { COUNT = 4 };
    cr_model *model = NULL;
    check(cr_model_open(&model, argv[0]) == CR_OK, "the model opens", cr_error_message());
    trainer alone = {.model = model}, at_once[COUNT];
    pthread_t threads[COUNT];
    train(&alone);
    for (int i = 0; i < COUNT; i++) {
        at_once[i] = (trainer){.model = model};
        if (pthread_create(&threads[i], NULL, train, &at_once[i]) != 0)
            abort();
    }
    for (int i = 0; i < COUNT; i++) {
        pthread_join(threads[i], NULL);
        check(at_once[i].code == CR_OK &&
                  memcmp(at_once[i].losses, alone.losses, sizeof alone.losses) == 0,
              "threads train as one alone", "losses differ");
    }
    cr_model_close(model);
    check(one_thread_is_left(), "no thread is left", "/proc/self/task");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int arguments;
        void (*run)(char **argv);
    } hosts[] = {{"quiet", 3, quiet},   {"bare", 3, bare},     {"limit", 1, limit},
                 {"states", 1, states}, {"cancel", 1, cancel}, {"shared", 1, shared}};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
        if (argc == hosts[i].arguments + 2 && strcmp(argv[1], hosts[i].name) == 0) {
            hosts[i].run(argv + 2);
            printf("%d broken\n", failures);
            return failures == 0 ? 0 : 1;
        }
    fprintf(stderr, "usage: embed_test quiet|bare|limit|states|cancel|shared ARGUMENT...\n");
    return 2;
}
