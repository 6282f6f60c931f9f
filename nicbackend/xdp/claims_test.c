/* SPDX-License-Identifier: Apache-2.0
 *
 * The claim programs on crafted packets, run by the kernel itself (bpf_prog_test_run) in a network namespace of the
 * test's own. Every case asks all three hooks, which must agree. Needs root; says so when it has to skip.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_xdp.h>
#include <linux/pkt_cls.h>

#include "nicbackend/claims.h"
#include "nicbackend/xdp/claims_abi.h"

#define LO 1u

static struct nb_claims *claims;
static struct nb_attach *xdp, *tc;
static int prog_xdp, prog_tc, prog_filter, xsk;
static struct nb_error err;

static int fd_named(const char *name) {
    struct nb_fd fds[64];
    size_t n = nb_claims_fds(claims, fds, 64);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(fds[i].name, name) == 0)
            return fds[i].fd;
    }
    cr_assert_fail("no fd named %s", name);
    return -1;
}

/* A socket that may stand in the XSK map: it needs a receive ring, but neither UMEM nor interface. */
static int xsk_open(void) {
    int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    int entries = 64;
    cr_assert_eq(setsockopt(fd, SOL_XDP, XDP_RX_RING, &entries, sizeof entries), 0);
    return fd;
}

static bool skip(void) {
    if (geteuid() == 0)
        return false;
    fprintf(stderr, "SKIPPED: needs root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN for a namespace)\n");
    return true;
}

static void attach_both(struct nb_attach_params params) {
    params.ifindex = LO;
    params.queue_max = 4;
    params.hook = NB_HOOK_XDP_GENERIC;
    cr_assert_eq(nb_attach_create(claims, &params, &xdp, &err), 0, "%s", err.text);
    params.hook = NB_HOOK_TC;
    cr_assert_eq(nb_attach_create(claims, &params, &tc, &err), 0, "%s", err.text);
    prog_xdp = fd_named("1.xdp-generic.prog");
    prog_tc = fd_named("1.tc.prog");
    prog_filter = fd_named("1.tc.filter");
    xsk = xsk_open();
    cr_assert_eq(nb_attach_xsk_set(xdp, 0, xsk), 0);
}

static bool setup(struct nb_attach_params params) {
    if (skip())
        return false;
    cr_assert_eq(unshare(CLONE_NEWNET), 0);
    cr_assert_eq(nb_claims_create(1024, &claims, &err), 0, "%s", err.text);
    attach_both(params);
    return true;
}

static void teardown(void) {
    nb_claims_destroy(claims);
    close(xsk);
}

/* --- addresses and packets ------------------------------------------------------------------------------------- */

static struct nb_addr addr(const char *text) {
    struct nb_addr a = {{0}};
    if (strchr(text, ':') != NULL) {
        inet_pton(AF_INET6, text, a.b);
    } else {
        a.b[10] = a.b[11] = 0xff;
        inet_pton(AF_INET, text, a.b + 12);
    }
    return a;
}

static void local(const char *text) {
    struct nb_addr a = addr(text);
    cr_assert_eq(nb_claims_addr_add(claims, &a), 0);
}

static struct nb_claim claim(const char *at, uint8_t proto, uint16_t port) {
    struct nb_claim c = {.port = port, .proto = proto};
    if (at != NULL)
        c.addr = addr(at);
    return c;
}

static void claim_add(const char *at, uint8_t proto, uint16_t port) {
    struct nb_claim c = claim(at, proto, port);
    cr_assert_eq(nb_claims_add(claims, &c), 0);
}

struct packet {
    uint8_t b[512];
    uint32_t len;
};

static void put(struct packet *p, const void *bytes, uint32_t n) {
    memcpy(p->b + p->len, bytes, n);
    p->len += n;
}
#define PUT(p, ...) put(p, (uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void put_addr(struct packet *p, const char *text) {
    struct nb_addr a = addr(text);
    if (strchr(text, ':') != NULL)
        put(p, a.b, 16);
    else
        put(p, a.b + 12, 4);
}

static struct packet eth(uint16_t type) {
    struct packet p = {.len = 0};
    PUT(&p, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9, (uint8_t)(type >> 8), (uint8_t)type);
    return p;
}

