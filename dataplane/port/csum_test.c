/* SPDX-License-Identifier: Apache-2.0
 *
 * Partial checksums: found where they are, not found elsewhere, completed to what a receiver accepts; and truncated or
 * random frames never lead outside the buffer.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "dataplane/port/csum.h"

struct frame {
    struct pkt p;
    uint8_t buf[512] CACHE_ALIGNED;
};

static void frame_start(struct frame *f) {
    memset(f, 0, sizeof *f);
    f->p.buf = f->buf;
    f->p.buf_size = sizeof f->buf;
    f->p.data = f->buf + PKT_HEADROOM;
}

/* A frame with a partial checksum but no flag, as AF_XDP shows it. Returns the transport offset from data. */
static uint32_t frame_make(struct frame *f, bool v6, uint8_t proto, uint32_t payload, bool vlan) {
    frame_start(f);
    uint8_t *d = f->p.data;
    uint32_t at = vlan ? 18 : 14, l4_len = (proto == PROTO_UDP ? UDP_LEN : TCP_LEN) + payload;
    be16_store(d + 12, vlan ? ETHERTYPE_VLAN : v6 ? ETHERTYPE_IP6 : ETHERTYPE_IP4);
    if (vlan)
        be16_store(d + 16, v6 ? ETHERTYPE_IP6 : ETHERTYPE_IP4);
    struct flow flow = {.proto = proto};
    for (int i = 0; i < 16; i++)
        flow.local.b[i] = (uint8_t)(i * 3 + 1), flow.remote.b[i] = (uint8_t)(i * 5 + 2);
    if (v6) {
        d[at] = 0x60;
        be16_store(d + at + 4, (uint16_t)l4_len);
        d[at + 6] = proto;
        memcpy(d + at + 8, flow.remote.b, 16);
        memcpy(d + at + 24, flow.local.b, 16);
        at += IP6_LEN;
    } else {
        flow.local = ipaddr_from_v4("\x0a\0\0\x01");
        flow.remote = ipaddr_from_v4("\x0a\0\0\x02");
        d[at] = 0x45;
        be16_store(d + at + 2, (uint16_t)(IP4_LEN + l4_len));
        d[at + 9] = proto;
        memcpy(d + at + 12, "\x0a\0\0\x02\x0a\0\0\x01", 8);
        at += IP4_LEN;
    }
    for (uint32_t i = 0; i < l4_len; i++)
        d[at + i] = (uint8_t)(i * 7 + 3);
    uint16_t pseudo = csum_fold(csum_pseudo(&flow, l4_len));
    memcpy(d + at + (proto == PROTO_UDP ? 6 : 16), &pseudo, 2);
    f->p.len = at + l4_len;
    return at;
}

Test(csum, partial_sums_are_found_and_completed) {
    struct frame f;
    for (int v6 = 0; v6 < 2; v6++) {
        for (int tcp = 0; tcp < 2; tcp++) {
            for (uint32_t payload = 0; payload < 40; payload++) {
                uint8_t proto = tcp ? PROTO_TCP : PROTO_UDP;
                uint32_t at = frame_make(&f, v6, proto, payload, payload & 1);
                cr_assert(rx_csum_accept_partial(&f.p));
                cr_assert_eq(f.p.flags, PKT_CSUM_PARTIAL);
                cr_assert_eq(f.p.csum_start, PKT_HEADROOM + at);
                csum_complete(&f.p);
                cr_assert_eq(f.p.flags, 0);
                struct flow flow = {.proto = 0};
                uint32_t l4_len = 0;
                cr_assert_eq(rx_transport(&f.p, &flow, &l4_len), at);
                uint64_t sum = csum_pseudo(&flow, l4_len);
                cr_assert_eq(csum_fold(csum_pkt(sum, &f.p, f.p.data + at)), 0xffff);
                cr_assert(!rx_csum_accept_partial(&f.p), "a full checksum is not partial");
            }
        }
    }
}

Test(csum, fragments_and_other_protocols_are_left_alone) {
    struct frame f;
    frame_make(&f, false, PROTO_UDP, 20, false);
    f.p.data[14 + 6] = 0x20; /* more fragments */
    cr_assert(!rx_csum_accept_partial(&f.p));
    frame_make(&f, false, PROTO_UDP, 20, false);
    f.p.data[14 + 9] = 47;
    cr_assert(!rx_csum_accept_partial(&f.p));
    frame_make(&f, false, PROTO_UDP, 20, false);
    be16_store(f.p.data + 14 + 2, 2000); /* longer than the frame */
    cr_assert(!rx_csum_accept_partial(&f.p));
}

Test(csum, random_and_cut_frames_stay_inside) {
    srandom(7);
    for (int i = 0; i < 200000; i++) {
        struct frame f;
        frame_make(&f, i & 1, i & 2 ? PROTO_TCP : PROTO_UDP, 30, i & 4);
        for (int k = 0; k < 3; k++)
            f.p.data[12 + random() % 60] = (uint8_t)random();
        f.p.len = (uint32_t)random() % (f.p.len + 1);
        if (rx_csum_accept_partial(&f.p))
            cr_assert_leq(f.p.csum_start + f.p.csum_offset + 2u, PKT_HEADROOM + f.p.len);
    }
}
