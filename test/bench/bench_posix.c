/* SPDX-License-Identifier: Apache-2.0
 *
 * posix-*: unmodified programs, server and client, on the kernel (by the loopback) and under usher-run (by the
 * interface's address, which usherd turns round). The client runs on one core, the server and usherd on the other;
 * posix-one-core puts all of it on one. CPU is that of server, client and usherd.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "test/bench/benches.h"
#include "test/bench/proc.h"
#include "test/bench/program.h"
#include "test/bench/sandbox.h"
#include "test/bench/usherd.h"

#define LIMIT 20.0
#define WWW   "/run/www"

struct job {
    struct bench_env *env;
    enum bench_side side;
    bool one_core;
    pid_t usherd, server;
    char host[32], out[16384], err[480];
    double cpu; /* of the client */
};

static struct program placed(const struct job *j, bool server, const char *const *argv) {
    int core = server || j->one_core ? j->env->core[0] : j->env->core[1];
    return (struct program){.core = core, .usher = j->side == SIDE_USHER, .argv = argv};
}

static int job_start(struct job *j, const char *const *argv, bool udp, uint16_t port) {
    struct usherd_params params = {.core = j->env->core[0], .pinned = true, .mode = "auto"};
    bool usher = j->side == SIDE_USHER;
    (void)snprintf(j->host, sizeof(j->host), "%s", usher ? SANDBOX_ADDR : "127.0.0.1");
    if (usher && usherd_start(&params, &j->usherd, j->err, sizeof(j->err)) != 0)
        return -1;
    struct program p = placed(j, true, argv);
    if (program_start(&p, &j->server, j->err, sizeof(j->err)) != 0)
        return -1;
    if (program_await_port(udp, port, LIMIT) == 0)
        return 0;
    (void)snprintf(j->err, sizeof(j->err), "%s does not listen at port %u: is it installed?", argv[0], port);
    return -1;
}

static int job_run(struct job *j, const char *const *argv) {
    struct program p = placed(j, false, argv);
    return program_run(&p, LIMIT, j->out, sizeof(j->out), &j->cpu, j->err, sizeof(j->err));
}

static int job_end(struct job *j, int rc) {
    if (j->server > 0)
        program_stop(j->server);
    if (j->usherd > 0)
        usherd_stop(j->usherd);
    return rc == 0 ? 0 : bench_fail(j->env, j->side, "%s", j->err);
}

/* The number that follows the words, e.g. "GET: " or "percentile 50.000 =". */
static int figure(struct job *j, const char *words, double *ret_value) {
    const char *at = strstr(j->out, words), *next;
    while (at != NULL && (next = strstr(at + 1, words)) != NULL)
        at = next; /* redis-benchmark reports its progress in the same words */
    char *end = NULL;
    *ret_value = at != NULL ? strtod(at + strlen(words), &end) : 0;
    if (at != NULL && end != at + strlen(words))
        return 0;
    (void)snprintf(j->err, sizeof(j->err), "no figure \"%s\" in: %.300s", words, j->out);
    return -1;
}

static int seconds_of(const struct bench_env *env) {
    return env->seconds < 1 ? 1 : (int)env->seconds;
}

/* ---- sockperf ---- */

static int sockperf(struct job *j, bool tcp, uint32_t metric_p50, uint32_t metric_p999) {
    char time[8];
    const char *const server[] = {"sockperf", "sr", "-i", "0.0.0.0", "-p", "12001", tcp ? "--tcp" : NULL, NULL};
    const char *const client[] = {"sockperf",           "pp", "-i", j->host, "-p", "12001", "-t", time,
                                  tcp ? "--tcp" : NULL, NULL};
    double p50 = 0, p999 = 0;
    (void)snprintf(time, sizeof(time), "%d", seconds_of(j->env));
    int rc = job_start(j, server, !tcp, 12001);
    if (rc == 0)
        rc = job_run(j, client);
    if (rc == 0)
        rc = figure(j, "percentile 50.000 =", &p50);
    if (rc == 0)
        rc = figure(j, "percentile 99.900 =", &p999);
    if (rc == 0) {
        bench_sample(j->env, j->side, metric_p50, p50);
        if (metric_p999 != UINT32_MAX)
            bench_sample(j->env, j->side, metric_p999, p999);
    }
    return job_end(j, rc);
}

/* ---- redis ---- */