/* IPv4 header with `options` words of NOPs; frag: the 16-bit field with flags and offset. */
static void ip4(struct packet *p, const char *src, const char *dst, uint8_t proto, int options, uint16_t id,
                uint16_t frag) {
    PUT(p, (uint8_t)(0x45 + options), 0, 0, 100, (uint8_t)(id >> 8), (uint8_t)id, (uint8_t)(frag >> 8), (uint8_t)frag,
        64, proto, 0, 0);
    put_addr(p, src);
    put_addr(p, dst);
    for (int i = 0; i < options; i++)
        PUT(p, 1, 1, 1, 1);
}

static void ip6(struct packet *p, const char *src, const char *dst, uint8_t next) {
    PUT(p, 0x60, 0, 0, 0, 0, 100, next, 64);
    put_addr(p, src);
    put_addr(p, dst);
}

static void ports(struct packet *p, uint16_t sport, uint16_t dport) {
    PUT(p, (uint8_t)(sport >> 8), (uint8_t)sport, (uint8_t)(dport >> 8), (uint8_t)dport, 0, 8, 0, 0);
}

static struct packet udp4(const char *dst, uint16_t dport) {
    struct packet p = eth(0x0800);
    ip4(&p, "10.0.0.9", dst, IPPROTO_UDP, 0, 1, 0);
    ports(&p, 5555, dport);
    return p;
}

static struct packet udp6(const char *dst, uint16_t dport) {
    struct packet p = eth(0x86dd);
    ip6(&p, "fd00::9", dst, IPPROTO_UDP);
    ports(&p, 5555, dport);
    return p;
}

/* --- asking the programs --------------------------------------------------------------------------------------- */

/* -1: the kernel will not make such an skb for a test (an IP header that is cut off). */
static int64_t run(int prog, const struct packet *p) {
    LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = p->b, .data_size_in = p->len, .repeat = 1);
    int error = bpf_prog_test_run_opts(prog, &opts);
    if (error == -EINVAL && prog != prog_xdp)
        return -1;
    cr_assert_eq(error, 0, "test run: %s", strerror(-error));
    return opts.retval;
}

static bool claimed_by_xdp(const struct packet *p) {
    int64_t verdict = run(prog_xdp, p);
    cr_assert(verdict == XDP_REDIRECT || verdict == XDP_PASS, "verdict %d", (int)verdict);
    return verdict == XDP_REDIRECT;
}

static bool claimed(struct packet p) {
    bool by_xdp = claimed_by_xdp(&p);
    int64_t tc_verdict = run(prog_tc, &p);
    if (tc_verdict >= 0) {
        bool by_tc = tc_verdict == TC_ACT_SHOT;
        bool by_filter = run(prog_filter, &p) != 0;
        cr_assert(by_xdp == by_tc && by_tc == by_filter, "xdp %d, tc %d, filter %d", by_xdp, by_tc, by_filter);
    }
    return by_xdp;
}

#define YES(p) cr_assert(claimed(p), "must be claimed")
#define NO(p)  cr_assert(!claimed(p), "must pass")

/* --- cases ----------------------------------------------------------------------------------------------------- */

Test(claims, abi_has_no_holes) {
    cr_assert_eq(sizeof(struct claim_key), 20);
    cr_assert_eq(sizeof(struct claim_frag_key), 40);
    cr_assert_eq(sizeof(struct claim_config), 40);
    cr_assert_eq(CLAIM_PORT_WORD(1, 65535u), CLAIM_PORT_WORDS - 1);
}

Test(claims, port_at_any_local_address) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    local("fd00::1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    YES(udp4("10.0.0.1", 7000));
    YES(udp6("fd00::1", 7000));
    NO(udp4("10.0.0.2", 7000));
    NO(udp6("fd00::2", 7000));
    NO(udp4("10.0.0.1", 7001));
    NO(udp4("10.0.0.1", 7000 ^ 32));
    struct packet tcp = udp4("10.0.0.1", 7000);
    tcp.b[14 + 9] = IPPROTO_TCP;
    NO(tcp);
    struct nb_addr gone = addr("10.0.0.1");
    cr_assert_eq(nb_claims_addr_del(claims, &gone), 0);
    NO(udp4("10.0.0.1", 7000));
    teardown();
}

