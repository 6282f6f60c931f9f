/* SPDX-License-Identifier: Apache-2.0
 *
 * The `packet` port: one AF_PACKET socket per queue with virtio-net headers, so that 64 KB GSO frames cross in one go.
 *
 * Receive: the kernel puts each frame into a slot of a mapped ring, so an idle look is one load and a small frame costs
 * a copy of its bytes but no system call. A frame larger than a slot (GSO, jumbo) waits in the socket instead, in the
 * same order, and is read by one recv() straight into the packet. Measured on veth, 64 B frames in bursts of 32, the
 * receiving core spends 11 ns a frame this way, 510 with a multishot io_uring receive and 520 with recvmmsg(); sender
 * and receiver together 1.64 us, 1.94 and 1.76. 62 KB frames cost 2.7 us each way of receiving.
 *
 * Send: one sendmmsg() per burst straight from head and frags. It copies, so packets are done when tx returns and reap
 * has nothing to do. (io_uring sends cost 10 % more a frame.)
 *
 * Copies of 64 KB, and their share of a busy core in tcp-bulk-gso and tcp-bulk: send, one (32 %, 17 %). Receive, as
 * one frame: one here (recv, 18 %), one by the session (25 %). As 45 frames: one by the soft interrupt into the ring
 * (11 %), one here (6 %), one by the session (6 %).
 *
 * In shared mode a BPF filter lets only claimed packets in, and the claim program on the ingress hook keeps the kernel
 * from seeing them (the socket's tap comes before that hook). No PACKET_QDISC_BYPASS: it refuses GSO frames on
 * interfaces without TSO, and skips the host's egress hooks.
 *
 * Threads: create, destroy and refresh on control; the rest on the worker that is attached. Nothing here is bound to a
 * thread, so attach and detach do nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/if_packet.h>

#include "dataplane/port/netif.h"
#include "dataplane/port/port_internal.h"
#include "dataplane/port/vnet.h"
#include "nicbackend/claims.h"

/* At 9 Gbit/s of full frames the ring holds 2.7 ms: as long as the kernel's soft interrupts may keep the worker from
 * its core. With 512 slots a stream lost a frame in a hundred, and a quarter of its rate. */
#define PACKET_ENTRIES_DEFAULT 2048u
#define SLOT_SIZE_MIN          2048u
#define SLOT_HEADER_MAX        128u /* tpacket2_hdr, sockaddr_ll, virtio-net header, padding */
#define EMPTY_WAKES_MAX        16u
#define SOCKET_BUFFER          (16 << 20)
#define IOV_MAX_PER_FRAME      (2 + PKT_FRAG_MAX)
#define LARGE_FRAME_MAX        65600u /* 64 KB of IP and its link header */

#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING /* not in the headers of kernel 6.1, which knows it */
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000
#endif

struct packet_queue {
    struct port_queue q;
    struct pkt_pool *large; /* for frames that do not fit q.rx_pool */
    uint8_t *ring;          /* slots; the kernel fills them in turn and stops at one that is not free */
    uint32_t slot_size, slot_count;
    uint32_t slot; /* next to look at */
    uint32_t empty_wakes;
    int fd;
    uint64_t kernel_dropped; /* control's: the kernel forgets its count when it has told it */
    struct mmsghdr msg[PKT_BURST];
    struct iovec iov[PKT_BURST][IOV_MAX_PER_FRAME];
    struct virtio_net_hdr vnet[PKT_BURST];
    union {
        struct cmsghdr head;
        uint8_t room[CMSG_SPACE(sizeof(uint32_t))];
    } mark[PKT_BURST];
};

struct packet_port {
    struct port port;
    struct nb_attach *attach; /* NULL: every packet is ours */
    struct packet_queue *queue[PORT_QUEUE_MAX];
};

static struct packet_queue *packet_of(struct port_queue *q) {
    return (struct packet_queue *)q;
}

/* --- receive --------------------------------------------------------------------------------------------------- */

static struct tpacket2_hdr *slot_at(const struct packet_queue *pq, uint32_t slot) {
    return (struct tpacket2_hdr *)(void *)(pq->ring + (size_t)slot * pq->slot_size);
}

static uint32_t slot_after(const struct packet_queue *pq, uint32_t slot) {
    return slot + 1 == pq->slot_count ? 0 : slot + 1;
}

