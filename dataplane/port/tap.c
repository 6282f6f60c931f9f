/* SPDX-License-Identifier: Apache-2.0
 *
 * The `tap` port: a TAP interface (or an existing TUN one) with virtio-net headers, so that 64 KB GSO frames cross in
 * one go. The kernel is at the other end: what we send it receives. One read() or writev() per frame; an idle look is
 * a load (poll_flag.h). An interface that does not exist is made, and goes away with the port.
 *
 * Threads: create, destroy and refresh on control; the rest on the worker that is attached.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/if_tun.h>

#include "dataplane/port/netif.h"
#include "dataplane/port/poll_flag.h"
#include "dataplane/port/port_internal.h"
#include "dataplane/port/vnet.h"

#ifndef TUN_F_USO4 /* since Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct tap_queue {
    struct port_queue q;
    struct poll_flag readable;
    int fd;
};

struct tap_port {
    struct port port;
    struct tap_queue *queue[PORT_QUEUE_MAX];
};

static struct tap_queue *tap_of(struct port_queue *q) {
    return (struct tap_queue *)q;
}

/* One frame. 1 = taken, 0 = nothing there, -1 = unusable and counted. */
static int frame_read(struct tap_queue *tq, struct pkt *p) {
    ssize_t room = (ssize_t)(p->buf_size - PKT_HEADROOM + VNET_LEN);
    ssize_t bytes = read(tq->fd, p->data - VNET_LEN, (size_t)room);
    if (bytes < 0)
        return 0;
    struct virtio_net_hdr h;
    memcpy(&h, p->data - VNET_LEN, sizeof h);
    p->len = (uint32_t)bytes - VNET_LEN;
    if (bytes > (ssize_t)VNET_LEN && bytes < room && vnet_read(p, &h)) /* as long as the buffer: surely cut */
        return 1;
    tq->q.stats.rx_dropped++;
    return -1;
}

static uint32_t tap_rx(struct port_queue *q, struct pkt **ret_pkts, uint32_t max) {
    struct tap_queue *tq = tap_of(q);
    if (LIKELY(!tq->readable.open || !poll_flag_pending(&tq->readable)))
        return 0;
    poll_flag_take(&tq->readable);
    uint32_t n = 0;
    while (n < max) {
        struct pkt *p = pkt_alloc(q->rx_pool);
        if (UNLIKELY(p == NULL))
            break; /* the flag stays up: a later call goes on */
        int got = frame_read(tq, p);
        if (got > 0) {
            q->stats.rx_bytes += p->len;
            ret_pkts[n++] = p;
            continue;
        }
        pkt_free(q->rx_pool, p);
        if (got == 0) {
            poll_flag_lower(&tq->readable);
            break;
        }
    }
    q->stats.rx_packets += n;
    return n;
}

static enum drop_reason frame_write(struct tap_queue *tq, const struct pkt *p) {
    struct virtio_net_hdr h;
    struct iovec iov[2 + PKT_FRAG_MAX] = {{.iov_base = &h, .iov_len = sizeof h},
                                          {.iov_base = p->data, .iov_len = p->len}};
    vnet_write(&h, p);
    for (uint32_t i = 0; i < p->frag_count; i++)
        iov[2 + i] = (struct iovec){.iov_base = (void *)(uintptr_t)p->frag[i].base, .iov_len = p->frag[i].len};
    tq->q.stats.kicks++;
    if (writev(tq->fd, iov, 2 + p->frag_count) >= 0)
        return DROP_NONE;
    if (errno == EAGAIN || errno == ENOBUFS)
        return DROP_PORT_TX_FULL;
    return errno == EIO || errno == EBADFD ? DROP_PORT_DOWN : DROP_PORT_TX_ERROR;
}

static void tap_tx(struct port_queue *q, struct pkt **pkts, uint32_t n, struct pkt_vec *done, struct pkt_vec *drop) {
    struct tap_queue *tq = tap_of(q);
    for (uint32_t i = 0; i < n; i++) {
        enum drop_reason why = frame_write(tq, pkts[i]);
        if (UNLIKELY(why != DROP_NONE)) {
            port_drop(q, drop, pkts[i], why);
            continue;
        }
        q->stats.tx_packets++;
        q->stats.tx_bytes += pkt_bytes(pkts[i]);
        CHECK(pkt_vec_push(done, pkts[i]));
    }
}

static void tap_reap(struct port_queue *q, struct pkt_vec *done) {
    (void)q;
    (void)done;
}

/* The fd itself stays readable while a frame waits. */
static int tap_arm(struct port_queue *q) {
    return poll_flag_pending(&tap_of(q)->readable);
}

static void tap_disarm(struct port_queue *q) {
    (void)q;
}

static int tap_attach(struct port_queue *q) {
    return poll_flag_open(&tap_of(q)->readable, tap_of(q)->fd);
}

static void tap_detach(struct port_queue *q) {
    poll_flag_close(&tap_of(q)->readable);
}

