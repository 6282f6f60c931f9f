/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames as they are shown from each tap, and the rings: what is lost is counted to the packet, what is read is what
 * was written. Shards are turned by hand.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/capture/capture.h"
#include "dataplane/capture/frame.h"
#include "dataplane/core/test_kit.h"
#include "engines/wire.h"

static struct kit k;
static struct capture_host *host;
static struct capture *c;

static void setup(void) {
    kit_open(&k, NULL);
    cr_assert_eq(capture_host_create(k.rt, &host), 0);
}

static void teardown(void) {
    capture_close(c);
    cr_assert_null(k.rt->shard[0]->tap);
    capture_host_destroy(host);
    kit_close(&k);
}

TestSuite(capture, .init = setup, .fini = teardown);

#define ALL_POINTS (1u << TAP_RX | 1u << TAP_TX | 1u << TAP_DROP | 1u << TAP_LOCAL)

static void open_with(struct capture_params params) {
    uint32_t at;
    params.points = params.points != 0 ? params.points : ALL_POINTS;
    cr_assert_eq(capture_open(host, &params, &c, &at), 0);
}

/* A UDP datagram in Ethernet, `payload` bytes of `fill`. */
static struct pkt *datagram(uint32_t payload, uint8_t fill) {
    struct pkt *p = pkt_alloc(&k.rt->shard[0]->small.pool);
    uint8_t *b = p->data;
    memset(b, 0, ETH_LEN + IP4_LEN + UDP_LEN);
    memset(b, 0xee, 12);
    be16_store(b + 12, ETHERTYPE_IP4);
    b[14] = 0x45;
    be16_store(b + 16, (uint16_t)(IP4_LEN + UDP_LEN + payload));
    b[23] = PROTO_UDP;
    memcpy(b + 26, (const uint8_t[]){10, 0, 0, 9, 10, 0, 0, 1}, 8);
    be16_store(b + 34, 4000);
    be16_store(b + 36, 5000);
    memset(b + 42, fill, payload);
    p->len = 42 + payload;
    p->port = 0;
    return p;
}

static void tap(enum tap_point point, struct pkt *p) {
    struct shard *sh = k.rt->shard[0];
    if (sh->tap != NULL)
        sh->tap(sh, sh->tap_arg, point, &p, 1);
}

static void done(struct pkt *p) {
    shard_pkt_free(k.rt->shard[0], p);
}

static struct capture_counts counts(void) {
    struct capture_counts n;
    capture_counts(c, &n);
    return n;
}

/* ---- what is chosen ---- */

Test(capture, what_matches_is_recorded_and_cut) {
    static const struct sock_filter udp[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PROTO_UDP, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 65535),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct pkt *p = datagram(100, 7);
    open_with((struct capture_params){.code = udp, .count = 4, .snaplen = 60});
    tap(TAP_RX, p);
    p->data[23] = PROTO_TCP;
    tap(TAP_RX, p);
    const struct capture_record *r = capture_next(c);
    cr_assert(r != NULL && r->captured == 60 && r->length == 142 && r->point == TAP_RX);
    cr_assert_eq(capture_bytes(r)[23], PROTO_UDP);
    cr_assert_eq(capture_bytes(r)[59], 7);
    capture_release(c, r);
    cr_assert_null(capture_next(c));
    struct capture_counts n = counts();
    cr_assert(n.seen == 2 && n.matched == 1 && n.recorded == 1 && n.lost == 0);
    done(p);
}

Test(capture, points_ports_samples_and_limits_choose) {
    struct pkt *p = datagram(10, 1);
    open_with((struct capture_params){.points = 1u << TAP_TX, .ports = 1u << 3, .sample = 4, .limit = 2});
    tap(TAP_RX, p);
    tap(TAP_TX, p);
    cr_assert_eq(counts().seen, 0);
    p->port = 3;
    for (uint32_t i = 0; i < 20; i++)
        tap(TAP_TX, p);
    struct capture_counts n = counts();
    cr_assert(n.seen == 20 && n.matched == 20 && n.recorded == 2, "%lu", n.recorded);
    done(p);
}

Test(capture, a_program_that_is_wrong_is_refused) {
    static const struct sock_filter endless[] = {BPF_STMT(BPF_RET | BPF_K, 1),
                                                 BPF_STMT(BPF_JMP | BPF_JA, (uint32_t)-2)};
    struct capture_params params = {.code = endless, .count = 2, .points = ALL_POINTS};
    uint32_t at = 0;
    cr_assert_eq(capture_open(host, &params, &c, &at), -EINVAL);
    cr_assert_eq(at, 1);
}

Test(capture, only_so_many_at_a_time) {
    struct capture *more[CAPTURE_MAX + 1];
    struct capture_params params = {.points = ALL_POINTS};
    uint32_t at;
    for (uint32_t i = 0; i < CAPTURE_MAX; i++)
        cr_assert_eq(capture_open(host, &params, &more[i], &at), 0);
    cr_assert_eq(capture_open(host, &params, &more[CAPTURE_MAX], &at), -EMFILE);
    struct pkt *p = datagram(10, 1);
    tap(TAP_RX, p);
    for (uint32_t i = 0; i < CAPTURE_MAX; i++) {
        cr_assert_not_null(capture_next(more[i]));
        capture_close(more[i]);
    }
    done(p);
}

/* ---- the ring ---- */

