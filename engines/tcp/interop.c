/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine against the kernel's TCP, over a tun device in a network namespace of its own: both roles, both address
 * families, several MTUs, with window scale, timestamps, SACK and ECN switched on and off, with loss, bulk both ways
 * with every byte verified, half close, resets, many short connections. Real time, bounded; needs root, else it says
 * SKIPPED and ends with 77. Not a unit test: ctest label e2e.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "engines/tcp/testlink_internal.h"
#include "engines/wire.h"

#define PORT     8080
#define DEADLINE (20 * NS_PER_SEC)
#define PACKET   10000u

struct variant {
    const char *name;
    bool v6, timestamps, sack, wscale, ecn, kernel_connects;
    uint16_t mtu;
    uint32_t drop_ppm;
    uint32_t up, down; /* bytes from the client, from the server */
};

static const struct variant variants[] = {
    {"plain, engine connects", 0, 1, 1, 1, 0, 0, 1500, 0, 8 << 20, 8 << 20},
    {"plain, kernel connects", 0, 1, 1, 1, 0, 1, 1500, 0, 8 << 20, 8 << 20},
    {"IPv6, engine connects", 1, 1, 1, 1, 0, 0, 1500, 0, 4 << 20, 4 << 20},
    {"IPv6, kernel connects, MTU 1280", 1, 1, 1, 1, 0, 1, 1280, 0, 4 << 20, 4 << 20},
    {"MTU 9000", 0, 1, 1, 1, 0, 1, 9000, 0, 8 << 20, 8 << 20},
    {"no timestamps", 0, 0, 1, 1, 0, 0, 1500, 0, 2 << 20, 2 << 20},
    {"no SACK", 0, 1, 0, 1, 0, 1, 1500, 2000, 2 << 20, 2 << 20},
    {"no window scale", 0, 1, 1, 0, 0, 0, 1500, 0, 2 << 20, 2 << 20},
    {"nothing agreed", 0, 0, 0, 0, 0, 1, 1500, 1000, 1 << 20, 1 << 20},
    {"ECN", 0, 1, 1, 1, 1, 0, 1500, 0, 2 << 20, 2 << 20},
    {"loss 1 %, engine connects", 0, 1, 1, 1, 0, 0, 1500, 10000, 2 << 20, 2 << 20},
    {"loss 1 %, kernel connects", 0, 1, 1, 1, 0, 1, 1500, 10000, 2 << 20, 2 << 20},
};

struct rig {
    struct link *l;
    int tun, sock, listener;
    uint32_t drop_ppm;
    uint64_t rng;
    bool v6;
};

static void fail(const char *what, const char *which) {
    fprintf(stderr, "tcp-interop: %s: %s: %s\n", which, what, strerror(errno));
    exit(1);
}

static ns_t clock_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (ns_t)ts.tv_sec * NS_PER_SEC + (ns_t)ts.tv_nsec;
}

static bool lost(struct rig *r) {
    r->rng = r->rng * 6364136223846793005ull + 1442695040888963407ull;
    return r->drop_ppm != 0 && (r->rng >> 33) % 1000000 < r->drop_ppm;
}

static void setting(const char *path, const char *value) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        fail("cannot be set; is the kernel built with it?", path);
    close(fd);
}

/* ---- the wire ---- */

/* What the engine sends becomes an IP packet on the tun device. */
static bool to_kernel(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    struct rig *r = arg;
    uint8_t out[PACKET] = {0};
    uint32_t head = l->v6 ? IP6_LEN : IP4_LEN, len = pkt_bytes(p);
    if (from != 0 || lost(r))
        return false;
    memcpy(out + head, p->data, p->len);
    uint32_t at = head + p->len;
    for (uint32_t i = 0; i < p->frag_count; at += p->frag[i++].len)
        memcpy(out + at, p->frag[i].base, p->frag[i].len);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(csum_pseudo(&p->flow, len), out + head, len));
    memcpy(out + head + 16, &sum, 2);
    if (l->v6) {
        be32_store(out, 6u << 28 | (uint32_t)p->tos << 20);
        be16_store(out + 4, (uint16_t)len);
        out[6] = PROTO_TCP;
        out[7] = 64;
        memcpy(out + 8, p->flow.local.b, 16);
        memcpy(out + 24, p->flow.remote.b, 16);
    } else {
        out[0] = 0x45;
        out[1] = p->tos;
        be16_store(out + 2, (uint16_t)(len + head));
        be16_store(out + 6, 0x4000);
        out[8] = 64;
        out[9] = PROTO_TCP;
        memcpy(out + 12, &p->flow.local.w[3], 4);
        memcpy(out + 16, &p->flow.remote.w[3], 4);
        sum = (uint16_t)~csum_fold(csum_add(0, out, head));
        memcpy(out + 10, &sum, 2);
    }
    if (write(r->tun, out, head + len) < 0 && errno != EAGAIN && errno != ENOBUFS)
        fail("the tun device does not take a packet", "write");
    return false;
}