/* What the kernel had before the claim stays with it; the port's other packets do not. */
Test(claims, kept_flow_stays_with_the_kernel) {
    if (!setup((struct nb_attach_params){0}))
        return;
    struct packet mine = udp4("10.0.0.1", 7000), other;
    mine.b[14 + 9] = IPPROTO_TCP;
    other = mine;
    other.b[14 + 20 + 1] ^= 1; /* another port of the peer's */
    struct nb_flow flow = {.local = addr("10.0.0.1"), .local_port = 7000};
    memcpy(&flow.remote.b[12], &mine.b[14 + 12], 4);
    flow.remote.b[10] = flow.remote.b[11] = 0xff;
    flow.remote_port = (uint16_t)(mine.b[14 + 20] << 8 | mine.b[14 + 21]);
    local("10.0.0.1");
    claim_add(NULL, IPPROTO_TCP, 7000);
    claim_add(NULL, IPPROTO_UDP, 7000);
    YES(mine);
    cr_assert_eq(nb_claims_keep(claims, &flow), 0);
    NO(mine);
    YES(other);
    YES(udp4("10.0.0.1", 7000));
    teardown();
}

/* A connection that is held is ours without its port, and beside the claim of an exact address. */
Test(claims, held_flow_is_ours_without_its_port) {
    if (!setup((struct nb_attach_params){0}))
        return;
    struct packet mine = udp4("10.0.0.1", 7000), other;
    mine.b[14 + 9] = IPPROTO_TCP;
    other = mine;
    other.b[14 + 20 + 1] ^= 1; /* another port of the peer's */
    struct nb_flow flow = {.local = addr("10.0.0.1"), .local_port = 7000};
    memcpy(&flow.remote.b[12], &mine.b[14 + 12], 4);
    flow.remote.b[10] = flow.remote.b[11] = 0xff;
    flow.remote_port = (uint16_t)(mine.b[14 + 20] << 8 | mine.b[14 + 21]);
    local("10.0.0.1");
    cr_assert_eq(nb_claims_hold(claims, &flow), 0);
    cr_assert_eq(nb_claims_hold(claims, &flow), -EEXIST);
    YES(mine);
    NO(other);
    NO(udp4("10.0.0.1", 7000));
    struct nb_claim exact = claim("10.0.0.1", IPPROTO_TCP, 7000);
    cr_assert_eq(nb_claims_add(claims, &exact), 0);
    YES(other);
    cr_assert_eq(nb_claims_del(claims, &exact), 0);
    YES(mine);
    cr_assert_eq(nb_claims_let_go(claims, &flow), 0);
    cr_assert_eq(nb_claims_let_go(claims, &flow), -ENOENT);
    NO(mine);
    teardown();
}

/* While a port settles, whoever comes is the kernel's and stays there; who comes later is not. */
Test(claims, flows_of_a_settling_port_stay_with_the_kernel) {
    if (!setup((struct nb_attach_params){0}))
        return;
    struct packet before = udp4("10.0.0.1", 7000), after, elsewhere = udp4("10.0.0.1", 7001);
    before.b[14 + 9] = elsewhere.b[14 + 9] = IPPROTO_TCP;
    after = before;
    after.b[14 + 20 + 1] ^= 1; /* another port of the peer's */
    local("10.0.0.1");
    claim_add(NULL, IPPROTO_TCP, 7001);
    cr_assert_eq(nb_claims_settle(claims, 7001), -EBUSY);
    cr_assert_eq(nb_claims_settle(claims, 7000), 0);
    claim_add(NULL, IPPROTO_TCP, 7000);
    claim_add(NULL, IPPROTO_UDP, 7000);
    NO(before);
    YES(elsewhere);
    YES(udp4("10.0.0.1", 7000));
    cr_assert_eq(nb_claims_settle(claims, 0), 0);
    NO(before);
    YES(after);
    teardown();
}

