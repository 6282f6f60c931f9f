/* SPDX-License-Identifier: Apache-2.0
 *
 * The `xdp` port: one AF_XDP socket per queue, whose UMEM is the queue's packet memory. The claim program sends claimed
 * packets to the socket of their queue; every frame the kernel may fill is a packet lent from the pool.
 *
 * Send: a packet that lies in the UMEM and has no frags goes out where it is and comes back by reap; any other is
 * copied into a frame of the pool and is done at once. Checksums are complete before (no PORT_CAP_TX_CSUM).
 *
 * Receive: frames come without a word about checksums; where the peer may be a kernel of this host, bare pseudo-header
 * sums are recognised (csum.h).
 *
 * Cost of an idle look: one load (rx producer), zero-copy two. Per received frame: a descriptor (four to a line), the
 * frame, lines 0 and 3 of struct pkt, one byte of `state`, an eighth of a fill line.
 *
 * Threads: create, destroy and refresh on control; the rest on the worker that is attached. Nothing here is bound to a
 * thread, so attach and detach do nothing.
 */
#include <errno.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_packet.h>

#include "dataplane/port/csum.h"
#include "dataplane/port/netif.h"
#include "dataplane/port/port_internal.h"
#include "dataplane/port/xsk.h"
#include "nicbackend/claims.h"

#define XDP_ENTRIES_DEFAULT 512u
#define XDP_HEADROOM        256u /* the kernel's, in front of every received frame */
#define COMPLETION_TICK     NS_PER_MS
#define DOWN_TICK           (100 * NS_PER_MS)
#define PIECES_MAX          18u /* as many as the kernel takes for one frame: its 17 page fragments and a head */
#define FRAMES_LEFT_MIN     2u  /* of N, the pool keeps at least N / this for others than the fill ring */

/* Where a frame of the UMEM is. Tells completions apart, and what to put back at the end. */
enum frame_state { FRAME_OURS, FRAME_FILL, FRAME_TX, FRAME_TX_COPY };

struct xdp_queue {
    struct port_queue q;
    struct xsk xsk;
    uint8_t *base;       /* UMEM */
    uint32_t frame_size; /* power of two */
    uint32_t frame_shift;
    uint32_t fill_target; /* packets to keep lent to the kernel */
    uint32_t filled;
    uint32_t in_flight; /* frames given to tx and not yet completed */
    bool zero_copy, multi_buffer, partial_sums;
    bool gone;              /* the interface is: nothing will be completed any more */
    bool down;              /* the kernel said so; what it holds goes out when the interface is up again */
    bool joint_broken;      /* the rest of a frame that could not be put together */
    struct pkt *joint;      /* a frame that spans several buffers, so far */
    struct pkt_pool *large; /* where such frames are put together; may be NULL */
    uint8_t *state;         /* enum frame_state by packet index */
    ns_t kick_at;           /* when to ask the kernel again for what it did not send */
};

struct xdp_port {
    struct port port;
    struct nb_claims *own_claims; /* when the caller gave none: everything is ours */
    struct nb_attach *attach;
    int membership_fd; /* dedicated mode: holds the second MAC address */
    struct xdp_queue *queue[PORT_QUEUE_MAX];
};

static struct xdp_queue *xdp_of(struct port_queue *q) {
    return (struct xdp_queue *)q;
}

/* The kernel names frames by their offset; it can only name those we gave it. */
static struct pkt *frame_pkt(const struct xdp_queue *xq, uint64_t addr) {
    uint64_t index = addr >> xq->frame_shift;
    CHECK(index < xq->q.rx_pool->count);
    return &xq->q.rx_pool->pkts[index];
}

static void frame_free(struct xdp_queue *xq, struct pkt *p) {
    xq->state[p->index] = FRAME_OURS;
    pkt_free(xq->q.rx_pool, p);
}

/* --- receive --------------------------------------------------------------------------------------------------- */

static void fill(struct xdp_queue *xq) {
    struct xsk_ring *r = &xq->xsk.fill;
    uint32_t want = xq->fill_target - xq->filled, room = xsk_room(r);
    if (room < want) /* filled counts frames in the rx ring too, so this is rare */
        want = room;
    for (uint32_t i = 0; i < want; i++) {
        struct pkt *p = pkt_alloc(xq->q.rx_pool);
        if (UNLIKELY(p == NULL)) {
            want = i; /* a later call tries again */
            break;
        }
        xq->state[p->index] = FRAME_FILL;
        r->addr[r->ours++ & r->mask] = (uint64_t)(p->buf - xq->base);
    }
    xq->filled += want;
    if (want > 0)
        xsk_produce(r);
}

