/* SPDX-License-Identifier: Apache-2.0
 *
 * The wake-up protocols of dataplane/session/WAKEUP.md as Promela models, with store buffers: a store is seen by others
 * only when it has drained, a fence waits until it has. A lost wake-up is a sleeper that waits for ever: an invalid end
 * state. check.sh chooses the model by -D and expects the ones without fences to fail.
 *
 *   WAKE_CLIENT   the worker publishes completions, looks at the ticket at once without a fence and again, behind one,
 *                 a turn later; the client sleeps on its ticket, a byte on a socket wakes it
 *   KICK_WORKER   the client submits and looks at need_kick behind a fence; the worker arms, looks and sleeps; the bell
 *                 is an eventfd that is never read: only the edge counts. Also mailboxes and rings between shards
 *   MOVE          the same while the bell's watcher changes hands: the old one is cancelled, the new one registered
 */
#define N 4 /* messages */

#define TAIL 0
#define FLAG 1

byte tail; /* messages in the ring, as the sleeper sees it */
byte flag; /* the sleeper's flag or ticket, as the waker sees it */

chan waker_stores = [3] of { byte, byte };
chan sleeper_stores = [3] of { byte, byte };

/* The processor drains each buffer in order, whenever it likes. */
active proctype drain_waker() {
    byte what, value;
end:
    do
    :: atomic { waker_stores?what,value -> assert(what == TAIL); tail = value }
    od
}

active proctype drain_sleeper() {
    byte what, value;
end:
    do
    :: atomic { sleeper_stores?what,value -> assert(what == FLAG); flag = value }
    od
}

#ifdef NO_WAKER_FENCE
#define WAKER_FENCE skip
#else
#define WAKER_FENCE (len(waker_stores) == 0)
#endif
#ifdef NO_SLEEPER_FENCE
#define SLEEPER_FENCE skip
#else
#define SLEEPER_FENCE (len(sleeper_stores) == 0)
#endif

#ifdef WAKE_CLIENT

chan bytes = [2] of { bit }; /* the wake socket; a full one takes no more and that must not matter */
byte woken;                  /* the last ticket that was answered */

inline look() {
    atomic {
        if
        :: flag % 2 == 1 && flag != woken ->
            woken = flag;
            if
            :: nfull(bytes) -> bytes!1
            :: full(bytes) -> skip
            fi
        :: else -> skip
        fi
    }
}

active proctype worker() {
    byte sent = 0;
    do
    :: sent < N ->
        sent++;
        waker_stores!TAIL,sent;
        if
        :: sent < N -> sent++; waker_stores!TAIL,sent /* a burst */
        :: skip
        fi;
        look();      /* session_flush(): no fence */
        WAKER_FENCE; /* session_confirm(): the next turn, or before sleeping */
        look()
    :: else -> break
    od
}

active proctype client() {
    byte got = 0, ticket = 0;
    do
    :: got == N -> break
    :: got < N && tail > got -> got = tail
    :: got < N && tail == got ->
        ticket++;
        sleeper_stores!FLAG,ticket;
        SLEEPER_FENCE;
        do
        :: tail > got -> break
        :: tail == got ->
            bytes?_; /* sleeps */
            do
            :: bytes?[_] -> bytes?_
            :: empty(bytes) -> break
            od;
            ticket = ticket + 2;
            sleeper_stores!FLAG,ticket;
            SLEEPER_FENCE
        od;
        ticket++;
        sleeper_stores!FLAG,ticket
    od
}

#else /* KICK_WORKER, MOVE */

bit edge;     /* the poll has fired and was not looked at */
byte counter; /* of the eventfd: grows for ever, 0 or not is all that counts */
bit watched = 1;

inline kick() {
    atomic {
        counter = 1;
        if
        :: watched -> edge = 1
        :: else -> skip
        fi
    }
}

active proctype client() {
    byte sent = 0;
    do
    :: sent < N ->
        sent++;
        waker_stores!TAIL,sent;
        WAKER_FENCE;
        if
        :: flag == 1 -> kick()
        :: else -> skip
        fi
    :: else -> break
    od
}

active proctype worker() {
    byte got = 0;
    do
    :: got == N -> break
    :: got < N && tail > got -> got = tail
    :: got < N && tail == got ->
        sleeper_stores!FLAG,1;
        SLEEPER_FENCE;
        if
        :: tail > got -> skip
        :: tail == got -> atomic { edge == 1 -> edge = 0 } /* sleeps */
        fi;
        sleeper_stores!FLAG,0
#ifdef MOVE
        ;
        if
        :: skip
        :: got < N ->
            watched = 0;                 /* the old worker cancels its poll, what it had seen is forgotten */
            edge = 0;
            atomic {                     /* the new one registers: a counter that is not zero fires at once */
                watched = 1;
                if
                :: counter == 1 -> edge = 1
                :: else -> skip
                fi
            }
        fi
#endif
    od
}

#endif