static const struct port_queue_ops tap_queue_ops = {
    .rx = tap_rx,
    .tx = tap_tx,
    .reap = tap_reap,
    .arm = tap_arm,
    .disarm = tap_disarm,
    .attach = tap_attach,
    .detach = tap_detach,
};

/* --- control --------------------------------------------------------------------------------------------------- */

static void tap_destroy(struct port *p) {
    struct tap_port *port = (struct tap_port *)p;
    for (uint32_t i = 0; i < PORT_QUEUE_MAX; i++) {
        struct tap_queue *tq = port->queue[i];
        if (tq == NULL)
            continue;
        poll_flag_close(&tq->readable);
        if (tq->fd >= 0)
            close(tq->fd);
        free(tq);
    }
    free(port);
}

/* The MAC the kernel shows is its own end's: ours stays. */
static int tap_refresh(struct port *p) {
    uint8_t mac[6];
    memcpy(mac, p->info.mac, sizeof mac);
    int error = netif_refresh(&p->info);
    memcpy(p->info.mac, mac, sizeof mac);
    return error;
}

static const struct port_ops tap_ops = {.kind = "tap", .destroy = tap_destroy, .refresh = tap_refresh};

static int device_open(const char *name, bool multi_queue, bool tun) {
    struct ifreq r = {0};
    r.ifr_flags = (short)((tun ? IFF_TUN : IFF_TAP) | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0));
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ioctl(fd, TUNSETIFF, &r) < 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

/* What the kernel may leave to us on frames it sends. */
static bool offload_set(int fd) {
    unsigned long base = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (ioctl(fd, TUNSETOFFLOAD, base | TUN_F_USO4 | TUN_F_USO6) == 0)
        return true;
    (void)ioctl(fd, TUNSETOFFLOAD, base);
    return false;
}

static int queue_create(struct tap_port *port, uint32_t index, const struct port_params *params) {
    bool multi_queue = params->queue_count > 1;
    struct tap_queue *tq = aligned_alloc(CACHE_LINE, sizeof *tq);
    if (tq == NULL)
        return -ENOMEM;
    memset(tq, 0, sizeof *tq);
    port->queue[index] = tq;
    port_queue_init(&tq->q, &tap_queue_ops, &port->port, index, &params->mem[index]->pool);
    tq->fd = device_open(params->ifname, multi_queue, false);
    if (tq->fd == -EINVAL) { /* it is there and is a TUN */
        tq->fd = device_open(params->ifname, multi_queue, true);
        port->port.info.caps |= tq->fd >= 0 ? PORT_CAP_L3 : 0;
    }
    if (tq->fd < 0)
        return tq->fd;
    tq->q.event_fd = tq->fd;
    if (!offload_set(tq->fd))
        port->port.info.caps &= (uint16_t)~PORT_CAP_TX_GSO_UDP;
    return 0;
}

static int info_fill(struct tap_port *port, const struct port_params *params) {
    struct netif n;
    int error = netif_read(params->ifname, &n);
    if (error < 0)
        return error;
    /* The MAC the kernel shows is its own end's; ours must differ on the same link. */
    netif_to_info(&n, &port->port.info);
    if (params->dedicated)
        memcpy(port->port.info.mac, params->dedicated_mac, 6);
    else
        port->port.info.mac[5] ^= 1;
    return 0;
}

int port_tap_create(const struct port_params *params, struct port **ret_port, struct port_error *err) {
    int error = port_params_check("tap", params, err);
    if (error < 0)
        return error;
    if (params->ifname == NULL || params->ifname[0] == 0 || strlen(params->ifname) >= IFNAMSIZ)
        return port_fail(err, -EINVAL, "tap port: the interface needs a name of at most %d letters", IFNAMSIZ - 1);
    struct tap_port *port = calloc(1, sizeof *port);
    if (port == NULL)
        return port_fail(err, -ENOMEM, "tap port on %s: no memory", params->ifname);
    port_init(&port->port, &tap_ops, params->ifname);
    port->port.info.caps = PORT_CAP_TX_CSUM | PORT_CAP_TX_GSO_TCP | PORT_CAP_TX_GSO_UDP | PORT_CAP_TX_FRAGS;
    port->port.info.dedicated = params->dedicated;
    port->port.queue_count = params->queue_count;
    for (uint32_t i = 0; i < params->queue_count && error == 0; i++)
        error = queue_create(port, i, params);
    if (error == 0)
        error = info_fill(port, params);
    if (error < 0) {
        port_fail(err, error, "tap port on %s: cannot open it: %s%s", params->ifname, strerror(-error),
                  error == -EPERM    ? "; it needs CAP_NET_ADMIN"
                  : error == -ENOENT ? "; this kernel has no /dev/net/tun"
                                     : "");
        tap_destroy(&port->port);
        return error;
    }
    snprintf(port->port.mode, sizeof port->port.mode, "%s, virtio-net headers",
             port->port.info.caps & PORT_CAP_L3 ? "TUN" : "TAP");
    *ret_port = &port->port;
    return 0;
}