/* Acquires the slot's bytes, which the kernel wrote before its status. */
static uint32_t slot_status(const struct tpacket2_hdr *h) {
    return __atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE);
}

/* The kernel took the tag out of the frame; ours carry it inside. The headroom is there. */
static void tag_restore(struct pkt *p, const struct tpacket2_hdr *h) {
    if ((h->tp_vlan_tci & 0xfff) == 0)
        return; /* a priority tag is no VLAN */
    uint16_t tpid = h->tp_status & TP_STATUS_VLAN_TPID_VALID ? h->tp_vlan_tpid : ETHERTYPE_VLAN;
    pkt_push(p, VLAN_LEN);
    memmove(p->data, p->data + VLAN_LEN, 12);
    be16_store(p->data + 12, tpid);
    be16_store(p->data + 14, h->tp_vlan_tci);
}

/* Ordinary frames go into small buffers, which lie close together and of which there are many. */
static struct pkt *buffer_for(const struct packet_queue *pq, const struct tpacket2_hdr *h) {
    struct pkt_pool *small = pq->q.rx_pool;
    return pkt_alloc(LIKELY(h->tp_len + PKT_HEADROOM <= small->buf_size) ? small : pq->large);
}

/* Puts the virtio-net header and the frame of a slot where p->data begins. False: it does not fit or make sense. */
static bool slot_read(struct packet_queue *pq, const struct tpacket2_hdr *h, uint32_t status, struct pkt *p) {
    uint32_t room = p->pool->buf_size - PKT_HEADROOM; /* p->buf_size is on a line of its own */
    struct virtio_net_hdr vnet;
    if (LIKELY(h->tp_snaplen == h->tp_len && h->tp_len <= room)) {
        const uint8_t *frame = (const uint8_t *)h + h->tp_mac;
        memcpy(&vnet, frame - VNET_LEN, VNET_LEN);
        memcpy(p->data, frame, h->tp_len);
        p->len = h->tp_len;
    } else if (status & TP_STATUS_COPY) {
        ssize_t bytes = recv(pq->fd, p->data - VNET_LEN, VNET_LEN + room, MSG_DONTWAIT | MSG_TRUNC);
        if (bytes < (ssize_t)VNET_LEN || bytes > (ssize_t)(VNET_LEN + room))
            return false;
        memcpy(&vnet, p->data - VNET_LEN, VNET_LEN);
        p->len = (uint32_t)bytes - VNET_LEN;
    } else {
        return false; /* the socket's queue was full too */
    }
    if (UNLIKELY(!vnet_read(p, &vnet)))
        return false;
    if (UNLIKELY(status & TP_STATUS_VLAN_VALID))
        tag_restore(p, h);
    return true;
}

/* Large buffers are few, and bytes that wait for slow readers may hold them all. Small frames, which carry everybody's
 * acknowledgements and requests, must not stand behind a frame that waits for one: it is dropped, and sent again. */
static void slot_drop(struct packet_queue *pq, const struct tpacket2_hdr *h, uint32_t status) {
    char byte;
    if ((status & TP_STATUS_COPY) && h->tp_snaplen < h->tp_len)
        (void)recv(pq->fd, &byte, sizeof byte, MSG_DONTWAIT | MSG_TRUNC);
    pq->q.stats.rx_dropped++;
}

/* Lines touched per small frame: one of the slot's header, the frame's own (twice), line 0 of struct pkt. */
static uint32_t packet_rx(struct port_queue *q, struct pkt **ret_pkts, uint32_t max) {
    struct packet_queue *pq = packet_of(q);
    uint32_t n = 0;
    while (n < max) {
        struct tpacket2_hdr *h = slot_at(pq, pq->slot);
        uint32_t status = slot_status(h);
        if (!(status & TP_STATUS_USER))
            break;
        struct pkt *p = buffer_for(pq, h);
        if (UNLIKELY(p == NULL) && pq->q.rx_pool->free_count == 0)
            break; /* frames wait in the ring */
        pq->slot = slot_after(pq, pq->slot);
        const uint8_t *next = (const uint8_t *)slot_at(pq, pq->slot);
        __builtin_prefetch(next);
        __builtin_prefetch(next + CACHE_LINE);
        if (UNLIKELY(p == NULL)) {
            slot_drop(pq, h, status);
        } else if (LIKELY(slot_read(pq, h, status, p))) {
            q->stats.rx_bytes += p->len;
            ret_pkts[n++] = p;
        } else {
            q->stats.rx_dropped++;
            pkt_free(p->pool, p);
        }
        /* Releases the slot: the kernel may write after our last read. */
        __atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    }
    q->stats.rx_packets += n;
    return n;
}