/* One claim, and none of the single ones in it ends with it or ends it. */
Test(claims, range_of_ports) {
    if (!setup((struct nb_attach_params){0}))
        return;
    struct nb_claim range = {.port = 61000, .port_last = 65535, .proto = IPPROTO_UDP}, other = range, listed[4];
    struct nb_claim single = claim(NULL, IPPROTO_UDP, 62000);
    local("10.0.0.1");
    claim_add("10.0.0.1", IPPROTO_UDP, 61001);
    cr_assert_eq(nb_claims_add(claims, &single), 0);
    cr_assert_eq(nb_claims_add(claims, &range), 0);
    cr_assert_eq(nb_claims_add(claims, &range), -EEXIST);
    cr_assert_eq(nb_claims_list(claims, listed, 4), 3);
    NO(udp4("10.0.0.1", 60999));
    YES(udp4("10.0.0.1", 61000));
    YES(udp4("10.0.0.1", 65535));
    NO(udp4("10.0.0.2", 61000));
    cr_assert_eq(nb_claims_del(claims, &single), 0);
    YES(udp4("10.0.0.1", 62000));
    cr_assert_eq(nb_claims_add(claims, &single), 0);
    other.port_last = 65534;
    cr_assert_eq(nb_claims_del(claims, &other), -ENOENT);
    cr_assert_eq(nb_claims_del(claims, &range), 0);
    NO(udp4("10.0.0.1", 61000));
    NO(udp4("10.0.0.1", 65535));
    YES(udp4("10.0.0.1", 61001));
    YES(udp4("10.0.0.1", 62000));
    other.port_last = 60000;
    cr_assert_eq(nb_claims_add(claims, &other), -EINVAL, "backwards");
    range.addr = addr("10.0.0.1");
    cr_assert_eq(nb_claims_add(claims, &range), -EINVAL, "ranges are at any address");
    teardown();
}

Test(claims, exact_address_beside_wildcard) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    local("10.0.0.2");
    claim_add("10.0.0.1", IPPROTO_UDP, 53);
    YES(udp4("10.0.0.1", 53));
    NO(udp4("10.0.0.2", 53));
    claim_add(NULL, IPPROTO_UDP, 53);
    YES(udp4("10.0.0.2", 53));
    struct nb_claim any = claim(NULL, IPPROTO_UDP, 53), one = claim("10.0.0.1", IPPROTO_UDP, 53);
    cr_assert_eq(nb_claims_add(claims, &any), -EEXIST);
    cr_assert_eq(nb_claims_del(claims, &any), 0);
    cr_assert_eq(nb_claims_del(claims, &any), -ENOENT);
    YES(udp4("10.0.0.1", 53));
    NO(udp4("10.0.0.2", 53));
    cr_assert_eq(nb_claims_del(claims, &one), 0);
    NO(udp4("10.0.0.1", 53));
    teardown();
}

Test(claims, any_address_of_one_version) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    local("fd00::1");
    claim_add("::ffff:0.0.0.0", IPPROTO_UDP, 53);
    claim_add("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", IPPROTO_UDP, 54);
    YES(udp4("10.0.0.1", 53));
    NO(udp6("fd00::1", 53));
    NO(udp4("10.0.0.9", 53));
    NO(udp4("10.0.0.1", 54));
    YES(udp6("fd00::1", 54));
    NO(udp6("fd00::9", 54));
    struct nb_claim v4 = claim("::ffff:0.0.0.0", IPPROTO_UDP, 53);
    cr_assert_eq(nb_claims_del(claims, &v4), 0);
    NO(udp4("10.0.0.1", 53));
    teardown();
}

Test(claims, wrong_claims_are_refused) {
    if (!setup((struct nb_attach_params){0}))
        return;
    struct nb_claim c = claim(NULL, IPPROTO_UDP, 0);
    cr_assert_eq(nb_claims_add(claims, &c), -EINVAL);
    c = claim(NULL, IPPROTO_ICMP, 7);
    cr_assert_eq(nb_claims_add(claims, &c), -EINVAL);
    for (uint16_t port = 1; port <= 1024; port++)
        claim_add(NULL, IPPROTO_TCP, port);
    c = claim(NULL, IPPROTO_TCP, 2000);
    cr_assert_eq(nb_claims_add(claims, &c), -ENOSPC);
    struct nb_claim all[8];
    cr_assert_eq(nb_claims_list(claims, all, 8), 1024);
    teardown();
}

Test(claims, ipv4_options) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    for (int options = 0; options <= 10; options++) {
        struct packet p = eth(0x0800);
        ip4(&p, "10.0.0.9", "10.0.0.1", IPPROTO_UDP, options, 1, 0);
        ports(&p, 1, 7000);
        YES(p);
    }
    struct packet p = udp4("10.0.0.1", 7000);
    p.b[14] = 0x44; /* header length 16: malformed */
    NO(p);
    p.b[14] = 0x65;
    NO(p);
    teardown();
}