/* Adds one piece to the frame that is being put together; gives it out with the last one. */
static struct pkt *join(struct xdp_queue *xq, struct pkt *piece, bool more) {
    struct pkt *whole = xq->joint;
    if (whole == NULL && !xq->joint_broken && xq->large != NULL)
        whole = xq->joint = pkt_alloc(xq->large);
    if (whole == NULL || whole->len + piece->len > whole->buf_size - PKT_HEADROOM) {
        xq->joint_broken = true;
    } else {
        memcpy(whole->data + whole->len, piece->data, piece->len);
        whole->len += piece->len;
    }
    frame_free(xq, piece);
    if (more)
        return NULL;
    bool broken = xq->joint_broken;
    xq->joint = NULL;
    xq->joint_broken = false;
    if (!broken)
        return whole;
    xq->q.stats.rx_dropped++;
    if (whole != NULL)
        pkt_free(xq->large, whole);
    return NULL;
}

static struct pkt *frame_take(struct xdp_queue *xq, const struct xdp_desc *d) {
    struct pkt *p = frame_pkt(xq, d->addr);
    DCHECK(xq->state[p->index] == FRAME_FILL);
    xq->state[p->index] = FRAME_OURS;
    p->data = xq->base + d->addr;
    p->len = d->len;
    bool more = d->options & XDP_PKT_CONTD;
    if (UNLIKELY(more || xq->joint != NULL || xq->joint_broken)) {
        p = join(xq, p, more);
        if (p == NULL)
            return NULL;
    }
    if (xq->partial_sums && rx_csum_accept_partial(p))
        xq->q.stats.rx_partial_sums++;
    xq->q.stats.rx_bytes += p->len;
    return p;
}

/* --- send ------------------------------------------------------------------------------------------------------ */

/* Frames whose transmission ended: copies go back to the pool, at most `max` of the host's to `done`; the next one of
 * the host's then waits, and what is behind it. */
static void completions(struct xdp_queue *xq, struct pkt_vec *done, uint32_t max) {
    struct xsk_ring *r = &xq->xsk.completion;
    uint32_t ready = xsk_ready(r);
    for (; ready > 0; ready--) {
        struct pkt *p = frame_pkt(xq, r->addr[r->ours & r->mask]);
        if (xq->state[p->index] == FRAME_TX_COPY) {
            frame_free(xq, p);
        } else if (max > 0) {
            max--;
            xq->state[p->index] = FRAME_OURS;
            (void)pkt_vec_push(done, p);
        } else {
            break;
        }
        r->ours++;
        xq->in_flight--;
    }
    xsk_consume(r);
}

static void desc_put(struct xdp_queue *xq, uint64_t addr, uint32_t len, bool more) {
    struct xsk_ring *r = &xq->xsk.tx;
    r->desc[r->ours++ & r->mask] = (struct xdp_desc){.addr = addr, .len = len, .options = more ? XDP_PKT_CONTD : 0};
    xq->in_flight++;
}

/* Copies `p` into as many frames of the pool as it takes. */
static enum drop_reason copy_put(struct xdp_queue *xq, const struct pkt *p) {
    uint32_t bytes = pkt_bytes(p), piece_max = xq->frame_size - PKT_HEADROOM;
    uint32_t pieces = (bytes + piece_max - 1) / piece_max;
    struct pkt *frames[PIECES_MAX];
    if (pieces > 1 && (!xq->multi_buffer || pieces > PIECES_MAX))
        return DROP_PORT_TX_ERROR;
    if (xq->q.rx_pool->free_count < pieces)
        return DROP_NO_BUFFER;
    if (xsk_room(&xq->xsk.tx) < pieces)
        return DROP_PORT_TX_FULL;
    for (uint32_t i = 0; i < pieces; i++)
        frames[i] = pkt_alloc(xq->q.rx_pool);
    for (uint32_t i = 0, at = 0; i < pieces; i++, at += piece_max) {
        uint32_t len = bytes - at < piece_max ? bytes - at : piece_max;
        port_gather_part(frames[i]->data, p, at, len);
        xq->state[frames[i]->index] = FRAME_TX_COPY;
        desc_put(xq, (uint64_t)(frames[i]->data - xq->base), len, i + 1 < pieces);
    }
    return DROP_NONE;
}

