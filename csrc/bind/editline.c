/* editline.c: the module crucible.editline: lines of a terminal edited by libedit, for `crucible repl` and `chat`.
 *
 * A module of its own, so that the core needs no terminal library and a system without libedit only loses
 * the editing. While a line is read, libedit's own handlers of signals are installed, and afterwards what was
 * there before is put back.
 *
 * Completion is asked of the caller: `read` comes back in the middle of a line, and goes on with it when it
 * is called again. So nothing of Lua is called from here. The character set is the environment's, for the
 * calling thread and the duration of a call: the process' locale stays as it is. */
#define _GNU_SOURCE
#include <errno.h>
#include <histedit.h>
#include <lauxlib.h>
#include <locale.h>
#include <lua.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

#include "include/crucible.h"

CR_API int luaopen_crucible_editline(lua_State *L);

#define CLASS "crucible.editline"

enum { HISTORY_LINES = 1000, PROMPT_BYTES = 256 };
enum { QUOTE = 1 }; /* stands around what of a prompt takes no columns */

typedef enum wish { NOTHING, COMPLETE, INTERRUPT } wish;

typedef struct editor {
    EditLine *line;
    History *history;
    wish wanted;
    bool reading; /* a line is being edited */
    char prompt[PROMPT_BYTES];
} editor;

/* ---- the environment's characters -------------------------------------------------- */

typedef struct charset {
    locale_t own, before;
} charset;

static charset charset_enter(void)
{
    locale_t own = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    if (own == (locale_t)0)
        own = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    charset set = {own, (locale_t)0};
    if (own != (locale_t)0)
        set.before = uselocale(own);
    return set;
}

static void charset_leave(charset set)
{
    if (set.own == (locale_t)0)
        return;
    uselocale(set.before);
    freelocale(set.own);
}

/* ---- what keys do --------------------------------------------------------------------- */

static editor *editor_of(EditLine *line)
{
    void *data = NULL;
    el_get(line, EL_CLIENTDATA, &data);
    return data;
}

static char *prompt_of(EditLine *line)
{
    return editor_of(line)->prompt;
}

static unsigned char on_complete(EditLine *line, int key)
{
    (void)key;
    editor_of(line)->wanted = COMPLETE;
    return CC_NORM;
}

static unsigned char on_interrupt(EditLine *line, int key)
{
    (void)key;
    editor_of(line)->wanted = INTERRUPT;
    return CC_NORM;
}

/* What the terminal's driver would have done; libedit's handler gives it back before, and takes it again after. */
static unsigned char on_suspend(EditLine *line, int key)
{
    (void)line;
    (void)key;
    kill(getpid(), SIGTSTP);
    return CC_NORM;
}

static void set_up(editor *self)
{
    EditLine *line = self->line;
    HistEvent event;
    el_set(line, EL_CLIENTDATA, self);
    el_set(line, EL_PROMPT_ESC, prompt_of, QUOTE);
    el_set(line, EL_EDITOR, "emacs");
    el_set(line, EL_SIGNAL, 1);
    history(self->history, &event, H_SETSIZE, HISTORY_LINES);
    history(self->history, &event, H_SETUNIQUE, 1);
    el_set(line, EL_HIST, history, self->history);
    el_set(line, EL_ADDFN, "crucible-complete", "asks what could follow", on_complete);
    el_set(line, EL_ADDFN, "crucible-interrupt", "drops the line", on_interrupt);
    el_set(line, EL_ADDFN, "crucible-suspend", "stops the program", on_suspend);
    el_set(line, EL_BIND, "^I", "crucible-complete", NULL);
    el_set(line, EL_BIND, "^R", "em-inc-search-prev", NULL);
    /* Keys that terminals send beyond those that terminfo names. */
    el_set(line, EL_BIND, "\\e[1;5C", "em-next-word", NULL);
    el_set(line, EL_BIND, "\\e[1;5D", "ed-prev-word", NULL);
    el_set(line, EL_BIND, "\\e[3~", "ed-delete-next-char", NULL);
    el_source(line, NULL); /* the person's own keys, in ~/.editrc */
    el_set(line, EL_SETTY, "-d", "-isig", NULL); /* Ctrl-C and Ctrl-Z are keys while a line is edited */
    el_set(line, EL_BIND, "^C", "crucible-interrupt", NULL);
    el_set(line, EL_BIND, "^Z", "crucible-suspend", NULL);
}