static int redis_run(struct job *j, const char *pipeline, uint32_t get, uint32_t set, uint32_t cpu) {
    char count[24];
    double gets = 0, sets = 0;
    long n = (long)(j->env->seconds * (*pipeline == '1' && pipeline[1] == '\0' ? 100e3 : 1e6));
    (void)snprintf(count, sizeof(count), "%ld", n < 2000 ? 2000 : n);
    const char *const client[] = {"redis-benchmark", "-h", j->host, "-p", "6379", "-t",
                                  "set,get",         "-n", count,   "-c", "50",   "-P",
                                  pipeline,          "-q", NULL};
    const pid_t pids[] = {j->server, j->usherd, 0};
    double before = proc_cpu_seconds(pids, 2);
    int rc = job_run(j, client);
    double used = proc_cpu_seconds(pids, 2) - before + j->cpu;
    if (rc == 0)
        rc = figure(j, "GET: ", &gets);
    if (rc == 0)
        rc = figure(j, "SET: ", &sets);
    if (rc != 0)
        return rc;
    bench_sample(j->env, j->side, get, gets / 1e3);
    if (set != UINT32_MAX)
        bench_sample(j->env, j->side, set, sets / 1e3);
    if (cpu != UINT32_MAX)
        bench_sample(j->env, j->side, cpu, used / (2 * atof(count)) * 1e6);
    return 0;
}

static const char *const redis_server[] = {"redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode",
                                           "no",           "--save", "",     "--dir",  "/run",    NULL};

/* ---- memcached ---- */

static int memcached_run(struct job *j, const char *test, uint32_t metric, uint32_t cpu) {
    char server[48], each[24];
    double seconds = 0;
    long n = (long)(j->env->seconds * 1000); /* of each of 50 threads */
    (void)snprintf(server, sizeof(server), "%s:11211", j->host);
    (void)snprintf(each, sizeof(each), "%ld", n < 100 ? 100 : n);
    const char *const client[] = {"memcslap", "-s", server, "-N", "-c", "50", "-e", each, "-t", test, NULL};
    const pid_t pids[] = {j->server, j->usherd, 0};
    double before = proc_cpu_seconds(pids, 2);
    int rc = job_run(j, client);
    double used = proc_cpu_seconds(pids, 2) - before + j->cpu, count = 50 * atof(each);
    if (rc == 0)
        rc = figure(j, "50 threads:", &seconds);
    if (rc != 0 || seconds <= 0)
        return -1;
    bench_sample(j->env, j->side, metric, count / seconds / 1e3);
    if (cpu != UINT32_MAX)
        bench_sample(j->env, j->side, cpu, used / count * 1e6);
    return 0;
}

static const char *const memcached_server[] = {"memcached", "-p", "11211", "-l", "0.0.0.0", "-u", "root", NULL};

/* ---- the library itself ---- */

enum { FIRST_SOCKET, FOREIGN_CALL };

static int side_overhead(struct job *j) {
    struct usherd_params params = {.core = j->env->core[0], .pinned = true, .mode = "auto"};
    bool usher = j->side == SIDE_USHER;
    (void)snprintf(j->host, sizeof(j->host), "%s", usher ? SANDBOX_ADDR : "127.0.0.1");
    const char *const client[] = {"posix-calls", j->host, NULL};
    double first = 0, call = 0;
    int rc = usher ? usherd_start(&params, &j->usherd, j->err, sizeof(j->err)) : 0;
    if (rc == 0)
        rc = job_run(j, client);
    if (rc == 0)
        rc = figure(j, "first socket:", &first);
    if (rc == 0)
        rc = figure(j, "foreign call:", &call);
    if (rc == 0) {
        bench_sample(j->env, j->side, FIRST_SOCKET, first);
        bench_sample(j->env, j->side, FOREIGN_CALL, call);
    }
    return job_end(j, rc);
}

/* ---- nginx ---- */

static int www_write(void) {
    (void)mkdir(WWW, 0755);
    FILE *f = fopen(WWW "/file", "w");
    for (int i = 0; f != NULL && i < 612; i++)
        (void)fputc('x', f);
    FILE *c = fopen("/run/nginx.conf", "w");
    if (c != NULL)
        (void)fputs("daemon off; user root; worker_processes 1; pid /run/nginx.pid; error_log stderr crit;\n"
                    "events { worker_connections 512; }\n"
                    "http { access_log off; client_body_temp_path /run/t1; proxy_temp_path /run/t2;\n"
                    "fastcgi_temp_path /run/t3; uwsgi_temp_path /run/t4; scgi_temp_path /run/t5;\n"
                    "server { listen 8080; root " WWW "; keepalive_requests 1000000; } }\n",
                    c);
    return f != NULL && fclose(f) == 0 && c != NULL && fclose(c) == 0 ? 0 : -1;
}

