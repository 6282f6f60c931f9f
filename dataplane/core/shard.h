/* SPDX-License-Identifier: Apache-2.0
 *
 * A shard from the inside: everything one worker needs to run one engine group, in memory that only this worker
 * touches while it runs. dataplane/core and dataplane/session use it, nobody else.
 *
 * The graph is a row of *hops* (below). Each hop has a vec of packets that wait for it; an engine's outputs are the
 * vecs of the next hops, so packets move on by the pointer the engine pushes and nothing is copied. hops_run() goes
 * over the row until all vecs are empty: the way up, then the way down, in one pass.
 */
#ifndef USHER_DATAPLANE_CORE_SHARD_H
#define USHER_DATAPLANE_CORE_SHARD_H

#include "dataplane/core/clock.h"
#include "dataplane/core/mailbox.h"
#include "dataplane/core/module.h"
#include "dataplane/core/ring.h"
#include "dataplane/core/runtime.h"
#include "dataplane/port/port.h"

struct sess_set;
struct sess_tx;
struct session;
struct session_key;
struct steer;
struct worker;

enum hop_id {
    HOP_LINK_IN,
    HOP_FILTER_IN,
    HOP_TRANSPORT_IN, /* by shard, then by protocol */
    HOP_SINK,         /* by sink: an engine or a session */
    HOP_SESSION,
    HOP_TRANSPORT_OUT,
    HOP_LINK_OUT,
    HOP_FILTER_OUT,
    HOP_EGRESS, /* local ones turn round, the others go on */
    HOP_QOS,
    HOP_PORT,
    HOP_COUNT
};

#define NODE_NONE UINT8_MAX
#define SHARD_QUEUE_MAX (PORT_SLOT_MAX * 4)
#define SHARD_EVENT_MAX 256u /* engine events that wait for control */

/* One engine's state in this shard. */
struct node {
    const struct engine_ops *ops; /* the host's copy: swapped between two polls when the engine is upgraded */
    void *st;
    struct engine_io io; /* up and down are wired to the next hops */
    struct arena_memory arena;
    uint64_t rng;
};

struct shard_queue {
    struct port_queue *q;
    uint16_t slot;
    bool armed;
    bool watched; /* the worker's io_uring watches event_fd ... */
    bool polling; /* ... for a level-triggered one: has a poll under way */
    uint32_t in_flight; /* packets in the port that will come out of reap */
};

struct event_entry {
    struct engine_event event;
};

/* Clients that may be waiting for the worker's core. */
enum shard_told {
    TOLD_YIELDER = 1 << 0, /* it says that it waits by yielding this core */
    TOLD_SLEEPER = 1 << 1, /* it was asleep, perhaps on this core */
};

struct shard {
    /* what every turn reads */
    uint32_t index;
    uint32_t queue_count;
    uint32_t node_count;
    uint32_t shard_count; /* of the runtime */
    ns_t now;
    ns_t deadline; /* earliest of the engines' next_deadline() and the ports' wake_at */
    struct sess_set *active; /* sets that are polled every turn */
    struct sess_set *arming; /* sets that were armed because the worker is about to sleep */
    struct sess_set *dirty;  /* sets that were given completions since the last flush */
    struct sess_set *unsure; /* sets whose client may have gone to sleep unseen: look again behind a fence */
    struct sess_set *stuck;  /* sets with completions that found no room */
    struct sess_set *linger; /* sets whose client is gone, with streams that are not through */
    struct engine_credit credit[PKT_BURST]; /* what stream readers let go of in this poll */
    uint32_t credit_count;
    uint32_t accept_count;
    bool accepting;
    bool quiet; /* owners of sockets may be on their way back: nobody is told that there is none */
    uint8_t told; /* enum shard_told: whom there was news for since the worker last looked */
    struct notice *accept; /* NOTICE_VEC_MAX: connections that wait for a handle in this call */
    ns_t stuck_at, stuck_ns; /* when to try again, and the wait after that */
    ns_t sweep_at;           /* when idle sets are looked for */
    shard_tap_fn *tap;
    void *tap_arg;
    struct shard_queue queue[SHARD_QUEUE_MAX];

    uint32_t hop_busy; /* hops that are running: one is not entered again from within */
    struct pkt_vec hop[HOP_COUNT];
    struct pkt_vec drop, done, shown;
    struct node node[SHARD_ENGINE_MAX];
    uint8_t stage_node[STAGE_COUNT]; /* the one engine of LINK, FILTER, QOS */
    uint8_t proto_node[256];         /* TRANSPORT by protocol */
    uint8_t up_first; /* a hop, chosen when the graph was wired */
    uint32_t qos_ports; /* bit per slot: packets to it pass the QoS engine */
    uint8_t tx_queue[PORT_SLOT_MAX]; /* slot -> index in queue[], NODE_NONE when another shard has it */
    struct port_info port_info[PORT_SLOT_MAX];
    struct engine_region *regions; /* session_max, by slot */
    struct engine_event events[EVENT_VEC_MAX];

