/* http.c: transfers over HTTP (net/http.h, net/download.h) for Lua. */
#include "bind/bind.h"

#include <string.h>

#include "net/download.h"
#include "net/http.h"

typedef struct http_handle {
    bind_handle base;
} http_handle;

typedef struct transfer_handle {
    bind_handle base;
    cr_download *download; /* where the body goes, or NULL */
} transfer_handle;

/* ---- the set ------------------------------------------------------------------------------ */

int bind_open_http(lua_State *L)
{
    http_handle *handle = bind_new(L, &bind_http_class, sizeof *handle, 0);
    cr_http *http = NULL;
    int code = cr_http_open(&http);
    handle->base.core = http;
    return bind_result(L, code);
}

static int http_close(lua_State *L)
{
    cr_http_close(bind_take(L, 1, &bind_http_class));
    return 0;
}

static int http_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_http_class);
    lua_pushstring(L, handle->core ? "crucible.http" : "crucible.http (closed)");
    return 1;
}

static int http_wait(lua_State *L)
{
    cr_http *http = bind_core(L, 1, &bind_http_class);
    lua_Number seconds = luaL_checknumber(L, 2);
    luaL_argcheck(L, seconds >= 0 && seconds <= 3600, 2, "expected 0 to 3600 seconds");
    int running = 0;
    int code = cr_http_wait(http, seconds, &running);
    lua_pushinteger(L, running);
    return bind_result(L, code);
}

/* ---- requests ------------------------------------------------------------------------------- */

typedef struct request_options {
    cr_http_request request;
    double most, size;
    bool html;
    const char *file;
} request_options;

#define REQUEST(field) offsetof(request_options, request.field)

static const bind_field request_fields[] = {
    {"url", BIND_TEXT, REQUEST(url), 0, 0, BIND_REQUIRED},
    {"method", BIND_TEXT, REQUEST(method), 0, 0, 0},
    {"headers", BIND_LIST, 0, 0, 0, 0},
    {"ca_file", BIND_TEXT, REQUEST(ca_file), 0, 0, 0},
    {"connect_seconds", BIND_NUMBER, REQUEST(connect_seconds), 0, 1e6, BIND_ABOVE},
    {"idle_seconds", BIND_NUMBER, REQUEST(idle_seconds), 0, 1e6, 0},
    {"total_seconds", BIND_NUMBER, REQUEST(total_seconds), 0, 1e6, 0},
    {"redirects", BIND_INTEGER, REQUEST(redirects), 0, 1000, 0},
    {"most", BIND_NUMBER, offsetof(request_options, most), 0, 0x1p53, 0},
    {"file", BIND_TEXT, offsetof(request_options, file), 0, 0, 0},
    {"size", BIND_NUMBER, offsetof(request_options, size), 0, 0x1p53, 0},
    {"html", BIND_BOOLEAN, offsetof(request_options, html), 0, 0, 0},
    {"compressed", BIND_BOOLEAN, REQUEST(compressed), 0, 0, 0},
    {"once", BIND_BOOLEAN, REQUEST(once), 0, 0, 0},
    {NULL, BIND_LIST, 0, 0, 0, 0},
};

/* The lines in `headers` of the table at `arg`; leaves their space on the stack. */
static void read_headers(lua_State *L, int arg, cr_http_request *request)
{
    bind_place place = {arg, "headers", {0, 0}};
    if (bind_get(L, arg, "headers") == LUA_TNIL)
        return;
    int list = lua_gettop(L);
    size_t count = bind_list_length(L, place);
    const char **lines = bind_space(L, count, sizeof *lines);
    luaL_checkstack(L, (int)count + 10, "too many headers");
    for (size_t i = 0; i < count; i++) {
        place = (bind_place){arg, "headers[%d]", {(int)i + 1, 0}};
        if (lua_rawgeti(L, list, (lua_Integer)i + 1) != LUA_TSTRING ||
            strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1))
            bind_place_error(L, place, ": expected a string without NUL, got %s",
                             luaL_typename(L, -1));
        lines[i] = lua_tostring(L, -1); /* stays on the stack, so it lives */
    }
    request->headers = lines;
    request->header_count = count;
}

/* Opens the file that takes the body, if one is asked for. */
static int open_download(transfer_handle *handle, request_options *options)
{
    options->request.most = (uint64_t)options->most;
    if (!options->file)
        return CR_OK;
    int code =
        cr_download_open(&handle->download, options->file, options->html, (uint64_t)options->size);
    if (code == CR_OK)
        options->request.sink = cr_download_sink(handle->download);
    return code;
}

