/* signals.c: crucible.core.signals: SIGINT and SIGTERM noted instead of obeyed, for programs that ask.
 *
 * A process has one disposition for each signal, so this is the one file with state outside a
 * lua_State: what was there before, which signal came, and the sessions that it cancels. Nothing
 * is installed until `install` is called, and by one holder at a time; `restore` puts back what was
 * there.
 *
 * What holds them is a userdata of the lua_State that asked, so that a state that ends without `restore`
 * leaves no handler behind, least of all one in a library that is unloaded. Other states' calls do
 * nothing.
 *
 * The first signal is noted and both signals get their default action back, so that a second one ends
 * the process at once; `install` may ask for more patience than that. `rearm` forgets what came. A signal
 * that was ignored (a shell's background job, nohup) stays ignored. */
#define _POSIX_C_SOURCE 200809L
#include "bind/bind.h"

#include <signal.h>
#include <stdatomic.h>

enum { SIGNALS = 2, MOST_SESSIONS = 64 };

static const int numbers[SIGNALS] = {SIGINT, SIGTERM};
static const char *const names[SIGNALS] = {"SIGINT", "SIGTERM"};

static atomic_flag held = ATOMIC_FLAG_INIT;
static struct sigaction before[SIGNALS];
static volatile sig_atomic_t came; /* the first signal since install or rearm; 0 = none */
static volatile sig_atomic_t patience, left; /* signals that are noted before one is obeyed */
static _Atomic(cr_session *) to_cancel[MOST_SESSIONS];

static void obey(int i)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigemptyset(&action.sa_mask);
    sigaction(numbers[i], &action, NULL);
}

static bool was_ignored(int i)
{
    return before[i].sa_handler == SIG_IGN;
}

static void on_signal(int number)
{
    came = number;
    left = left - 1;
    for (int i = 0; i < SIGNALS; i++)
        if (left <= 0 && !was_ignored(i))
            obey(i);
    for (int i = 0; i < MOST_SESSIONS; i++) {
        cr_session *session = atomic_load(&to_cancel[i]);
        if (session != NULL)
            cr_session_cancel(session);
    }
}

static void listen(int i)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int other = 0; other < SIGNALS; other++)
        sigaddset(&action.sa_mask, numbers[other]);
    if (!was_ignored(i))
        sigaction(numbers[i], &action, NULL);
}

/* ---- who holds them -------------------------------------------------------------------- */

static void forget_sessions(void)
{
    for (int i = 0; i < MOST_SESSIONS; i++)
        atomic_store(&to_cancel[i], NULL);
}

static int watch_end(lua_State *L)
{
    if (bind_take(L, 1, &bind_watch_class) == NULL)
        return 0;
    forget_sessions();
    for (int i = 0; i < SIGNALS; i++)
        sigaction(numbers[i], &before[i], NULL);
    atomic_flag_clear(&held);
    return 0;
}

static const luaL_Reg watch_methods[] = {{NULL, NULL}};

static const luaL_Reg watch_metamethods[] = {
    {"__gc", watch_end},
    {"__close", watch_end},
    {NULL, NULL},
};

const bind_class bind_watch_class = {"crucible.watch", watch_methods, watch_metamethods};

/* Pushes this state's watch, made closed when it is first asked for. */
static bind_handle *push_watch(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_watch_class) != LUA_TNIL)
        return bind_test(L, -1, &bind_watch_class);
    lua_pop(L, 1);
    bind_handle *watch = bind_new(L, &bind_watch_class, sizeof *watch, 0);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_watch_class);
    return watch;
}

static bool is_mine(lua_State *L)
{
    bool mine = push_watch(L)->core != NULL;
    lua_pop(L, 1);
    return mine;
}

/* ---- the functions --------------------------------------------------------------------- */

/* install(patience): false when someone in this process holds the signals already. */
static int signals_install(lua_State *L)
{
    lua_Integer count = luaL_optinteger(L, 1, 1);
    luaL_argcheck(L, count >= 1 && count <= 100, 1, "expected 1 to 100 signals to be noted");
    bind_handle *watch = push_watch(L);
    bool mine = !atomic_flag_test_and_set(&held);
    if (mine) {
        watch->core = &held;
        came = 0;
        left = patience = (sig_atomic_t)count;
        for (int i = 0; i < SIGNALS; i++)
            sigaction(numbers[i], NULL, &before[i]);
        for (int i = 0; i < SIGNALS; i++)
            listen(i);
    }
    lua_pushboolean(L, mine);
    return 1;
}

static int signals_restore(lua_State *L)
{
    lua_settop(L, 0);
    push_watch(L);
    return watch_end(L);
}

static int signals_pending(lua_State *L)
{
    for (int i = 0; i < SIGNALS && is_mine(L); i++)
        if (came == numbers[i]) {
            lua_pushstring(L, names[i]);
            return 1;
        }
    luaL_pushfail(L);
    return 1;
}

static int signals_rearm(lua_State *L)
{
    if (!is_mine(L))
        return 0;
    came = 0;
    left = patience;
    for (int i = 0; i < SIGNALS; i++)
        listen(i);
    return 0;
}

/* cancels(session, ...): whose calls in progress a signal cancels from now on; nil or nothing: none's. */
static int signals_cancels(lua_State *L)
{
    int count = lua_isnoneornil(L, 1) ? 0 : lua_gettop(L);
    luaL_argcheck(L, count <= MOST_SESSIONS, MOST_SESSIONS + 1, "expected at most 64 sessions");
    for (int i = 0; i < count; i++)
        bind_core(L, i + 1, &bind_session_class);
    if (!is_mine(L))
        return 0;
    forget_sessions();
    for (int i = 0; i < count; i++)
        atomic_store(&to_cancel[i], bind_core(L, i + 1, &bind_session_class));
    return 0;
}

void bind_signals_forget(cr_session *session)
{
    for (int i = 0; session != NULL && i < MOST_SESSIONS; i++) {
        cr_session *expected = session;
        atomic_compare_exchange_strong(&to_cancel[i], &expected, NULL);
    }
}

const luaL_Reg bind_signals_functions[] = {
    {"install", signals_install}, {"restore", signals_restore}, {"pending", signals_pending},
    {"rearm", signals_rearm},     {"cancels", signals_cancels}, {NULL, NULL},
};