    struct pktmem small, large;
    uint32_t pending; /* small packets that wait for room in sessions */
    struct sess_tx *tx; /* one for each small packet: what of a client's it carries */
    struct sess_set **set; /* session_max, by slot */
    bool *slot_taken;      /* control's: which slots are in use */
    /* Control's, session_max by slot: whose slot it is. A successor inherits them, and a slot whose owner has not come
     * back yet is not given away: connections' sinks name it, through as many deaths as it takes. */
    struct session_key *keys;
    struct arena_memory key_memory;
    uint32_t session_max;
    uint32_t set_count;

    struct runtime *rt;
    struct worker *worker; /* whose thread runs it; NULL while none does */
    const struct steer *steer;
    struct ring cross_in[SHARD_MAX]; /* packets from other shards, by shard */
    struct ring home_in[SHARD_MAX];  /* packets of ours that come back; each holds all of them */
    struct ring *cross_out[SHARD_MAX], *home_out[SHARD_MAX]; /* the other ends, in the other shards */
    uint32_t crossed; /* shards that were given something since the last flush */

    /* written by this worker, read by others */
    struct shard_stats stats CACHE_ALIGNED;
    uint64_t events_lost;
    /* to other workers: set while this shard's worker may be asleep; they then ring the bell */
    uint32_t asleep CACHE_ALIGNED;
    int bell;
    /* to control: SPSC */
    uint32_t event_tail CACHE_ALIGNED;
    uint32_t event_head CACHE_ALIGNED;
    struct event_entry event_ring[SHARD_EVENT_MAX];
    struct ring detached; /* struct session, for session_next_detached() */
};

/* ---- hops.c: the pipeline ---- */

/* Takes packets that stand at `hop`; false when its vec is full (the packet is then still the caller's). */
static inline bool hop_push(struct shard *sh, enum hop_id hop, struct pkt *p) {
    return pkt_vec_push(&sh->hop[hop], p);
}

/* Moves everything in the vecs to where it ends. */
void hops_run(struct shard *sh);
/* Wires the nodes' outputs; after an engine was added. */
void hops_wire(struct shard *sh);
/* What an engine call left besides packets that go on: drops, done, notices, events. */
void node_settle(struct shard *sh, struct node *nd);
/* Drops one packet of ours that stands nowhere, and counts it. */
void shard_drop(struct shard *sh, struct pkt *p, enum drop_reason why);
/* Puts a packet back, wherever its pool is, and gives back what it borrowed. */
void shard_pkt_free(struct shard *sh, struct pkt *p);

/* The same, inlined for the packet that is of this shard and carries nothing of a client's. */
static inline void shard_pkt_put(struct shard *sh, struct pkt *p) {
    if (LIKELY(p->pool->shard == sh->index && p->token == 0))
        pkt_free(p->pool, p);
    else
        shard_pkt_free(sh, p);
}

/* ---- shard.c ---- */

int shard_create(struct runtime *rt, uint32_t index, const struct runtime_config *cfg, struct shard **ret_shard);
void shard_destroy(struct shard *sh);
/* One turn. Returns work done (0 = idle). */
uint32_t shard_poll(struct shard *sh, ns_t now);
/* The three steps of going to sleep; see WAKEUP.md. shard_recheck() returns true when there is something after all. */
void shard_arm(struct shard *sh);
bool shard_recheck(struct shard *sh);
void shard_disarm(struct shard *sh);
/* Earliest moment at which the shard wants to be polled though nothing arrives. */
ns_t shard_deadline(struct shard *sh);
int shard_queue_add(struct shard *sh, struct port_queue *q, uint32_t slot);
void shard_queue_remove_slot(struct shard *sh, uint32_t slot);
void shard_queue_watch(struct shard *sh, uint32_t i);
void shard_node_remove_last(struct shard *sh);
void shard_nodes_remove(struct shard *sh);
/* A command to one engine state, between two polls. */
void node_command(struct shard *sh, struct node *nd, const struct engine_cmd *cmd, struct engine_reply *ret_reply);
/* engine_io.route; arg is the shard. */
void shard_route(void *arg, const struct ipaddr *dst, struct engine_route *ret_route);
/* The core on which the shard runs, -1 when none. */
int32_t shard_cpu(const struct shard *sh);
/* After something ran between two polls: moves on what it left behind. */
void shard_settle(struct shard *sh);
/* Packets that a destroyed port put back by itself: ends what they carried. Nobody may use the pools meanwhile. */
void shard_forced_reclaim(struct shard *sh);
/* An arena with a fresh state of `ops` in it. Control. */
int node_state_create(struct node *nd, const struct engine_ops *ops, const void *cfg, uint64_t seed);
/* An engine's state in steps: made and freed on control while the shard runs; put into the graph and taken out of it on
 * the worker, between two polls. `ops` stays where it is while a shard has it. What is taken leaves `nobody` behind. */
int shard_node_make(struct shard *sh, const struct engine_ops *ops, const void *cfg, uint64_t seed,
                    struct node *ret_node);
void shard_node_free(struct node *nd);
void shard_node_put(struct shard *sh, uint32_t engine, const struct node *made);
void shard_node_take(struct shard *sh, uint32_t engine, const struct engine_ops *nobody, struct node *ret_node);
void shard_tell_control(struct shard *sh);
/* The shard that has a transmit queue of the port; SHARD_MAX when there is none. Any worker. */
uint32_t runtime_slot_shard(const struct runtime *rt, uint32_t slot);

#endif
