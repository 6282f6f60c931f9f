/* SPDX-License-Identifier: Apache-2.0
 *
 * A port and a kernel on one interface and one address: what is claimed reaches the port and only the port, the rest
 * reaches the kernel and only the kernel. Two network namespaces of the test's own:
 *
 *     here: kernel + port - v0 10.9.0.1 fd09::1 ===veth=== v1 10.9.0.2 fd09::2 - kernel of the peer
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/if_packet.h>
#include <net/if.h>

#include "dataplane/port/port.h"
#include "engines/wire.h"
#include "nicbackend/claims.h"

#define CLAIMED       7000
#define KERNELS       7001
#define CLAIMED_EXACT 7002
#define CLOSED        7009

enum kind { KIND_PACKET, KIND_PACKET_CLSACT, KIND_XDP_NATIVE, KIND_XDP_GENERIC, KIND_COUNT };
static const char *const kind_names[] = {"packet", "packet with clsact", "xdp native", "xdp generic"};

struct scene {
    enum kind kind;
    int here, there; /* namespaces */
    pid_t holder;
    struct nb_claims *claims;
    struct pktmem mem;
    struct port *port;
    struct port_queue *q;
    bool dedicated;
};

static struct nb_error nb_err;
static const uint8_t dedicated_mac[6] = {2, 0xaa, 0, 0, 0, 1};

static ns_t clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (ns_t)t.tv_sec * NS_PER_SEC + (ns_t)t.tv_nsec;
}

/* --- the scene ------------------------------------------------------------------------------------------------- */

static void shell(const char *command) {
    cr_assert_eq(system(command), 0, "%s", command);
}

