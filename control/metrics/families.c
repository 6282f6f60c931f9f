/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of metrics. Sources that are arrays of one struct (workers, shards, ports) are described by one row per
 * member; what is named by its own room (drops, reasons to detach, engines' counters) keeps that name.
 */
#include "control/metrics/families.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "control/metrics/exposition.h"
#include "control/policy/classes_install.h"
#include "control/policy/policy.h"
#include "dataplane/port/port.h"
#include "engines/qos/qos_cmd.h"
#include "engines/tcp/tcp_cmd.h"

#define NAME_MAX_METRIC 128
#define COUNTER_MAX     128 /* of one engine */

/* ---- rows over arrays of structs ---- */

enum unit { UNIT_COUNT, UNIT_COUNT32, UNIT_NS };

struct row {
    const char *name, *help;
    enum metric_type type;
    enum unit unit;
    size_t offset;
};

struct subject {
    const void *values;
    const struct label *labels;
};

static void write_row(FILE *out, const struct row *row, const struct subject *subjects, size_t count) {
    if (count == 0)
        return;
    exposition_family(out, row->name, row->type, row->help);
    for (size_t i = 0; i < count; i++) {
        const char *at = (const char *)subjects[i].values + row->offset;
        uint64_t value = row->unit == UNIT_COUNT32 ? *(const uint32_t *)at : *(const uint64_t *)at;
        if (row->unit == UNIT_NS)
            exposition_seconds(out, row->name, subjects[i].labels, value);
        else
            exposition_count(out, row->name, subjects[i].labels, value);
    }
}

static void write_rows(FILE *out, const struct row *rows, size_t row_count, const struct subject *s, size_t count) {
    for (size_t i = 0; i < row_count; i++)
        write_row(out, &rows[i], s, count);
}

/* clang-format off */
#define CLASS(member) offsetof(struct qos_stat, member)
static const struct row class_rows[] = {
    {"usher_class_sent_bytes_total", "Bytes on the wire that the class has sent, or those below it.", METRIC_COUNTER,
     UNIT_COUNT, CLASS(bytes)},
    {"usher_class_sent_packets_total", "Packets that the class has sent, or those below it.", METRIC_COUNTER,
     UNIT_COUNT, CLASS(packets)},
    {"usher_class_dropped_packets_total", "Packets that found no room in the class.", METRIC_COUNTER, UNIT_COUNT,
     CLASS(drops)},
    {"usher_class_waiting_bytes", "Bytes that wait for the class's turn.", METRIC_GAUGE, UNIT_COUNT,
     CLASS(waiting_bytes)},
};

#define WORKER(member) offsetof(struct worker_stats, member)
static const struct row worker_rows[] = {
    {"usher_worker_turns_total", "Turns of the poll loop.", METRIC_COUNTER, UNIT_COUNT, WORKER(turns)},
    {"usher_worker_busy_turns_total", "Turns that found work.", METRIC_COUNTER, UNIT_COUNT, WORKER(busy_turns)},
    {"usher_worker_sleeps_total", "Times the worker went to sleep.", METRIC_COUNTER, UNIT_COUNT, WORKER(sleeps)},
    {"usher_worker_wakes_total", "Times it was woken up.", METRIC_COUNTER, UNIT_COUNT, WORKER(wakes)},
    {"usher_worker_kicks_total", "Wake-ups by clients.", METRIC_COUNTER, UNIT_COUNT,
     WORKER(kicks)},
    {"usher_worker_busy_seconds_total", "Time spent in turns that found work.", METRIC_COUNTER, UNIT_NS,
     WORKER(busy_ns)},
    {"usher_worker_spin_seconds_total", "Time spent looking for work in vain.", METRIC_COUNTER, UNIT_NS,
     WORKER(spin_ns)},
    {"usher_worker_queueing_delay_p99_seconds", "Recent queueing delay, from arrival to poll: 99 of 100 waited less.",
     METRIC_GAUGE, UNIT_NS, WORKER(delay_p99_ns)},
};
#undef WORKER

#define SHARD(member) offsetof(struct shard_stats, member)
static const struct row shard_rows[] = {
    {"usher_shard_receive_packets_total", "Packets from ports.", METRIC_COUNTER, UNIT_COUNT, SHARD(rx_packets)},
    {"usher_shard_transmit_packets_total", "Packets to ports.", METRIC_COUNTER, UNIT_COUNT, SHARD(tx_packets)},
    {"usher_shard_local_packets_total", "Packets that stayed on this host.", METRIC_COUNTER, UNIT_COUNT,
     SHARD(local_packets)},
    {"usher_shard_to_session_packets_total", "Packets delivered to programs.", METRIC_COUNTER, UNIT_COUNT,
     SHARD(to_sessions)},
    {"usher_shard_from_session_packets_total", "Sends taken from programs.", METRIC_COUNTER, UNIT_COUNT,
     SHARD(from_sessions)},
    {"usher_shard_crossed_packets_total", "Packets given to another shard.", METRIC_COUNTER, UNIT_COUNT,
     SHARD(cross_shard)},
    {"usher_shard_small_buffers_free", "Free packet buffers of 2 KiB.", METRIC_GAUGE, UNIT_COUNT32,
     SHARD(pool_small_free)},
    {"usher_shard_large_buffers_free", "Free packet buffers of 68 KiB.", METRIC_GAUGE, UNIT_COUNT32,
     SHARD(pool_large_free)},
    {"usher_shard_sessions", "Sessions with rings in this shard.", METRIC_GAUGE, UNIT_COUNT32, SHARD(sessions)},
};
#undef SHARD

#define PORT(member) offsetof(struct port_stats, member)
static const struct row port_rows[] = {
    {"usher_port_receive_packets_total", "Frames received.", METRIC_COUNTER, UNIT_COUNT, PORT(rx_packets)},
    {"usher_port_receive_bytes_total", "Bytes received.", METRIC_COUNTER, UNIT_COUNT, PORT(rx_bytes)},
    {"usher_port_transmit_packets_total", "Frames sent.", METRIC_COUNTER, UNIT_COUNT, PORT(tx_packets)},
    {"usher_port_transmit_bytes_total", "Bytes sent.", METRIC_COUNTER, UNIT_COUNT, PORT(tx_bytes)},
    {"usher_port_receive_dropped_packets_total", "Frames that came and could not be taken.", METRIC_COUNTER, UNIT_COUNT,
     PORT(rx_dropped)},
    {"usher_port_kernel_dropped_packets_total", "Frames the kernel had no room for before usherd could take them.",
     METRIC_COUNTER, UNIT_COUNT, PORT(rx_kernel_dropped)},
    {"usher_port_no_buffer_total", "Times the kernel found no buffer to receive into (AF_XDP).", METRIC_COUNTER,
     UNIT_COUNT, PORT(rx_no_buffer)},
    {"usher_port_bad_descriptors_total", "Descriptors that the kernel refused (AF_XDP).", METRIC_COUNTER, UNIT_COUNT,
     PORT(bad_descs)},
    {"usher_port_transmit_dropped_packets_total", "Frames the port could not send.", METRIC_COUNTER, UNIT_COUNT,
     PORT(tx_dropped)},
    {"usher_port_kicks_total", "System calls made to start transmission or reception.", METRIC_COUNTER, UNIT_COUNT,
     PORT(kicks)},
    {"usher_port_receive_partial_checksum_packets_total",
     "Frames accepted with the bare pseudo-header sum of a local kernel.", METRIC_COUNTER, UNIT_COUNT,
     PORT(rx_partial_sums)},
};
#undef PORT

#define TCP(member) offsetof(struct tcp_stats, member)
static const struct row tcp_rows[] = {
    {"usher_tcp_connections", "TCP connections.", METRIC_GAUGE, UNIT_COUNT32, TCP(connections)},
    {"usher_tcp_listeners", "TCP sockets that listen.", METRIC_GAUGE, UNIT_COUNT32, TCP(listeners)},
    {"usher_tcp_half_open_connections", "TCP connections in their handshake.", METRIC_GAUGE, UNIT_COUNT32,
     TCP(half_open)},
    {"usher_tcp_time_wait_connections", "TCP connections in TIME_WAIT.", METRIC_GAUGE, UNIT_COUNT32, TCP(time_wait)},
};
#undef TCP
/* clang-format on */

/* ---- workers and shards: labelled by number ---- */

struct numbered {
    char text[12];
    struct label labels[2];
};

static void number_label(struct numbered *n, const char *name, uint32_t i) {
    (void)snprintf(n->text, sizeof n->text, "%u", i);
    n->labels[0] = (struct label){name, n->text};
    n->labels[1] = (struct label){NULL, NULL};
}

static void write_workers(FILE *out, const struct metrics_source *src) {
    struct worker_stats stats[WORKER_MAX];
    struct numbered names[WORKER_MAX];
    struct subject subjects[WORKER_MAX] = {{NULL, NULL}};
    uint32_t n = runtime_worker_stats(src->rt, stats, WORKER_MAX);
    for (uint32_t i = 0; i < n; i++) {
        number_label(&names[i], "worker", stats[i].worker);
        subjects[i] = (struct subject){&stats[i], names[i].labels};
    }
    write_rows(out, worker_rows, ARRAY_LEN(worker_rows), subjects, n);
    exposition_family(out, "usher_worker_running", METRIC_GAUGE, "1 while the worker's thread runs.");
    for (uint32_t i = 0; i < n; i++)
        exposition_count(out, "usher_worker_running", names[i].labels, stats[i].running);
}

static void write_mode(FILE *out, const struct metrics_source *src) {
    static const char *const modes[] = {"auto", "dedicated", "spreading", "compacting"};
    const char *why;
    enum sched_mode mode = runtime_mode(src->rt, &why);
    const struct label labels[] = {{"mode", modes[mode]}, {NULL, NULL}};
    exposition_family(out, "usher_scheduling_mode_info", METRIC_GAUGE, "How workers share cores.");
    exposition_count(out, "usher_scheduling_mode_info", labels, 1);
}

static void write_drops(FILE *out, const struct shard_stats *stats, uint32_t n) {
    exposition_family(out, "usher_dropped_packets_total", METRIC_COUNTER, "Packets that died, by reason.");
    for (uint32_t r = DROP_NONE + 1; r < DROP_COUNT; r++) {
        uint64_t sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += stats[i].drops[r];
        const struct label labels[] = {{"reason", drop_reason_name((enum drop_reason)r)}, {NULL, NULL}};
        exposition_count(out, "usher_dropped_packets_total", labels, sum);
    }
}

static void write_shards(FILE *out, const struct metrics_source *src) {
    struct shard_stats stats[SHARD_MAX];
    struct numbered names[SHARD_MAX];
    struct subject subjects[SHARD_MAX] = {{NULL, NULL}};
    uint32_t n = runtime_shard_count(src->rt);
    for (uint32_t i = 0; i < n; i++) {
        (void)runtime_shard_stats(src->rt, i, &stats[i]);
        number_label(&names[i], "shard", i);
        subjects[i] = (struct subject){&stats[i], names[i].labels};
    }
    write_rows(out, shard_rows, ARRAY_LEN(shard_rows), subjects, n);
    write_drops(out, stats, n);
}

/* ---- ports ---- */

/* Queues of a port are summed: which of them a frame took is the NIC's choice and says little. */
static void write_ports(FILE *out, const struct metrics_source *src) {
    struct port_stats stats[PORT_SLOT_MAX];
    struct label labels[PORT_SLOT_MAX][3];
    struct subject subjects[PORT_SLOT_MAX] = {{NULL, NULL}};
    const struct port *ports[PORT_SLOT_MAX];
    uint32_t n = 0;
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX; slot++) {
        const struct port *p = runtime_port(src->rt, slot);
        if (p == NULL)
            continue;
        port_stats_sum(p, &stats[n]);
        labels[n][0] = (struct label){"interface", p->name};
        labels[n][1] = (struct label){"kind", p->ops->kind};
        labels[n][2] = (struct label){NULL, NULL};
        subjects[n] = (struct subject){&stats[n], labels[n]};
        ports[n++] = p;
    }
    write_rows(out, port_rows, ARRAY_LEN(port_rows), subjects, n);
    if (n > 0)
        exposition_family(out, "usher_port_up", METRIC_GAUGE, "1 while the link is up.");
    for (uint32_t i = 0; i < n; i++)
        exposition_count(out, "usher_port_up", labels[i], ports[i]->info.up);
}

