/* SPDX-License-Identifier: Apache-2.0
 *
 * A simulated host: the engines of one shard, wired as the dataplane wires them, with packet pools, one interface and a
 * table of what became of every packet. It runs turns in virtual time, can be upgraded between two of them, and can be
 * killed at any store an engine makes. It knows no protocol: what applications do is the model's business.
 *
 * Whatever an engine does against its contract (a packet handed on twice or never, a drop without a reason, a frame
 * that the interface cannot send, a broken invariant) ends the run with a sentence.
 */
#ifndef USHER_TEST_SIM_HOST_H
#define USHER_TEST_SIM_HOST_H

#include <setjmp.h>

#include "test/sim/link.h"
#include "test/sim/module.h"

#define HOST_ENGINE_MAX 4
#define HOST_RX_MAX 256
#define HOST_QUEUE_MAX 512 /* submissions, and packets that turn round */

struct host;

struct host_app {
    void *arg;
    void (*deliver)(void *arg, struct host *h, const struct pkt *p);
    void (*notice)(void *arg, struct host *h, const struct notice *n);
    void (*event)(void *arg, struct host *h, const struct engine_event *ev);
    void (*restarted)(void *arg, struct host *h); /* engines are recovered; control has to look after its tables */
};

struct host_engine {
    const char *name;
    const void *cfg;
    struct module code;
    void *arena;
    size_t size;
    uint64_t seed, rng;
    uint64_t *counters;
    struct pkt_vec up, down, drop, done;
};

struct host_pool {
    struct pkt_pool pool;
    uint8_t *where; /* enum host_where, by packet */
    uint32_t held;  /* packets that the host holds */
};

struct host_stats {
    uint64_t rx, rx_lost, tx, submitted, made, delivered, done, turned;
    uint64_t drops[DROP_COUNT];
    uint64_t turns, upgrades, upgrades_skipped, deaths, recoveries;
};

struct host_params {
    const char *engines; /* folder of the modules */
    uint32_t id;
    uint32_t packets, packets_large;
    uint32_t mtu;
    uint16_t caps; /* enum port_cap */
    bool dedicated;
    ns_t poll_delay; /* a frame waits up to this long for others to come with it */
    ns_t restart_delay;
    uint8_t mac[6];
};

struct host {
    struct world *world;
    struct host_params params;
    struct host_app app;
    struct prng prng;
    struct link wire; /* out of this host */
    struct port_info ports[PORT_SLOT_MAX];
    struct host_pool small, large;
    struct host_engine engine[HOST_ENGINE_MAX];
    uint32_t engine_count;
    uint32_t link_engine;
    struct notice notices[NOTICE_VEC_MAX];
    struct engine_event events[EVENT_VEC_MAX];
    struct {
        uint8_t *bytes;
        uint32_t len;
    } rx[HOST_RX_MAX];
    uint32_t rx_count;
    struct pkt *turn[HOST_QUEUE_MAX]; /* local packets on their way back up */
    uint32_t turn_count;
    struct pkt *submit[HOST_QUEUE_MAX]; /* the applications' sends */
    uint32_t submit_count;
    uint8_t *lent[2 * HOST_QUEUE_MAX]; /* application memory that frags borrow, by token - 1 */
    ns_t turn_at;  /* the next turn */
    ns_t serve_at; /* when it takes frames and submissions */
    bool dead;
    jmp_buf death;
    uint64_t kill_in; /* stores until death, 0 = not planned */
    bool kill_torn;
    struct host_stats stats;
};

/* 0, or a failure of the world. The host is wired to nothing yet: the caller sets wire.deliver. */
int host_create(struct world *w, const struct host_params *params, const struct host_app *app,
                const struct link_faults *faults, struct host **ret_host);
/* Engines are added bottom up: link, transports, application engines. */
int host_engine_add(struct host *h, const char *name, const void *cfg);
/* The same for ops that are linked in. */
int host_engine_add_ops(struct host *h, const char *name, const struct engine_ops *ops, const void *cfg);
void host_destroy(struct host *h);

/* A frame arrives from the wire. */
void host_receive(struct host *h, const uint8_t *frame, uint32_t len);
/* What an application sends: payload and where it goes. `lend`: the payload stays in application memory. */
struct host_send {
    const uint8_t *payload;
    uint32_t len;
    uint32_t sock;
    struct ipaddr remote, local; /* all zero = the socket's peer; = chosen by route */
    uint16_t remote_port;
    uint16_t gso_size;
    uint8_t proto;
    bool lend;
};
int host_submit(struct host *h, const struct host_send *s); /* 0, -ENOBUFS, -EOWNERDEAD */
/* Forgets sends of a socket that is about to be closed: its index may be another socket's before the next turn. */
void host_cancel(struct host *h, uint32_t sock);
/* A command to the engine called `name`. 0 = answered, see ret_reply; -EOWNERDEAD = the host is dead, or died of it. */
int host_command(struct host *h, const char *name, const struct engine_cmd *cmd, struct engine_reply *ret_reply);

enum host_upgrade { HOST_UPGRADE_CODE, HOST_UPGRADE_STATE, HOST_UPGRADE_COUNT };
/* Swaps the code under the same arena (and recovers it), or moves the state to a new arena by save and load. Does
 * nothing, and says so, while an engine keeps packets: those an upgrade loses, and the trace would show it. */
bool host_upgrade(struct host *h, enum host_upgrade how);
/* The host dies at the n-th store of its engines from now. */
void host_kill_at(struct host *h, uint64_t n, bool torn);
/* A sum over the records that an engine would save, whatever their order. */
uint64_t host_digest(struct host *h, uint32_t engine);
/* Ends the engines and checks that every packet has come back. */
void host_finish(struct host *h);

/* host_flow.c and host.c to each other */
void host_collect(struct host *h, uint32_t engine, const struct engine_io *io);
void host_io(struct host *h, uint32_t engine, struct engine_io *ret_io);
void host_turn(void *arg, uint64_t value);
void host_wake(struct host *h, ns_t when);
void host_plan(struct host *h);
uint32_t host_kept(const struct host *h); /* packets that engines keep */
void host_forget(struct host *h);         /* everything that lives in the process */
void host_check(struct host *h, const char *after);
void host_arm(struct host *h);
void host_disarm(struct host *h);
void host_died(struct host *h);

#endif