/* ---- the class ----------------------------------------------------------------------------- */

static void release(editor *self)
{
    if (self->line != NULL) {
        charset set = charset_enter();
        if (self->reading)
            el_set(self->line, EL_UNBUFFERED, 0);
        el_end(self->line); /* puts the terminal back */
        charset_leave(set);
    }
    if (self->history != NULL)
        history_end(self->history);
    self->line = NULL;
    self->history = NULL;
    self->reading = false;
}

static editor *check(lua_State *L)
{
    editor *self = luaL_checkudata(L, 1, CLASS);
    luaL_argcheck(L, self->line != NULL, 1, "the editor is closed");
    return self;
}

static int refuse(lua_State *L, const char *message, const char *code)
{
    luaL_pushfail(L);
    lua_pushstring(L, message);
    lua_pushstring(L, code);
    return 3;
}

/* open(program): an editor of standard input, or nil, message, code where that is no terminal. */
static int editline_open(lua_State *L)
{
    const char *program = luaL_checkstring(L, 1);
    editor *self = lua_newuserdatauv(L, sizeof *self, 0);
    memset(self, 0, sizeof *self);
    luaL_setmetatable(L, CLASS);
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return refuse(L, "standard input and output are no terminal", "unsupported");
    charset set = charset_enter();
    self->history = history_init();
    self->line = self->history ? el_init(program, stdin, stdout, stderr) : NULL;
    if (self->line != NULL)
        set_up(self);
    charset_leave(set);
    if (self->line != NULL)
        return 1;
    release(self);
    return refuse(L, "libedit could not open the terminal", "memory");
}

/* ---- reading ------------------------------------------------------------------------------- */

/* The line ends here; the terminal is as it was, with the cursor at the beginning of a line. */
static void finish(editor *self)
{
    el_set(self->line, EL_UNBUFFERED, 0);
    self->reading = false;
}

static int ended(lua_State *L, editor *self, const char *why)
{
    finish(self);
    fwrite("\n", 1, 1, stdout);
    fflush(stdout);
    luaL_pushfail(L);
    lua_pushstring(L, why);
    return 2;
}

/* libedit says the same of an empty line and of an input that ended: at its end there is something to be read, of
 * no bytes. */
static bool input_ended(int reason)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    int waiting = 0;
    if (reason != 0)
        return reason != EINTR && reason != EAGAIN;
    if (poll(&input, 1, 0) <= 0)
        return false;
    return (input.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0 ||
           (ioctl(STDIN_FILENO, FIONREAD, &waiting) == 0 && waiting == 0);
}

/* What one key made of the line: 0 = go on reading. */
static int after_key(lua_State *L, editor *self, const char *text, int count)
{
    wish wanted = self->wanted;
    self->wanted = NOTHING;
    if (wanted == INTERRUPT)
        return ended(L, self, "interrupt");
    if (wanted == COMPLETE) {
        const LineInfo *info = el_line(self->line);
        luaL_pushfail(L);
        lua_pushliteral(L, "complete");
        lua_pushlstring(L, info->buffer, (size_t)(info->lastchar - info->buffer));
        lua_pushinteger(L, (lua_Integer)(info->cursor - info->buffer));
        return 4;
    }
    if (count < 0)
        return input_ended(errno) ? ended(L, self, "eof") : 0;
    if (text != NULL && count > 0 && text[count - 1] == '\n') {
        lua_pushlstring(L, text, (size_t)count - 1);
        finish(self);
        return 1;
    }
    if (text != NULL && count > 0 && text[count - 1] == '\004')
        return ended(L, self, "eof");
    return 0;
}

