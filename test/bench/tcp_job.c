/* SPDX-License-Identifier: Apache-2.0
 *
 * The workloads: requests and answers of 64 B on some connections, long-lived or brief, beside streams of bulk.
 */
#include "test/bench/tcp_job.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define STREAM_MAX 8u
#define DIAL_MAX   128u /* connections of a crowd on their way at once */
#define PUSH_MAX   1u   /* chunks of bulk of each stream between two looks at the requests */

static int fail(struct proc_shared *s, const struct tcp_end *e) {
    (void)snprintf(s->error, sizeof(s->error), "%s", e->error);
    return 1;
}

/* ---- the server ---- */

static void answer(struct tcp_end *e, struct tcp_conn *c, uint32_t len) {
    for (c->got += len; c->got >= TCP_JOB_MESSAGE; c->got -= TCP_JOB_MESSAGE)
        (void)tcp_end_send(e, c, TCP_JOB_MESSAGE);
}

static void on_server(struct tcp_end *e, struct tcp_conn *c, enum tcp_news what, const uint8_t *data, uint32_t len) {
    struct proc_shared *s = e->arg;
    (void)data;
    if (c == NULL)
        return;
    if (what == TCP_GONE)
        tcp_end_close(e, c);
    else if (what == TCP_DATA && c->port == TCP_JOB_SINK)
        atomic_store_explicit(&s->bulk, atomic_load_explicit(&s->bulk, memory_order_relaxed) + len,
                              memory_order_relaxed);
    else if (what == TCP_DATA)
        answer(e, c, len);
}

/* A connection that is all there is needs no epoll. */
static void on_server_solo(struct tcp_end *e, struct tcp_conn *c, enum tcp_news what, const uint8_t *data,
                           uint32_t len) {
    if (what == TCP_UP)
        e->solo = c;
    on_server(e, c, what, data, len);
}

static int server(struct proc_shared *s, void *arg) {
    const struct tcp_job *job = arg;
    bool solo = job->rpcs == 1 && job->streams == 0 && !job->brief;
    struct tcp_end e = {.kind = job->kind, .spin = job->spin, .on = solo ? on_server_solo : on_server, .arg = s};
    if (tcp_end_open(&e) != 0 || tcp_end_listen(&e, TCP_JOB_PORT) != 0 || tcp_end_listen(&e, TCP_JOB_SINK) != 0)
        return fail(s, &e);
    for (uint16_t i = 0; i < TCP_JOB_CROWDS && job->crowd != 0; i++) {
        if (tcp_end_listen(&e, (uint16_t)(TCP_JOB_CROWD + i)) != 0)
            return fail(s, &e);
    }
    atomic_store(&s->ready, 1);
    while (tcp_end_turn(&e, true) == 0)
        continue;
    return fail(s, &e);
}

/* ---- the client ---- */

struct client {
    struct tcp_end e;
    const struct tcp_job *job;
    struct proc_shared *s;
    struct tcp_conn *stream[STREAM_MAX];
    bool room[STREAM_MAX];
    struct tcp_conn **crowd; /* as they came up; NULL = none */
    uint32_t up, streams_up;
    uint64_t operations;
};

static void request(struct client *k, struct tcp_conn *c) {
    c->since = tick_now();
    (void)tcp_end_send(&k->e, c, TCP_JOB_MESSAGE);
}

static void on_answer(struct client *k, struct tcp_conn *c, uint32_t len) {
    c->got += len;
    if (c->got < TCP_JOB_MESSAGE)
        return;
    c->got -= TCP_JOB_MESSAGE;
    hist_add(&k->s->hist, tick_now() - c->since);
    k->operations++;
    if (!k->job->brief) {
        request(k, c);
        return;
    }
    tcp_end_close(&k->e, c);
    (void)tcp_end_connect(&k->e, TCP_JOB_PORT);
}

static void set_room(struct client *k, const struct tcp_conn *c) {
    for (uint32_t i = 0; i < k->job->streams; i++)
        k->room[i] |= c == NULL || k->stream[i] == c;
}

static void on_client(struct tcp_end *e, struct tcp_conn *c, enum tcp_news what, const uint8_t *data, uint32_t len) {
    struct client *k = e->arg;
    (void)data;
    if (what == TCP_GONE) {
        (void)tcp_end_fail(e, "the server has hung up", 0);
    } else if (what == TCP_ROOM || (what == TCP_UP && c->port == TCP_JOB_SINK)) {
        k->streams_up += what == TCP_UP;
        set_room(k, c);
    } else if (what == TCP_DATA) {
        on_answer(k, c, len);
    } else if (k->crowd != NULL) {
        k->crowd[k->up++] = c;
    } else {
        k->up++;
        request(k, c);
    }
}

