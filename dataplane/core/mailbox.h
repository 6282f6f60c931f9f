/* SPDX-License-Identifier: Apache-2.0
 *
 * How control speaks to a worker: a ring of letters, a flag that says whether the worker sleeps, and a bell to wake it.
 * One thread posts (control), one opens (the worker, between two polls). A letter belongs to the mailbox's own memory,
 * so that one which nobody answers in time can be abandoned without harm.
 *
 * Wake-ups: the worker sets `asleep`, fences, looks at the ring once more and only then sleeps; the poster pushes,
 * fences, and rings when it sees `asleep` (dataplane/session/WAKEUP.md).
 */
#ifndef USHER_DATAPLANE_CORE_MAILBOX_H
#define USHER_DATAPLANE_CORE_MAILBOX_H

#include "dataplane/core/ring.h"
#include "engines/engine.h"

#define LETTER_MAX 64

typedef void letter_fn(void *target, void *arg);

enum letter_state { LETTER_FREE, LETTER_POSTED, LETTER_OPEN, LETTER_DONE, LETTER_CANCELLED };

struct letter {
    letter_fn *fn;
    void *target;
    void *arg;
    uint32_t state; /* enum letter_state; also the futex word */
};

struct mailbox {
    struct ring ring;
    int bell;        /* eventfd, written by posters, never read: a multishot poll fires at every write */
    uint32_t asleep; /* written by the worker */
    uint32_t next;   /* control's: where to look for a free letter */
    struct letter letter[LETTER_MAX];
};

int mailbox_init(struct mailbox *m);
void mailbox_fini(struct mailbox *m);

/* Control. Posts and waits until the worker has run fn(target, arg); -ETIMEDOUT when it did not within timeout_ns (fn
 * will then not run, unless it is running right now), -ENOBUFS when too many letters were abandoned. */
int mailbox_call(struct mailbox *m, letter_fn *fn, void *target, void *arg, ns_t timeout_ns);

/* Worker. Runs what is there; returns how many. One load when there is nothing. */
uint32_t mailbox_open(struct mailbox *m);

/* Rings `bell` if the flag says that its owner may be asleep. Any thread; after the thing to be seen was stored. */
void mailbox_ring_if(const uint32_t *asleep, int bell);

#endif
