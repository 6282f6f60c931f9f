/* SPDX-License-Identifier: Apache-2.0
 *
 * When a page of a session's memory cannot be had (the machine is out of memory, a page went bad), the kernel answers a
 * touch with SIGBUS. The memfd is sealed against shrinking, so a client cannot cause it by itself; but it could fill
 * memory. The handler puts anonymous zero pages over that session's mapping and raises its flag: the worker goes on,
 * finds nonsense or the flag, and detaches the session. Any other SIGBUS goes to whom it went before.
 *
 * The table is written by control and read by the handler on any thread. The handler calls mmap() and sigaction() only.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include "dataplane/session/session_internal.h"

#define GUARD_MAX 4096u

static struct guard {
    uintptr_t base; /* 0 = free; stored last, cleared first */
    size_t size;
    uint32_t hit;
} guards[GUARD_MAX];
static struct sigaction before;
static pthread_once_t install_once = PTHREAD_ONCE_INIT;

static void on_sigbus(int sig, siginfo_t *info, void *context) {
    (void)sig;
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (uint32_t i = 0; i < GUARD_MAX; i++) {
        uintptr_t base = __atomic_load_n(&guards[i].base, __ATOMIC_ACQUIRE);
        if (base == 0 || at < base || at - base >= guards[i].size)
            continue;
        int saved = errno;
        void *got = mmap((void *)base, guards[i].size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        errno = saved;
        if (got == MAP_FAILED)
            break;
        __atomic_store_n(&guards[i].hit, 1, __ATOMIC_RELEASE);
        return;
    }
    (void)sigaction(SIGBUS, &before, NULL); /* the touch is repeated and dies as it would have */
}

static void install(void) {
    struct sigaction act = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    sigemptyset(&act.sa_mask);
    (void)sigaction(SIGBUS, &act, &before);
}

int session_guard_add(void *base, size_t size, uint32_t *ret_slot) {
    pthread_once(&install_once, install);
    for (uint32_t i = 0; i < GUARD_MAX; i++) {
        if (guards[i].base != 0)
            continue;
        guards[i].size = size;
        guards[i].hit = 0;
        __atomic_store_n(&guards[i].base, (uintptr_t)base, __ATOMIC_RELEASE);
        *ret_slot = i;
        return 0;
    }
    return -ENFILE;
}

void session_guard_remove(uint32_t slot) {
    __atomic_store_n(&guards[slot].base, 0, __ATOMIC_RELEASE);
}

bool session_guard_hit(uint32_t slot) {
    return __atomic_load_n(&guards[slot].hit, __ATOMIC_ACQUIRE) != 0;
}
