/* SPDX-License-Identifier: Apache-2.0
 *
 * What rules cost: the filter engine alone, datagrams judged by 10,000 rules on a veth against nftables with the same
 * rules, as rules and as sets, and whether the data path notices when 10,000 rules are replaced under it. All datagrams
 * of a comparison meet the same verdict on both sides: the last rule counts and drops them, those before do not match.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "engines/filter/filter_cycles.h"
#include "test/bench/benches.h"
#include "test/bench/noise.h"
#include "test/bench/program.h"
#include "test/bench/sandbox.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define RULES 10000u

/* ---- filter-engine ---- */

enum { HIT, COLD, ADVERSARIAL, INSTALL };

static const struct bench_metric engine_metrics[] = {
    [HIT] = {.name = "hit", .unit = "cycles", .target_kind = TARGET_USHER, .target = 60},
    [COLD] = {.name = "cold", .unit = "ns", .target_kind = TARGET_USHER, .target = 1000},
    [ADVERSARIAL] = {.name = "adversarial", .unit = "ns"},
    [INSTALL] = {.name = "install", .unit = "ms"},
};

static int engine_side(struct bench_env *env) {
    struct filter_cycles c;
    FILE *out = fopen("/dev/null", "w");
    (void)proc_pin(env->core[0]);
    if (out == NULL)
        return bench_fail(env, SIDE_USHER, "no /dev/null");
    filter_cycles(RULES, out, &c);
    (void)fclose(out);
    bench_sample(env, SIDE_USHER, HIT, c.hit_cycles);
    bench_sample(env, SIDE_USHER, COLD, c.cold_ns);
    bench_sample(env, SIDE_USHER, ADVERSARIAL, c.adversarial_ns);
    bench_sample(env, SIDE_USHER, INSTALL, c.install_ms);
    return 0;
}

const struct bench bench_filter_engine = {
    .name = "filter-engine",
    .what = "the filter engine in this process: a flow cache hit, and lookups of cold flows in 10,000 mixed rules",
    .metrics = engine_metrics,
    .metric_count = sizeof(engine_metrics) / sizeof(engine_metrics[0]),
    .rounds = 3,
    .seconds = 1,
    .slack_seconds = 10,
    .side = {[SIDE_USHER] = engine_side},
};

/* ---- the same rules for both ---- */

#define FLOOD_PORT    USHERD_ECHO_PORT
#define FLOOD_SOCKETS 64u
#define FLOOD_BATCH   32u
#define POLICY_PATH   "/run/policy.yaml"
#define NFT_PATH      "/run/rules.nft"

enum kind { LINEAR, SETS, KINDS };

/* Rule i: a host and a port that nobody sends from or to. */
static void rule_values(uint32_t i, char addr[20], uint32_t *ret_port) {
    (void)snprintf(addr, 20, "10.%u.%u.%u", 128 + i % 64, i / 64 % 256, 1 + i % 250);
    *ret_port = 1000 + i % 5000;
}

static int policy_write(const char *path, const char *prefix, uint32_t last_port) {
    FILE *f = fopen(path, "w");
    char addr[20];
    uint32_t port;
    if (f == NULL)
        return -1;
    (void)fputs("rules:\n", f);
    for (uint32_t i = 0; i < RULES - 1; i++) {
        rule_values(i, addr, &port);
        (void)fprintf(f, "  - {name: %s%u, direction: in, protocol: udp, from: %s, to_port: %u, action: drop}\n",
                      prefix, i, addr, port);
    }
    (void)fprintf(f, "  - {name: last, direction: in, protocol: udp, to_port: %u, action: drop}\n", last_port);
    return fclose(f);
}

static int nft_write(const char *path, enum kind kind) {
    FILE *f = fopen(path, "w");
    char addr[20];
    uint32_t port;
    if (f == NULL)
        return -1;
    (void)fputs("table ip t {\n counter hits { }\n", f);
    if (kind == SETS)
        (void)fputs(" set s { type ipv4_addr . inet_service; elements = { ", f);
    else
        (void)fputs(" chain in { type filter hook input priority 0; policy accept;\n", f);
    for (uint32_t i = 0; i < RULES - 1; i++) {
        rule_values(i, addr, &port);
        (void)fprintf(f, kind == SETS ? "%s . %u, " : "  ip saddr %s udp dport %u drop\n", addr, port);
    }
    if (kind == SETS)
        (void)fputs("10.0.0.1 . 1 }; }\n chain in { type filter hook input priority 0; policy accept;\n"
                    "  ip saddr . udp dport @s drop\n",
                    f);
    (void)fprintf(f, "  udp dport %u counter name hits drop\n }\n}\n", FLOOD_PORT);
    return fclose(f);
}