/* A process that keeps the peer's namespace; it dies with us. */
static void peer_start(struct scene *s) {
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    s->holder = fork();
    if (s->holder == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when an assertion ends the test */
        if (unshare(CLONE_NEWNET) == 0)
            (void)!write(ready[1], "", 1);
        close(ready[1]);
        for (;;)
            pause();
    }
    char c, path[64];
    cr_assert_eq(read(ready[0], &c, 1), 1);
    close(ready[0]);
    close(ready[1]);
    snprintf(path, sizeof path, "/proc/%d/ns/net", s->holder);
    s->there = open(path, O_RDONLY | O_CLOEXEC);
    s->here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

static void network_make(struct scene *s) {
    char command[256];
    cr_assert_eq(unshare(CLONE_NEWNET), 0);
    peer_start(s);
    shell("ip link set lo up && ip link add v0 type veth peer name v1");
    snprintf(command, sizeof command, "ip link set v1 netns %d", s->holder);
    shell(command);
    shell("ip addr add 10.9.0.1/24 dev v0 && ip addr add fd09::1/64 dev v0 nodad && ip link set v0 up");
    setns(s->there, CLONE_NEWNET);
    shell("ip addr add 10.9.0.2/24 dev v1 && ip addr add fd09::2/64 dev v1 nodad && ip link set v1 up");
    setns(s->here, CLONE_NEWNET);
}

static void local_add(struct scene *s, int family, const char *text) {
    struct nb_addr a = {{0}};
    if (family == AF_INET)
        a.b[10] = a.b[11] = 0xff;
    inet_pton(family, text, family == AF_INET ? a.b + 12 : a.b);
    cr_assert_eq(nb_claims_addr_add(s->claims, &a), 0);
}

static void claim_add(struct scene *s, uint8_t proto, uint16_t port, const char *v4) {
    struct nb_claim c = {.port = port, .proto = proto};
    if (v4 != NULL) {
        c.addr.b[10] = c.addr.b[11] = 0xff;
        inet_pton(AF_INET, v4, c.addr.b + 12);
    }
    cr_assert_eq(nb_claims_add(s->claims, &c), 0);
}

static int port_make(struct scene *s, struct port_error *err) {
    bool packet = s->kind <= KIND_PACKET_CLSACT;
    struct port_params params = {.ifname = "v0",
                                 .queue_count = 1,
                                 .claims = s->claims,
                                 .mem = {&s->mem},
                                 .dedicated = s->dedicated,
                                 .allow_native = s->kind == KIND_XDP_NATIVE,
                                 .allow_generic = s->kind == KIND_XDP_GENERIC};
    memcpy(params.dedicated_mac, dedicated_mac, 6);
    if (s->kind == KIND_PACKET_CLSACT) {
        struct nb_attach_params ap = {
            .ifindex = if_nametoindex("v0"), .hook = NB_HOOK_TC, .no_tcx = true, .dedicated = s->dedicated};
        struct nb_attach *a;
        memcpy(ap.dedicated_mac, dedicated_mac, 6);
        cr_assert_eq(nb_attach_create(s->claims, &ap, &a, &nb_err), 0, "%s", nb_err.text);
    }
    cr_assert_eq(pktmem_create(&s->mem, 512, packet ? 69632 : 2048, 0), 0);
    return packet ? port_packet_create(&params, &s->port, err) : port_xdp_create(&params, &s->port, err);
}

/* False when it cannot run here. */
static bool scene_open(struct scene *s, enum kind kind, bool dedicated) {
    struct port_error err = {""};
    *s = (struct scene){.kind = kind, .dedicated = dedicated};
    if (geteuid() != 0) {
        fprintf(stderr, "SKIPPED: needs root, for network namespaces and raw sockets\n");
        return false;
    }
    network_make(s);
    cr_assert_eq(nb_claims_create(64, &s->claims, &nb_err), 0, "%s", nb_err.text);
    local_add(s, AF_INET, "10.9.0.1");
    local_add(s, AF_INET6, "fd09::1");
    claim_add(s, IPPROTO_UDP, CLAIMED, NULL);
    claim_add(s, IPPROTO_TCP, CLAIMED, NULL);
    claim_add(s, IPPROTO_UDP, CLAIMED_EXACT, "10.9.0.1");
    cr_assert_eq(port_make(s, &err), 0, "%s", err.text);
    s->q = s->port->queue[0];
    cr_assert_eq(s->q->ops->attach(s->q), 0);
    return true;
}

static void port_end(struct scene *s) {
    s->q->ops->detach(s->q);
    port_destroy(s->port);
    cr_assert_eq(s->mem.pool.free_count, s->mem.pool.count);
    pktmem_destroy(&s->mem);
}

static void scene_close(struct scene *s) {
    nb_claims_destroy(s->claims);
    close(s->here);
    close(s->there);
    kill(s->holder, SIGKILL);
    waitpid(s->holder, NULL, 0);
}

/* --- sockets of the two kernels -------------------------------------------------------------------------------- */

static int socket_in(const struct scene *s, bool there, int family, int type) {
    if (there)
        setns(s->there, CLONE_NEWNET);
    int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (there)
        setns(s->here, CLONE_NEWNET);
    cr_assert_geq(fd, 0);
    return fd;
}

static socklen_t address(struct sockaddr_storage *a, int family, const char *text, uint16_t port) {
    memset(a, 0, sizeof *a);
    a->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)a;
        in->sin_port = htons(port);
        inet_pton(AF_INET, text, &in->sin_addr);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)a;
    in6->sin6_port = htons(port);
    inet_pton(AF_INET6, text, &in6->sin6_addr);
    return sizeof *in6;
}

/* A socket of the peer, connected to port `port` here. */
static int peer_to(const struct scene *s, int family, int type, uint16_t port) {
    struct sockaddr_storage a;
    int fd = socket_in(s, true, family, type);
    socklen_t size = address(&a, family, family == AF_INET ? "10.9.0.1" : "fd09::1", port);
    int error = connect(fd, (struct sockaddr *)&a, size);
    cr_assert(error == 0 || errno == EINPROGRESS);
    return fd;
}

static int kernel_bound(const struct scene *s, int family, uint16_t port) {
    struct sockaddr_storage a;
    int fd = socket_in(s, false, family, SOCK_DGRAM);
    socklen_t size = address(&a, family, family == AF_INET ? "10.9.0.1" : "fd09::1", port);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, size), 0);
    return fd;
}

static int error_of(int fd) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

static bool readable(int fd, int wait_ms) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, wait_ms) == 1;
}

/* --- what the port sees ---------------------------------------------------------------------------------------- */

struct seen {
    uint32_t udp, tcp, icmp, fragments, other, partial;
};

