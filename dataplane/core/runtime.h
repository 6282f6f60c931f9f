/* SPDX-License-Identifier: Apache-2.0
 *
 * The dataplane as control sees it: workers, shards, engines, ports.
 *
 * A *shard* (engine group) is the unit that runs and moves: one state of each engine, some port queues, the ring sets
 * of the sessions it serves, its packet pools. Shards share nothing; packets that arrive at the wrong one cross by an
 * SPSC ring. A *worker* is a thread that runs one or more shards. Which worker runs which shard is the scheduler's
 * choice (modes below) and changes under traffic: a shard moves between two polls, so nothing is lost or reordered.
 *
 * Threads: everything here is called by the control thread only, unless it says otherwise. Calls that must run on a
 * worker go through the shard's mailbox and run between two polls; nothing is paused.
 */
#ifndef USHER_DATAPLANE_CORE_RUNTIME_H
#define USHER_DATAPLANE_CORE_RUNTIME_H

#include "engines/engine.h"

#define SHARD_MAX 16
#define SHARD_QOS 0 /* has the one QoS tree; the other shards' packets cross to it */
#define WORKER_MAX 16

struct runtime;
struct shard;
struct port;

enum sched_mode {
    SCHED_AUTO,       /* dedicated when there are cores to spare, else spreading; runtime_mode() tells which and why */
    SCHED_DEDICATED,  /* one pinned worker per shard, spins */
    SCHED_SPREADING,  /* one worker per shard, sleeps when idle, wakes at once */
    SCHED_COMPACTING, /* as few workers as keep the queueing delay under target_delay_us */
    SCHED_MODE_COUNT
};

struct runtime_config {
    uint32_t shard_count;       /* 0 = one per usable core, at most cores - 1, at least 1 */
    uint64_t cpu_mask;          /* cores workers may use; 0 = those of the process */
    enum sched_mode mode;
    uint32_t target_delay_us;   /* compacting */
    uint32_t spin_max_us;       /* longest time a worker looks for work before it sleeps */
    uint32_t small_packets;     /* 2 KiB buffers per shard */
    uint32_t large_packets;     /* 68 KiB buffers per shard, for GSO */
    uint32_t session_max;       /* per shard */
    const char *engine_dir;     /* where <name>.so lie */
    uint64_t seed;              /* 0 = from the kernel */
    void (*worker_begins)(void); /* on each worker's thread before its first turn; NULL = nothing to do */
};

struct runtime_error {
    char text[256];
};

/* Allocates everything the dataplane will ever use, within the config's bounds; starts no thread. */
int runtime_create(const struct runtime_config *cfg, struct runtime **ret_rt, struct runtime_error *err);
void runtime_destroy(struct runtime *rt); /* stops first */
int runtime_start(struct runtime *rt, struct runtime_error *err);
void runtime_stop(struct runtime *rt);

uint32_t runtime_shard_count(const struct runtime *rt);

/* Engines: one state in every shard. The module is copied into a sealed memfd and opened under a fresh name; a wrong
 * ABI or a missing required call is refused with a sentence. After runtime_start() the state is made here and enters
 * the shards between two polls; link and transport engines only before it. ret_index: number in the graph. */
int runtime_engine_load(struct runtime *rt, const char *name, const void *cfg, uint32_t *ret_index,
                        struct runtime_error *err);
/* The same for ops that are linked in (tests, benches). */
int runtime_engine_add(struct runtime *rt, const struct engine_ops *ops, const void *cfg, uint32_t *ret_index,
                       struct runtime_error *err);
/* Takes the loaded engine of the stages LINK, FILTER or QOS out of the packets' way (before runtime_start() only), or
 * puts it back, any time: an engine that has nothing to do costs nothing then. */
int runtime_stage_set(struct runtime *rt, uint32_t engine, bool on);
int runtime_engine_find(const struct runtime *rt, const char *name, uint32_t *ret_index);
/* Takes an engine out of every shard between two polls: packets it still keeps are dropped, its memory and code are
 * given back. Its number names nobody until the next engine is loaded there; the other numbers stay. -EBUSY: link and
 * transport engines stay while the runtime lives, sessions have their sockets in them. */
