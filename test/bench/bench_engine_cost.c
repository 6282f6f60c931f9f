/* SPDX-License-Identifier: Apache-2.0
 *
 * udp-engine-cost: what a small datagram costs inside usherd, in through pair port, ip and udp to the session ring and
 * out again, on warm caches, in bursts of 32. `cycles` counts TSC ticks; `instructions` comes from callgrind, in a run
 * of its own. The kernel's figures: half of what send + recv + send + recv between two loopback sockets take on one
 * core, which is one datagram received and one sent (in cycles of the whole path, system calls included).
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/bench/benches.h"
#include "test/bench/hist.h"
#include "test/bench/proc.h"
#include "test/bench/rig.h"
#include "test/bench/tick.h"

enum { CYCLES, INSTRUCTIONS, UP, DOWN, IP_IN, UDP_IN, UDP_OUT, IP_OUT, LOCAL_ECHO, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [CYCLES] = {.name = "cycles", .unit = "cycles", .target_kind = TARGET_USHER, .target = 300},
    [INSTRUCTIONS] = {.name = "instructions", .unit = "instr"},
    [UP] = {.name = "up", .unit = "cycles"},
    [DOWN] = {.name = "down", .unit = "cycles"},
    [IP_IN] = {.name = "up_ip", .unit = "cycles"},
    [UDP_IN] = {.name = "up_udp", .unit = "cycles"},
    [UDP_OUT] = {.name = "down_udp", .unit = "cycles"},
    [IP_OUT] = {.name = "down_ip", .unit = "cycles"},
    [LOCAL_ECHO] = {.name = "local_echo", .unit = "cycles"},
};

#define WARM_UP_TURNS   2000
#define ECHO_TURNS      20000
#define CALLGRIND_TURNS 200
#define CALLGRIND_OUT   "/run/callgrind.out"

/* The loop alone, for profilers: `usher-bench engine-loop TURNS`, or echo-loop. */
int bench_engine_loop(uint32_t turns, bool echo) {
    struct rig *rig;
    struct rig_cost cost;
    char err[320];
    if (rig_create(&rig, err, sizeof(err)) != 0) {
        (void)fprintf(stderr, "usher-bench: %s\n", err);
        return 1;
    }
    int rc = 0;
    for (uint32_t i = 0; i < turns && rc == 0; i++)
        rc = echo ? rig_echo_turn(rig, &cost.up) : rig_turn(rig, false, &cost);
    rig_destroy(rig);
    return rc == 0 ? 0 : 1;
}

static struct hist hist[METRICS];

static int measure_cycles(struct bench_env *env, struct rig *rig) {
    struct rig_cost cost;
    int rc = 0;
    for (uint32_t i = 0; i < WARM_UP_TURNS && rc == 0; i++)
        rc = rig_turn(rig, true, &cost);
    for (uint32_t m = 0; m < METRICS; m++)
        hist_reset(&hist[m]);
    uint64_t end = tick_now() + tick_from_seconds(env->seconds);
    while (rc == 0 && tick_now() < end) {
        rc = rig_turn(rig, false, &cost);
        hist_add(&hist[CYCLES], cost.up + cost.down);
        hist_add(&hist[UP], cost.up);
        hist_add(&hist[DOWN], cost.down);
        rc = rc == 0 ? rig_turn(rig, true, &cost) : rc;
        for (uint32_t s = 0; s < RIG_STAGE_COUNT; s++)
            hist_add(&hist[IP_IN + s], cost.stage[s]);
    }
    for (uint32_t i = 0; i < ECHO_TURNS && rc == 0; i++) {
        uint64_t ticks;
        rc = rig_echo_turn(rig, &ticks);
        hist_add(&hist[LOCAL_ECHO], ticks * RIG_BURST);
    }
    if (rc != 0)
        return bench_fail(env, SIDE_USHER, "datagrams were lost between port and session");
    for (uint32_t m = 0; m < METRICS; m++) {
        if (m != INSTRUCTIONS)
            bench_sample(env, SIDE_USHER, m, hist_quantile(&hist[m], 0.5) / RIG_BURST);
    }
    return 0;
}

/* Instructions of `turns` turns, or a negative number when callgrind is not there. */
static double callgrind_instructions(uint32_t turns) {
    char command[512], self[256], line[256];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return -1;
    self[n] = '\0';
    (void)snprintf(
        command, sizeof(command),
        "valgrind --tool=callgrind --callgrind-out-file=%s --toggle-collect=rig_timed_poll %s engine-loop %u "
        ">/dev/null 2>&1",
        CALLGRIND_OUT, self, turns);
    double total = -1;
    FILE *f = system(command) == 0 ? fopen(CALLGRIND_OUT, "r") : NULL;
    if (f == NULL)
        return -1;
    while (fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, "totals: ", 8) == 0)
            total = strtod(line + 8, NULL);
    }
    (void)fclose(f);
    return total;
}

/* The difference of two runs leaves out the first turns, which touch and fill everything once. */
static int measure_instructions(struct bench_env *env) {
    double few = callgrind_instructions(CALLGRIND_TURNS), many = callgrind_instructions(2 * CALLGRIND_TURNS);
    if (few < 0 || many <= few) {
        bench_note(env, "no instructions: valgrind is missing or failed");
        return 0;
    }
    bench_sample(env, SIDE_USHER, INSTRUCTIONS, (many - few) / CALLGRIND_TURNS / RIG_BURST);
    return 0;
}

static int usher_side(struct bench_env *env) {
    struct rig *rig;
    char err[320];
    (void)proc_pin(env->core[1]);
    if (rig_create(&rig, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = measure_cycles(env, rig);
    rig_destroy(rig);
    return rc == 0 && env->round == 0 ? measure_instructions(env) : rc;
}

static int udp_pair(int fd[2]) {
    struct sockaddr_in sa[2];
    for (int i = 0; i < 2; i++) {
        socklen_t len = sizeof(sa[i]);
        sa[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd[i] < 0 || bind(fd[i], (struct sockaddr *)&sa[i], len) != 0 ||
            getsockname(fd[i], (struct sockaddr *)&sa[i], &len) != 0)
            return -1;
    }
    return connect(fd[0], (struct sockaddr *)&sa[1], sizeof(sa[1])) != 0 ||
                   connect(fd[1], (struct sockaddr *)&sa[0], sizeof(sa[0])) != 0
               ? -1
               : 0;
}

static int kernel_side(struct bench_env *env) {
    int fd[2];
    char data[64] = {0};
    static struct hist h;
    (void)proc_pin(env->core[1]);
    if (udp_pair(fd) != 0)
        return bench_fail(env, SIDE_KERNEL, "no pair of loopback sockets");
    hist_reset(&h);
    uint64_t now = tick_now(), end = now + tick_from_seconds(env->seconds);
    while (now < end) {
        bool ok = send(fd[0], data, sizeof(data), 0) > 0 && recv(fd[1], data, sizeof(data), 0) > 0 &&
                  send(fd[1], data, sizeof(data), 0) > 0 && recv(fd[0], data, sizeof(data), 0) > 0;
        uint64_t then = tick_now();
        if (ok)
            hist_add(&h, then - now);
        now = then;
    }
    (void)close(fd[0]);
    (void)close(fd[1]);
    bench_sample(env, SIDE_KERNEL, CYCLES, hist_quantile(&h, 0.5) / 2);
    return 0;
}

const struct bench bench_engine_cost = {
    .name = "udp-engine-cost",
    .what = "cycles inside usherd for one small datagram in and one out",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 5,
    .seconds = 0.2,
    .slack_seconds = 20,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