/* Queues one packet; it is then the kernel's, or `done`, or dropped. */
static void packet_put(struct xdp_queue *xq, struct pkt *p, struct pkt_vec *done, struct pkt_vec *drop) {
    uint32_t bytes = pkt_bytes(p);
    enum drop_reason why = DROP_NONE;
    bool in_place = p->pool == xq->q.rx_pool && p->frag_count == 0;
    if (UNLIKELY(xq->gone || xq->down)) {
        why = DROP_PORT_DOWN;
    } else if (!in_place) {
        why = copy_put(xq, p);
    } else if (UNLIKELY(xsk_room(&xq->xsk.tx) == 0)) {
        why = DROP_PORT_TX_FULL;
    } else {
        xq->state[p->index] = FRAME_TX;
        desc_put(xq, (uint64_t)(p->data - xq->base), p->len, false);
    }
    if (UNLIKELY(why != DROP_NONE)) {
        port_drop(&xq->q, drop, p, why);
        return;
    }
    xq->q.stats.tx_packets++;
    xq->q.stats.tx_bytes += bytes;
    if (!in_place)
        CHECK(pkt_vec_push(done, p));
}

/* Makes the kernel send. In copy mode it takes 32 frames a call and says EAGAIN while there are more. */
static void kick(struct xdp_queue *xq) {
    int error = 0;
    for (uint32_t turns = 0; turns < PKT_VEC_MAX / 32 && xsk_wants_wakeup(&xq->xsk.tx); turns++) {
        xq->q.stats.kicks++;
        error = sendto(xq->xsk.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
        if (error != EAGAIN || __atomic_load_n(xq->xsk.tx.consumer, __ATOMIC_RELAXED) == xq->xsk.tx.ours)
            break;
    }
    xq->down = error == ENETDOWN;
    xq->gone = error == ENXIO;
    xq->kick_at = xq->q.now + (xq->down ? DOWN_TICK : COMPLETION_TICK);
}

static void xdp_tx(struct port_queue *q, struct pkt **pkts, uint32_t n, struct pkt_vec *done, struct pkt_vec *drop) {
    struct xdp_queue *xq = xdp_of(q);
    uint32_t room = pkt_vec_room(done);
    if (xq->in_flight > 0 && room > n)
        completions(xq, done, room - n); /* copies need room in `done` too */
    for (uint32_t i = 0; i < n; i++)
        packet_put(xq, pkts[i], done, drop);
    xsk_produce(&xq->xsk.tx);
    kick(xq);
    q->wake_at = xq->kick_at;
}

/* While anything is in flight: takes completions, asks the kernel again for what it had no room for or was down for,
 * and plans when to look next, since no fd speaks of completions. */
static void tend(struct xdp_queue *xq, struct pkt_vec *done, uint32_t max) {
    completions(xq, done, max);
    bool waiting = xq->in_flight > 0 && !xq->gone;
    if (waiting && xq->q.now >= xq->kick_at)
        kick(xq);
    xq->q.wake_at = waiting ? xq->kick_at : NS_NEVER;
}

static void xdp_reap(struct port_queue *q, struct pkt_vec *done) {
    struct xdp_queue *xq = xdp_of(q);
    if (xq->in_flight > 0)
        tend(xq, done, pkt_vec_room(done));
}

static uint32_t xdp_rx(struct port_queue *q, struct pkt **ret_pkts, uint32_t max) {
    struct xdp_queue *xq = xdp_of(q);
    struct xsk_ring *r = &xq->xsk.rx;
    uint32_t ready = xsk_ready(r), n = 0, take = ready < max ? ready : max;
    for (uint32_t i = 0; i < take; i++) {
        const struct xdp_desc *d = &r->desc[r->ours++ & r->mask];
        if (LIKELY(i + 1 < take))
            __builtin_prefetch(xq->base + r->desc[r->ours & r->mask].addr);
        struct pkt *p = frame_take(xq, d);
        if (LIKELY(p != NULL))
            ret_pkts[n++] = p;
    }
    if (take > 0) {
        xsk_consume(r);
        xq->filled -= take;
        q->stats.rx_packets += n;
    }
    if (xq->in_flight > 0) /* a host that only sent copies has nothing to reap */
        tend(xq, NULL, 0);
    if (xq->filled < xq->fill_target)
        fill(xq);
    if (xq->zero_copy && UNLIKELY(xsk_wants_wakeup(&xq->xsk.fill)))
        (void)recvfrom(xq->xsk.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL); /* the driver ran out of frames and sleeps */
    return n;
}

/* --- sleep and move -------------------------------------------------------------------------------------------- */

static int xdp_arm(struct port_queue *q) {
    struct xdp_queue *xq = xdp_of(q);
    return xsk_ready(&xq->xsk.rx) > 0 || (xq->in_flight > 0 && xsk_ready(&xq->xsk.completion) > 0);
}

static void xdp_disarm(struct port_queue *q) {
    (void)q;
}

static int xdp_attach(struct port_queue *q) {
    fill(xdp_of(q));
    return 0;
}

static void xdp_detach(struct port_queue *q) {
    (void)q;
}

static const struct port_queue_ops xdp_queue_ops = {
    .rx = xdp_rx,
    .tx = xdp_tx,
    .reap = xdp_reap,
    .arm = xdp_arm,
    .disarm = xdp_disarm,
    .attach = xdp_attach,
    .detach = xdp_detach,
};

/* --- control --------------------------------------------------------------------------------------------------- */

/* The kernel has let go of every frame: the socket is closed. */
static void frames_return(struct xdp_queue *xq) {
    for (uint32_t i = 0; xq->state != NULL && i < xq->q.rx_pool->count; i++) {
        if (xq->state[i] != FRAME_OURS)
            frame_free(xq, &xq->q.rx_pool->pkts[i]);
    }
    if (xq->joint != NULL)
        pkt_free(xq->large, xq->joint);
}

static void queue_destroy(struct xdp_queue *xq) {
    if (xq == NULL)
        return;
    xsk_close(&xq->xsk);
    frames_return(xq);
    free(xq->state);
    free(xq);
}

static void xdp_destroy(struct port *p) {
    struct xdp_port *port = (struct xdp_port *)p;
    nb_attach_destroy(port->attach);
    for (uint32_t i = 0; i < PORT_QUEUE_MAX; i++)
        queue_destroy(port->queue[i]);
    nb_claims_destroy(port->own_claims);
    if (port->membership_fd >= 0)
        close(port->membership_fd);
    free(port);
}

static int xdp_refresh(struct port *p) {
    return netif_refresh(&p->info);
}

/* A frame that finds no buffer counts among the dropped ones too. */
static void xdp_kernel_stats(struct port_queue *q, struct port_stats *stats) {
    const struct xdp_queue *xq = xdp_of(q);
    struct xdp_statistics k = {0};
    socklen_t size = sizeof k;
    if (getsockopt(xq->xsk.fd, SOL_XDP, XDP_STATISTICS, &k, &size) < 0)
        return;
    stats->rx_kernel_dropped += k.rx_dropped + k.rx_ring_full;
    stats->rx_no_buffer += k.rx_fill_ring_empty_descs;
    stats->bad_descs += k.rx_invalid_descs + k.tx_invalid_descs;
}

static const struct port_ops xdp_ops = {
    .kind = "xdp", .destroy = xdp_destroy, .refresh = xdp_refresh, .kernel_stats = xdp_kernel_stats};

/* Native when allowed and possible, else generic when allowed. Without claims every packet is ours. */
static int program_attach(struct xdp_port *port, const struct port_params *params, struct port_error *err) {
    struct nb_claims *claims = params->claims;
    struct nb_error reason = {"neither native nor generic XDP is allowed"};
    int error = -EINVAL;
    if (claims == NULL && (error = nb_claims_create(1, &port->own_claims, &reason)) < 0)
        return port_fail(err, error, "xdp port on %s: %s", params->ifname, reason.text);
    struct nb_attach_params ap = {.ifindex = port->port.info.ifindex,
                                  .queue_max = params->queue_count,
                                  .dedicated = params->dedicated,
                                  .all = claims == NULL};
    memcpy(ap.dedicated_mac, params->dedicated_mac, 6);
    claims = claims == NULL ? port->own_claims : claims;
    const bool allowed[] = {params->allow_native, params->allow_generic};
    for (uint32_t hook = NB_HOOK_XDP_NATIVE; hook <= NB_HOOK_XDP_GENERIC; hook++) {
        if (!allowed[hook])
            continue;
        ap.hook = (enum nb_hook)hook;
        port->attach = nb_attach_find(claims, ap.ifindex, ap.hook); /* a predecessor's */
        if (port->attach != NULL)
            return 0;
        error = nb_attach_create(claims, &ap, &port->attach, &reason);
        if (error != -EOPNOTSUPP)
            break;
    }
    return error < 0 ? port_fail(err, error, "xdp port on %s: %s", params->ifname, reason.text) : 0;
}

static bool is_generic(const struct xdp_port *port) {
    return strcmp(nb_attach_mode(port->attach), "generic XDP link") == 0;
}

/* Zero-copy when allowed and possible, else copy; `why` says what the driver said. */
static int socket_open(struct xdp_port *port, struct xdp_queue *xq, const struct port_params *params) {
    struct pktmem *mem = params->mem[xq->q.index];
    struct xsk_params xp = {
        .umem = mem->base,
        .umem_size = mem->size,
        .chunk_size = mem->frame_size,
        .entries = params->ring_entries == 0 ? XDP_ENTRIES_DEFAULT : params->ring_entries,
        .ifindex = port->port.info.ifindex,
        .queue = xq->q.index,
        .bind_flags = (uint16_t)(XDP_USE_NEED_WAKEUP | (xq->multi_buffer ? XDP_USE_SG : 0)),
    };
    uint16_t common = xp.bind_flags;
    int error = -EOPNOTSUPP;
    if (params->allow_zero_copy && !is_generic(port)) {
        xp.bind_flags = common | XDP_ZEROCOPY;
        error = xsk_open(&xq->xsk, &xp);
        xq->zero_copy = error == 0;
        if (error < 0)
            snprintf(port->port.why, sizeof port->port.why, "zero-copy: driver refused (%s)", strerror(-error));
    }
    if (error < 0) {
        xp.bind_flags = common | XDP_COPY;
        error = xsk_open(&xq->xsk, &xp);
    }
    return error;
}

/* Drivers whose peer is a kernel of this host: checksums may be partial. */
static bool sums_may_be_partial(const struct xdp_port *port, const struct netif *n) {
    static const char *const drivers[] = {"veth", "tun", "bridge", "macvlan", "virtio_net"};
    for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
        if (strcmp(n->driver, drivers[i]) == 0)
            return true;
    }
    return is_generic(port);
}

