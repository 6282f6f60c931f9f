/* SPDX-License-Identifier: Apache-2.0
 *
 * The rig of udp-engine-cost. Single thread. The engines are the ones usherd loads, linked in; their input and output
 * calls are wrapped to take the time of each burst, which costs two TSC reads a burst and stage.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dataplane/core/shard.h"
#include "dataplane/session/session.h"
#include "engines/ip/ip_cmd.h"
#include "engines/udp/udp_cmd.h"
#include "engines/wire.h"
#include "proto/usher_shm.h"
#include "test/bench/rig.h"
#include "test/bench/tick.h"

#define SERVER_PORT 9000u
#define CLIENT_PORT 5000u
#define ECHO_PORT   7u
#define PAYLOAD     64u
#define FRAME       (ETH_LEN + IP4_LEN + UDP_LEN + PAYLOAD)
#define FAR_PACKETS 256u
#define TX_SLOT     256u /* distance between the client's send buffers */

extern const struct engine_ops usher_engine_ip;
extern const struct engine_ops usher_engine_udp;
extern const struct engine_ops usher_engine_echo;

static const uint8_t our_ip[4] = {10, 77, 0, 1}, peer_ip[4] = {10, 77, 0, 2};
static const uint8_t far_mac[6] = {2, 0, 0, 0, 0, 2};

struct client {
    uint8_t *base;
    size_t size;
    struct ush_header h;
    struct ush_set *set;
    struct ush_cqe *cq;
    struct ush_sqe *sq;
    uint32_t cq_pos, sq_pos;
    uint32_t cell[RIG_BURST];
    uint32_t cells;
    uint32_t handle;
};

struct rig {
    struct runtime *rt;
    struct port *far;
    struct pktmem far_mem;
    struct session *session;
    struct client client;
    struct engine_ops ops[2];
    uint32_t slot, ip, udp, echo;
    uint8_t frame[FRAME];
    struct rig_cost cost;
    bool by_stage;
    int turn_result;
};

/* Engine calls carry no context for a wrapper, so the rig that is being turned is here. */
static struct rig *turning;

static void timed(void (*call)(void *, struct engine_io *, struct pkt **, uint32_t), enum rig_stage stage, void *st,
                  struct engine_io *io, struct pkt **pkts, uint32_t n) {
    if (turning == NULL) {
        call(st, io, pkts, n);
        return;
    }
    uint64_t start = tick_now();
    call(st, io, pkts, n);
    turning->cost.stage[stage] += tick_now() - start;
}

static void ip_input(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    timed(usher_engine_ip.input, RIG_IP_IN, st, io, pkts, n);
}

static void ip_output(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    timed(usher_engine_ip.output, RIG_IP_OUT, st, io, pkts, n);
}

static void udp_input(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    timed(usher_engine_udp.input, RIG_UDP_IN, st, io, pkts, n);
}

static void udp_output(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    timed(usher_engine_udp.output, RIG_UDP_OUT, st, io, pkts, n);
}

static int add_engines(struct rig *rig, struct runtime_error *err) {
    rig->ops[0] = usher_engine_ip;
    rig->ops[0].input = ip_input;
    rig->ops[0].output = ip_output;
    rig->ops[1] = usher_engine_udp;
    rig->ops[1].input = udp_input;
    rig->ops[1].output = udp_output;
    int rc = runtime_engine_add(rig->rt, &rig->ops[0], NULL, &rig->ip, err);
    if (rc == 0)
        rc = runtime_engine_add(rig->rt, &rig->ops[1], NULL, &rig->udp, err);
    return rc != 0 ? rc : runtime_engine_add(rig->rt, &usher_engine_echo, NULL, &rig->echo, err);
}

static int add_port(struct rig *rig, struct runtime_error *err) {
    struct port *end[2];
    struct port_error port_err = {""};
    struct port_params params[2] = {
        {.ifname = "near", .queue_count = 1, .mem = {runtime_port_mem(rig->rt, 0, false)}},
        {.ifname = "far", .queue_count = 1, .mem = {&rig->far_mem}},
    };
    int rc = pktmem_create(&rig->far_mem, FAR_PACKETS, 2048, 0);
    if (rc == 0)
        rc = port_pair_create(params, false, end, &port_err);
    if (rc != 0) {
        (void)snprintf(err->text, sizeof(err->text), "%s", port_err.text);
        return rc;
    }
    rig->far = end[1];
    return runtime_port_add(rig->rt, end[0], &rig->slot, err);
}

