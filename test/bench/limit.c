/* SPDX-License-Identifier: Apache-2.0
 *
 * Raw exchange of cache lines between a pinned child and this process. The lines carry their sequence as usher_shm.h's
 * rings do, so the figures are what those rings would reach if nothing but the lines cost time.
 */
#include "test/bench/limit.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "test/bench/proc.h"
#include "test/bench/tick.h"

#define RING_LINES  256u /* 16 KiB each way: stays in L1/L2 */
#define RING_WINDOW 128u

struct line {
    atomic_uint seq;
    uint32_t pad[15];
} __attribute__((aligned(64)));

struct lines {
    struct line there[RING_LINES];
    struct line back[RING_LINES];
};

struct line_job {
    struct lines *lines;
    double seconds;
    uint32_t window;
    struct hist *hist; /* NULL: count only */
    uint64_t count;
};

/* Answers every line until the other side stops it. */
static int reflect(struct proc_shared *s, void *arg) {
    struct lines *l = arg;
    atomic_store(&s->ready, 1);
    for (uint32_t pos = 0;; pos++) {
        struct line *in = &l->there[pos % RING_LINES];
        while (atomic_load_explicit(&in->seq, memory_order_acquire) != pos + 1) {
            if (atomic_load_explicit(&s->stop, memory_order_relaxed) != 0)
                return 0;
        }
        atomic_store_explicit(&l->back[pos % RING_LINES].seq, pos + 1, memory_order_release);
    }
}

static void drive(struct line_job *job) {
    struct lines *l = job->lines;
    uint64_t start = tick_now(), end = start + tick_from_seconds(job->seconds), last = start;
    uint32_t sent = 0, got = 0;
    while (last < end) {
        while (sent - got < job->window) {
            atomic_store_explicit(&l->there[sent % RING_LINES].seq, sent + 1, memory_order_release);
            sent++;
        }
        while (atomic_load_explicit(&l->back[got % RING_LINES].seq, memory_order_acquire) != got + 1)
            continue;
        got++;
        if (job->hist != NULL || got % 64 == 0) {
            uint64_t now = tick_now();
            if (job->hist != NULL)
                hist_add(job->hist, now - last);
            last = now;
        }
    }
    job->count = got;
}

static int exchange(const int core[2], struct line_job *job) {
    struct proc_shared *s = proc_shared_create();
    void *memory = mmap(NULL, sizeof(struct lines), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == NULL || memory == MAP_FAILED || core[0] == core[1])
        return -1;
    job->lines = memory;
    pid_t pid = proc_spawn(core[0], reflect, s, job->lines);
    int rc = pid < 0 ? -1 : proc_await(&s->ready, 1, 2);
    if (rc == 0) {
        cpu_set_t before;
        (void)sched_getaffinity(0, sizeof(before), &before);
        (void)proc_pin(core[1]);
        drive(job);
        (void)sched_setaffinity(0, sizeof(before), &before); /* what is started later is not to inherit it */
    }
    atomic_store(&s->stop, 1);
    if (pid > 0)
        (void)proc_join(pid, 2);
    (void)munmap(memory, sizeof(struct lines));
    proc_shared_destroy(s);
    return rc;
}

int limit_line_rtt(const int core[2], double seconds, struct hist *h) {
    struct line_job job = {.seconds = seconds, .window = 1, .hist = h};
    return exchange(core, &job);
}

int limit_line_rate(const int core[2], double seconds, double *ret_per_second) {
    struct line_job job = {.seconds = seconds, .window = RING_WINDOW};
    int rc = exchange(core, &job);
    if (rc == 0)
        *ret_per_second = (double)job.count / seconds;
    return rc;
}

int limit_memcpy(double seconds, double *ret_bytes_per_second) {
    const size_t block = 64u << 20;
    uint8_t *from = malloc(block), *to = malloc(block);
    if (from == NULL || to == NULL) {
        free(from);
        free(to);
        return -1;
    }
    memset(from, 1, block);
    memset(to, 2, block);
    uint64_t start = tick_now(), end = start + tick_from_seconds(seconds), now = start;
    double bytes = 0;
    while (now < end) {
        memcpy(to, from, block);
        __asm__ __volatile__("" ::"r"(to) : "memory");
        bytes += (double)block;
        now = tick_now();
    }
    *ret_bytes_per_second = bytes / (tick_to_us((double)(now - start)) / 1e6);
    free(from);
    free(to);
    return 0;
}
