/* SPDX-License-Identifier: Apache-2.0
 *
 * The contended half of lock.h. A waiter looks a little while first: the lock is held for tens of nanoseconds, a sleep
 * and a wake-up cost tens of microseconds.
 */
#include "clientlib/src/lock.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clientlib/src/cpu.h"

int client_futex_wait(uint32_t *word, uint32_t value, const struct timespec *timeout) {
    return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout, NULL, 0) < 0 ? -errno : 0;
}

void client_futex_wake(uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

void client_lock_slow(struct client_lock *l) {
    for (int i = 0; i < 64; i++) {
        uint32_t was = LOCK_FREE;
        if (__atomic_load_n(&l->word, __ATOMIC_RELAXED) == LOCK_FREE &&
            __atomic_compare_exchange_n(&l->word, &was, LOCK_HELD, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
        client_cpu_pause();
    }
    while (__atomic_exchange_n(&l->word, LOCK_SLEEPERS, __ATOMIC_ACQUIRE) != LOCK_FREE)
        client_futex_wait(&l->word, LOCK_SLEEPERS, NULL);
}

void client_lock_wake(struct client_lock *l) {
    client_futex_wake(&l->word, 1);
}
