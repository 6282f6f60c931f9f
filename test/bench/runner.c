/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs one bench: sandbox, setup, rounds in which the sides take turns (and swap who goes first, so that neither always
 * finds the warmer machine), teardown. Figures lie in shared memory: a bench that dies keeps what it had.
 */
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "test/bench/bench.h"
#include "test/bench/sandbox.h"

static void pick_cores(int core[2]) {
    cpu_set_t set;
    CPU_ZERO(&set);
    (void)sched_getaffinity(0, sizeof(set), &set);
    int found = 0;
    for (int i = 0; i < CPU_SETSIZE && found < 2; i++) {
        if (CPU_ISSET((size_t)i, &set))
            core[found++] = i;
    }
    if (found == 1)
        core[1] = core[0];
}

void bench_sample(struct bench_env *env, enum bench_side side, uint32_t metric, double value) {
    struct bench_result *r = env->result;
    uint32_t n = r->count[metric][side];
    if (n == BENCH_ROUND_MAX)
        return;
    r->sample[metric][side][n] = value;
    r->count[metric][side] = n + 1;
}

int bench_fail(struct bench_env *env, enum bench_side side, const char *format, ...) {
    char *text = env->result->error[side];
    if (text[0] != '\0')
        return -1;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(env->result->error[side]), format, args);
    va_end(args);
    return -1;
}

void bench_note(struct bench_env *env, const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(env->result->note, sizeof(env->result->note), format, args);
    va_end(args);
}

int bench_setup_peer(struct bench_env *env) {
    env->peer = sandbox_peer();
    return env->peer >= 0 ? 0 : bench_fail(env, SIDE_KERNEL, "no second network namespace could be made");
}

static void run_side(struct bench_env *env, enum bench_side side) {
    bench_fn *fn = env->bench->side[side];
    if (fn != NULL && env->result->error[side][0] == '\0' && fn(env) != 0)
        (void)bench_fail(env, side, "failed without a reason");
}

static int inside(void *arg) {
    struct bench_env *env = arg;
    const struct bench *b = env->bench;
    (void)signal(SIGPIPE, SIG_IGN);
    if (b->setup != NULL && b->setup(env) != 0)
        return 1;
    for (env->round = 0; env->round < env->rounds; env->round++) {
        bool kernel_first = (env->round & 1) == 0;
        run_side(env, kernel_first ? SIDE_KERNEL : SIDE_USHER);
        run_side(env, kernel_first ? SIDE_USHER : SIDE_KERNEL);
        run_side(env, SIDE_LIMIT);
    }
    if (b->teardown != NULL)
        b->teardown(env);
    return 0;
}

int bench_run(const struct bench *b, uint32_t rounds, double seconds, struct bench_result *ret_result) {
    struct bench_result *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -1;
    struct bench_env env = {.bench = b, .result = shared, .seconds = seconds, .rounds = rounds};
    pick_cores(env.core);
    char err[256] = "";
    double bound = 10 + rounds * (SIDE_COUNT * 2 * seconds + b->slack_seconds);
    int rc = sandbox_run(inside, &env, bound, err, sizeof(err));
    *ret_result = *shared;
    (void)munmap(shared, sizeof(*shared));
    bool failed = rc != 0;
    for (uint32_t side = 0; side < SIDE_COUNT; side++) {
        char *text = ret_result->error[side];
        if (rc < 0 && text[0] == '\0' && b->side[side] != NULL)
            (void)snprintf(text, sizeof(ret_result->error[side]), "%s", err);
        failed |= text[0] != '\0';
    }
    return failed ? 1 : 0;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, uint32_t n) {
    qsort(values, n, sizeof(*values), compare);
    return n % 2 != 0 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
