/* SPDX-License-Identifier: Apache-2.0
 *
 * The context's lock: a futex mutex of three states (free, held, held with sleepers). Two atomic exchanges when nobody
 * contends, no system call. Any thread; never held across a sleep or an exchange with usherd's session socket.
 */
#ifndef USHER_CLIENTLIB_LOCK_H
#define USHER_CLIENTLIB_LOCK_H

#include <stdint.h>
#include <time.h>

struct client_lock {
    uint32_t word;
};

enum { LOCK_FREE, LOCK_HELD, LOCK_SLEEPERS };

void client_lock_slow(struct client_lock *l);
void client_lock_wake(struct client_lock *l);

static inline void client_lock_take(struct client_lock *l)
{
    uint32_t was = LOCK_FREE;
    if (__builtin_expect(
            !__atomic_compare_exchange_n(&l->word, &was, LOCK_HELD, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED), 0))
        client_lock_slow(l);
}

static inline int client_lock_try(struct client_lock *l)
{
    uint32_t was = LOCK_FREE;
    return __atomic_compare_exchange_n(&l->word, &was, LOCK_HELD, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void client_lock_give(struct client_lock *l)
{
    if (__builtin_expect(__atomic_exchange_n(&l->word, LOCK_FREE, __ATOMIC_RELEASE) == LOCK_SLEEPERS, 0))
        client_lock_wake(l);
}

/* Sleeps while *word == value, at most until `timeout` (relative, NULL = for ever). 0 or -errno. */
int client_futex_wait(uint32_t *word, uint32_t value, const struct timespec *timeout);
void client_futex_wake(uint32_t *word, int count);

#endif
