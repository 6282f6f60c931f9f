/* SPDX-License-Identifier: Apache-2.0
 *
 * The runtime behind -fsanitize=thread in the simulator's modules. The compiler calls __tsan_writeN(address) before
 * each store, __tsan_write_range() before a struct assignment, and the linker sends mem*() calls to __wrap_*. Reads and
 * function entries are of no interest, except that the first hook after a wide store is where that store is complete
 * and can be torn: its tail is put back as it was.
 *
 * The state is global because the hooks have no argument to carry it; one thread runs the simulator.
 */
#include "test/sim/store.h"

#include <string.h>

#define WATCH_MAX 64
#define TORN_MAX  4096

static struct {
    const uint8_t *base[WATCH_MAX];
    size_t size[WATCH_MAX];
    uint32_t watched;
    uint64_t count;
    uint64_t die_at; /* 0 = disarmed */
    bool torn;
    jmp_buf *where;
    /* A wide store under way that is to be torn: its place, and what was there. */
    uint8_t *wide;
    size_t wide_len;
    uint8_t before[TORN_MAX];
} store;

void store_watch_none(void) {
    store.watched = 0;
}

void store_watch(const void *base, size_t size) {
    if (store.watched == WATCH_MAX)
        __builtin_trap();
    store.base[store.watched] = (const uint8_t *)base;
    store.size[store.watched++] = size;
}

void store_arm(uint64_t n, bool torn, jmp_buf *where) {
    store.count = 0;
    store.die_at = n;
    store.torn = torn;
    store.where = where;
    store.wide = NULL;
}

void store_disarm(void) {
    store.die_at = 0;
    store.wide = NULL;
}

uint64_t store_count(void) {
    return store.count;
}
void store_count_reset(void) {
    store.count = 0;
}

static bool store_is_watched(const void *at) {
    for (uint32_t i = 0; i < store.watched; i++)
        if ((size_t)((const uint8_t *)at - store.base[i]) < store.size[i])
            return true;
    return false;
}

static void store_die(void) {
    jmp_buf *where = store.where;
    store_disarm();
    longjmp(*where, 1);
}

/* True when this store is the one to die at. */
static bool store_next(const void *at) {
    if (!store_is_watched(at))
        return false;
    return ++store.count == store.die_at;
}

/* The wide store before this hook has happened: keep its first half, put the rest back, die. */
static void store_tear(void) {
    size_t kept = (store.wide_len / 2) & ~(size_t)7;
    memcpy(store.wide + kept, store.before + kept, store.wide_len - kept);
    store_die();
}

#define STORE_HOOK __attribute__((visibility("default"), used))
#define STORE_SMALL(name)                                                                                              \
    STORE_HOOK void name(void *at);                                                                                    \
    void name(void *at) {                                                                                              \
        if (store.wide != NULL)                                                                                        \
            store_tear();                                                                                              \
        if (store_next(at))                                                                                            \
            store_die();                                                                                               \
    }
#define STORE_OTHER(name, ...)                                                                                         \
    STORE_HOOK void name(__VA_ARGS__);                                                                                 \
    void name(__VA_ARGS__) {                                                                                           \
        if (store.wide != NULL)                                                                                        \
            store_tear();                                                                                              \
    }

STORE_SMALL(__tsan_write1)
STORE_SMALL(__tsan_write2)
STORE_SMALL(__tsan_write4)
STORE_SMALL(__tsan_write8)
STORE_SMALL(__tsan_write16)
STORE_SMALL(__tsan_unaligned_write2)
STORE_SMALL(__tsan_unaligned_write4)
STORE_SMALL(__tsan_unaligned_write8)
STORE_SMALL(__tsan_unaligned_write16)
STORE_OTHER(__tsan_read1, void *at __attribute__((unused)))
STORE_OTHER(__tsan_read2, void *at __attribute__((unused)))
STORE_OTHER(__tsan_read4, void *at __attribute__((unused)))
STORE_OTHER(__tsan_read8, void *at __attribute__((unused)))
STORE_OTHER(__tsan_read16, void *at __attribute__((unused)))
STORE_OTHER(__tsan_unaligned_read2, void *at __attribute__((unused)))
STORE_OTHER(__tsan_unaligned_read4, void *at __attribute__((unused)))
STORE_OTHER(__tsan_unaligned_read8, void *at __attribute__((unused)))
STORE_OTHER(__tsan_unaligned_read16, void *at __attribute__((unused)))
STORE_OTHER(__tsan_read_range, void *at __attribute__((unused)), long len __attribute__((unused)))
STORE_OTHER(__tsan_func_entry, void *from __attribute__((unused)))
STORE_OTHER(__tsan_func_exit, void *from __attribute__((unused)))
STORE_OTHER(__tsan_init, void)

STORE_HOOK void __tsan_write_range(void *at, long len);
void __tsan_write_range(void *at, long len) {
    if (store.wide != NULL)
        store_tear();
    if (!store_next(at))
        return;
    if (!store.torn || len < 16 || len > TORN_MAX)
        store_die();
    store.wide = (uint8_t *)at;
    store.wide_len = (size_t)len;
    memcpy(store.before, at, (size_t)len);
}

/* The bytes of [0, len) that reach memory before death, len when nobody dies. */
static size_t store_reaches(void *at, size_t len) {
    if (store.wide != NULL)
        store_tear();
    if (len == 0 || !store_next(at))
        return len;
    return store.torn ? len / 2 : 0;
}

STORE_HOOK void *__wrap_memcpy(void *to, const void *from, size_t len);
void *__wrap_memcpy(void *to, const void *from, size_t len) {
    size_t n = store_reaches(to, len);
    memcpy(to, from, n);
    if (n != len)
        store_die();
    return to;
}

STORE_HOOK void *__wrap_memmove(void *to, const void *from, size_t len);
void *__wrap_memmove(void *to, const void *from, size_t len) {
    size_t n = store_reaches(to, len);
    memmove(to, from, n);
    if (n != len)
        store_die();
    return to;
}

STORE_HOOK void *__wrap_memset(void *to, int value, size_t len);
void *__wrap_memset(void *to, int value, size_t len) {
    size_t n = store_reaches(to, len);
    memset(to, value, n);
    if (n != len)
        store_die();
    return to;
}