/* --- send ------------------------------------------------------------------------------------------------------ */

static void message_fill(struct packet_queue *pq, uint32_t i, const struct pkt *p) {
    struct iovec *iov = pq->iov[i];
    vnet_write(&pq->vnet[i], p);
    iov[1] = (struct iovec){.iov_base = p->data, .iov_len = p->len};
    for (uint32_t k = 0; k < p->frag_count; k++)
        iov[2 + k] = (struct iovec){.iov_base = (void *)(uintptr_t)p->frag[k].base, .iov_len = p->frag[k].len};
    pq->msg[i].msg_hdr.msg_iovlen = 2u + p->frag_count;
    bool marked = UNLIKELY(p->class_id & PKT_MARKED);
    pq->msg[i].msg_hdr.msg_control = marked ? &pq->mark[i] : NULL;
    pq->msg[i].msg_hdr.msg_controllen = marked ? sizeof pq->mark[i] : 0;
    if (marked)
        memcpy(CMSG_DATA(&pq->mark[i].head), &p->mark, sizeof p->mark);
}

static enum drop_reason drop_reason_of(int error) {
    switch (error) {
    case EAGAIN:
    case ENOBUFS:
        return DROP_PORT_TX_FULL;
    case ENETDOWN:
    case ENXIO:
    case ENODEV:
        return DROP_PORT_DOWN;
    default:
        return DROP_PORT_TX_ERROR;
    }
}

/* Sends pkts[0..n), n <= PKT_BURST: one system call, and one more for each frame the kernel refuses. */
static void burst_send(struct packet_queue *pq, struct pkt **pkts, uint32_t n, struct pkt_vec *done,
                       struct pkt_vec *drop) {
    for (uint32_t i = 0; i < n; i++)
        message_fill(pq, i, pkts[i]);
    for (uint32_t at = 0; at < n;) {
        int sent = sendmmsg(pq->fd, &pq->msg[at], n - at, MSG_DONTWAIT);
        pq->q.stats.kicks++;
        for (int i = 0; i < sent; i++, at++) {
            pq->q.stats.tx_packets++;
            pq->q.stats.tx_bytes += pkt_bytes(pkts[at]);
            CHECK(pkt_vec_push(done, pkts[at]));
        }
        if (sent > 0 || (sent < 0 && errno == EINTR))
            continue;
        enum drop_reason why = drop_reason_of(errno);
        uint32_t lost = errno == EAGAIN ? n - at : 1; /* EAGAIN: the socket's send buffer is full, so for all of them */
        while (lost-- > 0)
            port_drop(&pq->q, drop, pkts[at++], why);
    }
}

static void packet_tx(struct port_queue *q, struct pkt **pkts, uint32_t n, struct pkt_vec *done, struct pkt_vec *drop) {
    for (uint32_t at = 0; at < n; at += PKT_BURST)
        burst_send(packet_of(q), pkts + at, n - at < PKT_BURST ? n - at : PKT_BURST, done, drop);
}

static void packet_reap(struct port_queue *q, struct pkt_vec *done) {
    (void)q;
    (void)done;
}

/* --- sleep and move -------------------------------------------------------------------------------------------- */

/* The socket is readable while the newest slot is ours, so a frame that comes after this look wakes the worker. */
static int packet_arm(struct port_queue *q) {
    const struct packet_queue *pq = packet_of(q);
    return (slot_status(slot_at(pq, pq->slot)) & TP_STATUS_USER) != 0;
}

/* An error on the socket (the interface went down) keeps it readable without a frame; reading it away ends that. Other
 * sources wake the worker too, so only every 16th empty wake-up pays the system call. */
static void packet_disarm(struct port_queue *q) {
    struct packet_queue *pq = packet_of(q);
    if (packet_arm(q)) {
        pq->empty_wakes = 0;
        return;
    }
    if (++pq->empty_wakes < EMPTY_WAKES_MAX)
        return;
    pq->empty_wakes = 0;
    int error = 0;
    socklen_t size = sizeof error;
    (void)getsockopt(pq->fd, SOL_SOCKET, SO_ERROR, &error, &size);
}

