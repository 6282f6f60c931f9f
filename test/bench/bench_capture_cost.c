/* SPDX-License-Identifier: Apache-2.0
 *
 * capture-cost: what a capture costs the packets. The rig of udp-engine-cost, without a capture, with one whose filter
 * matches nothing, and with one that takes everything and writes it to a file while a million packets a second pass (as
 * many as the machine gives, if it cannot). `accounted` says whether recorded and lost together are all there were.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control/capture/job.h"
#include "test/bench/benches.h"
#include "test/bench/hist.h"
#include "test/bench/proc.h"
#include "test/bench/rig.h"
#include "test/bench/tick.h"

enum { NO_TAP, NO_MATCH, NO_MATCH_COST, CAPTURED, LOST, ACCOUNTED, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [NO_TAP] = {.name = "no_tap", .unit = "cycles"},
    [NO_MATCH] = {.name = "no_match", .unit = "cycles"},
    [NO_MATCH_COST] = {.name = "no_match_cost", .unit = "%", .target_kind = TARGET_USHER, .target = 5},
    [CAPTURED] = {.name = "captured", .unit = "pkt/s", .better = BETTER_HIGHER},
    [LOST] = {.name = "lost", .unit = "%"},
    [ACCOUNTED] = {.name = "accounted", .unit = "%", .better = BETTER_HIGHER},
};

#define SLICE_TURNS  200 /* the two are compared in turns: the machine's pace changes */
#define WARM_UP      2000
#define RATE         1e6 /* packets a second: a turn has RIG_BURST up and as many down */
#define FLOOD_SLICES 6   /* of env->seconds each: longer than all that rings and buffers could hold */
#define EVERY_POINT  (1u << TAP_RX | 1u << TAP_TX | 1u << TAP_DROP | 1u << TAP_LOCAL)

/* `tcp port 80`, as tcpdump -dd shows it for Ethernet. */
static const struct sock_filter tcp_port_80[] = {
    {0x28, 0, 0, 12},  {0x15, 0, 6, 0x86dd}, {0x30, 0, 0, 20},     {0x15, 0, 15, 6},     {0x28, 0, 0, 54},
    {0x15, 12, 0, 80}, {0x28, 0, 0, 56},     {0x15, 10, 11, 80},   {0x15, 0, 10, 0x800}, {0x30, 0, 0, 23},
    {0x15, 0, 8, 6},   {0x28, 0, 0, 20},     {0x45, 6, 0, 0x1fff}, {0xb1, 0, 0, 14},     {0x48, 0, 0, 14},
    {0x15, 2, 0, 80},  {0x48, 0, 0, 16},     {0x15, 0, 1, 80},     {0x06, 0, 0, 262144}, {0x06, 0, 0, 0},
};

static int turns(struct rig *rig, uint32_t n, struct hist *h) {
    struct rig_cost cost;
    for (uint32_t i = 0; i < n; i++) {
        if (rig_turn(rig, false, &cost) != 0)
            return -1;
        if (h != NULL)
            hist_add(h, cost.up + cost.down);
    }
    return 0;
}

static int no_match(struct bench_env *env, struct rig *rig, struct capture_host *host) {
    static struct hist with, without;
    const struct capture_params p = {.code = tcp_port_80, .count = ARRAY_LEN(tcp_port_80), .points = EVERY_POINT};
    hist_reset(&with);
    hist_reset(&without);
    int rc = turns(rig, WARM_UP, NULL);
    uint64_t end = tick_now() + tick_from_seconds(env->seconds);
    do {
        struct capture *c;
        uint32_t at;
        rc = rc == 0 ? turns(rig, SLICE_TURNS, &without) : rc;
        if (rc != 0 || capture_open(host, &p, &c, &at) != 0)
            return -1;
        rc = turns(rig, 10, NULL);
        rc = rc == 0 ? turns(rig, SLICE_TURNS, &with) : rc;
        capture_close(c);
    } while (rc == 0 && tick_now() < end);
    double bare = hist_quantile(&without, 0.5), tapped = hist_quantile(&with, 0.5);
    bench_sample(env, SIDE_USHER, NO_TAP, bare / RIG_BURST);
    bench_sample(env, SIDE_USHER, NO_MATCH, tapped / RIG_BURST);
    bench_sample(env, SIDE_USHER, NO_MATCH_COST, 100 * (tapped - bare) / bare);
    return rc;
}

/* ---- everything, into a file ---- */

struct writer {
    struct job *job;
    int fd;
    bool stop;
    struct job_part last;
};

