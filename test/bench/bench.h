/* SPDX-License-Identifier: Apache-2.0
 *
 * What a bench is: a row of a table. The runner puts each bench into a sandbox of its own (sandbox.h), lets the
 * kernel's side and Usher's side alternate for some rounds, and reports medians. A side measures for env->seconds and
 * hands its figures over with bench_sample(); what it could not do it explains with bench_fail().
 *
 * Thread: a side runs in the sandbox's first process; it may start others (proc.h) and ends them before it returns.
 */
#ifndef USHER_TEST_BENCH_BENCH_H
#define USHER_TEST_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_METRIC_MAX 12
#define BENCH_ROUND_MAX 32

enum bench_side { SIDE_KERNEL, SIDE_USHER, SIDE_LIMIT, SIDE_COUNT };

enum bench_better { BETTER_LOWER, BETTER_HIGHER };

/* What a metric must reach. RATIO: kernel/usher (or usher/kernel when higher is better) at least `target`. USHER:
 * usher's own figure at most `target`. */
enum bench_target { TARGET_NONE, TARGET_RATIO, TARGET_USHER };

struct bench_metric {
    const char *name;
    const char *unit;
    enum bench_better better;
    enum bench_target target_kind;
    double target;
};

/* Lies in memory that the sandbox shares with the runner, so that figures survive whatever happens in there. */
struct bench_result {
    double sample[BENCH_METRIC_MAX][SIDE_COUNT][BENCH_ROUND_MAX];
    uint32_t count[BENCH_METRIC_MAX][SIDE_COUNT];
    char error[SIDE_COUNT][512]; /* why a side has no figures */
    char note[256];              /* for the human table: what usherd reported, which variant won */
};

struct bench;

struct bench_env {
    const struct bench *bench;
    struct bench_result *result;
    double seconds; /* to measure, each side and round; warming up comes on top */
    uint32_t rounds;
    uint32_t round;
    int core[2]; /* [0]: usherd, or the kernel's server; [1]: the client. Equal on a machine with one core */
    int peer;    /* namespace on the other end of the veth pair, once bench_setup_peer() has run */
    void *state; /* the bench's own */
};

typedef int bench_fn(struct bench_env *env);

struct bench {
    const char *name;
    const char *what;
    const struct bench_metric *metrics;
    uint32_t metric_count;
    uint32_t rounds; /* defaults */
    double seconds;
    double slack_seconds; /* for setup, warm-up and teardown of one round, both sides */
    bench_fn *setup;      /* once; may be NULL, as may every side */
    bench_fn *side[SIDE_COUNT];
    void (*teardown)(struct bench_env *env);
};

extern const struct bench *const bench_table[];
extern const size_t bench_table_count;

void bench_sample(struct bench_env *env, enum bench_side side, uint32_t metric, double value);
/* Records why `side` has no figures; the first reason stays. Returns -1 for `return bench_fail(...)`. */
int bench_fail(struct bench_env *env, enum bench_side side, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void bench_note(struct bench_env *env, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A setup that joins a second namespace to the sandbox (sandbox_peer). */
int bench_setup_peer(struct bench_env *env);

/* Runs one bench in its sandbox. Returns 0 when every side that exists gave figures. */
int bench_run(const struct bench *b, uint32_t rounds, double seconds, struct bench_result *ret_result);

/* Median of n values; sorts them. */
double bench_median(double *values, uint32_t n);

#endif
