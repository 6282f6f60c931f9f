/* SPDX-License-Identifier: Apache-2.0
 *
 * Packet sockets (AF_PACKET). What the program sends by an interface that usherd runs goes through usherd, where rules,
 * classes and captures know whose it is. Everything else of such a socket is the kernel's own: it decides who may have
 * one, it receives, and its memberships, filters, timestamps and rings for receiving work as ever.
 *
 * A socket may send by any interface, so each that it has used is a socket of usherd's.
 */
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "clientlib/posix/posix.h"

#define LINKS   4 /* interfaces of one socket; what it sends by others goes by the kernel */
#define PIECES  64
#define WAIT_NS INT64_C(1000000) /* for credit; another thread of the program may have been told of it */

struct posix_link {
    int ifindex;
    struct usher_socket *us; /* NULL: the kernel carries it */
    uint32_t mtu;
    uint8_t mac[ETH_ALEN];
};

struct posix_frames {
    struct posix_object o;
    bool cooked; /* SOCK_DGRAM: the link header is ours to make */
    bool kernel; /* an option that usherd has not */
    int fd;      /* one of this process's */
    int error;   /* positive: what became of an earlier frame */
    uint32_t link_count;
    struct posix_link link[LINKS];
    struct posix_frames *next_free;
};

static struct posix_frames *free_frames;

/* ---- life; all under the lock ---- */

void posix_frames_track(int fd, bool cooked) {
    posix_lock();
    struct posix_frames *f = free_frames;
    if (f)
        free_frames = f->next_free;
    else
        f = calloc(1, sizeof(*f));
    posix_slot_drop(fd);
    if (f) {
        *f = (struct posix_frames){.o = {.kind = POSIX_FRAMES, .state = POSIX_FRESH}, .cooked = cooked, .fd = fd};
        posix.objects++;
        posix_slot_set(fd, &f->o);
    }
    posix_unlock();
}

static void links_close(struct posix_frames *f) {
    while (f->link_count)
        usher_close(f->link[--f->link_count].us);
}

void posix_frames_end(struct posix_object *o) {
    struct posix_frames *f = (struct posix_frames *)o;
    links_close(f);
    f->o.kind = 0;
    f->o.state = POSIX_FREE;
    posix.objects--;
    f->next_free = free_frames;
    free_frames = f;
}

void posix_frames_move(struct posix_object *o, int from, int to) {
    struct posix_frames *f = (struct posix_frames *)o;
    if (f->fd != from)
        return;
    f->fd = to;
    for (uint32_t i = 0; i < f->link_count; i++)
        if (f->link[i].us)
            f->link[i].us->fd = to;
}

void posix_frames_renew(struct posix_object *o) {
    ((struct posix_frames *)o)->link_count = 0;
}

void posix_frames_down(struct posix_object *o) {
    links_close((struct posix_frames *)o);
}

bool posix_frames_event(const struct usher_event *ev) {
    if (!ev->sock || !ev->sock->frames)
        return false;
    struct posix_frames *f = usher_user(ev->sock);
    if (f && ev->type == USHER_EV_ERROR)
        f->error = ev->error;
    return true;
}

/* ---- which way ---- */

