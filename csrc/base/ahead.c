/* ahead.c: a ring of slots between one filling thread and one consumer. */
#define _POSIX_C_SOURCE 200809L
#include "base/ahead.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

struct cr_ahead {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled, given;
    int slots;
    uint64_t made,
        used;   /* slots filled and given back since the start; the ring holds made - used */
    int result; /* of the last fill */
    bool threaded, stopping;
    char message[1024]; /* of a failure, from the filler's thread */
    cr_fill_fn fill;
    void *argument;
};

/* Fills the next slot; false when there will be no more. Called by one thread alone. */
static bool fill_next(cr_ahead *ahead)
{
    const int result = ahead->fill(ahead->argument, (int)(ahead->made % (uint64_t)ahead->slots));
    if (result < 0)
        snprintf(ahead->message, sizeof ahead->message, "%s", cr_error_message());
    pthread_mutex_lock(&ahead->lock);
    ahead->result = result;
    ahead->made += result == CR_OK;
    pthread_cond_signal(&ahead->filled);
    pthread_mutex_unlock(&ahead->lock);
    return result == CR_OK;
}

static bool wait_for_room(cr_ahead *ahead)
{
    pthread_mutex_lock(&ahead->lock);
    while (!ahead->stopping && ahead->made - ahead->used == (uint64_t)ahead->slots)
        pthread_cond_wait(&ahead->given, &ahead->lock);
    const bool room = !ahead->stopping;
    pthread_mutex_unlock(&ahead->lock);
    return room;
}

static void *filler_main(void *argument)
{
    cr_ahead *ahead = argument;
    while (wait_for_room(ahead) && fill_next(ahead))
        continue;
    return NULL;
}

/* The host's signal handlers run in the host's threads. */
static bool start_thread(cr_ahead *ahead)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&ahead->thread, NULL, filler_main, ahead);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error == 0;
}

int cr_ahead_start(cr_ahead **out, int slots, bool threaded, cr_fill_fn fill, void *argument)
{
    *out = NULL;
    cr_ahead *ahead = cr_calloc(1, sizeof *ahead);
    if (!ahead)
        return CR_ENOMEM;
    ahead->slots = slots;
    ahead->fill = fill;
    ahead->argument = argument;
    pthread_mutex_init(&ahead->lock, NULL);
    pthread_cond_init(&ahead->filled, NULL);
    pthread_cond_init(&ahead->given, NULL);
    ahead->threaded = threaded && start_thread(ahead);
    *out = ahead;
    return CR_OK;
}

int cr_ahead_take(cr_ahead *ahead, int *slot)
{
    if (!ahead->threaded && ahead->made == ahead->used && ahead->result == CR_OK)
        fill_next(ahead);
    pthread_mutex_lock(&ahead->lock);
    while (ahead->made == ahead->used && ahead->result == CR_OK)
        pthread_cond_wait(&ahead->filled, &ahead->lock);
    const bool there = ahead->made != ahead->used;
    const int result = ahead->result;
    pthread_mutex_unlock(&ahead->lock);
    *slot = (int)(ahead->used % (uint64_t)ahead->slots);
    if (there)
        return CR_OK;
    if (result < 0)
        cr_set_message("%s", ahead->message);
    return result;
}

void cr_ahead_give(cr_ahead *ahead)
{
    pthread_mutex_lock(&ahead->lock);
    ahead->used++;
    pthread_cond_signal(&ahead->given);
    pthread_mutex_unlock(&ahead->lock);
}

void cr_ahead_stop(cr_ahead *ahead)
{
    if (!ahead)
        return;
    pthread_mutex_lock(&ahead->lock);
    ahead->stopping = true;
    pthread_cond_signal(&ahead->given);
    pthread_mutex_unlock(&ahead->lock);
    if (ahead->threaded)
        pthread_join(ahead->thread, NULL);
    pthread_cond_destroy(&ahead->given);
    pthread_cond_destroy(&ahead->filled);
    pthread_mutex_destroy(&ahead->lock);
    cr_free(ahead);
}
