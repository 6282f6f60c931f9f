/* SPDX-License-Identifier: Apache-2.0
 *
 * See wire_fixture.h.
 */
#include "nicbackend/tc/wire_fixture.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>

#define MARKER_TYPE  0x88b5u /* of local experiments: no rule of tests is about it */
#define MARKER_LIMIT 10000   /* ms: only what hangs takes so long */

static int end_open(uint32_t ifindex, uint16_t ethertype) {
    const struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ethertype), .sll_ifindex = (int)ifindex};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), room = 1 << 22;
    cr_assert_geq(fd, 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    cr_assert_eq(bind(fd, (const struct sockaddr *)&at, sizeof at), 0, "%s", strerror(errno));
    return fd;
}

void wire_make(struct wire *w) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
    cr_assert_eq(unshare(CLONE_NEWNET), 0);
    /* nothing speaks but the test */
    cr_assert_eq(system("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"), 0);
    cr_assert_eq(system("ip link add va type veth peer name vb && ip link set va up && ip link set vb up"), 0);
    *w = (struct wire){.ifindex = if_nametoindex("vb")};
    w->send = end_open(if_nametoindex("va"), 0);
    w->ip = end_open(w->ifindex, ETH_P_IP);
    w->arp = end_open(w->ifindex, ETH_P_ARP);
    w->marker = end_open(w->ifindex, MARKER_TYPE);
}

void wire_end(struct wire *w) {
    close(w->send);
    close(w->ip);
    close(w->arp);
    close(w->marker);
}

void wire_send(struct wire *w, const struct frame *f) {
    cr_assert_eq(send(w->send, f->b, f->len < 14 ? 14 : f->len, 0), (ssize_t)(f->len < 14 ? 14 : f->len), "%s",
                 strerror(errno));
}

static void marker_wait(struct wire *w) {
    struct frame m = {.len = 60};
    uint32_t got = 0;
    m.b[12] = MARKER_TYPE >> 8;
    m.b[13] = (uint8_t)MARKER_TYPE;
    w->sent++;
    memcpy(m.b + 14, &w->sent, 4);
    wire_send(w, &m);
    while (got != w->sent) {
        cr_assert_eq(poll(&(struct pollfd){.fd = w->marker, .events = POLLIN}, 1, MARKER_LIMIT), 1, "a marker is lost");
        cr_assert_geq(recv(w->marker, m.b, sizeof m.b, 0), 18);
        memcpy(&got, m.b + 14, 4);
    }
}

/* Takes all that is there; true when `f` is among it. */
static bool drained_of(int fd, const struct frame *f) {
    uint8_t got[512];
    ssize_t n;
    bool found = false;
    while ((n = recv(fd, got, sizeof got, MSG_DONTWAIT)) >= 0)
        found = found || ((size_t)n >= f->len && memcmp(got, f->b, f->len) == 0);
    return found;
}

bool wire_arrives(struct wire *w, const struct frame *f) {
    wire_send(w, f);
    marker_wait(w);
    bool ip = drained_of(w->ip, f);
    return drained_of(w->arp, f) || ip;
}

bool wire_receive(struct wire *w, struct frame *ret, int wait_ms) {
    if (poll(&(struct pollfd){.fd = w->ip, .events = POLLIN}, 1, wait_ms) != 1)
        return false;
    ssize_t n = recv(w->ip, ret->b, sizeof ret->b, MSG_DONTWAIT);
    ret->len = n < 0 ? 0 : (uint32_t)n;
    return n >= 0;
}