static void frame_note(struct seen *n, const struct pkt *p) {
    bool v6 = be16_load(p->data + 12) == ETHERTYPE_IP6;
    const uint8_t *ip = p->data + ETH_LEN;
    uint8_t proto = v6 ? ip[6] : ip[9];
    n->partial += (p->flags & PKT_CSUM_PARTIAL) != 0;
    if (!v6 && be16_load(p->data + 12) != ETHERTYPE_IP4)
        n->other++;
    else if (!v6 && (be16_load(ip + 6) & 0x3fff) != 0)
        n->fragments++;
    else if (proto == PROTO_UDP || proto == PROTO_TCP)
        *(proto == PROTO_UDP ? &n->udp : &n->tcp) += 1;
    else if (proto == PROTO_ICMP || proto == PROTO_ICMP6)
        n->icmp++;
    else
        n->other++;
}

/* Receives until there were `want` frames; then once more, since one too many would be wrong too. */
static struct seen port_receive(struct scene *s, uint32_t want) {
    struct seen n = {0};
    ns_t until = clock_now() + 5 * NS_PER_SEC;
    for (uint32_t got = 0, last = 0; !last;) {
        struct pkt *pkts[PKT_BURST];
        last = got >= want;
        s->q->now = clock_now();
        uint32_t k = s->q->ops->rx(s->q, pkts, PKT_BURST);
        for (uint32_t i = 0; i < k; i++) {
            frame_note(&n, pkts[i]);
            pkt_free(pkts[i]->pool, pkts[i]);
        }
        got += k;
        cr_assert(clock_now() < until, "%s: %u of %u frames came", kind_names[s->kind], got, want);
    }
    return n;
}

static void port_send(struct scene *s, struct pkt *p) {
    static struct pkt_vec done, drop;
    s->q->now = clock_now();
    s->q->ops->tx(s->q, &p, 1, &done, &drop);
    ns_t until = clock_now() + 5 * NS_PER_SEC;
    while (done.count == 0) {
        s->q->ops->reap(s->q, &done);
        cr_assert(clock_now() < until && drop.count == 0);
    }
    pkt_free(done.v[0]->pool, done.v[0]);
    done.count = 0;
}

/* --- cases ----------------------------------------------------------------------------------------------------- */

static void udp_goes_where_it_belongs(struct scene *s, int family) {
    int to_port = peer_to(s, family, SOCK_DGRAM, CLAIMED), to_kernel = peer_to(s, family, SOCK_DGRAM, KERNELS);
    int kernel = kernel_bound(s, family, KERNELS);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(send(to_port, "claimed", 7, 0), 7);
        cr_assert_eq(send(to_kernel, "kernel", 6, 0), 6);
    }
    struct seen n = port_receive(s, 10);
    cr_assert(n.udp == 10 && n.other + n.icmp + n.tcp + n.fragments == 0, "%s: udp %u", kind_names[s->kind], n.udp);
    cr_assert_eq(n.partial, 10, "%s: a kernel peer on veth sends partial checksums", kind_names[s->kind]);
    char text[16];
    for (int i = 0; i < 10; i++)
        cr_assert(readable(kernel, 2000) && recv(kernel, text, sizeof text, 0) == 6);
    cr_assert_eq(error_of(to_port), 0, "%s: the kernel answered for a claimed port", kind_names[s->kind]);
    close(to_port);
    close(to_kernel);
    close(kernel);
}

static void tcp_gets_no_reset(struct scene *s) {
    int to_port = peer_to(s, AF_INET, SOCK_STREAM, CLAIMED), refused = peer_to(s, AF_INET, SOCK_STREAM, CLOSED);
    struct pollfd p = {.fd = refused, .events = POLLOUT};
    cr_assert_eq(poll(&p, 1, 2000), 1);
    cr_assert_eq(error_of(refused), ECONNREFUSED, "an unclaimed port is the kernel's");
    struct seen n = port_receive(s, 1);
    cr_assert(n.tcp >= 1 && n.udp + n.icmp + n.other == 0);
    cr_assert_eq(error_of(to_port), 0, "%s: the kernel reset a claimed connection", kind_names[s->kind]);
    close(to_port);
    close(refused);
    s->q->now = clock_now();
}