/* False: no stream has room. */
static bool push(struct client *k) {
    bool any = false;
    for (uint32_t i = 0; i < k->job->streams; i++) {
        for (uint32_t n = 0; n < PUSH_MAX && k->room[i]; n++)
            k->room[i] = tcp_end_push(&k->e, k->stream[i]) == 1;
        any |= k->room[i];
    }
    return any;
}

static int drive(struct client *k, double seconds) {
    uint64_t start = tick_now(), end = start + tick_from_seconds(seconds);
    k->operations = 0;
    hist_reset(&k->s->hist);
    uint64_t bulk = atomic_load(&k->s->bulk);
    int rc = 0;
    for (uint32_t turn = 0; rc == 0 && (turn % 8 != 0 || tick_now() < end); turn++)
        rc = tcp_end_turn(&k->e, !push(k));
    k->s->operations = k->operations;
    k->s->seconds = tick_to_us((double)(tick_now() - start)) / 1e6;
    k->s->bulk_read = atomic_load(&k->s->bulk) - bulk;
    return rc;
}

static int crowd_connect(struct client *k) {
    uint32_t count = k->job->crowd, dialled = 0;
    uint64_t end = tick_now() + tick_from_seconds(5 + count / 2e3);
    int rc = 0;
    while (rc == 0 && k->up < count) {
        for (; dialled < count && dialled - k->up < DIAL_MAX; dialled++) {
            if (tcp_end_connect(&k->e, (uint16_t)(TCP_JOB_CROWD + dialled % TCP_JOB_CROWDS)) == NULL)
                return -1;
        }
        rc = tcp_end_turn(&k->e, true);
        if (tick_now() > end)
            return tcp_end_fail(&k->e, "the connections were not made", 0);
    }
    return rc;
}

/* A request on each of `rpcs` connections drawn from all. */
static int crowd_start(struct client *k) {
    uint64_t rng = 1;
    int rc = 0;
    for (uint32_t i = 0; i < k->job->rpcs && rc == 0; i++) {
        rng = rng * 6364136223846793005ull + 1442695040888963407ull;
        uint32_t drawn = i + (uint32_t)((rng >> 33) % (k->job->crowd - i));
        struct tcp_conn *c = k->crowd[drawn];
        k->crowd[drawn] = k->crowd[i];
        request(k, c);
        if (i % (TCP_END_BATCH / 2) == 0)
            rc = tcp_end_turn(&k->e, false);
    }
    return rc;
}

static int crowd_gather(struct client *k) {
    pid_t usherd = k->job->usherd;
    k->crowd = calloc(k->job->crowd, sizeof(struct tcp_conn *));
    if (k->crowd == NULL)
        return tcp_end_fail(&k->e, "out of memory", 0);
    uint64_t before = usherd_rss(usherd);
    int rc = crowd_connect(k);
    k->s->resident = usherd_rss(usherd) - before;
    return rc != 0 ? rc : crowd_start(k);
}

static int connect_all(struct client *k) {
    const struct tcp_job *job = k->job;
    if (job->crowd != 0)
        return crowd_gather(k);
    for (uint32_t i = 0; i < job->streams; i++) {
        k->stream[i] = tcp_end_connect(&k->e, TCP_JOB_SINK);
        if (k->stream[i] == NULL)
            return -1;
        k->room[i] = job->kind == TCP_KERNEL;
    }
    for (uint32_t i = 0; i < job->rpcs; i++) {
        struct tcp_conn *c = tcp_end_connect(&k->e, TCP_JOB_PORT);
        if (c == NULL)
            return -1;
        if (job->rpcs == 1 && job->streams == 0 && !job->brief)
            k->e.solo = c;
    }
    int rc = tcp_end_flush(&k->e);
    uint64_t end = tick_now() + tick_from_seconds(2);
    while (rc == 0 && k->up + k->streams_up < job->rpcs + job->streams) {
        rc = tcp_end_turn(&k->e, true);
        if (tick_now() > end)
            return tcp_end_fail(&k->e, "the connections were not made", 0);
    }
    return rc;
}