static int configure_ip(struct rig *rig) {
    uint16_t slot = (uint16_t)rig->slot;
    struct engine_reply reply;
    struct ipaddr ours = ipaddr_from_v4(our_ip), peer = ipaddr_from_v4(peer_ip), prefix = ours;
    prefix.b[15] = 0;
    struct ip_cmd_addr addr = {.cmd = {IP_CMD_ADDR, sizeof(addr)}, .addr = ours, .port = slot, .prefix_len = 96 + 24};
    struct ip_cmd_route route = {
        .cmd = {IP_CMD_ROUTE, sizeof(route)}, .prefix = prefix, .port = slot, .prefix_len = 96 + 24};
    struct ip_cmd_neigh neigh = {.cmd = {IP_CMD_NEIGH, sizeof(neigh)}, .addr = peer, .port = slot, .state = 1};
    memcpy(neigh.mac, far_mac, sizeof(neigh.mac));
    int rc = runtime_command(rig->rt, 0, rig->ip, &addr.cmd, &reply);
    if (rc == 0)
        rc = runtime_command(rig->rt, 0, rig->ip, &route.cmd, &reply);
    return rc != 0 ? rc : runtime_command(rig->rt, 0, rig->ip, &neigh.cmd, &reply);
}

static int open_echo(struct rig *rig) {
    struct engine_reply reply;
    struct udp_cmd_open open = {.cmd = {UDP_CMD_OPEN, sizeof(open)},
                                .flow = {.local_port = ECHO_PORT, .proto = PROTO_UDP},
                                .sink = SINK(SINK_ENGINE, rig->echo, 0)};
    return runtime_command(rig->rt, 0, rig->udp, &open.cmd, &reply);
}

static int client_map(struct client *c, int memfd) {
    if (pread(memfd, &c->h, sizeof(c->h), 0) != (ssize_t)sizeof(c->h))
        return -EIO;
    c->size = c->h.total_size;
    c->base = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    return c->base == MAP_FAILED ? -errno : 0;
}

static int open_session(struct rig *rig) {
    struct session_params params = {.abi = USH_ABI_MAX, .tx_bytes = 1 << 20, .rx_bytes = 1 << 20, .socket_max = 16};
    struct session_fds fds;
    struct session_socket socket;
    struct session_socket_params sp = {
        .flow = {.local = ipaddr_from_v4(our_ip), .local_port = SERVER_PORT, .proto = PROTO_UDP}};
    int rc = session_create(rig->rt, &params, &rig->session, &fds);
    if (rc != 0)
        return rc;
    rc = client_map(&rig->client, fds.memfd);
    (void)close(fds.memfd);
    (void)close(fds.wake_peer);
    if (rc == 0)
        rc = session_socket_open(rig->session, &sp, &socket);
    if (rc != 0)
        return rc;
    if (socket.kick_fd >= 0)
        (void)close(socket.kick_fd);
    struct client *c = &rig->client;
    c->handle = socket.handle;
    uint8_t *set = c->base + c->h.set_off + c->h.set_stride * socket.set;
    c->set = (struct ush_set *)(void *)set;
    c->cq = (struct ush_cqe *)(void *)(set + ush_cq_off());
    c->sq = (struct ush_sqe *)(void *)(set + ush_sq_off(c->h.cq_entries, c->h.sq_entries, 0));
    return 0;
}

