/* http.c: transfers on one libcurl multi handle; the only file that knows libcurl. */
#include "net/http.h"

#include <curl/curl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What one answer's header fields may take together. */
#define HEADER_BYTES (256 * 1024)
#define FIRST_BODY_BYTES 4096

/* How long an idle connection is trusted with a request that leaves once. */
#define KEPT_SECONDS 3L

typedef struct growing {
    char *bytes; /* terminated once there is any */
    size_t size, capacity;
} growing;

struct cr_http {
    CURLM *multi;
    cr_http_transfer *first; /* a list of all that were not closed */
};

struct cr_http_transfer {
    cr_http *http; /* NULL once the set is closed */
    cr_http_transfer *before, *after;
    CURL *easy;
    struct curl_slist *headers;
    char *shown;        /* the URL without a password, for messages */
    char *place;        /* the same after redirects */
    char *request_body; /* of a request that leaves once */
    size_t request_size, request_sent;
    cr_http_sink sink;
    uint64_t most, received;
    growing fields; /* "Name: value\n" of the last answer */
    growing body;
    bool entered; /* counts as a user of the library */
    bool started; /* the sink was told */
    bool sinking; /* the body goes to the sink */
    bool done;
    int code;      /* of the transfer */
    int sink_code; /* a failure of ours inside a callback, with its message below */
    bool transient, unreachable;
    char message[512];
    char reason[CURL_ERROR_SIZE]; /* curl writes here */
};

/* ---- small things ----------------------------------------------------------------------- */