static void from_kernel(struct rig *r) {
    uint8_t in[PACKET];
    ssize_t n;
    while ((n = read(r->tun, in, sizeof in)) > 0) {
        bool v6 = in[0] >> 4 == 6;
        uint32_t head = v6 ? IP6_LEN : (in[0] & 15) * 4u;
        if ((v6 ? in[6] : in[9]) != PROTO_TCP || v6 != r->v6 || lost(r))
            continue;
        struct pkt meta = {.tos = (uint8_t)(v6 ? be16_load(in) >> 4 : in[1])};
        meta.flow.local = v6 ? ipaddr_from_v6(in + 8) : ipaddr_from_v4(in + 12);
        meta.flow.remote = v6 ? ipaddr_from_v6(in + 24) : ipaddr_from_v4(in + 16);
        struct pkt *p = link_arrive(r->l, 0, &meta, in + head, (uint32_t)n - head);
        if (p == NULL)
            continue;
        if ((meta.tos & 3) == 3)
            p->flags |= PKT_ECN_CE;
        link_enqueue(r->l, 0, p, r->l->now);
    }
}

static void turn(struct rig *r) {
    r->l->now = clock_ns();
    from_kernel(r);
    link_step_time(r->l, r->l->now);
}

/* ---- set up ---- */

/* An address may be looked for on the wire for a while before it can be used. */
static void address_ready(void) {
    struct sockaddr_in6 a = {.sin6_family = AF_INET6};
    int s = socket(AF_INET6, SOCK_DGRAM, 0);
    ns_t start = clock_ns();
    inet_pton(AF_INET6, "fd00::2", &a.sin6_addr);
    while (bind(s, (struct sockaddr *)&a, sizeof a) < 0)
        if (clock_ns() - start > 5 * NS_PER_SEC)
            fail("the IPv6 address does not become ready", "tun0");
    close(s);
}

static void device_up(struct rig *r, uint16_t mtu) {
    struct ifreq ifr = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000002)};
    struct {
        struct in6_addr addr;
        uint32_t prefix;
        int ifindex;
    } six = {.prefix = 64};
    int s = socket(AF_INET, SOCK_DGRAM, 0), s6 = socket(AF_INET6, SOCK_DGRAM, 0);
    strncpy(ifr.ifr_name, "tun0", IFNAMSIZ - 1);
    r->tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (r->tun < 0 || ioctl(r->tun, TUNSETIFF, &ifr) < 0) {
        printf("SKIPPED: no tun device: %s\n", strerror(errno));
        exit(77);
    }
    setting("/proc/sys/net/ipv6/conf/tun0/accept_dad", "0");
    ifr.ifr_mtu = mtu;
    if (ioctl(s, SIOCSIFMTU, &ifr) < 0)
        fail("cannot set the MTU", "tun0");
    memcpy(&ifr.ifr_addr, &sin, sizeof sin);
    if (ioctl(s, SIOCSIFADDR, &ifr) < 0)
        fail("cannot set the address", "tun0");
    sin.sin_addr.s_addr = htonl(0xffffff00);
    memcpy(&ifr.ifr_netmask, &sin, sizeof sin);
    (void)ioctl(s, SIOCSIFNETMASK, &ifr);
    ifr.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0)
        fail("cannot be brought up", "tun0");
    setting("/proc/sys/net/ipv6/conf/tun0/disable_ipv6", "0");
    inet_pton(AF_INET6, "fd00::2", &six.addr);
    six.ifindex = (int)if_nametoindex("tun0");
    if (ioctl(s6, SIOCSIFADDR, &six) < 0)
        fail("cannot set the IPv6 address", "tun0");
    close(s);
    close(s6);
    address_ready();
}