static void report(const struct posix_frames *f, const char *name, const char *how, const char *why) {
    char line[400];
    int n = snprintf(line, sizeof(line), "usher-run: pid %d fd %d: frames on %s: carried %s%s%s\n", posix.pid, f->fd,
                     name, how, why[0] ? ": " : "", why);
    if (posix.report_fd >= 0 && n > 0)
        (void)!posix_real.write(posix.report_fd, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

static bool link_read(const struct posix_frames *f, struct posix_link *l, struct ifreq *r) {
    *r = (struct ifreq){.ifr_ifindex = l->ifindex};
    if (posix_real.ioctl(f->fd, SIOCGIFNAME, (long)(uintptr_t)r) ||
        posix_real.ioctl(f->fd, SIOCGIFMTU, (long)(uintptr_t)r))
        return false;
    l->mtu = (uint32_t)r->ifr_mtu;
    if (posix_real.ioctl(f->fd, SIOCGIFHWADDR, (long)(uintptr_t)r))
        return false;
    memcpy(l->mac, r->ifr_hwaddr.sa_data, sizeof(l->mac));
    return r->ifr_hwaddr.sa_family == ARPHRD_ETHER;
}

/* usherd's word is final for this interface until the socket is bound anew. */
static void link_open(struct posix_frames *f, struct posix_link *l, struct usher_context *ctx) {
    struct ifreq r;
    const char *why = "it is no Ethernet interface";
    if (!link_read(f, l, &r)) {
        report(f, r.ifr_name, "by the kernel", why);
        return;
    }
    if (client_socket_adopt(ctx, f->fd, AF_PACKET, SOCK_RAW, &l->us)) {
        report(f, r.ifr_name, "by the kernel", usher_strerror());
        return;
    }
    usher_set_user(l->us, f);
    l->us->ifindex = (uint32_t)l->ifindex;
    (void)client_socket_announce(l->us);
    report(f, r.ifr_name, l->us->set ? "by usherd" : "by the kernel", l->us->reason);
    if (l->us->set)
        return;
    usher_close(l->us);
    l->us = NULL;
}

static struct posix_link *link_find(struct posix_frames *f, int ifindex) {
    for (uint32_t i = 0; i < f->link_count; i++)
        if (f->link[i].ifindex == ifindex)
            return &f->link[i];
    struct usher_context *ctx = f->link_count < LINKS && posix_is_owner() ? posix_session() : NULL;
    if (!ctx)
        return NULL;
    struct posix_link *l = &f->link[f->link_count++];
    *l = (struct posix_link){.ifindex = ifindex};
    link_open(f, l, ctx);
    return l;
}

/* Where a message goes; false: only the kernel knows what to say of it. */
static bool target_read(const struct posix_frames *f, const struct msghdr *h, struct sockaddr_ll *ret_to) {
    socklen_t len = sizeof(*ret_to);
    *ret_to = (struct sockaddr_ll){0};
    if (!h->msg_name)
        return !f->cooked && posix_real.getsockname(f->fd, (struct sockaddr *)ret_to, &len) == 0;
    return h->msg_namelen >= sizeof(*ret_to) && posix_copy(ret_to, h->msg_name, sizeof(*ret_to)) &&
           (!f->cooked || ret_to->sll_halen >= ETH_ALEN);
}

/* The kernel refuses in words of its own what its own checks would not pass. */
static bool fits(const struct posix_link *l, size_t len, bool cooked) {
    return cooked ? len <= l->mtu : len >= ETH_HLEN && len <= (size_t)l->mtu + ETH_HLEN;
}

/* ---- sending ---- */

static bool frame_fill(const struct posix_frames *f, const struct posix_link *l, const struct sockaddr_ll *to,
                       struct posix_iov *v, uint8_t *at) {
    size_t len = posix_iov_left(v);
    if (f->cooked) {
        struct ether_header eth = {.ether_type = to->sll_protocol};
        memcpy(eth.ether_dhost, to->sll_addr, ETH_ALEN);
        memcpy(eth.ether_shost, l->mac, ETH_ALEN);
        memcpy(at, &eth, sizeof(eth));
        at += sizeof(eth);
    }
    return posix_iov_get(v, at, len);
}

/* 0 = sent, -EAGAIN = no room now, or another errno. */
static int frame_try(struct posix_frames *f, const struct posix_link *l, const struct sockaddr_ll *to,
                     struct posix_iov v) {
    struct usher_context *ctx = l->us->ctx;
    struct usher_msg m = {.sock = l->us, .len = (uint32_t)posix_iov_left(&v) + (f->cooked ? ETH_HLEN : 0)};
    int err = usher_tx_alloc(ctx, m.len, &m.buf);
    if (err)
        return err == -ENOBUFS ? -EAGAIN : err;
    err = frame_fill(f, l, to, &v, m.buf.data) ? usher_send(ctx, &m, 1) : -EFAULT;
    if (err == 1)
        return 0;
    usher_tx_free(ctx, &m.buf);
    return err;
}

static void wait_a_little(void) {
    struct pollfd fds[POSIX_WAIT_EXTRA];
    struct posix_wanted want = {.fds = fds};
    struct posix_wait w;
    posix_wait_begin(&w, WAIT_NS);
    w.spun = true;
    (void)posix_wait_block(&w, &want);
    posix_wait_end(&w, false);
}

/* With ENOBUFS, as the kernel says it of a full queue: its own poll() knows nothing of ours. */
static int frame_send(struct posix_frames *f, int fd, const struct sockaddr_ll *to, struct posix_iov v, bool wait) {
    for (;;) {
        const struct posix_link *l = posix_object(fd) == &f->o ? link_find(f, to->sll_ifindex) : NULL;
        if (!l || !l->us || f->kernel || !fits(l, posix_iov_left(&v), f->cooked))
            return -CLIENT_BY_KERNEL;
        if (f->error) {
            int err = -f->error;
            f->error = 0;
            return err;
        }
        int err = frame_try(f, l, to, v);
        if (err != -EAGAIN)
            return err;
        if (!wait)
            return -ENOBUFS;
        if (!posix_pump(false))
            wait_a_little();
    }
}

bool posix_frames_sendmsg(int fd, const struct msghdr *h, int flags, ssize_t *ret_n) {
    struct iovec iov[PIECES];
    struct posix_iov v;
    struct sockaddr_ll to;
    posix_lock();
    struct posix_frames *f = (struct posix_frames *)posix_object(fd);
    bool ours = f && f->o.kind == POSIX_FRAMES && !posix.confined && h->msg_controllen == 0 &&
                h->msg_iovlen <= PIECES && !(flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL)) && target_read(f, h, &to) &&
                posix_iov_init(&v, iov, PIECES, h->msg_iov, h->msg_iovlen) == 0;
    int err = -CLIENT_BY_KERNEL;
    size_t len = ours ? posix_iov_left(&v) : 0;
    if (ours) {
        bool wait = !(flags & MSG_DONTWAIT) && !(posix_real.fcntl64(f->fd, F_GETFL, 0) & O_NONBLOCK);
        (void)posix_pump(false);
        err = frame_send(f, fd, &to, v, wait);
    }
    posix_unlock();
    if (err == -CLIENT_BY_KERNEL)
        return false;
    *ret_n = err ? posix_errno(err) : (ssize_t)len;
    return true;
}

/* ---- options, names ---- */

void posix_frames_bound(int fd) {
    posix_lock();
    struct posix_frames *f = (struct posix_frames *)posix_object(fd);
    if (f && f->o.kind == POSIX_FRAMES)
        links_close(f); /* what usherd says of the new interface may be another word */
    posix_unlock();
}

void posix_frames_option(int fd, int level, int name) {
    bool sends = level == SOL_PACKET
                     ? name == PACKET_TX_RING || name == PACKET_VNET_HDR || name == PACKET_TX_HAS_OFF ||
                           name == PACKET_QDISC_BYPASS || name == PACKET_TX_TIMESTAMP
                     : level == SOL_SOCKET && (name == SO_MARK || name == SO_PRIORITY || name == SO_TXTIME);
    posix_lock();
    struct posix_frames *f = (struct posix_frames *)posix_object(fd);
    if (sends && f && f->o.kind == POSIX_FRAMES && !f->kernel) {
        f->kernel = true;
        links_close(f);
        report(f, "any interface", "by the kernel", "an option about sending that usherd has not");
    }
    posix_unlock();
}