/* ---- engines ---- */

static void write_engine(FILE *out, const struct metrics_source *src, uint32_t index) {
    const char *engine = runtime_engine_name(src->rt, index);
    const struct engine_counter *counters = NULL;
    uint64_t values[COUNTER_MAX];
    uint32_t n = runtime_engine_counters(src->rt, index, &counters, values, COUNTER_MAX);
    for (uint32_t i = 0; i < n; i++) {
        char name[NAME_MAX_METRIC];
        (void)snprintf(name, sizeof name, "usher_%s_%s_total", engine, counters[i].name);
        for (char *p = name; *p != '\0'; p++)
            *p = isalnum((unsigned char)*p) ? *p : '_';
        exposition_family(out, name, METRIC_COUNTER, counters[i].help);
        exposition_count(out, name, NULL, values[i]);
    }
}

static void write_tcp(FILE *out, const struct metrics_source *src) {
    struct tcp_stats sum = {0};
    uint32_t engine;
    if (runtime_engine_find(src->rt, "tcp", &engine) != 0)
        return;
    for (uint32_t i = 0; i < runtime_shard_count(src->rt); i++) {
        struct tcp_stats one = {0};
        struct tcp_cmd_stats cmd = {.cmd = {TCP_CMD_STATS, sizeof cmd}, .stats = &one};
        if (runtime_command(src->rt, i, engine, &cmd.cmd, NULL) != 0)
            continue;
        sum.connections += one.connections;
        sum.listeners += one.listeners;
        sum.half_open += one.half_open;
        sum.time_wait += one.time_wait;
    }
    const struct subject all = {&sum, NULL};
    write_rows(out, tcp_rows, ARRAY_LEN(tcp_rows), &all, 1);
}