static void fragments_stay_together(struct scene *s) {
    static char big[4000];
    int to_port = peer_to(s, AF_INET, SOCK_DGRAM, CLAIMED_EXACT), to_kernel = peer_to(s, AF_INET, SOCK_DGRAM, KERNELS);
    int kernel = kernel_bound(s, AF_INET, KERNELS);
    cr_assert_eq(send(to_port, big, sizeof big, 0), sizeof big);
    cr_assert_eq(send(to_kernel, big, sizeof big, 0), sizeof big);
    struct seen n = port_receive(s, 3);
    cr_assert(n.fragments == 3 && n.udp + n.icmp + n.other == 0, "%s: %u", kind_names[s->kind], n.fragments);
    cr_assert(readable(kernel, 2000));
    cr_assert_eq(recv(kernel, big, sizeof big, 0), sizeof big);
    close(to_port);
    close(to_kernel);
    close(kernel);
}

/* A datagram from `sport` here to a closed port there; its checksum is left out (zero). */
static void port_send_udp(struct scene *s, uint16_t sport, const uint8_t peer_mac[6]) {
    struct pkt *p = pkt_alloc(&s->mem.pool);
    memset(p->data, 0, 60);
    memcpy(p->data, peer_mac, 6);
    memcpy(p->data + 6, s->port->info.mac, 6);
    be16_store(p->data + 12, ETHERTYPE_IP4);
    uint8_t *ip = p->data + ETH_LEN;
    memcpy(ip, (uint8_t[]){0x45, 0, 0, 32, 0, 1, 0, 0, 64, PROTO_UDP, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2}, 20);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, ip, 20));
    memcpy(ip + 10, &sum, 2);
    be16_store(ip + 20, sport);
    be16_store(ip + 22, CLOSED);
    be16_store(ip + 24, 12);
    p->len = 60;
    port_send(s, p);
}

static void icmp_errors_follow_their_flow(struct scene *s) {
    uint8_t peer_mac[6];
    FILE *f = popen("ip neigh get 10.9.0.2 dev v0 | sed 's/.*lladdr //'", "r");
    unsigned m[6];
    cr_assert_eq(fscanf(f, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]), 6);
    pclose(f);
    for (int i = 0; i < 6; i++)
        peer_mac[i] = (uint8_t)m[i];
    port_send_udp(s, CLAIMED, peer_mac);
    struct seen n = port_receive(s, 1);
    cr_assert_eq(n.icmp, 1, "%s: the error that quotes our flow is ours", kind_names[s->kind]);
    struct sockaddr_storage a;
    int kernel = kernel_bound(s, AF_INET, KERNELS);
    socklen_t size = address(&a, AF_INET, "10.9.0.2", CLOSED);
    cr_assert_eq(connect(kernel, (struct sockaddr *)&a, size), 0);
    cr_assert_eq(send(kernel, "x", 1, 0), 1);
    cr_assert(readable(kernel, 2000) && error_of(kernel) == ECONNREFUSED, "the kernel's own error is the kernel's");
    close(kernel);
}

/* Sends a frame for CLAIMED with a tag of this identifier, from the peer. */
static void tagged_send(struct scene *s, uint16_t tci) {
    int fd = socket_in(s, true, AF_PACKET, SOCK_RAW);
    uint8_t f[64] = {0};
    memcpy(f, s->port->info.mac, 6);
    f[6] = 2;
    be16_store(f + 12, ETHERTYPE_VLAN);
    be16_store(f + 14, tci);
    be16_store(f + 16, ETHERTYPE_IP4);
    memcpy(f + 18, (uint8_t[]){0x45, 0, 0, 46, 0, 1, 0, 0, 64, PROTO_UDP, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1}, 20);
    be16_store(f + 38, 5);
    be16_store(f + 40, CLAIMED);
    be16_store(f + 42, 26);
    setns(s->there, CLONE_NEWNET);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("v1"), .sll_halen = 6};
    setns(s->here, CLONE_NEWNET);
    cr_assert_eq(sendto(fd, f, sizeof f, 0, (struct sockaddr *)&to, sizeof to), sizeof f);
    close(fd);
}

/* Frames of a VLAN belong to another interface; a priority tag is no VLAN. */
static void vlans_are_not_ours(struct scene *s) {
    tagged_send(s, 10);
    tagged_send(s, 0xe000);
    tagged_send(s, 11);
    tagged_send(s, 0xe000);
    port_receive(s, 2);
}