static int queue_create(struct xdp_port *port, uint32_t index, const struct port_params *params,
                        const struct netif *n) {
    struct pktmem *mem = params->mem[index];
    struct xdp_queue *xq = aligned_alloc(CACHE_LINE, sizeof *xq);
    if (xq == NULL)
        return -ENOMEM;
    memset(xq, 0, sizeof *xq);
    xq->xsk.fd = -1;
    port->queue[index] = xq;
    port_queue_init(&xq->q, &xdp_queue_ops, &port->port, index, &mem->pool);
    xq->base = mem->base;
    xq->frame_size = mem->frame_size;
    xq->frame_shift = (uint32_t)__builtin_ctz(mem->frame_size);
    xq->large = params->large_mem[index] == NULL ? NULL : &params->large_mem[index]->pool;
    xq->multi_buffer = n->mtu + ETH_LEN + VLAN_LEN > mem->frame_size - XDP_HEADROOM;
    xq->partial_sums = sums_may_be_partial(port, n);
    xq->state = calloc(mem->pool.count, 1);
    if (xq->state == NULL)
        return -ENOMEM;
    int error = socket_open(port, xq, params);
    if (error < 0)
        return error;
    uint32_t share = mem->pool.count / FRAMES_LEFT_MIN;
    xq->fill_target = xq->xsk.fill.mask + 1 < share ? xq->xsk.fill.mask + 1 : share;
    xq->q.event_fd = xq->xsk.fd;
    return nb_attach_xsk_set(port->attach, index, xq->xsk.fd);
}