static void kernel_settings(const struct variant *v) {
    setting("/proc/sys/net/ipv4/tcp_timestamps", v->timestamps ? "1" : "0");
    setting("/proc/sys/net/ipv4/tcp_sack", v->sack ? "1" : "0");
    setting("/proc/sys/net/ipv4/tcp_window_scaling", v->wscale ? "1" : "0");
    setting("/proc/sys/net/ipv4/tcp_ecn", v->ecn ? "1" : "0");
}

static void rig_open(struct rig *r, const struct variant *v) {
    struct tcp_config cfg = {.flags = v->ecn ? TCP_CONFIG_ECN : 0u};
    *r = (struct rig){.rng = 42, .drop_ppm = v->drop_ppm, .v6 = v->v6, .sock = -1, .listener = -1};
    device_up(r, v->mtu);
    kernel_settings(v);
    r->l = link_create((uint64_t)clock_ns(), &cfg, NULL);
    r->l->mtu = v->mtu;
    r->l->v6 = v->v6;
    r->l->filter = to_kernel;
    r->l->filter_arg = r;
    r->l->now = clock_ns();
}

static void rig_close(struct rig *r) {
    link_destroy(r->l);
    if (r->sock >= 0)
        close(r->sock);
    if (r->listener >= 0)
        close(r->listener);
    close(r->tun);
}

static socklen_t address(const struct rig *r, bool engine, struct sockaddr_storage *ret_addr) {
    memset(ret_addr, 0, sizeof *ret_addr);
    if (r->v6) {
        struct sockaddr_in6 *a = (struct sockaddr_in6 *)ret_addr;
        a->sin6_family = AF_INET6;
        a->sin6_port = htons(PORT);
        inet_pton(AF_INET6, engine ? "fd00::1" : "fd00::2", &a->sin6_addr);
        return sizeof *a;
    }
    struct sockaddr_in *a = (struct sockaddr_in *)ret_addr;
    a->sin_family = AF_INET;
    a->sin_port = htons(PORT);
    a->sin_addr.s_addr = htonl(engine ? 0x0a000001 : 0x0a000002);
    return sizeof *a;
}

static int kernel_listen(const struct rig *r) {
    struct sockaddr_storage sa;
    socklen_t len = address(r, false, &sa);
    int one = 1, s = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (struct sockaddr *)&sa, len) < 0 || listen(s, 256) < 0)
        fail("the kernel does not listen", "bind");
    return s;
}

