/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Counters: every counter of usherd under one name. One walk over all of them serves the single answer
 * and the stream. Control thread; counters are words that workers write, each read once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/broker/broker.h"
#include "control/interfaces.h"
#include "control/services/service_internal.h"
#include "dataplane/port/port.h"
#include "usher/control/v1/counters.pb-c.h"

#define COUNTERS_MAX    4096u
#define ENGINE_COUNTERS 256u
#define INTERVAL_MIN_MS 100u
#define INTERVAL_MAX_MS 3600000u
#define INTERVAL_MS     1000u

/* What was told last of one counter. */
struct told {
    uint64_t hash, value; /* of the name */
};

struct watch {
    char prefix[96];
    bool with_zeros, changes_only, begun;
    uint64_t interval_us, due_us;
    struct told *told;
    uint32_t told_count;
};

/* One walk. */
struct walk {
    struct rpc_call *call;
    const struct service *service;
    const char *prefix;
    bool with_zeros, with_help;
    struct watch *watch; /* NULL = not a stream */
    PB(CountersSnapshot) * snapshot;
    uint32_t seen; /* counters walked over */
};

/* ---- one counter ---- */

static uint64_t hash_of(const char *name) {
    uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */
    for (; *name != '\0'; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3ull;
    return h;
}

/* Counters come in the same order each time unless interfaces came or went: the place is nearly always right. */
static struct told *told_find(struct watch *w, uint32_t place, uint64_t hash) {
    if (place < w->told_count && w->told[place].hash == hash)
        return &w->told[place];
    for (uint32_t i = 0; i < w->told_count; i++) {
        if (w->told[i].hash == hash)
            return &w->told[i];
    }
    if (w->told_count == COUNTERS_MAX)
        return NULL;
    w->told[w->told_count] = (struct told){.hash = hash};
    return &w->told[w->told_count++];
}

static bool changed(struct walk *k, const char *name, uint64_t value) {
    struct watch *w = k->watch;
    if (w == NULL || !w->changes_only)
        return true;
    struct told *t = told_find(w, k->seen, hash_of(name));
    bool differs = t == NULL || t->value != value || !w->begun;
    if (t != NULL)
        t->value = value;
    return differs;
}

/* Borrows `name` until return; `help` is a constant. */
static void add(struct walk *k, const char *name, uint64_t value, const char *help) {
    if (strncmp(name, k->prefix, strlen(k->prefix)) != 0 || k->snapshot->n_counters == COUNTERS_MAX)
        return;
    bool tell = changed(k, name, value);
    k->seen++;
    if (!tell || (value == 0 && !k->with_zeros))
        return;
    PB(NamedCounter) *m = PB_NEW(k->call, NamedCounter, named_counter);
    m->name = rpc_text(k->call, "%s", name);
    m->value = value;
    m->help = PB_TEXT(k->with_help ? help : "");
    k->snapshot->counters[k->snapshot->n_counters++] = m;
}

static void add_part(struct walk *k, const char *room, const char *part, const char *counter, uint64_t value,
                     const char *help) {
    char name[128];
    (void)snprintf(name, sizeof name, "%s.%s%s%s", room, part, part[0] != '\0' ? "." : "", counter);
    add(k, name, value, help);
}

/* ---- rooms ---- */

/* Members of a struct of 64-bit counters, by name. */
struct member {
    const char *name;
    size_t offset;
    const char *help;
};

static void add_members(struct walk *k, const char *room, const char *part, const struct member *members, size_t n,
                        const void *values) {
    for (size_t i = 0; i < n; i++) {
        uint64_t value = *(const volatile uint64_t *)((const uint8_t *)values + members[i].offset);
        add_part(k, room, part, members[i].name, value, members[i].help);
    }
}

#define MEMBER(type, field, help)                                                                                      \
    { #field, offsetof(struct type, field), help }

static void walk_shards(struct walk *k) {
    static const struct member members[] = {
        MEMBER(shard_stats, rx_packets, "packets from ports"),
        MEMBER(shard_stats, tx_packets, "packets to ports"),
        MEMBER(shard_stats, local_packets, "packets turned round on this host"),
        MEMBER(shard_stats, to_sessions, "packets given to programs"),
        MEMBER(shard_stats, from_sessions, "sends taken from programs"),
        MEMBER(shard_stats, cross_shard, "packets given to another shard"),
    };
    struct runtime *rt = k->service->u->rt;
    uint64_t drops[DROP_COUNT] = {0};
    for (uint32_t i = 0; i < runtime_shard_count(rt); i++) {
        struct shard_stats stats;
        char part[12];
        if (runtime_shard_stats(rt, i, &stats) != 0)
            continue;
        (void)snprintf(part, sizeof part, "%u", i);
        add_members(k, "shard", part, members, ARRAY_LEN(members), &stats);
        for (uint32_t r = 0; r < DROP_COUNT; r++)
            drops[r] += stats.drops[r];
    }
    for (uint32_t r = DROP_NONE + 1; r < DROP_COUNT; r++)
        add_part(k, "drop", "", drop_reason_name((enum drop_reason)r), drops[r], drop_reason_text((enum drop_reason)r));
}

static void walk_workers(struct walk *k) {
    static const struct member members[] = {
        MEMBER(worker_stats, turns, "turns of its loop"),
        MEMBER(worker_stats, busy_turns, "turns that found work"),
        MEMBER(worker_stats, sleeps, "times it went to sleep"),
        MEMBER(worker_stats, wakes, "times it was woken up"),
        MEMBER(worker_stats, kicks, "wake-ups by clients"),
        MEMBER(worker_stats, busy_ns, "nanoseconds with work"),
        MEMBER(worker_stats, spin_ns, "nanoseconds looking for work"),
    };
    struct worker_stats stats[WORKER_MAX];
    uint32_t n = runtime_worker_stats(k->service->u->rt, stats, WORKER_MAX);
    for (uint32_t i = 0; i < n; i++) {
        char part[12];
        (void)snprintf(part, sizeof part, "%u", stats[i].worker);
        add_members(k, "worker", part, members, ARRAY_LEN(members), &stats[i]);
    }
}

static void walk_engines(struct walk *k) {
    struct engine_facts f;
    for (uint32_t e = 0; runtime_engine_facts(k->service->u->rt, e, &f) == 0; e++) {
        const struct engine_counter *names = NULL;
        uint64_t values[ENGINE_COUNTERS];
        uint32_t n = runtime_engine_counters(k->service->u->rt, e, &names, values, ENGINE_COUNTERS);
        for (uint32_t i = 0; i < n; i++)
            add_part(k, "engine", f.name, names[i].name, values[i], names[i].help);
    }
}

static void walk_ports(struct walk *k) {
    static const struct member members[] = {
        MEMBER(port_stats, rx_packets, "frames received"),
        MEMBER(port_stats, rx_bytes, "bytes received"),
        MEMBER(port_stats, tx_packets, "frames sent"),
        MEMBER(port_stats, tx_bytes, "bytes sent"),
        MEMBER(port_stats, rx_dropped, "frames that came and could not be taken"),
        MEMBER(port_stats, tx_dropped, "frames the port could not send"),
        MEMBER(port_stats, kicks, "system calls to start transmission"),
        MEMBER(port_stats, rx_partial_sums, "frames accepted with the bare pseudo-header sum of a local kernel"),
        MEMBER(port_stats, rx_kernel_dropped, "frames the kernel had no room for"),
        MEMBER(port_stats, rx_no_buffer, "times the kernel found no buffer to receive into"),
        MEMBER(port_stats, bad_descs, "descriptors that the kernel refused"),
    };
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX; slot++) {
        const struct port *p = runtime_port(k->service->u->rt, slot);
        const struct interface *i = interfaces_slot(k->service->u->interfaces, slot);
        struct port_stats sum;
        if (p == NULL || i == NULL)
            continue;
        port_stats_sum(p, &sum);
        add_members(k, "port", i->name, members, ARRAY_LEN(members), &sum);
    }
}

static void walk_sessions(struct walk *k) {
    static const char *const reasons[] = {
#define DETACH(name, text) #name,
#include "dataplane/session/detach.def"
#undef DETACH
    };
    static const struct member members[] = {
        MEMBER(broker_stats, attached, "sessions that attached"),
        MEMBER(broker_stats, refused, "connections closed at once"),
        MEMBER(broker_stats, bad_credentials, "messages that another process sent"),
        MEMBER(broker_stats, extra_fds, "descriptors that no request wanted"),
        MEMBER(broker_stats, slow_clients, "answers that the client did not take"),
    };
    struct broker_stats stats;
    broker_stats_read(k->service->u->broker, &stats);
    add_members(k, "session", "", members, ARRAY_LEN(members), &stats);
    for (uint32_t r = 0; r < DETACH_COUNT; r++)
        add_part(k, "session", "detached", reasons[r], stats.detached[r], detach_reason_text((enum detach_reason)r));
}

static void walk_control(struct walk *k) {
    static const struct member members[] = {
        MEMBER(rpc_stats, connections, "connections to the control service"),
        MEMBER(rpc_stats, refused_connections, "connections refused: no role, or too many"),
        MEMBER(rpc_stats, calls, "calls that arrived"),
        MEMBER(rpc_stats, failed_calls, "calls that were answered with an error"),
        MEMBER(rpc_stats, denied_calls, "calls beyond the caller's role"),
        MEMBER(rpc_stats, limited_calls, "calls beyond the caller's limits"),
        MEMBER(rpc_stats, malformed_requests, "requests that were no valid message"),
        MEMBER(rpc_stats, messages_sent, "messages sent"),
        MEMBER(rpc_stats, bytes_sent, "bytes of messages sent"),
        MEMBER(rpc_stats, core_starts, "times the gRPC core was started"),
    };
    struct rpc_stats stats;
    rpc_server_stats(k->service->rpc, &stats);
    add_members(k, "control", "", members, ARRAY_LEN(members), &stats);
}

static void walk_all(struct walk *k) {
    k->snapshot = PB_NEW(k->call, CountersSnapshot, counters_snapshot);
    k->snapshot->time_unix_ns = service_now_unix_ns();
    k->snapshot->counters = rpc_alloc_array(k->call, PB(NamedCounter) *, COUNTERS_MAX);
    walk_shards(k);
    walk_workers(k);
    walk_engines(k);
    walk_ports(k);
    walk_sessions(k);
    walk_control(k);
}

/* ---- calls ---- */

static enum rpc_code get(struct rpc_call *c, void *arg, const void *request) {
    const PB(GetCountersRequest) *q = request;
    struct walk k = {.call = c, .service = arg, .prefix = q->prefix, .with_zeros = q->with_zeros, .with_help = true};
    walk_all(&k);
    rpc_answer(c, &k.snapshot->base);
    return RPC_OK;
}

static uint64_t now_us(void) {
    uint64_t now = 0;
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) == 0)
        now = (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
    return now;
}