static int append(growing *text, const void *bytes, size_t size)
{
    if (text->size + size + 1 > text->capacity) {
        size_t capacity = text->capacity ? text->capacity : FIRST_BODY_BYTES;
        while (capacity < text->size + size + 1)
            capacity *= 2;
        char *grown = cr_realloc(text->bytes, text->capacity, capacity);
        if (!grown)
            return CR_ENOMEM;
        text->bytes = grown;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    text->bytes[text->size] = '\0';
    return CR_OK;
}

/* "https://name:secret@host/x" → "https://host/x". The caller's. */
static char *without_password(const char *url)
{
    char *shown = cr_strdup(url);
    if (!shown)
        return NULL;
    char *host = strstr(shown, "://");
    if (!host)
        return shown;
    host += 3;
    const size_t length = strcspn(host, "/?#");
    for (size_t i = length; i > 0; i--)
        if (host[i - 1] == '@') {
            memmove(host, host + i, strlen(host + i) + 1);
            break;
        }
    return shown;
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

/* ---- the library -------------------------------------------------------------------------- */

/* curl counts its users, but before 7.84 not safely between threads: ours take turns. */
static atomic_flag library_busy = ATOMIC_FLAG_INIT;

static CURLcode enter_library(void)
{
    while (atomic_flag_test_and_set(&library_busy))
        continue;
    CURLcode result = curl_global_init(CURL_GLOBAL_DEFAULT);
    atomic_flag_clear(&library_busy);
    return result;
}

static void leave_library(void)
{
    while (atomic_flag_test_and_set(&library_busy))
        continue;
    curl_global_cleanup();
    atomic_flag_clear(&library_busy);
}

int cr_http_open(cr_http **out)
{
    *out = NULL;
    cr_http *http = cr_calloc(1, sizeof *http);
    if (!http)
        return CR_ENOMEM;
    if (enter_library() != CURLE_OK) {
        cr_free(http);
        return cr_fail(CR_EIO, "libcurl cannot be initialised");
    }
    http->multi = curl_multi_init();
    if (!http->multi) {
        leave_library();
        cr_free(http);
        return cr_fail(CR_ENOMEM, "libcurl: no memory for a set of transfers");
    }
    *out = http;
    return CR_OK;
}

/* ---- failures --------------------------------------------------------------------------------- */

static void keep_message(cr_http_transfer *transfer, int code, const char *reason)
{
    transfer->code = code;
    snprintf(transfer->message, sizeof transfer->message, "%s: %s", transfer->shown, reason);
}

/* A failure inside a callback: curl will say "write error", the thread's message says why. */
static int fail_inside(cr_http_transfer *transfer, int code)
{
    transfer->sink_code = code;
    keep_message(transfer, code, cr_error_message());
    return code;
}

static bool is_unreachable(CURLcode result)
{
    return result == CURLE_COULDNT_RESOLVE_HOST || result == CURLE_COULDNT_RESOLVE_PROXY ||
           result == CURLE_COULDNT_CONNECT;
}

/* What another attempt may not meet. */
static bool is_transient(CURLcode result)
{
    switch (result) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_FAIL_REWIND:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return true;
    default:
        return false;
    }
}

static int code_of(CURLcode result)
{
    switch (result) {
    case CURLE_OUT_OF_MEMORY:
        return CR_ENOMEM;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return CR_EARG;
    case CURLE_WEIRD_SERVER_REPLY:
        return CR_EFORMAT;
    default:
        return CR_EIO;
    }
}

static void settle_failure(cr_http_transfer *transfer, CURLcode result)
{
    if (transfer->sink_code < 0)
        return;
    transfer->transient = is_transient(result);
    transfer->unreachable = is_unreachable(result);
    keep_message(transfer, code_of(result),
                 transfer->reason[0] ? transfer->reason : curl_easy_strerror(result));
}

/* ---- what curl calls ------------------------------------------------------------------------------ */

/* One header line; a status line begins a new answer (after a redirect or "100 Continue"). */
static size_t take_header(char *line, size_t one, size_t size, void *argument)
{
    cr_http_transfer *transfer = argument;
    (void)one;
    const size_t taken = size;
    if (size >= 5 && memcmp(line, "HTTP/", 5) == 0)
        transfer->fields.size = 0;
    while (size > 0 && (line[size - 1] == '\r' || line[size - 1] == '\n'))
        size--;
    if (transfer->fields.size + size + 1 > HEADER_BYTES) {
        fail_inside(transfer,
                    cr_fail(CR_EFORMAT, "the answer's head is longer than %d bytes", HEADER_BYTES));
        return 0;
    }
    if (append(&transfer->fields, line, size) < 0 || append(&transfer->fields, "\n", 1) < 0) {
        fail_inside(transfer, CR_ENOMEM);
        return 0;
    }
    return taken;
}

static int status_of(const cr_http_transfer *transfer)
{
    long status = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    return (int)status;
}

static int start_sink(cr_http_transfer *transfer)
{
    const int status = status_of(transfer);
    transfer->started = true;
    transfer->sinking = transfer->sink.write && (status == 200 || status == 206);
    return transfer->sinking && transfer->sink.start
               ? transfer->sink.start(transfer->sink.self, transfer)
               : CR_OK;
}

/* The first bytes of what is shown only. */
static int keep_body(cr_http_transfer *transfer, const char *bytes, size_t size)
{
    if (transfer->sink.write) {
        const size_t left = CR_HTTP_KEPT - transfer->body.size;
        size = size < left ? size : left;
    }
    return append(&transfer->body, bytes, size);
}

static int take_bytes(cr_http_transfer *transfer, const char *bytes, size_t size)
{
    if (!transfer->started)
        CR_TRY(start_sink(transfer));
    transfer->received += size;
    if (transfer->most > 0 && transfer->received > transfer->most)
        return cr_fail(CR_EFORMAT, "the answer is longer than %llu bytes",
                       (unsigned long long)transfer->most);
    return transfer->sinking ? transfer->sink.write(transfer->sink.self, bytes, size)
                             : keep_body(transfer, bytes, size);
}

static size_t take_body(char *bytes, size_t one, size_t size, void *argument)
{
    cr_http_transfer *transfer = argument;
    (void)one;
    const int code = take_bytes(transfer, bytes, size);
    if (code >= 0)
        return size;
    fail_inside(transfer, code);
    return size + 1; /* not `size`: curl ends the transfer */
}

/* ---- requests ------------------------------------------------------------------------------------- */

cr_http_request cr_http_request_default(void)
{
    return (cr_http_request){.connect_seconds = 30, .idle_seconds = 60, .redirects = 10};
}

static int check_request(const cr_http_request *request)
{
    if (!has_prefix(request->url, "http://") && !has_prefix(request->url, "https://"))
        return cr_fail(CR_EARG, "%s: expected a URL of http or https", request->url);
    for (const char *c = request->url; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            return cr_fail(CR_EARG, "%s: a URL has no spaces or control characters", request->url);
    for (size_t i = 0; i < request->header_count; i++) {
        const char *line = request->headers[i];
        const size_t name = strcspn(line, ":");
        if (name == 0 || line[name] != ':' || strpbrk(line, "\r\n"))
            return cr_fail(CR_EARG, "expected a header as \"Name: value\" without line breaks");
    }
    return CR_OK;
}

/* Whoever waits for "100 Continue" waits a second at most servers. */
static int refuse_expectation(cr_http_transfer *transfer)
{
    struct curl_slist *grown = curl_slist_append(transfer->headers, "Expect:");
    if (!grown)
        return cr_fail(CR_ENOMEM, "libcurl: no memory for header fields");
    transfer->headers = grown;
    return CR_OK;
}

static int copy_headers(cr_http_transfer *transfer, const cr_http_request *request)
{
    for (size_t i = 0; i < request->header_count; i++) {
        struct curl_slist *grown = curl_slist_append(transfer->headers, request->headers[i]);
        if (!grown)
            return cr_fail(CR_ENOMEM, "libcurl: no memory for header fields");
        transfer->headers = grown;
    }
    return CR_OK;
}

/* A redirect may go from http to https, never back. */
static void allow_protocols(CURL *easy, bool secure)
{
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
#else
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS,
                     secure ? (long)CURLPROTO_HTTPS : (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

/* Bytes of a body that leaves once: without a way to rewind, curl cannot send it again. */
static size_t give_body(char *out, size_t one, size_t room, void *argument)
{
    cr_http_transfer *transfer = argument;
    const size_t left = transfer->request_size - transfer->request_sent;
    const size_t size = left < one * room ? left : one * room;
    if (size > 0)
        memcpy(out, transfer->request_body + transfer->request_sent, size);
    transfer->request_sent += size;
    return size;
}

static int describe_body(cr_http_transfer *transfer, const cr_http_request *request)
{
    CURL *easy = transfer->easy;
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_size);
    if (!request->once)
        return curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request->body) == CURLE_OK
                   ? CR_OK
                   : cr_fail(CR_ENOMEM, "libcurl: no memory for a body");
    transfer->request_body = cr_alloc_plain(request->body_size);
    if (!transfer->request_body)
        return CR_ENOMEM;
    memcpy(transfer->request_body, request->body, request->body_size);
    transfer->request_size = request->body_size;
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, give_body);
    curl_easy_setopt(easy, CURLOPT_READDATA, transfer);
    return CR_OK;
}

static long milliseconds(double seconds)
{
    return seconds > 1e6 ? 1000000000L : (long)(1000 * seconds);
}

static int describe(cr_http_transfer *transfer, const cr_http_request *request)
{
    CURL *easy = transfer->easy;
    CURLcode url = curl_easy_setopt(easy, CURLOPT_URL, request->url);
    if (url == CURLE_OK && request->ca_file)
        url = curl_easy_setopt(easy, CURLOPT_CAINFO, request->ca_file);
    if (url == CURLE_OK && request->method)
        url = curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    if (url != CURLE_OK)
        return cr_fail(code_of(url), "%s: %s", transfer->shown, curl_easy_strerror(url));
    if (request->body)
        CR_TRY(describe_body(transfer, request));
    if (request->once) /* what a server drops when idle, it drops after some seconds */
        curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, KEPT_SECONDS);
    if (request->compressed)
        curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
    if (request->method && strcmp(request->method, "HEAD") == 0)
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->reason);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "crucible/" CR_VERSION);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, request->redirects > 0 ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_MAXREDIRS, (long)request->redirects);
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, milliseconds(request->connect_seconds));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, milliseconds(request->total_seconds));
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, request->idle_seconds > 0 ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)ceil(request->idle_seconds));
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
    allow_protocols(easy, has_prefix(request->url, "https:"));
    return CR_OK;
}