Test(claims, ipv6_extension_headers_are_bounded) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("fd00::1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    static const uint8_t kinds[] = {0, 43, 60};
    for (int count = 1; count <= 7; count++) {
        struct packet p = eth(0x86dd);
        ip6(&p, "fd00::9", "fd00::1", kinds[0]);
        for (int i = 0; i < count; i++) {
            uint8_t next = i + 1 == count ? IPPROTO_UDP : kinds[(i + 1) % 3];
            PUT(&p, next, (uint8_t)(i % 2), 0, 0, 0, 0, 0, 0);
            if (i % 2)
                PUT(&p, 0, 0, 0, 0, 0, 0, 0, 0);
        }
        ports(&p, 1, 7000);
        cr_assert_eq(claimed(p), count <= 5, "%d extension headers", count);
    }
    teardown();
}

Test(claims, truncated_anywhere_passes) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    local("fd00::1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    struct packet p4 = udp4("10.0.0.1", 7000), p6 = udp6("fd00::1", 7000);
    for (uint32_t len = 15; len < 14 + 20 + 4; len++) {
        p4.len = len;
        NO(p4);
    }
    for (uint32_t len = 15; len < 14 + 40 + 4; len++) {
        p6.len = len;
        NO(p6);
    }
    p4.len = 14 + 20 + 4;
    YES(p4);
    teardown();
}

Test(claims, fragments_follow_their_first) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    struct packet first = eth(0x0800), later = eth(0x0800), other = eth(0x0800);
    ip4(&first, "10.0.0.9", "10.0.0.1", IPPROTO_UDP, 0, 77, 0x2000);
    ports(&first, 1, 7000);
    ip4(&later, "10.0.0.9", "10.0.0.1", IPPROTO_UDP, 0, 77, 0x2003);
    PUT(&later, 1, 2, 3, 4, 5, 6, 7, 8);
    ip4(&other, "10.0.0.9", "10.0.0.1", IPPROTO_UDP, 0, 78, 3);
    PUT(&other, 0, 1, 0x1b, 0x58, 0, 0, 0, 0); /* looks like port 7000, but has no ports */
    NO(later);
    YES(first);
    YES(later);
    NO(other);
    first.b[14 + 20 + 3]++; /* the identification comes again, for a port of the kernel's */
    NO(first);
    NO(later);
    teardown();
}

Test(claims, ipv6_fragments_follow_their_first) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("fd00::1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    struct packet first = eth(0x86dd), later = eth(0x86dd), atomic = eth(0x86dd);
    ip6(&first, "fd00::9", "fd00::1", 44);
    PUT(&first, IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 5);
    ports(&first, 1, 7000);
    ip6(&later, "fd00::9", "fd00::1", 44);
    PUT(&later, IPPROTO_UDP, 0, 0, 8, 0, 0, 0, 5);
    ip6(&atomic, "fd00::9", "fd00::1", 44);
    PUT(&atomic, IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 6);
    ports(&atomic, 1, 7000);
    NO(later);
    YES(first);
    YES(later);
    later.b[14 + 47]++;
    NO(later);
    YES(atomic);
    teardown();
}

static struct packet icmp4_quoting(const char *dst, uint8_t type, const char *inner_src, uint16_t sport) {
    struct packet p = eth(0x0800);
    ip4(&p, "10.0.0.254", dst, IPPROTO_ICMP, 0, 1, 0);
    PUT(&p, type, 4, 0, 0, 0, 0, 5, 0);
    ip4(&p, inner_src, "10.0.0.9", IPPROTO_UDP, 1, 1, 0);
    ports(&p, sport, 9999);
    return p;
}

Test(claims, icmp_errors_that_quote_a_claimed_flow) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    local("10.0.0.2");
    claim_add(NULL, IPPROTO_UDP, 7000);
    static const uint8_t errors[] = {3, 11, 12}, others[] = {0, 5, 8, 13};
    for (size_t i = 0; i < sizeof errors; i++)
        YES(icmp4_quoting("10.0.0.1", errors[i], "10.0.0.1", 7000));
    for (size_t i = 0; i < sizeof others; i++)
        NO(icmp4_quoting("10.0.0.1", others[i], "10.0.0.1", 7000));
    NO(icmp4_quoting("10.0.0.1", 3, "10.0.0.1", 7001));
    NO(icmp4_quoting("10.0.0.1", 3, "10.0.0.2", 7000)); /* addressed to another than the sender it quotes */
    NO(icmp4_quoting("10.0.0.7", 3, "10.0.0.7", 7000));
    struct packet cut = icmp4_quoting("10.0.0.1", 3, "10.0.0.1", 7000);
    for (cut.len = 15; cut.len < 14 + 20 + 8 + 24 + 2; cut.len++)
        NO(cut);
    teardown();
}

