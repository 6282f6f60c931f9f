/* SPDX-License-Identifier: Apache-2.0
 *
 * See frames_fixture.h.
 */
#include "nicbackend/store/frames_fixture.h"

#include <string.h>

#include "nicbackend/store/world_fixture.h"

static void put(struct frame *f, const void *bytes, uint32_t n) {
    memcpy(f->b + f->len, bytes, n);
    f->len += n;
}

static void put16(struct frame *f, uint32_t v) {
    put(f, (uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2);
}

static void put_eth(struct frame *f, uint16_t type) {
    put(f, "\2\0\0\0\0\1\2\0\0\0\0\2", 12);
    put16(f, type);
}

static void put_transport(struct frame *f, const struct nb_view *v) {
    put16(f, v->proto == 1 ? (uint32_t)v->icmp_type << 8 | v->icmp_code : v->sport);
    put16(f, v->dport);
    put(f, "\0\0\0\0\0\0\0\0\x50", 9);
    put(f, &v->tcp_flags, 1);
    put(f, "\0\0\0\0\0\0", 6);
}

static void put_v4(struct frame *f, const struct nb_view *v, uint32_t options) {
    uint8_t h[60] = {(uint8_t)(0x45 + options / 4), (uint8_t)(v->dscp << 2), [8] = 64, [9] = v->proto};
    uint32_t total = 20 + options + 20;
    h[2] = (uint8_t)(total >> 8);
    h[3] = (uint8_t)total;
    h[6] = (v->parsed & NB_PARSED_FRAGMENT) != 0 ? 0x20 : 0;
    memcpy(h + 12, v->src.b + 12, 4);
    memcpy(h + 16, v->dst.b + 12, 4);
    put(f, h, 20 + options);
}

/* The frame of a view, of the toy world: what is not IP is ARP. */
struct frame frame_of(const struct nb_view *v) {
    struct frame f = {.len = 0};
    put_eth(&f, v->ethertype);
    if ((v->parsed & NB_PARSED_IP) == 0) {
        f.len += 28;
        return f;
    }
    put_v4(&f, v, 0);
    put_transport(&f, v);
    return f;
}

static void put_v6(struct frame *f, const struct nb_view *v, uint64_t *rng) {
    static const uint8_t kinds[] = {0, 43, 60, 44};
    uint32_t n = toy_roll(rng, 9);
    n = n > 7 ? 0 : toy_roll(rng, 2) ? 0 : n;
    uint32_t total = n * 8 + 20;
    uint8_t h[40] = {(uint8_t)(0x60 | v->dscp >> 2), (uint8_t)(v->dscp << 6), [4] = (uint8_t)(total >> 8), [7] = 64};
    uint8_t kind = n == 0 ? v->proto : kinds[toy_roll(rng, 4)];
    h[5] = (uint8_t)total;
    h[6] = kind;
    memcpy(h + 8, v->src.b, 16);
    memcpy(h + 24, v->dst.b, 16);
    put(f, h, sizeof h);
    for (; n > 0; n--) {
        uint8_t e[8] = {n == 1 ? v->proto : kinds[toy_roll(rng, 4)]};
        if (kind == 44 && toy_roll(rng, 3) == 0)
            e[3] = (uint8_t)(toy_roll(rng, 2) ? 1 : 8);
        kind = e[0];
        put(f, e, sizeof e);
    }
}

struct frame frame_some(uint64_t *rng) {
    static const uint8_t protos[] = {6, 17, 1, 58, 132, 136, 47, 6, 17};
    struct nb_view v = {.proto = protos[toy_roll(rng, sizeof protos)],
                        .sport = (uint16_t)toy_roll(rng, 3),
                        .dport = (uint16_t)toy_roll(rng, 3),
                        .tcp_flags = (uint8_t)toy_roll(rng, 256),
                        .icmp_type = (uint8_t)toy_roll(rng, 4),
                        .dscp = (uint8_t)toy_roll(rng, 64),
                        .parsed = toy_roll(rng, 8) ? 0 : NB_PARSED_FRAGMENT};
    struct frame f = {.len = 0};
    bool v6 = toy_roll(rng, 2) != 0;
    v.src = nb_addr_from_v4((uint8_t[]){10, 0, 0, (uint8_t)toy_roll(rng, 4)});
    v.dst = nb_addr_from_v4((uint8_t[]){10, 0, 1, (uint8_t)toy_roll(rng, 4)});
    put(&f, "\2\0\0\0\0\1\2\0\0\0\0\2", 12);
    for (uint32_t tags = toy_roll(rng, 6); tags > 0 && tags < 4; tags--) {
        put16(&f, toy_roll(rng, 2) ? 0x8100 : 0x88a8);
        put16(&f, toy_roll(rng, 3) | 0x6000);
    }
    put16(&f, toy_roll(rng, 20) == 0 ? 0x0806 : v6 ? 0x86dd : 0x0800);
    uint32_t l3 = f.len;
    if (v6)
        put_v6(&f, &v, rng);
    else
        put_v4(&f, &v, 4 * toy_roll(rng, 4));
    put_transport(&f, &v);
    if (toy_roll(rng, 6) == 0) /* a lie in the header, or a frame that ends early, or padding */
        f.b[l3 + toy_roll(rng, 8)] ^= (uint8_t)(1 << toy_roll(rng, 8));
    if (toy_roll(rng, 6) == 0)
        f.len -= toy_roll(rng, 30);
    else if (toy_roll(rng, 6) == 0)
        f.len += toy_roll(rng, 30);
    return f;
}
