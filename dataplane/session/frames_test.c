/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets for whole frames, by a client that writes the ring by hand: what goes, what is refused and told, and that
 * credit and packets come home whatever happens. The shards are turned by hand.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"

#define IFINDEX 3u
#define MTU     1500u

static struct kit k;
static struct kit_client a;
static struct session_socket s;
static struct {
    uint32_t count, len;
    uint16_t port;
    uint32_t owner, known;
    uint8_t head[PKT_RAW_HEAD];
} seen;

/* Frames find no queue behind their port: they end there, in sight of the tap. */
static void tap(struct shard *sh, void *arg, enum tap_point point, struct pkt *const *pkts, uint32_t n) {
    (void)sh;
    (void)arg;
    for (uint32_t i = 0; point == TAP_DROP && i < n; i++) {
        const struct pkt *p = pkts[i];
        if (p->known != PKT_KNOWN_RAW)
            continue;
        seen.count++;
        seen.len = pkt_bytes(p);
        seen.port = p->port;
        seen.owner = p->owner;
        memcpy(seen.head, p->data, p->len < PKT_RAW_HEAD ? p->len : PKT_RAW_HEAD);
    }
}

static void setup(void) {
    struct session_socket_params params = {.flow = {.proto = PROTO_FRAME}, .owner = 9, .ifindex = IFINDEX};
    kit_open(&k, NULL);
    kit_attach(&k, &a, 5000);
    k.rt->shard[0]->port_info[2] = (struct port_info){.up = true, .mtu = MTU, .ifindex = IFINDEX};
    k.rt->shard[0]->tap = tap;
    memset(&seen, 0, sizeof seen);
    cr_assert_eq(session_socket_open(a.s, &params, &s), 0);
}

static void teardown(void) {
    k.rt->shard[0]->tap = NULL;
    kit_settle(&k);
    kit_detach(&k, &a);
    cr_assert_eq(k.rt->shard[0]->small.pool.free_count, k.rt->shard[0]->small.pool.count, "a packet leaked");
    kit_close(&k);
}

TestSuite(frames, .init = setup, .fini = teardown);

static void send_frame(uint32_t len, uint16_t ethertype) {
    uint8_t *at = fake_client_tx(&a.c, 0);
    for (uint32_t i = 0; i < len; i++)
        at[i] = (uint8_t)(i * 7);
    be16_store(at + 12, ethertype);
    fake_client_send(&a.c, s.handle, 0, len, NULL, 0);
    kit_settle(&k);
}

/* The errno that the client is told, 0 = none. */
static uint32_t told(void) {
    struct ush_cqe e;
    uint32_t error = 0;
    while (fake_client_take(&a.c, &e)) {
        if (e.type == USH_CQ_EVENT && e.flags == USH_EVENT_ERROR && e.event.handle == s.handle)
            error = e.event.value;
    }
    return error;
}

static uint32_t credit_back(void) {
    return ((struct ush_socket *)(a.c.base + a.c.h.socket_off))[s.handle].tx_done;
}

Test(frames, go_to_their_interface_with_their_owner) {
    send_frame(14, 0x88b5);
    cr_assert_eq(seen.count, 1);
    cr_assert_eq(seen.len, 14);
    cr_assert_eq(seen.port, 2);
    cr_assert_eq(seen.owner, 9);
    send_frame(MTU + ETH_LEN, 0x88b5);
    cr_assert_eq(seen.len, MTU + ETH_LEN);
    send_frame(MTU + ETH_LEN + VLAN_LEN, ETHERTYPE_VLAN);
    cr_assert_eq(seen.count, 3);
    cr_assert_eq(told(), 0);
    cr_assert_eq(credit_back(), 14 + 2 * (MTU + ETH_LEN) + VLAN_LEN);
}

Test(frames, a_lent_frame_has_its_head_copied) {
    k.rt->shard[0]->port_info[2].mtu = 9000;
    send_frame(4000, 0x88b5);
    cr_assert_eq(seen.len, 4000);
    for (uint32_t i = 14; i < PKT_RAW_HEAD; i++)
        cr_assert_eq(seen.head[i], (uint8_t)(i * 7));
    cr_assert_eq(credit_back(), 4000);
}

Test(frames, what_is_no_frame_is_refused_and_told) {
    send_frame(13, 0x88b5);
    cr_assert_eq(told(), EINVAL);
    send_frame(0, 0x88b5);
    cr_assert_eq(told(), EINVAL);
    send_frame(MTU + ETH_LEN + 1, 0x88b5);
    cr_assert_eq(told(), EMSGSIZE);
    struct ush_sqe e = {.op = USH_OP_SEND, .send = {.handle = s.handle, .len = 1000, .gso_size = 100}};
    fake_client_put(&a.c, &e);
    kit_settle(&k);
    cr_assert_eq(told(), EINVAL);
    cr_assert_eq(seen.count, 0);
    cr_assert_eq(kit_drops(&k, DROP_FRAME_BAD_SEND), 4);
}

Test(frames, an_interface_that_is_gone_is_told) {
    k.rt->shard[0]->port_info[2].up = false;
    send_frame(60, 0x88b5);
    cr_assert_eq(told(), ENETDOWN);
    k.rt->shard[0]->port_info[2] = (struct port_info){.up = true, .mtu = MTU, .ifindex = IFINDEX, .caps = PORT_CAP_L3};
    send_frame(60, 0x88b5);
    cr_assert_eq(told(), ENETDOWN);
    cr_assert_eq(seen.count, 0);
}

Test(frames, a_socket_moves_to_another_interface) {
    struct session_socket_params params = {.flow = {.proto = PROTO_FRAME}, .owner = 9, .ifindex = IFINDEX + 1};
    k.rt->shard[0]->port_info[5] = (struct port_info){.up = true, .mtu = MTU, .ifindex = IFINDEX + 1};
    cr_assert_eq(session_socket_update(a.s, s.handle, &params), 0);
    send_frame(60, 0x88b5);
    cr_assert_eq(seen.port, 5);
    params.ifindex = 0;
    cr_assert_eq(session_socket_update(a.s, s.handle, &params), -EINVAL);
    cr_assert_eq(session_socket_close(a.s, s.handle), 0);
}

Test(frames, packets_of_its_number_from_elsewhere_end) {
    struct shard *sh = k.rt->shard[0];
    struct pkt *p = pkt_alloc(&sh->small.pool);
    p->flow.proto = PROTO_FRAME;
    cr_assert(hop_push(sh, HOP_TRANSPORT_IN, p));
    hops_run(sh);
    cr_assert_eq(kit_drops(&k, DROP_IP_PROTO), 1);
}