Test(claims, icmp6_errors_that_quote_a_claimed_flow) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("fd00::1");
    claim_add("fd00::1", IPPROTO_TCP, 443);
    for (uint8_t type = 0; type < 200; type++) {
        struct packet p = eth(0x86dd);
        ip6(&p, "fd00::fe", "fd00::1", 58);
        PUT(&p, type, 0, 0, 0, 0, 0, 5, 0);
        ip6(&p, "fd00::1", "fd00::9", IPPROTO_TCP);
        ports(&p, 443, 1);
        cr_assert_eq(claimed(p), type >= 1 && type <= 4, "type %u", type);
    }
    teardown();
}

Test(claims, vlan_is_another_interface) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    struct packet p = udp4("10.0.0.1", 7000);
    memmove(p.b + 16, p.b + 12, p.len - 12);
    memcpy(p.b + 12, (uint8_t[]){0x81, 0, 0xe0, 0}, 4); /* priority tag: no VLAN */
    p.len += 4;
    cr_assert(claimed_by_xdp(&p)); /* an skb carries the tag aside, which a test run cannot say */
    p.b[15] = 10;
    cr_assert(!claimed_by_xdp(&p));
    nb_attach_destroy(xdp);
    nb_attach_destroy(tc);
    attach_both((struct nb_attach_params){.vlan = 10});
    cr_assert(claimed_by_xdp(&p));
    NO(udp4("10.0.0.1", 7000));
    p.b[12] = 0x88;
    p.b[13] = 0xa8;
    cr_assert(!claimed_by_xdp(&p), "a service tag is not unpacked");
    teardown();
}

Test(claims, dedicated_mac_and_its_questions) {
    if (!setup((struct nb_attach_params){.dedicated = true, .dedicated_mac = {2, 0, 0, 0, 0, 1}}))
        return;
    local("10.0.0.1");
    local("fd00::1");
    struct packet to_mac = eth(0x1234);
    to_mac.b[0] = 2;
    to_mac.b[5] = 1;
    YES(to_mac);
    NO(eth(0x1234));
    struct packet arp = eth(0x0806);
    memset(arp.b, 0xff, 6);
    PUT(&arp, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1);
    YES(arp);
    arp.b[arp.len - 1] = 2;
    NO(arp);
    struct packet ns = eth(0x86dd);
    ip6(&ns, "fd00::9", "ff02::1:ff00:1", 58);
    PUT(&ns, 135, 0, 0, 0, 0, 0, 0, 0);
    put_addr(&ns, "fd00::1");
    YES(ns);
    ns.b[ns.len - 1] = 2;
    NO(ns);
    NO(udp4("10.0.0.1", 7000));
    teardown();
}

Test(claims, shared_mode_leaves_arp_to_the_kernel) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    struct packet arp = eth(0x0806);
    PUT(&arp, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1);
    NO(arp);
    teardown();
}

Test(claims, everything) {
    if (!setup((struct nb_attach_params){.all = true}))
        return;
    YES(eth(0x1234));
    YES(udp4("1.2.3.4", 1));
    teardown();
}

