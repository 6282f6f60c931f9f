/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-engine-cost: cycles inside the tcp engine, on warm caches: a request of 64 B and its answer, sent and received at
 * both ends, and 64 KiB in bulk by super-segments, both ends and the ACKs. `per_request` figures are with 32
 * connections in a burst, `alone` with one. Only usherd's engine is measured; the kernel has no such part to compare.
 */
#include "engines/tcp/cycles.h"
#include "engines/tcp/testlink.h"
#include "test/bench/benches.h"
#include "test/bench/proc.h"

enum { REQUEST, ALONE, BULK, BULK_TX, BULK_RX, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [REQUEST] = {.name = "cycles_per_request", .unit = "cycles", .target_kind = TARGET_USHER, .target = 1000},
    [ALONE] = {.name = "cycles_per_request_alone", .unit = "cycles"},
    [BULK] = {.name = "cycles_per_64k", .unit = "cycles"},
    [BULK_TX] = {.name = "cycles_per_64k_tx", .unit = "cycles"},
    [BULK_RX] = {.name = "cycles_per_64k_rx", .unit = "cycles"},
};

static double sum(struct cycles_request r) {
    return (double)(r.client_send + r.client_receive + r.server_send + r.server_receive);
}

static int usher_side(struct bench_env *env) {
    (void)proc_pin(env->core[1]);
    struct link *l = cycles_open();
    bench_sample(env, SIDE_USHER, ALONE, sum(cycles_requests(l, 1)));
    bench_sample(env, SIDE_USHER, REQUEST, sum(cycles_requests(l, CYCLES_CONNS)));
    struct cycles_bulk b = cycles_bulk(l);
    bench_sample(env, SIDE_USHER, BULK, (double)(b.send + b.acks + b.receive));
    bench_sample(env, SIDE_USHER, BULK_TX, (double)(b.send + b.acks));
    bench_sample(env, SIDE_USHER, BULK_RX, (double)b.receive);
    link_destroy(l);
    return 0;
}

const struct bench bench_tcp_engine_cost = {
    .name = "tcp-engine-cost",
    .what = "cycles inside the tcp engine for a request and its answer, and for 64 KiB",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 3,
    .seconds = 0.1,
    .slack_seconds = 20,
    .side = {[SIDE_USHER] = usher_side},
};