int runtime_engine_unload(struct runtime *rt, uint32_t index, struct runtime_error *err);

/* Another version of an engine takes the place of the one that runs, under traffic, between two polls: in all shards or
 * in none. Code of the same layout goes on in the same arenas; other code gets new ones, filled by save() and load()
 * in the order newer to older as well. Whatever fails leaves the old version serving, with the reason in err. */
struct runtime_upgrade {
    const char *file;             /* of the module; NULL = the engine's own in engine_dir */
    const struct engine_ops *ops; /* linked in, instead of a file (tests); NULL = a file */
    const void *cfg;              /* the engine's options, for new arenas */
    /* Gives new arenas what save() leaves to control, by runtime_command() to this engine: while it runs, that reaches
     * the states which do not serve yet. 0 or -errno. NULL = there is nothing. */
    int (*fill)(void *arg);
    void *arg;
};
struct runtime_upgrade_report {
    uint32_t layout_before, layout_after;
    bool moved;            /* to new arenas */
    uint64_t brown_out_ns; /* to prepare and to clean up, while one of both served */
    uint64_t black_out_ns; /* no packet was handled */
    uint64_t state_bytes;  /* of all shards' arenas */
    uint64_t records;      /* flows, sockets, routes ... carried over; 0 when they stayed where they were */
    uint64_t packets;      /* that the old states kept: a QoS engine's went on, the others ended (ENGINE_UPGRADED) */
};
/* -ETIMEDOUT and -EBUSY: a worker hangs. */
int runtime_engine_upgrade(struct runtime *rt, uint32_t engine, const struct runtime_upgrade *how,
                           struct runtime_upgrade_report *ret_report, struct runtime_error *err);

/* What outlives the process: the memory of stream transports, with the code that knows its layout, and by which key
 * a client that comes back shows which of the connections are its own. Whoever keeps these fds can give them to a
 * successor. */
struct runtime_heirloom {
    char name[40]; /* stable; begins with RUNTIME_HEIRLOOM */
    int fd;        /* the runtime's */
};
#define RUNTIME_HEIRLOOM     "dataplane."
#define RUNTIME_HEIRLOOM_MAX (SHARD_MAX * 2 + 4)
uint32_t runtime_heirlooms(const struct runtime *rt, struct runtime_heirloom *ret_heirlooms, uint32_t max);
/* Before engines are loaded. Takes the fd. */
void runtime_inherit(struct runtime *rt, const char *name, int fd);

/* After all engines are loaded, before the workers start: the connections of a predecessor stand still from now on,
 * until their owners come back (session.h). */
struct runtime_estate {
    uint32_t arenas;  /* that were taken over */
    uint32_t refused; /* that were damaged, or of another layout without the code that made them */
    uint32_t lost;    /* connections in the former that did not pass the check */
};
int runtime_estate_open(struct runtime *rt, struct runtime_estate *ret_estate);
/* The time is up: what nobody came for is reset. Returns how many that were. */
uint32_t runtime_estate_close(struct runtime *rt);

/* Memory for the queues of a port that is to be created: pool of queue i, by frame size class. */
struct pktmem;
struct pktmem *runtime_port_mem(struct runtime *rt, uint32_t shard, bool large);

/* Ports: slot = pkt->port = index into engine_io.ports. Queue i goes to shard i % shard_count. Takes the port on
 * success. Before or after runtime_start(). */
int runtime_port_add(struct runtime *rt, struct port *port, uint32_t *ret_slot, struct runtime_error *err);
void runtime_port_remove(struct runtime *rt, uint32_t slot); /* waits for the workers, destroys the port */
struct port *runtime_port(struct runtime *rt, uint32_t slot); /* NULL when empty */
void runtime_port_info_set(struct runtime *rt, uint32_t slot, const struct port_info *info);

/* Runs fn on the shard's worker between two polls and waits for it (bounded: -ETIMEDOUT after 5 s means a worker
 * hangs). Before runtime_start() it runs at once on the caller. */