/* A request as the peer sends it, with both checksums in place. */
static void make_frame(struct rig *rig) {
    uint8_t *p = rig->frame;
    memset(p, 0, FRAME);
    memcpy(p, runtime_port(rig->rt, rig->slot)->info.mac, 6);
    memcpy(p + 6, far_mac, 6);
    be16_store(p + 12, ETHERTYPE_IP4);
    struct ip4_hdr *ip = (struct ip4_hdr *)(p + ETH_LEN);
    ip->ver_ihl = 0x45;
    be16_store(ip->len, IP4_LEN + UDP_LEN + PAYLOAD);
    ip->ttl = 64;
    ip->proto = PROTO_UDP;
    memcpy(ip->src, peer_ip, 4);
    memcpy(ip->dst, our_ip, 4);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, ip, IP4_LEN));
    memcpy(ip->csum, &sum, 2);
    struct udp_hdr *udp = (struct udp_hdr *)(p + ETH_LEN + IP4_LEN);
    be16_store(udp->sport, CLIENT_PORT);
    be16_store(udp->dport, SERVER_PORT);
    be16_store(udp->len, UDP_LEN + PAYLOAD);
    memset(p + FRAME - PAYLOAD, 0x5a, PAYLOAD);
    struct flow flow = {.local = ipaddr_from_v4(our_ip), .remote = ipaddr_from_v4(peer_ip), .proto = PROTO_UDP};
    sum = (uint16_t)~csum_fold(csum_add(csum_pseudo(&flow, UDP_LEN + PAYLOAD), udp, UDP_LEN + PAYLOAD));
    memcpy(udp->csum, &sum, 2);
}

int rig_create(struct rig **ret_rig, char *err, size_t err_size) {
    struct runtime_config cfg = {.shard_count = 1,
                                 .mode = SCHED_SPREADING,
                                 .small_packets = 1024,
                                 .large_packets = 16,
                                 .session_max = 4,
                                 .seed = 1};
    struct runtime_error rt_err = {""};
    struct rig *rig = calloc(1, sizeof(*rig));
    if (rig == NULL)
        return -1;
    int rc = runtime_create(&cfg, &rig->rt, &rt_err);
    if (rc == 0)
        rc = add_engines(rig, &rt_err);
    if (rc == 0)
        rc = add_port(rig, &rt_err);
    if (rc == 0)
        rc = configure_ip(rig);
    if (rc == 0)
        rc = open_echo(rig);
    if (rc == 0)
        rc = open_session(rig);
    if (rc != 0) {
        (void)snprintf(err, err_size, "the in-process dataplane could not be made: %s %s", strerror(-rc), rt_err.text);
        rig_destroy(rig);
        return -1;
    }
    make_frame(rig);
    *ret_rig = rig;
    return 0;
}

void rig_destroy(struct rig *rig) {
    if (rig->session != NULL)
        session_destroy(rig->session, DETACH_CLIENT_CLOSED);
    if (rig->client.base != NULL)
        (void)munmap(rig->client.base, rig->client.size);
    if (rig->rt != NULL)
        runtime_destroy(rig->rt);
    if (rig->far != NULL)
        port_destroy(rig->far);
    if (rig->far_mem.base != NULL)
        pktmem_destroy(&rig->far_mem);
    free(rig);
}

static void far_send(struct rig *rig) {
    struct port_queue *q = rig->far->queue[0];
    struct pkt *pkts[RIG_BURST];
    struct pkt_vec done = {0}, drop = {0};
    uint32_t n = 0;
    q->ops->reap(q, &done);
    for (uint32_t i = 0; i < done.count; i++)
        pkt_free(&rig->far_mem.pool, done.v[i]);
    for (; n < RIG_BURST; n++) {
        pkts[n] = pkt_alloc(&rig->far_mem.pool);
        CHECK(pkts[n] != NULL);
        memcpy(pkts[n]->data, rig->frame, FRAME);
        pkts[n]->len = FRAME;
    }
    q->ops->tx(q, pkts, n, &done, &drop);
}

static uint32_t far_receive(struct rig *rig) {
    struct port_queue *q = rig->far->queue[0];
    struct pkt *pkts[RIG_BURST * 2];
    uint32_t n = q->ops->rx(q, pkts, RIG_BURST * 2);
    for (uint32_t i = 0; i < n; i++)
        pkt_free(&rig->far_mem.pool, pkts[i]);
    return n;
}

static void client_submit(struct client *c, const struct ush_sqe *e) {
    struct ush_sqe *slot = &c->sq[c->sq_pos & (c->h.sq_entries - 1)];
    memcpy((uint8_t *)slot + 4, (const uint8_t *)e + 4, sizeof(*e) - 4);
    __atomic_store_n(&slot->seq, ++c->sq_pos, __ATOMIC_RELEASE);
}

static void client_release(struct client *c) {
    for (uint32_t at = 0; at < c->cells;) {
        struct ush_sqe e = {.op = USH_OP_RELEASE};
        while (e.count < 14 && at < c->cells)
            e.release.cell[e.count++] = c->cell[at++];
        client_submit(c, &e);
    }
    c->cells = 0;
}