static int kernel_connect(const struct rig *r) {
    struct sockaddr_storage sa;
    socklen_t len = address(r, true, &sa);
    int s = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(s, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
        fail("the kernel does not connect", "connect");
    return s;
}

/* ---- the kernel's program ---- */

struct kernel_end {
    uint64_t sent, to_send, got, key_out, key_in;
    uint32_t corrupt;
    bool eof, shut;
};

static void kernel_turn(int s, struct kernel_end *k) {
    uint8_t buf[65536];
    ssize_t n;
    while (k->sent < k->to_send) {
        size_t want = k->to_send - k->sent < sizeof buf ? k->to_send - k->sent : sizeof buf;
        for (size_t i = 0; i < want; i++)
            buf[i] = link_byte(k->key_out, k->sent + i);
        if ((n = send(s, buf, want, MSG_NOSIGNAL)) <= 0)
            break;
        k->sent += (uint64_t)n;
    }
    if (k->sent == k->to_send && !k->shut)
        k->shut = shutdown(s, SHUT_WR) == 0;
    while (!k->eof && (n = recv(s, buf, sizeof buf, 0)) >= 0) {
        for (ssize_t i = 0; i < n; i++)
            k->corrupt += buf[i] != link_byte(k->key_in, k->got + (uint64_t)i);
        k->got += (uint64_t)n;
        k->eof = n == 0;
    }
}

/* ---- the tests ---- */

static struct link_sock *engine_open(struct rig *r, const struct variant *v, struct kernel_end *k) {
    struct link_host *h = &r->l->host[0];
    *k = (struct kernel_end){.to_send = v->kernel_connects ? v->up : v->down};
    k->key_out = v->kernel_connects ? 0xc11e : 0x5eef;
    k->key_in = v->kernel_connects ? 0x5eef : 0xc11e;
    h->accept_as.tx_total = v->down;
    h->accept_as.chunk = 65536;
    h->accept_as.close_when_done = true;
    if (v->kernel_connects) {
        (void)link_listen(r->l, 0, PORT, NULL);
        r->sock = kernel_connect(r);
        return &h->socks[0];
    }
    r->listener = kernel_listen(r);
    uint32_t s = link_connect(r->l, 0, PORT, v->up, NULL);
    h->socks[s].chunk = 65536;
    h->socks[s].close_when_done = true;
    return &h->socks[s];
}

static void bulk(const struct variant *v) {
    struct rig r;
    struct kernel_end k;
    rig_open(&r, v);
    ns_t start = clock_ns();
    const struct link_sock *s = engine_open(&r, v, &k);
    while (!(s->closed && k.eof && k.shut) && clock_ns() - start < DEADLINE) {
        turn(&r);
        if (r.sock < 0)
            r.sock = accept4(r.listener, NULL, NULL, SOCK_NONBLOCK);
        if (r.sock >= 0)
            kernel_turn(r.sock, &k);
    }
    uint64_t engine_sends = v->kernel_connects ? v->down : v->up, kernel_sends = k.to_send;
    bool good = s->closed && s->error == 0 && k.got == engine_sends && s->rx_bytes == kernel_sends &&
                k.corrupt + s->rx_corrupt == 0;
    printf("%-36s %s in %4llu ms; kernel got %lu of %lu, engine %lu of %lu, corrupt %u, error %d\n", v->name,
           good ? "ok" : "FAILED", (clock_ns() - start) / NS_PER_MS, k.got, engine_sends, s->rx_bytes, kernel_sends,
           k.corrupt + s->rx_corrupt, s->error);
    rig_close(&r);
    if (!good)
        exit(1);
}

/* Connections one after the other, each with a request and an answer; the kernel is the client. */
static void short_connections(uint32_t count) {
    struct rig r;
    struct kernel_end k = {0};
    rig_open(&r, &variants[1]);
    r.l->host[0].accept_as.tx_total = 100;
    r.l->host[0].accept_as.close_when_done = true;
    (void)link_listen(r.l, 0, PORT, NULL);
    ns_t start = clock_ns();
    for (uint32_t i = 0; i < count && clock_ns() - start < DEADLINE; i++) {
        r.sock = kernel_connect(&r);
        k = (struct kernel_end){.to_send = 64, .key_out = 0xc11e, .key_in = 0x5eef};
        while (!k.eof && clock_ns() - start < DEADLINE) {
            turn(&r);
            kernel_turn(r.sock, &k);
        }
        close(r.sock);
        if (k.got != 100 || k.corrupt != 0)
            fail("a short connection went wrong", "short connections");
        turn(&r);
        memset(r.l->host[0].socks, 0, sizeof r.l->host[0].socks);
    }
    r.sock = -1;
    printf("%-36s ok, %u in %llu ms\n", "short connections", count, (clock_ns() - start) / NS_PER_MS);
    rig_close(&r);
}

static void resets(void) {
    struct rig r;
    struct kernel_end k;
    struct linger hard = {.l_onoff = 1};
    rig_open(&r, &variants[1]);
    (void)engine_open(&r, &variants[1], &k);
    const struct link_sock *s = &r.l->host[0].socks[0];
    ns_t start = clock_ns();
    while (!s->connected && clock_ns() - start < DEADLINE)
        turn(&r);
    setsockopt(r.sock, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(r.sock);
    r.sock = -1;
    while (!s->closed && clock_ns() - start < DEADLINE)
        turn(&r);
    if (s->error != ECONNRESET)
        fail("the kernel's reset did not end the connection", "resets");
    r.sock = kernel_connect(&r);
    start = clock_ns();
    while (r.l->host[0].accepts < 2 && clock_ns() - start < DEADLINE)
        turn(&r);
    link_close(r.l, 0, 1, true);
    char c;
    ssize_t n;
    while ((n = recv(r.sock, &c, 1, 0)) >= 0 || errno == EAGAIN)
        turn(&r);
    if (errno != ECONNRESET)
        fail("our reset did not end the kernel's connection", "resets");
    printf("%-36s ok\n", "resets");
    rig_close(&r);
}

int main(void) {
    if (unshare(CLONE_NEWNET) < 0) {
        printf("SKIPPED: no network namespace: %s\n", strerror(errno));
        return 77;
    }
    setlinebuf(stdout);
    for (uint32_t i = 0; i < ARRAY_LEN(variants); i++)
        bulk(&variants[i]);
    resets();
    short_connections(500);
    return 0;
}
