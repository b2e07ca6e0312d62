/* session.h: one model with one lora, its gradients, moments, work space and threads. */
#ifndef CR_SESSION_H
#define CR_SESSION_H

#include "base/arena.h"
#include "lora/lora.h"
#include "model/cached.h"
#include "model/forward.h"

struct cr_session {
    cr_model *model;          /* held */
    cr_session_config config; /* resolved: no zeros that stand for defaults */
    cr_compute compute;
    cr_lora lora;
    cr_arena arena;           /* work space of the running call */
    double *partial;          /* [cr_adamw_chunks] */
    uint64_t step;            /* updates made */
    double loraplus_lr_ratio; /* of the last of them; 1 before */
    uint64_t window_datums;   /* datums since the last update: part of dropout's key */
    struct cr_watch *watch;   /* train/watch.h; NULL until something is asked for */
    float *mean_row;          /* [d] mean of the head's rows; NULL before it is asked for */
    struct cr_shares *shares; /* train/shares.h; NULL until gradients are shared among terms */
    struct cr_predicting *predicting; /* train/prediction.h; NULL before the first prediction */
    volatile int cancelled;
    int holders; /* opens and generations; one thread uses a session */
};

/* Clears a cancellation that came before the call, and ends a prediction: the work space changes hands. */
void cr_session_enter(cr_session *session);

/* The branches as the present values make them, or NULL for the bare base. With `goes_on`, a pass goes on
 * from an earlier one: no host has written to values between them. */
const cr_branch *cr_session_branches(cr_session *session, bool base, bool goes_on);

/* A pass of this session, without its batch; and the key of its dropout in this step. */
cr_pass cr_session_pass(cr_session *session, bool train, bool base);
uint64_t cr_session_dropout_key(const cr_session *session);

#endif