/* ---- classes ---- */

struct class_subject {
    struct label labels[3];
};

static void write_stats(FILE *out, const struct classes *c, const struct qos_stat *stats) {
    struct class_subject *of = calloc(c->count, sizeof *of);
    struct subject *subjects = calloc(c->count, sizeof *subjects);
    for (uint32_t i = 0; of != NULL && subjects != NULL && i < c->count; i++) {
        const struct class_spec *s = &c->v[i];
        of[i].labels[0] = (struct label){"class", s->name};
        of[i].labels[1] = (struct label){"parent", s->parent == CLASS_NONE ? "" : c->v[s->parent].name};
        subjects[i] = (struct subject){&stats[i], of[i].labels};
    }
    if (of != NULL && subjects != NULL)
        write_rows(out, class_rows, ARRAY_LEN(class_rows), subjects, c->count);
    free(subjects);
    free(of);
}

static void write_classes(FILE *out, const struct metrics_source *src) {
    const struct policy *policy = src->policy != NULL ? src->policy(src->policy_arg) : NULL;
    if (policy == NULL || policy_classes(policy)->count == 0)
        return;
    const struct classes *c = policy_classes(policy);
    struct qos_stat *stats = calloc(c->count, sizeof *stats);
    if (stats != NULL && classes_stats(src->rt, stats, c->count) == 0)
        write_stats(out, c, stats);
    free(stats);
}