static int http_start(lua_State *L)
{
    cr_http *http = bind_core(L, 1, &bind_http_class);
    request_options options = {.request = cr_http_request_default()};
    lua_settop(L, 3);
    bind_read_record(L, 2, request_fields, &options);
    if (!lua_isnil(L, 3))
        options.request.body = luaL_checklstring(L, 3, &options.request.body_size);
    read_headers(L, 2, &options.request);
    transfer_handle *handle = bind_new(L, &bind_transfer_class, sizeof *handle, 0);
    int code = open_download(handle, &options);
    cr_http_transfer *transfer = NULL;
    if (code == CR_OK)
        code = cr_http_start(&transfer, http, &options.request);
    handle->base.core = transfer;
    return bind_result(L, code);
}

static const luaL_Reg http_methods[] = {
    {"start", http_start},
    {"wait", http_wait},
    {"close", http_close},
    {NULL, NULL},
};

static const luaL_Reg http_metamethods[] = {
    {"__gc", http_close},
    {"__close", http_close},
    {"__tostring", http_tostring},
    {NULL, NULL},
};

const bind_class bind_http_class = {"crucible.http", http_methods, http_metamethods};

/* ---- transfers ---------------------------------------------------------------------------------- */

static int transfer_close(lua_State *L)
{
    transfer_handle *handle = bind_test(L, 1, &bind_transfer_class);
    cr_http_transfer_close(bind_take(L, 1, &bind_transfer_class));
    cr_download_close(handle->download);
    handle->download = NULL;
    return 0;
}

static int transfer_tostring(lua_State *L)
{
    bind_handle *handle = bind_test(L, 1, &bind_transfer_class);
    cr_http_state state;
    if (!handle->core) {
        lua_pushliteral(L, "crucible.transfer (closed)");
        return 1;
    }
    cr_http_look(handle->core, &state);
    lua_pushfstring(L, "crucible.transfer (%s, %s)", state.url, state.done ? "done" : "under way");
    return 1;
}

static void set_boolean(lua_State *L, const char *name, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, lua_Integer value)
{
    lua_pushinteger(L, value);
    lua_setfield(L, -2, name);
}

static void set_string(lua_State *L, const char *name, const char *value)
{
    lua_pushstring(L, value);
    lua_setfield(L, -2, name);
}

static int transfer_state(lua_State *L)
{
    cr_http_state state;
    cr_http_look(bind_core(L, 1, &bind_transfer_class), &state);
    lua_createtable(L, 0, 8);
    set_boolean(L, "done", state.done);
    set_integer(L, "status", state.status);
    set_integer(L, "received", (lua_Integer)state.received);
    set_string(L, "url", state.url);
    if (state.expected >= 0)
        set_integer(L, "expected", (lua_Integer)state.expected);
    if (state.code == CR_OK)
        return 1;
    set_string(L, "code", cr_code_name(state.code));
    set_string(L, "message", state.message);
    set_boolean(L, "transient", state.transient);
    set_boolean(L, "unreachable", state.unreachable);
    set_boolean(L, "sent", state.sent);
    return 1;
}

static int transfer_done(lua_State *L)
{
    lua_pushboolean(L, cr_http_done(bind_core(L, 1, &bind_transfer_class)));
    return 1;
}

static int transfer_header(lua_State *L)
{
    const cr_http_transfer *transfer = bind_core(L, 1, &bind_transfer_class);
    lua_pushstring(L, cr_http_header(transfer, luaL_checkstring(L, 2)));
    return 1;
}

static int transfer_body(lua_State *L)
{
    cr_http_state state;
    cr_http_look(bind_core(L, 1, &bind_transfer_class), &state);
    lua_pushlstring(L, state.body_size ? state.body : "", state.body_size);
    return 1;
}

static const luaL_Reg transfer_methods[] = {
    {"state", transfer_state},
    {"done", transfer_done},
    {"header", transfer_header},
    {"body", transfer_body},
    {"close", transfer_close},
    {NULL, NULL},
};

static const luaL_Reg transfer_metamethods[] = {
    {"__gc", transfer_close},
    {"__close", transfer_close},
    {"__tostring", transfer_tostring},
    {NULL, NULL},
};

const bind_class bind_transfer_class = {"crucible.transfer", transfer_methods,
                                        transfer_metamethods};
