/* SPDX-License-Identifier: Apache-2.0
 *
 * Signals. Handlers may call what is async-signal-safe, send() and close() among it, so none may run while its thread
 * holds our lock: such a one is kept back until the lock is given (milliseconds at most, in an exchange with usherd).
 * SIGSEGV and SIGBUS while we copy to or from the program end that copy. Programs see their own actions only.
 */
#include <pthread.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define SIGNALS 65

/* What the program asked for. Written under `guard`; read by our handler, of a signal whose action is set already. */
static struct sigaction wanted[SIGNALS];
static bool ours[SIGNALS];
static uint64_t interrupting; /* signals with a handler and without SA_RESTART */
static struct client_lock guard;

struct kept {
    int number;
    siginfo_t info;
};
static __thread struct kept kept[8] __attribute__((tls_model("initial-exec")));

static bool is_fault(int number) {
    return number == SIGSEGV || number == SIGBUS;
}

static bool has_handler(const struct sigaction *a) {
    return a->sa_handler != SIG_DFL && a->sa_handler != SIG_IGN;
}

static void run(int number, siginfo_t *info, void *context) {
    struct sigaction a = wanted[number];
    if (a.sa_flags & SA_SIGINFO)
        a.sa_sigaction(number, info, context);
    else if (has_handler(&a))
        a.sa_handler(number);
}

/* The fault is the program's own: as if we had never been here. */
static void fault_of_program(int number, siginfo_t *info, void *context) {
    if (has_handler(&wanted[number])) {
        run(number, info, context);
        return;
    }
    struct sigaction plain = {.sa_handler = SIG_DFL};
    posix_real.sigaction(number, &plain, NULL); /* the instruction runs again and ends the program */
}

static void on_fault(int number, siginfo_t *info, void *context) {
    struct posix_thread *t = &posix_thread;
    if (t->copying && info->si_code > 0) {
        t->copying = false;
        siglongjmp(t->fault, 1);
    }
    fault_of_program(number, info, context);
}

static void on_signal(int number, siginfo_t *info, void *context) {
    struct posix_thread *t = &posix_thread;
    if (LIKELY(t->held == 0)) {
        run(number, info, context);
        return;
    }
    for (uint32_t i = 0; i < t->kept; i++)
        if (kept[i].number == number)
            return; /* pending already, as with the kernel */
    if (t->kept < sizeof(kept) / sizeof(kept[0]))
        kept[t->kept++] = (struct kept){number, *info};
}

/* With every signal blocked, the handlers' masks are kept too. */
void posix_signal_let_go(void) {
    struct posix_thread *t = &posix_thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    uint32_t n = t->kept;
    struct kept copy[8];
    memcpy(copy, kept, sizeof(copy));
    t->kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        sigset_t mask = before;
        sigaddset(&mask, copy[i].number);
        for (int s = 1; s < SIGNALS; s++)
            if (sigismember(&wanted[copy[i].number].sa_mask, s) == 1)
                sigaddset(&mask, s);
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
        run(copy[i].number, &copy[i].info, NULL);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

bool posix_signal_restarts(void) {
    return __atomic_load_n(&interrupting, __ATOMIC_RELAXED) == 0;
}

static int set(int number, const struct sigaction *action) {
    struct sigaction a = *action;
    if (is_fault(number)) {
        a.sa_sigaction = on_fault;
        a.sa_flags = (a.sa_flags & SA_ONSTACK) | SA_SIGINFO | SA_NODEFER;
    } else if (has_handler(action)) {
        a.sa_sigaction = on_signal;
        a.sa_flags |= SA_SIGINFO;
    }
    return posix_real.sigaction(number, &a, NULL);
}

static void note(int number, const struct sigaction *action) {
    uint64_t bit = UINT64_C(1) << (number - 1);
    bool interrupts = has_handler(action) && !(action->sa_flags & SA_RESTART);
    wanted[number] = *action;
    uint64_t mask = interrupts ? interrupting | bit : interrupting & ~bit;
    __atomic_store_n(&interrupting, mask, __ATOMIC_RELAXED);
}

/* What was set before is taken over. */
static void install(void) {
    for (int number = 1; number < SIGNALS; number++) {
        struct sigaction a;
        if (number == SIGKILL || number == SIGSTOP || posix_real.sigaction(number, NULL, &a) < 0)
            continue;
        ours[number] = true;
        note(number, &a);
        if (has_handler(&a) || is_fault(number))
            (void)set(number, &a);
    }
}

void posix_signal_install(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static bool done;
    if (LIKELY(__atomic_load_n(&done, __ATOMIC_ACQUIRE)))
        return;
    pthread_once(&once, install);
    __atomic_store_n(&done, true, __ATOMIC_RELEASE);
}

int POSIX_CALL sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    if (number < 1 || number >= SIGNALS || !__atomic_load_n(&ours[number], __ATOMIC_RELAXED))
        return posix_real.sigaction(number, action, old);
    posix_thread.held++; /* no handler of ours needs this lock from within */
    client_lock_take(&guard);
    struct sigaction before = wanted[number];
    int result = 0;
    if (action) {
        struct sigaction was = before;
        note(number, action);
        result = set(number, action);
        if (result < 0)
            note(number, &was);
    }
    client_lock_give(&guard);
    posix_thread.held--;
    if (result == 0 && old)
        *old = before;
    return result;
}

sighandler_t POSIX_CALL signal(int number, sighandler_t handler) {
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    return sigaction(number, &a, &old) < 0 ? SIG_ERR : old.sa_handler;
}