/* A socket that receives nothing but keeps the interface listening to our MAC address and to multicast. */
static int dedicated_enter(struct xdp_port *port) {
    port->membership_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (port->membership_fd < 0)
        return -errno;
    struct packet_mreq m = {.mr_ifindex = (int)port->port.info.ifindex,
                            .mr_type = PACKET_MR_UNICAST,
                            .mr_alen = sizeof port->port.info.mac};
    memcpy(m.mr_address, port->port.info.mac, sizeof port->port.info.mac);
    if (setsockopt(port->membership_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m) < 0)
        return -errno;
    m.mr_type = PACKET_MR_ALLMULTI;
    return setsockopt(port->membership_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m) < 0 ? -errno : 0;
}

static int memory_check(const struct port_params *params, const struct netif *n, struct port_error *err) {
    for (uint32_t i = 0; i < params->queue_count; i++) {
        uint32_t frame = params->mem[i]->frame_size;
        if (frame != 2048 && frame != 4096)
            return port_fail(err, -EINVAL,
                             "xdp port on %s: packet memory has frames of %u bytes; 2048 or 4096 is needed", n->name,
                             frame);
        if (n->mtu + ETH_LEN + VLAN_LEN > frame - XDP_HEADROOM && params->large_mem[i] == NULL)
            return port_fail(err, -EMSGSIZE,
                             "xdp port on %s: MTU %u does not fit frames of %u bytes and no large buffers are given; "
                             "lower the MTU or use the packet port",
                             n->name, n->mtu, frame);
    }
    return 0;
}