/* The number behind "packets": in what a command prints; -1 without one. */
static double packets_of(struct proc_shared *s, const char *const *argv) {
    static char out[65536];
    const struct program p = {.core = -1, .argv = argv};
    double cpu;
    if (program_run(&p, 30, out, sizeof out, &cpu, s->error, sizeof(s->error)) != 0)
        return -1;
    const char *at = strstr(out, "\"packets\":");
    return at != NULL ? strtod(at + strlen("\"packets\":"), NULL) : -1;
}

static int runs_well(struct proc_shared *s, const char *const *argv) {
    static char out[4096];
    const struct program p = {.core = -1, .argv = argv};
    double cpu;
    return program_run(&p, 60, out, sizeof out, &cpu, s->error, sizeof(s->error));
}

/* ---- the flood ---- */

struct flood {
    int netns;
    double seconds;
};

static int flood_socket(uint32_t i) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(FLOOD_PORT)};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(20000 + i))};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)inet_pton(AF_INET, SANDBOX_ADDR, &to.sin_addr);
    if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof from) != 0 ||
        connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        return -1;
    return fd;
}

/* Small datagrams of many flows, as fast as the veth takes them. */
static int flood_run(struct proc_shared *s, void *arg) {
    const struct flood *f = arg;
    static char payload[18];
    struct iovec iov = {payload, sizeof payload};
    struct mmsghdr batch[FLOOD_BATCH];
    int fd[FLOOD_SOCKETS];
    if (setns(f->netns, CLONE_NEWNET) != 0)
        return 1;
    for (uint32_t i = 0; i < FLOOD_SOCKETS; i++)
        if ((fd[i] = flood_socket(i)) < 0)
            return 1;
    memset(batch, 0, sizeof batch);
    for (uint32_t i = 0; i < FLOOD_BATCH; i++)
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    uint64_t end = tick_ns() + (uint64_t)(f->seconds * 1e9);
    for (uint32_t i = 0; tick_ns() < end; i++) {
        int n = sendmmsg(fd[i % FLOOD_SOCKETS], batch, FLOOD_BATCH, 0);
        s->operations += n > 0 ? (uint64_t)n : 0; /* an ICMP error of the start is no send */
    }
    return 0;
}

/* How many datagrams the command's counter grew by, a second. */
static int flood_measure(struct bench_env *env, struct proc_shared *s, const char *const *count, double *ret_rate) {
    struct flood f = {.netns = env->peer, .seconds = env->seconds};
    double before = packets_of(s, count);
    uint64_t start = tick_ns();
    s->operations = 0;
    pid_t pid = proc_spawn(env->core[1], flood_run, s, &f);
    int status = proc_join(pid, env->seconds + 10);
    double took = (double)(tick_ns() - start) / 1e9, after = packets_of(s, count);
    if (status != 0 || before < 0 || after <= before) {
        if (s->error[0] == '\0')
            (void)snprintf(s->error, sizeof s->error, "of %" PRIu64 " datagrams sent, %.0f were judged; sender: %d",
                           s->operations, after - before, status);
        return -1;
    }
    *ret_rate = (after - before) / took;
    return 0;
}

/* ---- filter-cost ---- */