static void join(cr_http *http, cr_http_transfer *transfer)
{
    transfer->http = http;
    transfer->after = http->first;
    if (http->first)
        http->first->before = transfer;
    http->first = transfer;
}

static int prepare(cr_http_transfer *transfer, const cr_http_request *request)
{
    transfer->entered = enter_library() == CURLE_OK; /* it may outlive its set */
    transfer->sink = request->sink;
    transfer->most = request->most;
    transfer->shown = without_password(request->url);
    if (!transfer->shown)
        return CR_ENOMEM;
    transfer->easy = curl_easy_init();
    if (!transfer->easy)
        return cr_fail(CR_ENOMEM, "libcurl: no memory for a transfer");
    CR_TRY(copy_headers(transfer, request));
    if (request->body)
        CR_TRY(refuse_expectation(transfer));
    return describe(transfer, request);
}

int cr_http_start(cr_http_transfer **out, cr_http *http, const cr_http_request *request)
{
    *out = NULL;
    CR_TRY(check_request(request));
    cr_http_transfer *transfer = cr_calloc(1, sizeof *transfer);
    if (!transfer)
        return CR_ENOMEM;
    int code = prepare(transfer, request);
    if (code == CR_OK && curl_multi_add_handle(http->multi, transfer->easy) != CURLM_OK)
        code = cr_fail(CR_EIO, "%s: libcurl refuses the transfer", transfer->shown);
    if (code < 0) {
        cr_http_transfer_close(transfer);
        return code;
    }
    join(http, transfer);
    *out = transfer;
    return CR_OK;
}

/* ---- moving bytes ----------------------------------------------------------------------------------- */

static void settle_place(cr_http_transfer *transfer)
{
    char *url = NULL;
    curl_easy_getinfo(transfer->easy, CURLINFO_EFFECTIVE_URL, &url);
    transfer->place = url ? without_password(url) : NULL;
}