static int sockets_create(struct xdp_port *port, const struct port_params *params, const struct netif *n,
                          struct port_error *err) {
    uint32_t wished = params->queue_count;
    int error = 0;
    port->port.queue_count = wished < n->rx_queues ? wished : n->rx_queues;
    for (uint32_t i = 0; i < port->port.queue_count && error == 0; i++)
        error = queue_create(port, i, params, n);
    if (error == 0 && params->dedicated)
        error = dedicated_enter(port);
    if (error == -EBUSY)
        return port_fail(err, error, "xdp port on %s: a queue belongs to another AF_XDP socket; stop its owner",
                         n->name);
    if (error < 0)
        return port_fail(err, error, "xdp port on %s: cannot open its sockets: %s%s", n->name, strerror(-error),
                         error == -EPERM ? "; it needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF" : "");
    return 0;
}

static void mode_describe(struct xdp_port *port, const struct netif *n) {
    const struct xdp_queue *xq = port->queue[0];
    snprintf(port->port.mode, sizeof port->port.mode, "%s, %s, need-wakeup%s", is_generic(port) ? "generic" : "native",
             xq->zero_copy ? "zero-copy" : "copy", xq->multi_buffer ? ", multi-buffer" : "");
    size_t used = strlen(port->port.why);
    if (n->rx_queues > port->port.queue_count)
        snprintf(port->port.why + used, sizeof port->port.why - used,
                 "%sthe interface has %u queues and %u are served: claimed packets of the others reach the kernel",
                 used == 0 ? "" : "; ", n->rx_queues, port->port.queue_count);
}

int port_xdp_create(const struct port_params *params, struct port **ret_port, struct port_error *err) {
    struct netif n = {0};
    int error = port_params_check("xdp", params, err);
    if (error < 0)
        return error;
    if ((error = netif_read(params->ifname, &n)) < 0)
        return port_fail(err, error, "xdp port on %s: no such interface in this network namespace (%s)", params->ifname,
                         strerror(-error));
    if (n.link_type != ARPHRD_ETHER && n.link_type != ARPHRD_LOOPBACK)
        return port_fail(err, -EOPNOTSUPP, "xdp port on %s: link type %u is not Ethernet", n.name, n.link_type);
    if ((error = memory_check(params, &n, err)) < 0)
        return error;
    struct xdp_port *port = calloc(1, sizeof *port);
    if (port == NULL)
        return port_fail(err, -ENOMEM, "xdp port on %s: no memory", n.name);
    port->membership_fd = -1;
    port_init(&port->port, &xdp_ops, params->ifname);
    port->port.info.dedicated = params->dedicated;
    if (params->dedicated)
        memcpy(port->port.info.mac, params->dedicated_mac, 6);
    netif_to_info(&n, &port->port.info);
    error = program_attach(port, params, err);
    if (error == 0)
        error = sockets_create(port, params, &n, err);
    if (error < 0) {
        xdp_destroy(&port->port);
        return error;
    }
    mode_describe(port, &n);
    *ret_port = &port->port;
    return 0;
}