/* The server: answers every datagram that is there. Returns how many. */
static uint32_t client_answer(struct client *c) {
    uint32_t n = 0;
    while (n < RIG_BURST) {
        const struct ush_cqe *in = &c->cq[c->cq_pos & (c->h.cq_entries - 1)];
        if (__atomic_load_n(&in->seq, __ATOMIC_ACQUIRE) != c->cq_pos + 1)
            break;
        c->cq_pos++; /* the worker writes no further than it was told by cq_head: `in` stays valid */
        if (in->type != USH_CQ_RECV)
            continue;
        struct ush_sqe out = {.op = USH_OP_SEND, .flags = USH_SEND_TO};
        out.send.handle = in->recv.handle;
        out.send.off = n * TX_SLOT;
        out.send.len = in->recv.len;
        out.send.port = in->recv.peer_port;
        memcpy(out.send.addr, in->recv.peer, 16);
        memcpy(c->base + c->h.tx_off + out.send.off, c->base + c->h.rx_off + in->recv.cell, in->recv.len);
        c->cell[c->cells++] = in->recv.cell;
        client_submit(c, &out);
        n++;
    }
    __atomic_store_n(&c->set->cq_head, c->cq_pos, __ATOMIC_RELEASE);
    client_release(c);
    return n;
}

/* Its own function, never inlined, so that a profiler can be told to collect inside it only. */
__attribute__((noinline)) uint64_t rig_timed_poll(struct shard *sh, ns_t now);
__attribute__((noinline)) uint64_t rig_timed_poll(struct shard *sh, ns_t now) {
    uint64_t start = tick_now();
    (void)shard_poll(sh, now);
    return tick_now() - start;
}

static void turn(struct shard *sh, void *arg) {
    struct rig *rig = arg;
    memset(&rig->cost, 0, sizeof(rig->cost));
    far_send(rig);
    turning = rig->by_stage ? rig : NULL;
    rig->cost.up = rig_timed_poll(sh, tick_ns());
    uint32_t answered = client_answer(&rig->client);
    rig->cost.down = rig_timed_poll(sh, tick_ns());
    turning = NULL;
    rig->turn_result = answered == RIG_BURST && far_receive(rig) == RIG_BURST ? 0 : -1;
}

/* The one completion that is expected next; false when it is not there. */
static bool client_take(struct client *c) {
    const struct ush_cqe *in;
    do {
        in = &c->cq[c->cq_pos & (c->h.cq_entries - 1)];
        if (__atomic_load_n(&in->seq, __ATOMIC_ACQUIRE) != c->cq_pos + 1)
            return false;
        c->cq_pos++;
    } while (in->type != USH_CQ_RECV);
    c->cell[c->cells++] = in->recv.cell;
    __atomic_store_n(&c->set->cq_head, c->cq_pos, __ATOMIC_RELEASE);
    return true;
}

static void echo_turn(struct shard *sh, void *arg) {
    struct rig *rig = arg;
    struct client *c = &rig->client;
    struct ush_sqe e = {.op = USH_OP_SEND, .flags = USH_SEND_TO};
    struct ipaddr to = ipaddr_from_v4(our_ip);
    e.send.handle = c->handle;
    e.send.len = PAYLOAD;
    e.send.port = ECHO_PORT;
    memcpy(e.send.addr, to.b, 16);
    client_submit(c, &e);
    rig->cost.up = rig_timed_poll(sh, tick_ns());
    rig->turn_result = client_take(c) ? 0 : -1;
    if (c->cells == 14)
        client_release(c);
}

struct runtime *rig_runtime(struct rig *rig) {
    return rig->rt;
}

int rig_echo_turn(struct rig *rig, uint64_t *ret_ticks) {
    if (runtime_call(rig->rt, 0, echo_turn, rig) != 0 || rig->turn_result != 0)
        return -1;
    *ret_ticks = rig->cost.up;
    return 0;
}

int rig_turn(struct rig *rig, bool by_stage, struct rig_cost *ret_cost) {
    rig->by_stage = by_stage;
    if (runtime_call(rig->rt, 0, turn, rig) != 0 || rig->turn_result != 0)
        return -1;
    *ret_cost = rig->cost;
    return 0;
}