Test(claims, random_bytes_never_fail) {
    if (!setup((struct nb_attach_params){.dedicated = true}))
        return;
    local("10.0.0.1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    srandom(1);
    for (int i = 0; i < 20000; i++) {
        struct packet p = i & 1 ? udp4("10.0.0.1", 7000) : udp6("fd00::1", 7000);
        p.b[0] = 2; /* not the dedicated MAC */
        for (int k = 0; k < 4; k++)
            p.b[12 + random() % 80] = (uint8_t)random();
        p.len = 15 + (uint32_t)(random() % 120);
        (void)claimed(p);
    }
    teardown();
}

Test(claims, dead_socket_drops_and_removed_socket_passes) {
    if (!setup((struct nb_attach_params){0}))
        return;
    local("10.0.0.1");
    claim_add(NULL, IPPROTO_UDP, 7000);
    struct packet p = udp4("10.0.0.1", 7000);
    cr_assert_eq(run(prog_xdp, &p), XDP_REDIRECT);
    close(xsk);
    cr_assert_eq(run(prog_xdp, &p), XDP_DROP, "the owner died: not for the kernel");
    cr_assert_eq(nb_attach_xsk_set(xdp, 0, -1), 0);
    cr_assert_eq(run(prog_xdp, &p), XDP_PASS);
    struct nb_counts counts;
    cr_assert_eq(nb_attach_counts(xdp, &counts), 0);
    cr_assert_eq(counts.claimed, 1);
    cr_assert_eq(counts.no_queue, 2);
    cr_assert_eq(nb_attach_xsk_set(xdp, 4, xsk), -EINVAL);
    xsk = xsk_open();
    teardown();
}

Test(attach, busy_hook_names_its_owner) {
    cr_assert_eq(NB_HOOK_COUNT, 3);
    if (!setup((struct nb_attach_params){0}))
        return;
    struct nb_claims *second;
    cr_assert_eq(nb_claims_create(16, &second, &err), 0);
    struct nb_attach_params params = {.ifindex = LO, .hook = NB_HOOK_XDP_GENERIC, .queue_max = 1};
    struct nb_attach *a;
    cr_assert_eq(nb_attach_create(second, &params, &a, &err), -EBUSY);
    cr_assert(strstr(err.text, "claims_xdp") != NULL, "%s", err.text);
    cr_assert_eq(nb_attach_create(claims, &params, &a, &err), -EEXIST);
    params.hook = NB_HOOK_XDP_NATIVE; /* lo has none */
    cr_assert_lt(nb_attach_create(second, &params, &a, &err), 0);
    params.hook = NB_HOOK_TC; /* several may stand there */
    cr_assert_eq(nb_attach_create(second, &params, &a, &err), 0, "%s", err.text);
    nb_claims_destroy(second);
    teardown();
}

/* Any program for the foreign filter: "let it pass". */
static int tc_program(void) {
    struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = -1},
                              {.code = BPF_JMP | BPF_EXIT}};
    int fd = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "foreign", "GPL", code, 2, NULL);
    cr_assert_geq(fd, 0);
    return fd;
}

Test(attach, falls_back_to_clsact_and_cleans_up) {
    cr_assert_eq(NB_HOOK_COUNT, 3);
    if (!setup((struct nb_attach_params){.no_tcx = true}))
        return;
    cr_assert_str_eq(nb_attach_mode(tc), "clsact filter");
    cr_assert(nb_attach_leaves_qdisc(tc));
    cr_assert_eq(system("tc qdisc show dev lo | grep -q clsact"), 0);
    cr_assert_eq(system("tc filter show dev lo ingress | grep -q claims_tc"), 0);
    nb_attach_destroy(tc);
    cr_assert_neq(system("tc qdisc show dev lo | grep -q clsact"), 0, "our own qdisc goes with us");
    cr_assert_eq(system("tc qdisc add dev lo clsact"), 0);
    struct nb_attach_params params = {.ifindex = LO, .hook = NB_HOOK_TC, .no_tcx = true};
    cr_assert_eq(nb_attach_create(claims, &params, &tc, &err), 0, "%s", err.text);
    nb_attach_destroy(tc);
    cr_assert_eq(system("tc qdisc show dev lo | grep -q clsact"), 0, "a foreign qdisc stays");
    cr_assert_eq(system("tc filter show dev lo ingress | grep -q claims_tc"), 256);
    LIBBPF_OPTS(bpf_tc_hook, egress, .ifindex = (int)LO, .attach_point = BPF_TC_EGRESS);
    LIBBPF_OPTS(bpf_tc_opts, foreign, .prog_fd = tc_program(), .priority = 9, .handle = 1);
    cr_assert_eq(bpf_tc_attach(&egress, &foreign), 0);
    (void)nb_cleanup_qdisc(LO);
    cr_assert_eq(system("tc filter show dev lo egress | grep -q bpf"), 0, "a foreign filter stays");
    cr_assert_eq(system("tc filter del dev lo egress"), 0);
    cr_assert_eq(nb_cleanup_qdisc(LO), 0);
    cr_assert_neq(system("tc qdisc show dev lo | grep -q clsact"), 0);
    cr_assert_eq(nb_cleanup_qdisc(LO), 0, "twice does no harm");
    teardown();
}