static enum rpc_code watch_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const PB(WatchCountersRequest) *q = request;
    struct watch *w = state;
    uint32_t interval = q->interval_ms != 0 ? q->interval_ms : INTERVAL_MS;
    (void)arg;
    if (interval < INTERVAL_MIN_MS || interval > INTERVAL_MAX_MS)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "OUT_OF_RANGE", "interval_ms",
                        "an interval of %u ms is not possible; give %u to %u", interval, INTERVAL_MIN_MS,
                        INTERVAL_MAX_MS);
    if (strlen(q->prefix) >= sizeof w->prefix)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "TOO_LONG", "prefix", "no counter's name is so long; shorten it");
    (void)snprintf(w->prefix, sizeof w->prefix, "%s", q->prefix);
    w->with_zeros = q->with_zeros;
    w->changes_only = q->changes_only;
    w->interval_us = 1000ull * interval;
    w->due_us = now_us();
    w->told = w->changes_only ? calloc(COUNTERS_MAX, sizeof *w->told) : NULL;
    if (w->changes_only && w->told == NULL)
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", NULL, "usherd has no memory for another stream");
    return RPC_OK;
}

static enum rpc_next watch_next(struct rpc_call *c, void *arg, void *state) {
    struct watch *w = state;
    uint64_t now = now_us();
    if (now < w->due_us) {
        rpc_stream_at(c, w->due_us);
        return RPC_NEXT_WAIT;
    }
    struct walk k = {.call = c,
                     .service = arg,
                     .prefix = w->prefix,
                     .with_zeros = w->with_zeros,
                     .with_help = !w->begun,
                     .watch = w};
    walk_all(&k);
    uint64_t late = (now - w->due_us) / w->interval_us;
    k.snapshot->missed = (uint32_t)late;
    w->due_us += (late + 1) * w->interval_us;
    w->begun = true;
    rpc_answer(c, &k.snapshot->base);
    return RPC_NEXT_SENT;
}

static void watch_close(void *arg, void *state) {
    struct watch *w = state;
    (void)arg;
    free(w->told);
}

const struct rpc_method counters_methods[] = {
    {.name = "Get", PB_REQUEST(get_counters_request), .role = RPC_ROLE_VIEWER, .unary = get},
    {.name = "Watch",
     PB_REQUEST(watch_counters_request),
     .role = RPC_ROLE_VIEWER,
     .open = watch_open,
     .next = watch_next,
     .close = watch_close,
     .state_size = sizeof(struct watch)},
};
const size_t counters_method_count = ARRAY_LEN(counters_methods);