/* Every record that is written is read, in order, whole; every other one is counted. */
Test(capture, what_finds_no_room_is_counted_exactly) {
    uint64_t offered = 0, read = 0;
    struct pkt *p = datagram(1, 0);
    open_with((struct capture_params){.ring_bytes = 1});
    for (uint32_t round = 0; round < 30; round++) {
        for (uint32_t i = 0; i < 1500; i++) {
            uint32_t payload = (i * 37 + round) % 1400 + 1;
            p->len = 42 + payload;
            memset(p->data + 42, (int)payload & 0xff, payload);
            tap(TAP_RX, p);
            offered++;
        }
        const struct capture_record *r;
        for (uint32_t i = 0; i < 600 + round * 30 && (r = capture_next(c)) != NULL; i++, read++) {
            uint32_t payload = r->length - 42;
            cr_assert_eq(r->captured, r->length);
            for (uint32_t b = 42; b < r->captured; b++)
                cr_assert_eq(capture_bytes(r)[b], (uint8_t)payload);
            capture_release(c, r);
        }
    }
    for (const struct capture_record *r; (r = capture_next(c)) != NULL; read++)
        capture_release(c, r);
    struct capture_counts n = counts();
    cr_assert_gt(n.lost, 0);
    cr_assert_eq(n.recorded, read);
    cr_assert_eq(n.recorded + n.lost, offered);
    done(p);
}

Test(capture, a_reader_that_sleeps_is_woken_once) {
    struct pkt *p = datagram(1, 0);
    eventfd_t rung;
    open_with((struct capture_params){.points = 0});
    cr_assert_not(capture_sleep(c));
    tap(TAP_RX, p);
    tap(TAP_RX, p);
    cr_assert_eq(eventfd_read(capture_fd(c), &rung), 0);
    cr_assert_eq(rung, 1);
    capture_wake(c);
    cr_assert(capture_sleep(c)); /* there still are two */
    done(p);
}

/* ---- frames ---- */

static void frame_is(const struct pkt *p, enum tap_point point, const char *want, uint32_t length, uint8_t flags) {
    struct frame f;
    uint8_t head[64] = {0};
    char text[129] = "";
    frame_of(&f, p, point, false);
    cr_assert_eq(f.length, length, "%u bytes", f.length);
    cr_assert(frame_read(&f, 0, head, length < sizeof head ? length : (uint32_t)sizeof head));
    for (size_t i = 0; i < strlen(want) / 2; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", head[i]);
    cr_assert_str_eq(text, want);
    cr_assert_eq(f.flags, flags);
    cr_assert_not(frame_read(&f, length, head, 1));
}

Test(capture, frames_of_received_and_dropped_packets_have_all_their_headers) {
    struct pkt *p = datagram(4, 9);
    const char *whole = "eeeeeeeeeeeeeeeeeeeeeeee0800450000200000";
    frame_is(p, TAP_RX, whole, 46, 0);
    p->l3_off = (uint16_t)(p->data + ETH_LEN - p->buf); /* as the link engine leaves it, and then the transport */
    p->ip_version = 4;
    pkt_pull(p, 42);
    p->drop = DROP_UDP_NO_SOCKET;
    frame_is(p, TAP_DROP, whole, 46, 0);
    done(p);
}

Test(capture, a_tag_that_the_port_took_off_is_put_back) {
    struct pkt *p = datagram(4, 9);
    p->flags |= PKT_VLAN;
    p->vlan = 5;
    frame_is(p, TAP_RX, "eeeeeeeeeeeeeeeeeeeeeeee8100000508004500", 50, 0);
    done(p);
}

Test(capture, what_turns_round_has_a_link_header_of_zeros) {
    struct pkt *p = datagram(4, 9);
    pkt_pull(p, ETH_LEN);
    p->flags |= PKT_LOCAL;
    frame_is(p, TAP_LOCAL, "000000000000000000000000080045000020", 46, FRAME_OUT);
    done(p);
}

Test(capture, a_request_that_died_early_is_made_up_from_its_flow) {
    struct pkt *p = pkt_alloc(&k.rt->shard[0]->small.pool);
    memset(p->data, 9, 4);
    p->len = 4;
    p->flow = (struct flow){.local = kit_addr(1),
                            .remote = kit_far_addr(2),
                            .local_port = 0x1234,
                            .remote_port = 0x5678,
                            .proto = PROTO_UDP};
    p->drop = DROP_UDP_BAD_SEND;
    frame_is(p, TAP_DROP, "000000000000000000000000080045000020000000004011b0220a000001c0a8000212345678000c00000909",
             46, FRAME_OUT | FRAME_MADE_UP);
    p->flow.remote = p->flow.local = ipaddr_from_v6((const uint8_t[16]){0xfd, [15] = 1});
    p->flow.proto = PROTO_TCP;
    p->drop = DROP_TCP_BAD_SEND;
    frame_is(p, TAP_DROP, "00000000000000000000000086dd6000000000180640fd", 14 + 40 + 20 + 4,
             FRAME_OUT | FRAME_MADE_UP);
    done(p);
}

/* ---- the pipeline ---- */

Test(capture, senders_and_receivers_are_known) {
    struct kit_client a;
    kit_attach(&k, &a, 5000);
    open_with((struct capture_params){.points = ALL_POINTS});
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_far_addr(1).b, 7);
    kit_settle(&k);
    const struct capture_record *r = capture_next(c);
    cr_assert(r != NULL && r->point == TAP_DROP && r->drop == DROP_PORT_DOWN && r->owner == 1);
    capture_release(c, r);
    struct pkt *p = datagram(4, 9);
    tap(TAP_RX, p);
    r = capture_next(c);
    cr_assert(r != NULL && r->point == TAP_RX && r->owner == 1 && r->proto == PROTO_UDP);
    capture_release(c, r);
    done(p);
    kit_detach(&k, &a);
}