static const struct bench_metric cost_metrics[KINDS] = {
    [LINEAR] =
        {.name = "nftables_10k", .unit = "1/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = 3},
    [SETS] =
        {.name = "nftables_sets", .unit = "1/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = 1},
};

static int kernel_kind(struct bench_env *env, struct proc_shared *s, enum kind kind) {
    static const char *const load[] = {"nft", "-f", NFT_PATH, NULL};
    static const char *const flush[] = {"nft", "flush", "ruleset", NULL};
    static const char *const count[] = {"nft", "-j", "list", "counters", NULL};
    double rate;
    if (nft_write(NFT_PATH, kind) != 0 || runs_well(s, load) != 0)
        return bench_fail(env, SIDE_KERNEL, "nftables does not take the rules: %s", s->error);
    int rc = flood_measure(env, s, count, &rate);
    if (rc == 0)
        bench_sample(env, SIDE_KERNEL, kind, rate);
    (void)runs_well(s, flush);
    return rc == 0 ? 0 : bench_fail(env, SIDE_KERNEL, "%s", s->error);
}

static int kernel_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    int rc = s == NULL ? -1 : kernel_kind(env, s, LINEAR);
    if (rc == 0)
        rc = kernel_kind(env, s, SETS);
    proc_shared_destroy(s);
    return rc;
}

/* One policy, compared with both. */
static int usher_measure(struct bench_env *env, struct proc_shared *s) {
    static const char *const load[] = {"usherctl", "policy", "apply", "--partial", POLICY_PATH, NULL};
    static const char *const count[] = {"usherctl", "-o", "json", "policy", "rules", "last", NULL};
    double rate;
    if (policy_write(POLICY_PATH, "r", FLOOD_PORT) != 0 || runs_well(s, load) != 0)
        return bench_fail(env, SIDE_USHER, "usherd does not take the rules: %s", s->error);
    if (flood_measure(env, s, count, &rate) != 0)
        return bench_fail(env, SIDE_USHER, "%s", s->error);
    bench_sample(env, SIDE_USHER, LINEAR, rate);
    bench_sample(env, SIDE_USHER, SETS, rate);
    return 0;
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto"};
    return bench_with_usherd(env, &params, usher_measure);
}

const struct bench bench_filter_cost = {
    .name = "filter-cost",
    .what =
        "datagrams over a veth judged by 10,000 rules, the last of which drops them; nftables as rules and as a set",
    .metrics = cost_metrics,
    .metric_count = KINDS,
    .rounds = 3,
    .seconds = 1,
    .slack_seconds = 40,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};

/* ---- policy-replace ---- */

enum { REPLACE, QUIET, BUSY, NOISE, RATE };

static const struct bench_metric replace_metrics[] = {
    [REPLACE] = {.name = "effective", .unit = "ms", .target_kind = TARGET_USHER, .target = 100},
    [QUIET] = {.name = "p99_quiet", .unit = "us"},
    [BUSY] = {.name = "p99_busy", .unit = "us"},
    [NOISE] = {.name = "noise", .unit = "x", .target_kind = TARGET_USHER, .target = 1.2},
    [RATE] = {.name = "replaced", .unit = "1/s"},
};

/* Two policies of RULES rules each, in turn, until it is killed; s->seconds: from the call to being in force. */
static int replace_run(struct proc_shared *s, void *arg) {
    static char out[8192];
    static const char *const paths[] = {"/run/a.yaml", "/run/b.yaml"};
    (void)arg;
    for (uint32_t i = 0;; i++) {
        const char *const argv[] = {"usherctl", "-o", "json", "policy", "apply", "--partial", paths[i % 2], NULL};
        const struct program p = {.core = -1, .argv = argv};
        double cpu;
        if (program_run(&p, 30, out, sizeof out, &cpu, s->error, sizeof(s->error)) != 0)
            return 1;
        const char *at = strstr(out, "\"took_ns\":");
        s->seconds = at != NULL ? strtod(at + strlen("\"took_ns\":"), NULL) / 1e9 : 0;
        s->operations++;
        atomic_store(&s->ready, 1);
    }
}

static struct proc_shared *replacing; /* of the load that is running */

static pid_t replace_load(int core, struct proc_shared *s) {
    replacing = s;
    return proc_spawn(core, replace_run, s, NULL);
}

/* The time of one replace that nothing disturbs, then the data path beside many. */
static int replace_measure(struct bench_env *env, struct proc_shared *s) {
    if (policy_write("/run/a.yaml", "a", 9) != 0 || policy_write("/run/b.yaml", "b", 9) != 0)
        return bench_fail(env, SIDE_USHER, "no room in /run");
    pid_t pid = proc_spawn(env->core[1], replace_run, s, NULL);
    int rc = proc_await(&s->ready, 1, 20);
    (void)kill(pid, SIGKILL);
    (void)proc_join(pid, 5);
    if (rc != 0)
        return bench_fail(env, SIDE_USHER, "usherd does not take the rules: %s", s->error);
    bench_sample(env, SIDE_USHER, REPLACE, s->seconds * 1e3);
    return bench_noise(env, false, replace_load, QUIET);
}

static int replace_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .control = true};
    return bench_with_usherd(env, &params, replace_measure);
}

const struct bench bench_policy_replace = {
    .name = "policy-replace",
    .what = "10,000 rules replaced by 10,000 others, and round trips of 64 B beside that, again and again",
    .metrics = replace_metrics,
    .metric_count = sizeof(replace_metrics) / sizeof(replace_metrics[0]),
    .rounds = 3,
    .seconds = 4,
    .slack_seconds = 60,
    .setup = bench_setup_peer,
    .side = {[SIDE_USHER] = replace_side},
};