/* ---- sessions ---- */

static void write_one(FILE *out, const char *name, enum metric_type type, const char *help, uint64_t value) {
    exposition_family(out, name, type, help);
    exposition_count(out, name, NULL, value);
}

static void write_sessions(FILE *out, const struct metrics_source *src) {
    struct broker_stats s = {0};
    if (*src->broker != NULL)
        broker_stats_read(*src->broker, &s);
    write_one(out, "usher_sessions", METRIC_GAUGE, "Programs attached.", s.sessions);
    write_one(out, "usher_sessions_limit", METRIC_GAUGE, "Programs that may be attached at one time.",
              *src->sessions_max);
    write_one(out, "usher_session_connections", METRIC_GAUGE, "Connections to the session socket.", s.connections);
    write_one(out, "usher_session_sockets", METRIC_GAUGE, "Accelerated sockets of programs.", s.sockets);
    write_one(out, "usher_sessions_attached_total", METRIC_COUNTER, "Programs that attached.", s.attached);
    write_one(out, "usher_sessions_refused_total", METRIC_COUNTER, "Connections that were refused.", s.refused);
    write_one(out, "usher_session_bad_credentials_total", METRIC_COUNTER,
              "Requests that came from another process than the session's.", s.bad_credentials);
    exposition_family(out, "usher_sessions_detached_total", METRIC_COUNTER, "Sessions that ended, by reason.");
    for (uint32_t r = 0; r < DETACH_COUNT; r++) {
        const struct label labels[] = {{"reason", detach_reason_text((enum detach_reason)r)}, {NULL, NULL}};
        exposition_count(out, "usher_sessions_detached_total", labels, s.detached[r]);
    }
}