static int packet_attach(struct port_queue *q) {
    (void)q;
    return 0;
}

static void packet_detach(struct port_queue *q) {
    (void)q;
}

static const struct port_queue_ops packet_queue_ops = {
    .rx = packet_rx,
    .tx = packet_tx,
    .reap = packet_reap,
    .arm = packet_arm,
    .disarm = packet_disarm,
    .attach = packet_attach,
    .detach = packet_detach,
};

/* --- control --------------------------------------------------------------------------------------------------- */

static size_t ring_bytes(const struct packet_queue *pq) {
    return (size_t)pq->slot_size * pq->slot_count;
}

static void queue_destroy(struct packet_queue *pq) {
    if (pq == NULL)
        return;
    if (pq->ring != NULL)
        munmap(pq->ring, ring_bytes(pq));
    if (pq->fd >= 0)
        close(pq->fd);
    free(pq);
}

static void packet_destroy(struct port *p) {
    struct packet_port *port = (struct packet_port *)p;
    for (uint32_t i = 0; i < PORT_QUEUE_MAX; i++)
        queue_destroy(port->queue[i]);
    nb_attach_destroy(port->attach);
    free(port);
}

static int packet_refresh(struct port *p) {
    return netif_refresh(&p->info);
}

static void packet_kernel_stats(struct port_queue *q, struct port_stats *stats) {
    struct packet_queue *pq = packet_of(q);
    struct tpacket_stats k = {0};
    socklen_t size = sizeof k;
    if (getsockopt(pq->fd, SOL_PACKET, PACKET_STATISTICS, &k, &size) == 0)
        pq->kernel_dropped += k.tp_drops;
    stats->rx_kernel_dropped += pq->kernel_dropped;
}

static const struct port_ops packet_ops = {
    .kind = "packet", .destroy = packet_destroy, .refresh = packet_refresh, .kernel_stats = packet_kernel_stats};

static int filter_set(int fd, struct sock_filter *code, size_t count) {
    struct sock_fprog prog = {.len = (unsigned short)count, .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog) < 0 ? -errno : 0;
}

/* Nothing may come in before the queue's real filter stands and its fanout group is complete. */
static int filter_nothing(int fd) {
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    return filter_set(fd, code, ARRAY_LEN(code));
}

static int filter_everything(int fd) {
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, UINT32_MAX)};
    return filter_set(fd, code, ARRAY_LEN(code));
}

/* A socket pays for its filter out of net.core.optmem_max, which was 20 KB before Linux 6.7 and has been 128 KB since:
 * older kernels are brought to that. False: it is no less, or not ours to set. */
static bool filter_room_make(void) {
    static const char enough[] = "131072";
    char now[16] = "";
    int fd = open("/proc/sys/net/core/optmem_max", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool made = read(fd, now, sizeof now - 1) > 0 && strtol(now, NULL, 10) < strtol(enough, NULL, 10) &&
                pwrite(fd, enough, sizeof enough - 1, 0) > 0;
    close(fd);
    return made;
}

static int filter_claims(int fd, struct nb_attach *attach) {
    int prog_fd;
    int error = nb_attach_socket_filter(attach, &prog_fd);
    if (error < 0)
        return error;
    error = setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &prog_fd, sizeof prog_fd) < 0 ? -errno : 0;
    if (error == -ENOMEM && filter_room_make())
        error = setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &prog_fd, sizeof prog_fd) < 0 ? -errno : 0;
    close(prog_fd);
    return error;
}

static int option_set(int fd, int level, int option, int value) {
    return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

static int membership_add(int fd, uint32_t ifindex, uint16_t type, const uint8_t *mac) {
    struct packet_mreq m = {.mr_ifindex = (int)ifindex, .mr_type = type, .mr_alen = ETH_ALEN};
    memcpy(m.mr_address, mac, ETH_ALEN);
    return setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m) < 0 ? -errno : 0;
}

/* A second MAC address on the interface, and the multicast groups that neighbour discovery needs. */
static int dedicated_enter(int fd, const struct port_info *info) {
    int error = membership_add(fd, info->ifindex, PACKET_MR_UNICAST, info->mac);
    return error < 0 ? error : membership_add(fd, info->ifindex, PACKET_MR_ALLMULTI, info->mac);
}