static int nginx_run(struct job *j, bool close, uint32_t metric) {
    char time[8], url[64];
    double rate = 0;
    (void)snprintf(time, sizeof(time), "%d", seconds_of(j->env));
    (void)snprintf(url, sizeof(url), "http://%s:8080/file", j->host);
    const char *const client[] = {
        "wrk", "-t", "1", "-c", "50", "-d", time, url, close ? "-H" : NULL, "Connection: close", NULL};
    int rc = job_run(j, client);
    if (rc == 0)
        rc = figure(j, "Requests/sec:", &rate);
    if (rc == 0)
        bench_sample(j->env, j->side, metric, rate / 1e3);
    return rc;
}

static const char *const nginx_server[] = {"nginx", "-c", "/run/nginx.conf", "-p", "/run", NULL};

static int nginx_start(struct job *j) {
    if (www_write() == 0)
        return job_start(j, nginx_server, false, 8080);
    (void)snprintf(j->err, sizeof(j->err), "the file to serve could not be written");
    return -1;
}

/* ---- the benches ---- */

#define SIDES(fn)                                                                                                      \
    static int fn##_kernel(struct bench_env *env) {                                                                    \
        return fn(&(struct job){.env = env, .side = SIDE_KERNEL});                                                     \
    }                                                                                                                  \
    static int fn##_usher(struct bench_env *env) {                                                                     \
        return fn(&(struct job){.env = env, .side = SIDE_USHER});                                                      \
    }

static int side_udp(struct job *j) {
    return sockperf(j, false, 0, 1);
}

static int side_tcp(struct job *j) {
    return sockperf(j, true, 0, 1);
}

enum { GET1, SET1, GET16, SET16, CPU1, CPU16 };

static int side_redis(struct job *j) {
    int rc = job_start(j, redis_server, false, 6379);
    if (rc == 0)
        rc = redis_run(j, "1", GET1, SET1, CPU1);
    if (rc == 0)
        rc = redis_run(j, "16", GET16, SET16, CPU16);
    return job_end(j, rc);
}

enum { GET, SET, CPU_SET };

static int side_memcached(struct job *j) {
    int rc = job_start(j, memcached_server, false, 11211);
    if (rc == 0)
        rc = memcached_run(j, "get", GET, UINT32_MAX);
    if (rc == 0)
        rc = memcached_run(j, "set", SET, CPU_SET);
    return job_end(j, rc);
}

enum { KEEPALIVE, PER_REQUEST };

static int side_nginx(struct job *j) {
    int rc = nginx_start(j);
    if (rc == 0)
        rc = nginx_run(j, false, KEEPALIVE);
    if (rc == 0)
        rc = nginx_run(j, true, PER_REQUEST);
    return job_end(j, rc);
}

enum { ONE_UDP, ONE_TCP, ONE_GET1, ONE_KEEPALIVE, ONE_PER_REQUEST, ONE_MEMCACHED_GET };

static int one_memcached(struct job *j) {
    int rc = job_start(j, memcached_server, false, 11211);
    if (rc == 0)
        rc = memcached_run(j, "get", ONE_MEMCACHED_GET, UINT32_MAX);
    return job_end(j, rc);
}

static int side_one(struct job *first) {
    first->one_core = true;
    struct job udp = *first, tcp = *first, redis = *first, nginx = *first, memcached = *first;
    int rc = sockperf(&udp, false, ONE_UDP, UINT32_MAX);
    if (rc == 0)
        rc = sockperf(&tcp, true, ONE_TCP, UINT32_MAX);
    if (rc != 0)
        return rc;
    rc = job_start(&redis, redis_server, false, 6379);
    if (rc == 0)
        rc = redis_run(&redis, "1", ONE_GET1, UINT32_MAX, UINT32_MAX);
    if (job_end(&redis, rc) != 0)
        return -1;
    rc = nginx_start(&nginx);
    if (rc == 0)
        rc = nginx_run(&nginx, false, ONE_KEEPALIVE);
    if (rc == 0)
        rc = nginx_run(&nginx, true, ONE_PER_REQUEST);
    rc = job_end(&nginx, rc);
    return rc != 0 ? rc : one_memcached(&memcached);
}