/* A predecessor in a process of its own: says what it has, waits, and is killed once its fds are taken. */
static size_t predecessor_fds(struct nb_fd *fds, size_t max) {
    int pipes[2];
    cr_assert_eq(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when an assertion ends the test */
        attach_both((struct nb_attach_params){0});
        local("10.0.0.1");
        claim_add(NULL, IPPROTO_UDP, 7000);
        claim_add("10.0.0.1", IPPROTO_UDP, 7001);
        struct nb_claim range = {.port = 8000, .port_last = 9000, .proto = IPPROTO_UDP};
        cr_assert_eq(nb_claims_add(claims, &range), 0);
        size_t n = nb_claims_fds(claims, fds, max);
        (void)!write(pipes[1], fds, n * sizeof *fds);
        pause();
    }
    ssize_t bytes = read(pipes[0], fds, max * sizeof *fds);
    size_t n = bytes < 0 ? 0 : (size_t)bytes / sizeof *fds;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    for (size_t i = 0; i < n; i++)
        fds[i].fd = (int)syscall(SYS_pidfd_getfd, pidfd, fds[i].fd, 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(pidfd);
    close(pipes[0]);
    close(pipes[1]);
    return n;
}

Test(attach, successor_goes_on_with_the_fds) {
    cr_assert_eq(NB_HOOK_COUNT, 3);
    if (skip())
        return;
    cr_assert_eq(unshare(CLONE_NEWNET), 0);
    struct nb_claims *next;
    cr_assert_eq(nb_claims_create(1024, &claims, &err), 0, "%s", err.text);
    struct nb_fd fds[64];
    size_t n = predecessor_fds(fds, 64);
    nb_claims_destroy(claims); /* the parent's copy of what the child inherited; it attached nothing */
    bool tcx = n == 16;        /* its link is an fd; a clsact filter of Linux before 6.6 is none */
    cr_assert(tcx || n == 15);
    cr_assert_eq(nb_claims_adopt(fds, n - 1, &next, &err), -EINVAL, "one is missing");
    cr_assert_eq(nb_claims_adopt(fds, n, &next, &err), 0, "%s", err.text);
    claims = next;
    prog_xdp = fd_named("1.xdp-generic.prog");
    prog_tc = fd_named("1.tc.prog");
    prog_filter = fd_named("1.tc.filter");
    xdp = nb_attach_find(claims, LO, NB_HOOK_XDP_GENERIC);
    tc = nb_attach_find(claims, LO, NB_HOOK_TC);
    cr_assert(xdp != NULL && tc != NULL);
    cr_assert_str_eq(nb_attach_mode(tc), tcx ? "tcx link" : "clsact filter");
    struct packet p = udp4("10.0.0.1", 7000);
    cr_assert_eq(run(prog_xdp, &p), XDP_DROP, "its socket died with it: not for the kernel");
    xsk = xsk_open();
    cr_assert_eq(nb_attach_xsk_set(xdp, 0, xsk), 0);
    YES(udp4("10.0.0.1", 7000));
    YES(udp4("10.0.0.1", 7001));
    struct nb_claim old = claim("10.0.0.1", IPPROTO_UDP, 7001);
    cr_assert_eq(nb_claims_del(claims, &old), 0);
    NO(udp4("10.0.0.1", 7001));
    YES(udp4("10.0.0.1", 8500));
    struct nb_claim range = {.port = 8000, .port_last = 9000, .proto = IPPROTO_UDP};
    cr_assert_eq(nb_claims_del(claims, &range), 0);
    NO(udp4("10.0.0.1", 8500));
    claim_add(NULL, IPPROTO_UDP, 7002);
    YES(udp4("10.0.0.1", 7002));
    int filter;
    cr_assert_eq(nb_attach_socket_filter(tc, &filter), 0);
    close(filter);
    cr_assert_eq(nb_attach_socket_filter(xdp, &filter), -EOPNOTSUPP);
    teardown();
}

Test(attach, foreign_fds_are_refused) {
    struct nb_fd fds[1] = {{.fd = 0, .name = "9.tc.nonsense"}};
    struct nb_claims *c;
    cr_assert_eq(nb_claims_adopt(fds, 1, &c, &err), -EINVAL);
    cr_assert(strstr(err.text, "nonsense") != NULL);
    cr_assert_eq(nb_claims_adopt(fds, 0, &c, &err), -EINVAL);
    cr_assert(strstr(err.text, "claims") != NULL);
}