static int socket_options(int fd, const struct port_info *info) {
    static const struct {
        int level, option, value;
    } options[] = {
        {SOL_PACKET, PACKET_VNET_HDR, 1},
        {SOL_PACKET, PACKET_IGNORE_OUTGOING, 1},
        {SOL_PACKET, PACKET_VERSION, TPACKET_V2},
        {SOL_PACKET, PACKET_COPY_THRESH, 1}, /* what does not fit a slot waits in the socket */
        {SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER},
        {SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER},
    };
    int error = filter_nothing(fd);
    for (size_t i = 0; i < ARRAY_LEN(options) && error == 0; i++)
        error = option_set(fd, options[i].level, options[i].option, options[i].value);
    return error == 0 && info->dedicated ? dedicated_enter(fd, info) : error;
}

/* Slots hold an ordinary frame of the interface; page-sized blocks of 2 KiB slots waste nothing. */
static int ring_open(struct packet_queue *pq, uint32_t mtu, uint32_t entries) {
    uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE), need = mtu + ETH_LEN + VLAN_LEN + SLOT_HEADER_MAX;
    pq->slot_size = need <= SLOT_SIZE_MIN ? SLOT_SIZE_MIN : page; /* larger frames take the other way */
    pq->slot_count = entries < page / SLOT_SIZE_MIN ? page / SLOT_SIZE_MIN : entries;
    struct tpacket_req req = {
        .tp_block_size = page,
        .tp_block_nr = (uint32_t)(ring_bytes(pq) / page),
        .tp_frame_size = pq->slot_size,
        .tp_frame_nr = pq->slot_count,
    };
    if (setsockopt(pq->fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof req) < 0)
        return -errno;
    void *ring = mmap(NULL, ring_bytes(pq), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, pq->fd, 0);
    if (ring == MAP_FAILED)
        return -errno;
    pq->ring = ring;
    return 0;
}

static int socket_open(struct packet_queue *pq, const struct port_info *info, uint32_t entries) {
    pq->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (pq->fd < 0)
        return -errno;
    int error = socket_options(pq->fd, info);
    if (error == 0)
        error = ring_open(pq, info->mtu, entries);
    struct sockaddr_ll addr = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)info->ifindex};
    if (error == 0 && bind(pq->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
        error = -errno;
    return error;
}

/* The kernel spreads flows over the sockets by hash. `group`: 0 makes a new one and names it. */
static int fanout_join(int fd, int *group) {
    int flags = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    flags |= *group == 0 ? PACKET_FANOUT_FLAG_UNIQUEID : 0;
    int error = option_set(fd, SOL_PACKET, PACKET_FANOUT, flags << 16 | *group);
    socklen_t size = sizeof *group;
    if (error == 0 && getsockopt(fd, SOL_PACKET, PACKET_FANOUT, group, &size) < 0)
        error = -errno;
    *group &= 0xffff;
    return error;
}

static int queue_create(struct packet_port *port, uint32_t index, const struct port_params *params) {
    struct pkt_pool *pool = &params->mem[index]->pool;
    uint32_t entries = params->ring_entries == 0 ? PACKET_ENTRIES_DEFAULT : params->ring_entries;
    struct packet_queue *pq = aligned_alloc(CACHE_LINE, sizeof *pq);
    if (pq == NULL)
        return -ENOMEM;
    memset(pq, 0, sizeof *pq);
    pq->fd = -1;
    pq->large = params->large_mem[index] != NULL ? &params->large_mem[index]->pool : pool;
    port->queue[index] = pq;
    port_queue_init(&pq->q, &packet_queue_ops, &port->port, index, pool);
    for (uint32_t i = 0; i < PKT_BURST; i++) {
        pq->iov[i][0] = (struct iovec){.iov_base = &pq->vnet[i], .iov_len = VNET_LEN};
        pq->msg[i].msg_hdr.msg_iov = pq->iov[i];
        pq->mark[i].head =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(uint32_t)), .cmsg_level = SOL_SOCKET, .cmsg_type = SO_MARK};
    }
    int error = socket_open(pq, &port->port.info, entries);
    pq->q.event_fd = pq->fd;
    pq->q.event_level = true;
    return error;
}