/* ---- the process, under the names that every exporter uses ---- */

static uint64_t open_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    uint64_t n = 0;
    if (d == NULL)
        return 0;
    while (readdir(d) != NULL)
        n++;
    (void)closedir(d);
    return n < 3 ? 0 : n - 3; /* ".", ".." and the folder itself */
}

static uint64_t resident_bytes(void) {
    unsigned long long size, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    (void)fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t timeval_ns(struct timeval t) {
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_usec * 1000u;
}

static void write_process(FILE *out) {
    struct rusage use = {0};
    struct rlimit files = {0};
    (void)getrusage(RUSAGE_SELF, &use);
    (void)getrlimit(RLIMIT_NOFILE, &files);
    exposition_family(out, "process_cpu_seconds_total", METRIC_COUNTER, "Processor time used, user and system.");
    exposition_seconds(out, "process_cpu_seconds_total", NULL, timeval_ns(use.ru_utime) + timeval_ns(use.ru_stime));
    write_one(out, "process_resident_memory_bytes", METRIC_GAUGE, "Memory in use.", resident_bytes());
    write_one(out, "process_open_fds", METRIC_GAUGE, "Open file descriptors.", open_fds());
    write_one(out, "process_max_fds", METRIC_GAUGE, "Most file descriptors that may be open.", files.rlim_cur);
}

void metrics_write(FILE *out, const struct metrics_source *src) {
    static const struct label version[] = {{"version", USHER_VERSION}, {NULL, NULL}};
    exposition_family(out, "usher_build_info", METRIC_GAUGE, "The version that runs.");
    exposition_count(out, "usher_build_info", version, 1);
    write_mode(out, src);
    write_workers(out, src);
    write_shards(out, src);
    write_ports(out, src);
    for (uint32_t i = 0; runtime_engine_name(src->rt, i) != NULL; i++)
        write_engine(out, src, i);
    write_tcp(out, src);
    write_classes(out, src);
    write_sessions(out, src);
    if (src->more != NULL)
        src->more(src->arg, out);
    write_process(out);
}