/* An answer without a body has not told its sink yet. */
static int end_sink(cr_http_transfer *transfer)
{
    if (!transfer->started)
        CR_TRY(start_sink(transfer));
    return transfer->sinking && transfer->sink.finish ? transfer->sink.finish(transfer->sink.self)
                                                      : CR_OK;
}

static void settle(cr_http *http, cr_http_transfer *transfer, CURLcode result)
{
    settle_place(transfer);
    if (result != CURLE_OK) {
        settle_failure(transfer, result);
    } else {
        const int code = end_sink(transfer);
        if (code < 0)
            fail_inside(transfer, code);
    }
    transfer->done = true;
    curl_multi_remove_handle(http->multi, transfer->easy);
}

static bool settle_finished(cr_http *http)
{
    bool any = false;
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(http->multi, &left)) != NULL) {
        char *transfer = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode result = message->data.result; /* the message goes with its handle */
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
        settle(http, (cr_http_transfer *)(void *)transfer, result);
        any = true;
    }
    return any;
}

static int perform(cr_http *http, int *running)
{
    CURLMcode result = curl_multi_perform(http->multi, running);
    return result == CURLM_OK ? CR_OK
                              : cr_fail(result == CURLM_OUT_OF_MEMORY ? CR_ENOMEM : CR_EIO,
                                        "libcurl: %s", curl_multi_strerror(result));
}

int cr_http_wait(cr_http *http, double seconds, int *running)
{
    CR_TRY(perform(http, running));
    if (settle_finished(http))
        return CR_OK;
    CURLMcode result = curl_multi_poll(http->multi, NULL, 0, (int)milliseconds(seconds), NULL);
    if (result != CURLM_OK)
        return cr_fail(CR_EIO, "libcurl: %s", curl_multi_strerror(result));
    CR_TRY(perform(http, running));
    settle_finished(http);
    return CR_OK;
}

/* ---- looking ---------------------------------------------------------------------------------------- */

void cr_http_look(const cr_http_transfer *transfer, cr_http_state *out)
{
    curl_off_t expected = -1;
    long sent = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &sent);
    curl_easy_getinfo(transfer->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &expected);
    *out = (cr_http_state){
        .done = transfer->done,
        .code = transfer->code,
        .message = transfer->message,
        .transient = transfer->transient,
        .unreachable = transfer->unreachable,
        .sent = sent > 0,
        .status = status_of(transfer),
        .received = transfer->received,
        .expected = expected,
        .body = transfer->body.bytes,
        .body_size = transfer->body.size,
        .url = transfer->place ? transfer->place : transfer->shown,
    };
}

bool cr_http_done(const cr_http_transfer *transfer)
{
    return transfer->done;
}

/* Fields are kept as lines; a line is ended in place once its value is asked for. */
const char *cr_http_header(const cr_http_transfer *transfer, const char *name)
{
    const size_t length = strlen(name);
    char *line = transfer->fields.bytes;
    const char *end = line + transfer->fields.size;
    while (line < end) {
        const size_t width = strcspn(line, "\n");
        if (width > length && line[length] == ':' && strncasecmp(line, name, length) == 0) {
            line[width] = '\0';
            return line + length + 1 + strspn(line + length + 1, " \t");
        }
        line += width + 1;
    }
    return NULL;
}

/* ---- closing ---------------------------------------------------------------------------------------- */

static void leave(cr_http_transfer *transfer)
{
    cr_http *http = transfer->http;
    if (!http)
        return;
    if (!transfer->done)
        curl_multi_remove_handle(http->multi, transfer->easy);
    if (transfer->before)
        transfer->before->after = transfer->after;
    else
        http->first = transfer->after;
    if (transfer->after)
        transfer->after->before = transfer->before;
    transfer->http = NULL;
}

void cr_http_transfer_close(cr_http_transfer *transfer)
{
    if (!transfer)
        return;
    leave(transfer);
    if (transfer->easy)
        curl_easy_cleanup(transfer->easy);
    curl_slist_free_all(transfer->headers);
    if (transfer->entered)
        leave_library();
    cr_free(transfer->shown);
    cr_free(transfer->place);
    cr_free(transfer->request_body);
    cr_free(transfer->fields.bytes);
    cr_free(transfer->body.bytes);
    cr_free(transfer);
}

void cr_http_close(cr_http *http)
{
    if (!http)
        return;
    while (http->first) {
        cr_http_transfer *transfer = http->first;
        if (!transfer->done) {
            transfer->done = true;
            curl_multi_remove_handle(http->multi, transfer->easy);
            keep_message(transfer, CR_ECANCELLED, "cancelled");
        }
        leave(transfer);
    }
    curl_multi_cleanup(http->multi);
    leave_library();
    cr_free(http);
}