static int queues_create(struct packet_port *port, const struct port_params *params) {
    int error = 0, group = 0;
    port->port.queue_count = params->queue_count;
    for (uint32_t i = 0; i < params->queue_count && error == 0; i++)
        error = queue_create(port, i, params);
    for (uint32_t i = 0; i < params->queue_count && error == 0 && params->queue_count > 1; i++)
        error = fanout_join(port->queue[i]->fd, &group);
    for (uint32_t i = 0; i < params->queue_count && error == 0; i++)
        error = port->attach != NULL ? filter_claims(port->queue[i]->fd, port->attach)
                                     : filter_everything(port->queue[i]->fd);
    return error;
}

/* virtio-net headers carry UDP segmentation since Linux 6.2; older kernels refuse such frames. */
static bool kernel_has_udp_gso(void) {
    struct utsname u;
    unsigned major = 0, minor = 0;
    if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2)
        return false;
    return major > 6 || (major == 6 && minor >= 2);
}

static int claims_attach(struct packet_port *port, const struct port_params *params, struct port_error *err) {
    struct port_info *info = &port->port.info;
    port->attach = nb_attach_find(params->claims, info->ifindex, NB_HOOK_TC);
    if (port->attach != NULL)
        return 0; /* a predecessor's */
    struct nb_attach_params ap = {.ifindex = info->ifindex, .hook = NB_HOOK_TC, .dedicated = params->dedicated};
    memcpy(ap.dedicated_mac, params->dedicated_mac, 6);
    struct nb_error reason;
    int error = nb_attach_create(params->claims, &ap, &port->attach, &reason);
    return error < 0 ? port_fail(err, error, "packet port on %s: %s", params->ifname, reason.text) : 0;
}

static int info_fill(struct packet_port *port, const struct port_params *params, struct port_error *err) {
    struct netif n;
    int error = netif_read(params->ifname, &n);
    if (error < 0)
        return port_fail(err, error, "packet port on %s: no such interface in this network namespace (%s)",
                         params->ifname, strerror(-error));
    if (n.link_type != ARPHRD_ETHER && n.link_type != ARPHRD_LOOPBACK && n.link_type != ARPHRD_NONE)
        return port_fail(err, -EOPNOTSUPP, "packet port on %s: link type %u is not Ethernet", n.name, n.link_type);
    struct port_info *info = &port->port.info;
    info->dedicated = params->dedicated;
    if (params->dedicated)
        memcpy(info->mac, params->dedicated_mac, 6);
    netif_to_info(&n, info);
    info->caps = PORT_CAP_TX_CSUM | PORT_CAP_TX_GSO_TCP | PORT_CAP_TX_FRAGS;
    info->caps |= kernel_has_udp_gso() ? PORT_CAP_TX_GSO_UDP : 0;
    info->caps |= n.link_type == ARPHRD_NONE ? PORT_CAP_L3 : 0;
    return 0;
}

static void mode_describe(struct packet_port *port) {
    bool large = port->queue[0]->large->buf_size >= PKT_HEADROOM + LARGE_FRAME_MAX;
    snprintf(port->port.mode, sizeof port->port.mode, "mapped ring, %s frames, %s", large ? "64 KB" : "small",
             port->attach == NULL ? "takes every packet" : nb_attach_mode(port->attach));
}

int port_packet_create(const struct port_params *params, struct port **ret_port, struct port_error *err) {
    int error = port_params_check("packet", params, err);
    if (error < 0)
        return error;
    struct packet_port *port = calloc(1, sizeof *port);
    if (port == NULL)
        return port_fail(err, -ENOMEM, "packet port on %s: no memory", params->ifname);
    port_init(&port->port, &packet_ops, params->ifname);
    error = info_fill(port, params, err);
    if (error == 0 && params->claims != NULL)
        error = claims_attach(port, params, err);
    if (error == 0 && (error = queues_create(port, params)) < 0)
        port_fail(err, error, "packet port on %s: cannot open its sockets: %s%s", params->ifname, strerror(-error),
                  error == -EPERM ? "; it needs CAP_NET_RAW and CAP_NET_ADMIN" : "");
    if (error < 0) {
        packet_destroy(&port->port);
        return error;
    }
    mode_describe(port);
    *ret_port = &port->port;
    return 0;
}