static bool part_write(struct writer *w) {
    struct job_part part;
    if (!job_part(w->job, &part))
        return false;
    w->last = part;
    for (size_t at = 0; at < part.size;) {
        ssize_t n = write(w->fd, part.bytes + at, part.size - at);
        at += n > 0 ? (size_t)n : part.size;
    }
    if (lseek(w->fd, 0, SEEK_CUR) > 256 << 20) /* it is memory: a ring of one file */
        (void)lseek(w->fd, 0, SEEK_SET);
    job_part_done(w->job);
    return true;
}

/* Stands in for control and the operator behind it. */
static void *writer_run(void *arg) {
    struct writer *w = arg;
    struct pollfd p = {.fd = job_fd(w->job), .events = POLLIN};
    while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
        (void)poll(&p, 1, 10);
        (void)job_look(w->job);
        while (part_write(w))
            continue;
    }
    return NULL;
}

/* Paced by the clock; what the machine cannot do in time is done as fast as it can. */
static int flood(const struct bench_env *env, struct rig *rig, uint64_t *ret_packets, double *ret_seconds) {
    uint64_t start = tick_now(), end = start + tick_from_seconds(FLOOD_SLICES * env->seconds);
    uint64_t step = tick_from_seconds(2 * RIG_BURST / RATE), next = start;
    *ret_packets = 0;
    while (tick_now() < end) {
        while (tick_now() < next)
            continue;
        if (turns(rig, 1, NULL) != 0)
            return -1;
        next += step;
        *ret_packets += 2 * RIG_BURST;
    }
    *ret_seconds = (double)(tick_now() - start) / (double)tick_from_seconds(1);
    return 0;
}

/* Until the reader has taken all there is, or for as long as that could last. */
static void settle(struct writer *w) {
    uint64_t before = UINT64_MAX;
    for (uint32_t i = 0; i < 100 && before != w->last.packets; i++) {
        before = w->last.packets;
        (void)usleep(50000);
    }
}

static int everything_with(struct bench_env *env, struct rig *rig, struct writer *w) {
    pthread_t thread;
    uint64_t packets = 0;
    double seconds = 1;
    while (job_look(w->job) == JOB_COMPILING)
        (void)usleep(100);
    if (job_begin(w->job) != 0 || pthread_create(&thread, NULL, writer_run, w) != 0)
        return bench_fail(env, SIDE_USHER, "the capture did not begin");
    (void)proc_pin(env->core[1]);
    int rc = flood(env, rig, &packets, &seconds);
    settle(w);
    (void)turns(rig, 1, NULL); /* one more part, which tells of all that was lost */
    (void)usleep(50000);
    __atomic_store_n(&w->stop, true, __ATOMIC_RELEASE);
    (void)pthread_join(thread, NULL);
    packets += 2 * RIG_BURST;
    bench_sample(env, SIDE_USHER, CAPTURED, (double)w->last.packets / seconds);
    bench_sample(env, SIDE_USHER, LOST, 100.0 * (double)w->last.lost / (double)packets);
    bench_sample(env, SIDE_USHER, ACCOUNTED, 100.0 * (double)(w->last.packets + w->last.lost) / (double)packets);
    return rc;
}

static int everything(struct bench_env *env, struct rig *rig, struct capture_host *host) {
    struct owner_table *owners;
    static const struct job_names names;
    static const struct job_watch watch;
    if (owner_table_create(16, &owners) != 0)
        return -1;
    const struct job_params p = {
        .host = host,
        .owners = owners,
        .capture = {.points = 1u << TAP_RX | 1u << TAP_TX, .snaplen = 128, .ring_bytes = CAPTURE_RING_MAX},
        .expression = "",
        .names = &names,
        .watch = &watch,
    };
    struct writer w = {.fd = memfd_create("capture", MFD_CLOEXEC)};
    (void)proc_pin(env->core[0]); /* threads begin where their maker is */
    int rc = w.fd >= 0 && job_create(&p, &w.job) == 0 ? everything_with(env, rig, &w) : -1;
    job_destroy(w.job);
    if (w.fd >= 0)
        (void)close(w.fd);
    owner_table_destroy(owners);
    return rc;
}

static int usher_side(struct bench_env *env) {
    struct rig *rig;
    struct capture_host *host;
    char err[320];
    (void)proc_pin(env->core[1]);
    if (rig_create(&rig, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = capture_host_create(rig_runtime(rig), &host);
    if (rc == 0) {
        rc = no_match(env, rig, host);
        rc = rc == 0 ? everything(env, rig, host) : rc;
        capture_host_destroy(host);
    }
    rig_destroy(rig);
    return rc == 0 ? 0 : bench_fail(env, SIDE_USHER, "packets were lost between port and session");
}

const struct bench bench_capture_cost = {
    .name = "capture-cost",
    .what = "what a capture costs packets, and how much of a million a second it keeps",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 40,
    .side = {[SIDE_USHER] = usher_side},
};
