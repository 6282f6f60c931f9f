/* SPDX-License-Identifier: Apache-2.0
 *
 * Callers over the same gRPC core that serves them, which is the fastest client there is.
 */
#include "test/bench/control_load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "test/bench/tick.h"
#include "test/harness/rpc_client.h"
#include "usher/control/v1/counters.pb-c.h"
#include "usher/control/v1/sessions.pb-c.h"

#define SOCKET_PATH "/run/usher/control.sock"
#define INFO        "/usher.control.v1.Daemon/GetInfo"
#define WATCH       "/usher.control.v1.Counters/Watch"
#define LIST        "/usher.control.v1.Sockets/List"
#define WAIT_MS     5000
#define INTERVAL_MS 500u

static int fail(struct proc_shared *s, const char *what, const struct rpc_client_answer *a) {
    (void)snprintf(s->error, sizeof(s->error), "%s: status %d %s", what, a->code, a->text);
    return -1;
}

static int call(struct rpc_client *c, struct proc_shared *s) {
    struct rpc_client_answer a = rpc_client_call(c, INFO, "", 0, WAIT_MS);
    free(a.bytes);
    return a.code == 0 ? 0 : fail(s, INFO, &a);
}

int control_calls(double seconds, double *ret_first, struct proc_shared *s) {
    uint64_t begin = tick_now();
    struct rpc_client *c = rpc_client_open(SOCKET_PATH);
    int rc = call(c, s);
    *ret_first = tick_to_us((double)(tick_now() - begin)) / 1e6;
    for (int i = 0; i < 200 && rc == 0; i++)
        rc = call(c, s);
    uint64_t end = tick_now() + tick_from_seconds(seconds);
    hist_reset(&s->hist);
    for (uint64_t at = tick_now(); at < end && rc == 0; s->operations++) {
        rc = call(c, s);
        uint64_t now = tick_now();
        hist_add(&s->hist, now - at);
        at = now;
    }
    rpc_client_close(c);
    return rc;
}

/* One message of each stream in turn, and a call between them. */
static int busy(struct proc_shared *s, void *arg) {
    struct rpc_client *c = rpc_client_open(SOCKET_PATH);
    struct rpc_client_stream *streams[CONTROL_STREAMS];
    Usher__Control__V1__WatchCountersRequest q = USHER__CONTROL__V1__WATCH_COUNTERS_REQUEST__INIT;
    uint8_t bytes[64];
    (void)arg;
    q.interval_ms = INTERVAL_MS;
    q.changes_only = 1;
    size_t size = usher__control__v1__watch_counters_request__pack(&q, bytes);
    for (uint32_t i = 0; i < CONTROL_STREAMS; i++)
        streams[i] = rpc_client_stream_open(c, WATCH, bytes, size, 0);
    for (uint32_t i = 0;; i = (i + 1) % CONTROL_STREAMS) {
        struct rpc_client_answer a = rpc_client_stream_next(streams[i]);
        if (a.bytes == NULL)
            return fail(s, WATCH, &a) != 0;
        free(a.bytes);
        if (i == CONTROL_STREAMS - 1)
            atomic_store(&s->ready, 1);
        if (call(c, s) != 0)
            return 1;
        s->operations += 2;
    }
}

pid_t control_busy(int core, struct proc_shared *s) {
    return proc_spawn(core, busy, s, NULL);
}

static int list_once(struct rpc_client *c, uint32_t *ret_count, struct proc_shared *s) {
    struct rpc_client_stream *stream = rpc_client_stream_open(c, LIST, "", 0, 60000);
    struct rpc_client_answer a;
    *ret_count = 0;
    while ((a = rpc_client_stream_next(stream)).bytes != NULL) {
        Usher__Control__V1__ListSocketsResponse *r =
            usher__control__v1__list_sockets_response__unpack(NULL, a.size, a.bytes);
        *ret_count += r != NULL ? (uint32_t)r->n_sockets : 0;
        usher__control__v1__list_sockets_response__free_unpacked(r, NULL);
        free(a.bytes);
    }
    rpc_client_stream_close(stream);
    return a.code == 0 ? 0 : fail(s, LIST, &a);
}

int control_list(uint32_t *ret_count, double *ret_seconds, struct proc_shared *s) {
    struct rpc_client *c = rpc_client_open(SOCKET_PATH);
    int rc = call(c, s);
    uint64_t begin = tick_now();
    if (rc == 0)
        rc = list_once(c, ret_count, s);
    *ret_seconds = tick_to_us((double)(tick_now() - begin)) / 1e6;
    rpc_client_close(c);
    return rc;
}

static int lister(struct proc_shared *s, void *arg) {
    struct rpc_client *c = rpc_client_open(SOCKET_PATH);
    uint32_t count;
    (void)arg;
    atomic_store(&s->ready, 1);
    while (list_once(c, &count, s) == 0)
        s->operations += count;
    return 1;
}

pid_t control_lister(int core, struct proc_shared *s) {
    return proc_spawn(core, lister, s, NULL);
}
