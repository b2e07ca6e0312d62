/* http.h: HTTP over libcurl: many requests under way at once, driven by the caller.
 *
 * What this is: a set of transfers. cr_http_start hands a request in and returns at once;
 * cr_http_wait moves bytes for a while and returns; cr_http_look says how far a transfer is. Between
 * two waits the caller may show progress, start more, or close a transfer, which cancels it. What
 * it is not: a thread, a retry policy, a reader of bodies; those are the caller's.
 *
 * Nothing is printed, no signal handler is installed (CURLOPT_NOSIGNAL), certificates are verified,
 * and proxies are taken from the environment as curl does. Only http and https are spoken, and
 * a redirect never leads from https to http. Header fields such as Authorization stay with the host
 * they were meant for. Bodies come as the server sends them unless `compressed` is asked for.
 *
 * Ownership: a transfer is the caller's (cr_http_transfer_close); closing the set first is fine and
 * cancels what is under way. One set, with its transfers, belongs to one thread at a time.
 */
#ifndef CR_HTTP_H
#define CR_HTTP_H

#include "base/base.h"

typedef struct cr_http cr_http;
typedef struct cr_http_transfer cr_http_transfer;

/* Where a body goes instead of memory. Called from cr_http_wait; a negative result ends the transfer
 * with the thread's message. Each may be NULL but `write`. Only answers of status 200 and 206 come
 * here; the bodies of others stay in memory, cut to CR_HTTP_KEPT bytes, to be shown. */
typedef struct cr_http_sink {
    int (*start)(void *self, const cr_http_transfer *transfer); /* headers are in, no byte yet */
    int (*write)(void *self, const void *bytes, size_t size);
    int (*finish)(void *self); /* all bytes are in */
    void *self;
} cr_http_sink;

#define CR_HTTP_KEPT 65536

typedef struct cr_http_request {
    const char *url;
    const char *method;         /* NULL: GET, or POST when there is a body */
    const char *const *headers; /* "Name: value" */
    size_t header_count;
    const void *body; /* copied */
    size_t body_size;
    const char *ca_file;    /* certificates to trust instead of the system's; NULL */
    double connect_seconds; /* to be connected; 30 */
    double idle_seconds;    /* without a byte before it counts as broken; 60; 0 = for ever */
    double total_seconds;   /* 0 = for ever */
    int redirects;          /* followed at most; 10 */
    uint64_t most;          /* bytes of the body that are accepted; 0 = any number */
    bool
        compressed; /* the body may come compressed and is undone; `most` counts the bytes after it */
    bool once;      /* a body leaves at most once, see below */
    cr_http_sink sink; /* write == NULL: memory */
} cr_http_request;

/* libcurl sends a request again, whatever its method, when a connection that it kept breaks before
 * the first byte of an answer: the server may have done what was asked. With `once` the
 * break is a transient failure instead, and it is the caller who knows whether to repeat. */

cr_http_request cr_http_request_default(void);

int cr_http_open(cr_http **out);
void cr_http_close(cr_http *http);

/* The request is copied. CR_EARG for what is no http(s) URL or no header line. */
int cr_http_start(cr_http_transfer **out, cr_http *http, const cr_http_request *request);

/* Moves bytes for at most that long; returns early when a transfer ends. Without transfers it
 * sleeps. *running: how many are under way. */
int cr_http_wait(cr_http *http, double seconds, int *running);

typedef struct cr_http_state {
    bool done;
    int code; /* of the transfer: CR_OK while it runs and when an answer came, whatever its status */
    const char *message; /* of a failure, else "" */
    bool transient;      /* a failure that may pass: refused, reset, cut short, timed out */
    bool unreachable;    /* no connection was made: no name, no route, refused */
    bool sent;           /* some byte of the request left: the server may have seen it */
    int status;          /* 0 until the answer's head is in */
    uint64_t received;   /* bytes of the body */
    int64_t expected;    /* bytes of the body by its head; -1 = unknown */
    const void *body;    /* what stayed in memory */
    size_t body_size;
    const char *url; /* after redirects, without a password */
} cr_http_state;

/* Everything in it is borrowed from the transfer, until the next wait. */
void cr_http_look(const cr_http_transfer *transfer, cr_http_state *out);

bool cr_http_done(const cr_http_transfer *transfer);

/* A header field of the last answer, by its name in any case; NULL when there is none. */
const char *cr_http_header(const cr_http_transfer *transfer, const char *name);

void cr_http_transfer_close(cr_http_transfer *transfer);

#endif