static int client(struct proc_shared *s, void *arg) {
    const struct tcp_job *job = arg;
    static struct client k;
    k.e = (struct tcp_end){.kind = job->kind, .spin = job->spin, .on = on_client, .arg = &k};
    k.job = job;
    k.s = s;
    if (tcp_end_open(&k.e) != 0 || connect_all(&k) != 0 || drive(&k, job->seconds / 10 + 0.02) != 0)
        return fail(s, &k.e);
    const pid_t pids[] = {getpid(), job->server, job->usherd};
    double cpu = proc_cpu_seconds(pids, 3);
    int rc = drive(&k, job->seconds);
    s->cpu_seconds = proc_cpu_seconds(pids, 3) - cpu;
    if (rc != 0)
        return fail(s, &k.e);
    tcp_end_fini(&k.e);
    free(k.crowd);
    return 0;
}

int tcp_job_run(struct tcp_job *job, struct proc_shared *s) {
    memset(s, 0, sizeof(*s));
    job->server = proc_spawn(job->server_core, server, s, job);
    int rc = job->server < 0 ? -1 : proc_await(&s->ready, 1, 5);
    if (rc == 0)
        rc = proc_join(proc_spawn(job->client_core, client, s, job), 8 + 2 * job->seconds + job->crowd / 1e3);
    if (job->server > 0) {
        (void)kill(job->server, SIGKILL);
        (void)proc_join(job->server, 1);
    }
    if (rc != 0 && s->error[0] == '\0')
        (void)snprintf(s->error, sizeof(s->error), "client and server did not run to their end");
    return rc == 0 ? 0 : -1;
}

/* ---- one thread ---- */

struct alone {
    struct tcp_end e;
    struct tcp_conn *side[2]; /* as they came up: who connected, who was accepted */
    struct tcp_conn *wanted;
    uint32_t up;
};

static void on_alone(struct tcp_end *e, struct tcp_conn *c, enum tcp_news what, const uint8_t *data, uint32_t len) {
    struct alone *a = e->arg;
    (void)data;
    if (what == TCP_UP && a->up < 2)
        a->side[a->up++] = c;
    else if (what == TCP_GONE)
        (void)tcp_end_fail(e, "a stream ended", 0);
    if (what != TCP_DATA)
        return;
    c->got += len;
    if (c == a->wanted && c->got >= TCP_JOB_MESSAGE)
        a->wanted = NULL;
}

static int pass(struct alone *a, struct tcp_conn *from, struct tcp_conn *to) {
    a->wanted = to;
    to->got = 0;
    a->e.solo = a->e.kind == TCP_KERNEL ? to : NULL;
    int rc = tcp_end_send(&a->e, from, TCP_JOB_MESSAGE);
    if (rc == 0)
        rc = tcp_end_flush(&a->e);
    while (rc == 0 && a->wanted != NULL)
        rc = tcp_end_turn(&a->e, true);
    return rc;
}

static int alone_drive(struct alone *a, struct proc_shared *s, double seconds) {
    uint64_t start = tick_now(), now = start, end = start + tick_from_seconds(seconds);
    hist_reset(&s->hist);
    while (now < end) {
        if (pass(a, a->side[0], a->side[1]) != 0 || pass(a, a->side[1], a->side[0]) != 0)
            return -1;
        uint64_t then = tick_now();
        hist_add(&s->hist, then - now);
        now = then;
    }
    s->operations = s->hist.count;
    s->seconds = tick_to_us((double)(now - start)) / 1e6;
    return 0;
}

static int alone(struct proc_shared *s, void *arg) {
    const struct tcp_job *job = arg;
    static struct alone a;
    a.e = (struct tcp_end){.kind = job->kind, .spin = true, .on = on_alone, .arg = &a};
    int rc = tcp_end_open(&a.e);
    if (rc == 0)
        rc = tcp_end_listen(&a.e, TCP_JOB_PORT);
    if (rc == 0)
        rc = tcp_end_connect(&a.e, TCP_JOB_PORT) == NULL ? -1 : 0;
    while (rc == 0 && a.up < 2)
        rc = tcp_end_turn(&a.e, true);
    if (rc == 0)
        rc = alone_drive(&a, s, job->seconds / 10);
    const pid_t pids[] = {getpid(), job->usherd};
    double cpu = proc_cpu_seconds(pids, 2);
    if (rc == 0)
        rc = alone_drive(&a, s, job->seconds);
    s->cpu_seconds = proc_cpu_seconds(pids, 2) - cpu;
    return rc == 0 ? 0 : fail(s, &a.e);
}

int tcp_job_alone(struct tcp_job *job, struct proc_shared *s) {
    memset(s, 0, sizeof(*s));
    int rc = proc_join(proc_spawn(job->client_core, alone, s, job), 8 + 2 * job->seconds);
    if (rc != 0 && s->error[0] == '\0')
        (void)snprintf(s->error, sizeof(s->error), "the thread with both ends did not come to its end");
    return rc == 0 ? 0 : -1;
}