static void everything_is_the_kernels_again(struct scene *s) {
    int fd = peer_to(s, AF_INET, SOCK_DGRAM, CLAIMED);
    cr_assert_eq(send(fd, "x", 1, 0), 1);
    cr_assert(readable(fd, 2000), "%s: something stays attached", kind_names[s->kind]);
    cr_assert_eq(error_of(fd), ECONNREFUSED);
    close(fd);
    cr_assert_neq(system("tc qdisc show dev v0 | grep -q clsact"), 0);
}

static void shared_run(enum kind kind) {
    struct scene s;
    if (!scene_open(&s, kind, false))
        return;
    udp_goes_where_it_belongs(&s, AF_INET);
    udp_goes_where_it_belongs(&s, AF_INET6);
    tcp_gets_no_reset(&s);
    fragments_stay_together(&s);
    icmp_errors_follow_their_flow(&s);
    vlans_are_not_ours(&s);
    port_end(&s);
    everything_is_the_kernels_again(&s);
    scene_close(&s);
}

Test(claims_shared, packet) {
    shared_run(KIND_PACKET);
}
Test(claims_shared, packet_clsact) {
    shared_run(KIND_PACKET_CLSACT);
}
Test(claims_shared, xdp_native) {
    shared_run(KIND_XDP_NATIVE);
}
Test(claims_shared, xdp_generic) {
    shared_run(KIND_XDP_GENERIC);
}

/* --- dedicated mode -------------------------------------------------------------------------------------------- */

static struct pkt *port_receive_one(struct scene *s, uint16_t type) {
    ns_t until = clock_now() + 5 * NS_PER_SEC;
    for (;;) {
        struct pkt *p;
        cr_assert(clock_now() < until, "%s: no frame of type %x came", kind_names[s->kind], type);
        s->q->now = clock_now();
        if (s->q->ops->rx(s->q, &p, 1) == 0)
            continue;
        if (be16_load(p->data + 12) == type)
            return p;
        pkt_free(p->pool, p);
    }
}

/* The peer asks for 10.9.0.77, which only we have; we answer, and its datagram comes to the MAC address we gave. */
static void dedicated_run(enum kind kind) {
    struct scene s;
    if (!scene_open(&s, kind, true))
        return;
    local_add(&s, AF_INET, "10.9.0.77");
    cr_assert_eq(memcmp(s.port->info.mac, dedicated_mac, 6), 0);
    struct sockaddr_storage a;
    int fd = socket_in(&s, true, AF_INET, SOCK_DGRAM);
    socklen_t size = address(&a, AF_INET, "10.9.0.77", 4444);
    cr_assert_eq(sendto(fd, "hello", 5, 0, (struct sockaddr *)&a, size), 5);
    struct pkt *p = port_receive_one(&s, ETHERTYPE_ARP);
    cr_assert_eq(memcmp(p->data + ETH_LEN + 24, "\x0a\x09\x00\x4d", 4), 0);
    uint8_t *arp = p->data + ETH_LEN, asker[10];
    memcpy(asker, arp + 8, 10);
    memcpy(p->data, asker, 6);
    memcpy(p->data + 6, dedicated_mac, 6);
    arp[7] = 2;
    memcpy(arp + 18, asker, 10);
    memcpy(arp + 8, dedicated_mac, 6);
    memcpy(arp + 14, "\x0a\x09\x00\x4d", 4);
    port_send(&s, p);
    p = port_receive_one(&s, ETHERTYPE_IP4);
    cr_assert_eq(memcmp(p->data, dedicated_mac, 6), 0);
    cr_assert_eq(be16_load(p->data + ETH_LEN + IP4_LEN + 2), 4444);
    pkt_free(p->pool, p);
    close(fd);
    port_end(&s);
    scene_close(&s);
}

Test(claims_dedicated, packet) {
    dedicated_run(KIND_PACKET);
}
Test(claims_dedicated, xdp_native) {
    dedicated_run(KIND_XDP_NATIVE);
}
Test(claims_dedicated, xdp_generic) {
    dedicated_run(KIND_XDP_GENERIC);
}