typedef void shard_fn(struct shard *sh, void *arg);
int runtime_call(struct runtime *rt, uint32_t shard, shard_fn *fn, void *arg);
/* One command to one engine state; to all shards when shard == UINT32_MAX (first error wins). */
int runtime_command(struct runtime *rt, uint32_t shard, uint32_t engine, const struct engine_cmd *cmd,
                    struct engine_reply *ret_reply);

/* Says that packets for flow's protocol and local port belong to `shard`, or no longer; for transport sockets that
 * control opens itself (session_socket_open() does it for its own). Calls count. -EADDRINUSE: another shard has it. */
int runtime_steer(struct runtime *rt, const struct flow *flow, uint32_t shard, bool add);

/* What engines asked control to do. Called from runtime_events() on the control thread, when runtime_event_fd() is
 * readable. */
typedef void runtime_event_fn(void *arg, uint32_t shard, const struct engine_event *ev);
int runtime_event_fd(const struct runtime *rt);
void runtime_events(struct runtime *rt, runtime_event_fn *fn, void *arg);

/* Scheduling. */
enum sched_mode runtime_mode(const struct runtime *rt, const char **ret_why);
int runtime_mode_set(struct runtime *rt, enum sched_mode mode);
int runtime_shard_move(struct runtime *rt, uint32_t shard, uint32_t worker);

struct worker_stats {
    uint32_t worker;
    int32_t cpu;
    uint32_t shards;     /* bit mask */
    bool running;
    uint64_t turns, busy_turns, sleeps, wakes, kicks;
    uint64_t busy_ns, spin_ns;
    uint64_t delay_p99_ns; /* queueing delay: from a packet's or entry's arrival to its poll, recent */
};
uint32_t runtime_worker_stats(const struct runtime *rt, struct worker_stats *ret_stats, uint32_t max);

/* Wakes all workers, and tells which of them have not turned since the last call: a bit mask. For a watchdog that calls
 * it every few seconds: a turn is bounded, so a worker that is in the mask twice in a row hangs. */
uint32_t runtime_stuck_workers(struct runtime *rt);

struct shard_stats {
    uint64_t drops[DROP_COUNT];
    uint64_t rx_packets, tx_packets, local_packets, to_sessions, from_sessions, cross_shard;
    uint64_t streams_resumed, streams_lost; /* of clients that came back */
    uint32_t pool_small_free, pool_large_free, sessions;
};
/* Reads counters that the worker writes; each is exact, the set is not a snapshot. */
int runtime_shard_stats(const struct runtime *rt, uint32_t shard, struct shard_stats *ret_stats);
/* Name of the engine with that number, "" for an empty place, NULL after the last one. */
const char *runtime_engine_name(const struct runtime *rt, uint32_t engine);
struct engine_facts {
    const char *name;
    uint32_t abi, layout_version;
    uint8_t stage; /* enum engine_stage */
    uint8_t proto;
    size_t state_bytes; /* of one shard's state */
};
/* -ENOENT after the last one. An empty place has the name "". */
int runtime_engine_facts(const struct runtime *rt, uint32_t engine, struct engine_facts *ret_facts);
/* Counters of one engine, summed over the shards; `max` values. */
uint32_t runtime_engine_counters(const struct runtime *rt, uint32_t engine, const struct engine_counter **ret_names,
                                 uint64_t *ret_values, uint32_t max);
const char *drop_reason_text(enum drop_reason r);
const char *drop_reason_name(enum drop_reason r);

/* Which packets the QoS engine sees: those to the slots of the mask, all of them when it was added. What waits stays in
 * the engine until it leaves. -ENOENT without such an engine. */
int runtime_qos_ports(struct runtime *rt, uint32_t mask);

/* Capture taps: port.rx, port.tx, every drop, what turns round, and what a filter's rule says shall be shown. NULL
 * takes it off. Runs on the worker: it must be short. One branch a burst while off. */
enum tap_point { TAP_RX, TAP_TX, TAP_DROP, TAP_LOCAL, TAP_MIRROR };
typedef void shard_tap_fn(struct shard *sh, void *arg, enum tap_point point, struct pkt *const *pkts, uint32_t n);
int runtime_tap_set(struct runtime *rt, shard_tap_fn *fn, void *arg);

#endif