SIDES(side_udp)
SIDES(side_tcp)
SIDES(side_redis)
SIDES(side_memcached)
SIDES(side_overhead)
SIDES(side_nginx)
SIDES(side_one)

static const struct bench_metric latency[] = {
    {.name = "p50", .unit = "us", .target_kind = TARGET_RATIO, .target = 4},
    {.name = "p999", .unit = "us", .target_kind = TARGET_RATIO, .target = 1},
};

#define RATE(metric, least)                                                                                            \
    { .name = metric, .unit = "k/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = least }

static const struct bench_metric redis_metrics[] = {
    [GET1] = RATE("get_p1", 1),
    [SET1] = RATE("set_p1", 1),
    [GET16] = RATE("get_p16", 1),
    [SET16] = RATE("set_p16", 1),
    [CPU1] = {.name = "cpu_p1", .unit = "us", .target_kind = TARGET_RATIO, .target = 1 / 0.7},
    [CPU16] = {.name = "cpu_p16", .unit = "us", .target_kind = TARGET_RATIO, .target = 1 / 0.7},
};

static const struct bench_metric overhead_metrics[] = {
    [FIRST_SOCKET] = {.name = "first_socket", .unit = "us", .target_kind = TARGET_USHER, .target = 2000},
    [FOREIGN_CALL] = {.name = "foreign_call", .unit = "ns", .target_kind = TARGET_USHER, .target = 20},
};

static const struct bench_metric memcached_metrics[] = {
    [GET] = RATE("get", 1),
    [SET] = RATE("set", 1),
    [CPU_SET] = {.name = "cpu_set", .unit = "us", .target_kind = TARGET_RATIO, .target = 1 / 0.7},
};

static const struct bench_metric nginx_metrics[] = {
    [KEEPALIVE] = RATE("keepalive", 1),
    [PER_REQUEST] = RATE("per_request", 1),
};

static const struct bench_metric one_metrics[] = {
    [ONE_UDP] = {.name = "sockperf_udp_p50", .unit = "us", .target_kind = TARGET_RATIO, .target = 0.7},
    [ONE_TCP] = {.name = "sockperf_tcp_p50", .unit = "us", .target_kind = TARGET_RATIO, .target = 0.7},
    [ONE_GET1] = RATE("redis_get_p1", 0.7),
    [ONE_KEEPALIVE] = RATE("nginx_keepalive", 0.7),
    [ONE_PER_REQUEST] = RATE("nginx_per_request", 0.7),
    [ONE_MEMCACHED_GET] = RATE("memcached_get", 0.7),
};

#define BENCH(id, title, text, table, fn)                                                                              \
    const struct bench id = {.name = title,                                                                            \
                             .what = text,                                                                             \
                             .metrics = table,                                                                         \
                             .metric_count = sizeof(table) / sizeof(table[0]),                                         \
                             .rounds = 3,                                                                              \
                             .seconds = 1,                                                                             \
                             .slack_seconds = 40,                                                                      \
                             .setup = bench_setup_peer,                                                                \
                             .side = {[SIDE_KERNEL] = fn##_kernel, [SIDE_USHER] = fn##_usher}}

BENCH(bench_posix_sockperf_udp, "posix-sockperf-udp", "sockperf ping-pong as it is, UDP", latency, side_udp);
BENCH(bench_posix_sockperf_tcp, "posix-sockperf-tcp", "sockperf ping-pong as it is, TCP", latency, side_tcp);
BENCH(bench_posix_redis, "posix-redis", "redis-benchmark, 50 connections", redis_metrics, side_redis);
BENCH(bench_posix_memcached, "posix-memcached", "memcslap, 50 connections", memcached_metrics, side_memcached);
BENCH(bench_posix_overhead, "posix-overhead", "a program's first socket; a call on other files", overhead_metrics,
      side_overhead);
BENCH(bench_posix_nginx, "posix-nginx", "wrk, 50 connections, a file of 612 B", nginx_metrics, side_nginx);
BENCH(bench_posix_one_core, "posix-one-core", "programs, usherd and all on one core", one_metrics, side_one);