/* read(prompt): a line; or nil and "eof", "interrupt", or "complete", line, cursor (in bytes): the line is then
 * still being edited, and the next read goes on with it. */
static int editor_read(lua_State *L)
{
    editor *self = check(L);
    const char *prompt = luaL_optstring(L, 2, "");
    int results = 0, count = 0;
    charset set = charset_enter();
    if (!self->reading) {
        snprintf(self->prompt, sizeof self->prompt, "%s", prompt);
        self->reading = true;
        self->wanted = NOTHING;
        el_set(self->line, EL_UNBUFFERED, 1);
    }
    while (results == 0) {
        errno = 0;
        const char *text = el_gets(self->line, &count);
        results = after_key(L, self, text, count);
    }
    charset_leave(set);
    return results;
}

/* insert(text): puts text at the cursor of the line that is being edited, as if it had been typed. */
static int editor_insert(lua_State *L)
{
    editor *self = check(L);
    const char *text = luaL_checkstring(L, 2);
    charset set = charset_enter();
    if (self->reading && text[0] != '\0')
        el_push(self->line, text);
    charset_leave(set);
    return 0;
}

/* show(text): writes text below the line that is being edited, which then stands below it. */
static int editor_show(lua_State *L)
{
    editor *self = check(L);
    size_t size;
    const char *text = luaL_checklstring(L, 2, &size);
    charset set = charset_enter();
    if (self->reading) {
        fwrite("\n", 1, 1, stdout);
        fwrite(text, 1, size, stdout);
        fflush(stdout);
        el_set(self->line, EL_REFRESH);
    }
    charset_leave(set);
    return 0;
}

/* ---- history -------------------------------------------------------------------------------- */

static int editor_remember(lua_State *L)
{
    editor *self = check(L);
    const char *text = luaL_checkstring(L, 2);
    HistEvent event;
    charset set = charset_enter();
    history(self->history, &event, H_ENTER, text);
    charset_leave(set);
    return 0;
}

static int history_file(lua_State *L, int operation)
{
    editor *self = check(L);
    const char *path = luaL_checkstring(L, 2);
    HistEvent event;
    charset set = charset_enter();
    errno = 0;
    int count = history(self->history, &event, operation, path);
    int reason = errno;
    charset_leave(set);
    if (count >= 0) {
        lua_pushinteger(L, count);
        return 1;
    }
    lua_pushfstring(L, "%s: %s", path, reason ? strerror(reason) : "not a history of libedit");
    return refuse(L, lua_tostring(L, -1), reason == ENOENT ? "not_found" : "io");
}

static int editor_load(lua_State *L)
{
    return history_file(L, H_LOAD);
}

static int editor_save(lua_State *L)
{
    return history_file(L, H_SAVE);
}

/* ---- registration --------------------------------------------------------------------------- */

static int editor_close(lua_State *L)
{
    release(luaL_checkudata(L, 1, CLASS));
    return 0;
}

static int editor_tostring(lua_State *L)
{
    editor *self = luaL_checkudata(L, 1, CLASS);
    lua_pushstring(L, self->line ? CLASS : CLASS "(closed)");
    return 1;
}

static const luaL_Reg methods[] = {
    {"read", editor_read},         {"insert", editor_insert}, {"show", editor_show},
    {"remember", editor_remember}, {"load", editor_load},     {"save", editor_save},
    {"close", editor_close},       {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", editor_close},
    {"__close", editor_close},
    {"__tostring", editor_tostring},
    {NULL, NULL},
};

static const luaL_Reg functions[] = {{"open", editline_open}, {NULL, NULL}};

int luaopen_crucible_editline(lua_State *L)
{
    luaL_checkversion(L);
    luaL_newmetatable(L, CLASS);
    luaL_setfuncs(L, metamethods, 0);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
