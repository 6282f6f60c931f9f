/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the tcp engine. The input is a story: segments with any flags, numbers and options from three hostile
 * peers (near what is expected, so that most get somewhere), raw headers, ICMP errors, time, a program that listens,
 * connects, sends, reads, sets options and closes, crashes and upgrades. check() holds after every call, payload that
 * goes up is bounded by what was sent, and in the end no packet is missing.
 */
#include <errno.h>

#include "engines/tcp/testlink.h"
#include "engines/wire.h"
#include "test/fuzz/fuzz_input.h"

#define PEERS 3u

struct story {
    struct link *l;
    struct fuzz_input *in;
    uint32_t snd[PEERS], rcv[PEERS];
    uint32_t socks;
};

static struct story *now; /* the filter has no other way to know whose answer it sees */

/* Nothing the engine sends reaches anybody; what it expects next is remembered for the peer. */
static bool swallow(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    uint32_t peer = p->flow.remote_port % PEERS;
    (void)l;
    (void)arg;
    if (from == 1) {
        uint32_t len = pkt_bytes(p) - (p->data[12] >> 4) * 4u;
        now->rcv[peer] = be32_load(p->data + 4) + len + !!(p->data[13] & 3);
        if (p->data[13] & 0x10)
            now->snd[peer] = be32_load(p->data + 8);
    }
    return false;
}

static int32_t near(struct fuzz_input *in) {
    uint8_t how = fuzz_u8(in);
    if (how < 128)
        return 0;
    return how < 192 ? (int8_t)fuzz_u8(in) : how < 240 ? (int16_t)fuzz_u16(in) : (int32_t)fuzz_u32(in);
}

static uint32_t some_options(struct story *s, uint32_t peer, uint8_t *o) {
    uint8_t how = fuzz_u8(s->in);
    uint32_t n = 0;
    if (how & 1)
        n += (memcpy(o + n, "\x02\x04\x05\xb4", 4), 4u);
    if (how & 2)
        n += (memcpy(o + n, "\x01\x03\x03\x07", 4), 4u);
    if (how & 4)
        n += (memcpy(o + n, "\x04\x02\x01\x01", 4), 4u);
    if (how & 8) {
        memcpy(o + n, "\x01\x01\x08\x0a", 4);
        be32_store(o + n + 4, (uint32_t)near(s->in));
        be32_store(o + n + 8, fuzz_u32(s->in));
        n += 12;
    }
    if (how & 16) {
        memcpy(o + n, "\x01\x01\x05\x0a", 4);
        be32_store(o + n + 4, s->rcv[peer] + (uint32_t)near(s->in));
        be32_store(o + n + 8, s->rcv[peer] + (uint32_t)near(s->in));
        n += 12;
    }
    if ((how & 32) && n <= 36) {
        fuzz_fill(s->in, o + n, 4);
        n += 4;
    }
    return n;
}

static void hostile_segment(struct story *s) {
    static const uint8_t data[2048];
    static const uint8_t usual[8] = {0x02, 0x10, 0x18, 0x11, 0x10, 0x12, 0x04, 0x19};
    uint8_t opts[64], how = fuzz_u8(s->in);
    uint32_t peer = how % PEERS;
    struct link_segment g = {.sport = (uint16_t)(6000 + peer), .dport = 80, .wnd = fuzz_u16(s->in)};
    g.flags = how & 0x80 ? fuzz_u8(s->in) : usual[how >> 4 & 7];
    g.seq = s->snd[peer] + (uint32_t)near(s->in);
    g.ack = s->rcv[peer] + (uint32_t)near(s->in);
    g.opts_len = some_options(s, peer, opts);
    g.opts = opts;
    g.len = how & 4 ? fuzz_u16(s->in) % 1460 : 0;
    g.data = data;
    g.doff = how & 8 && fuzz_u8(s->in) > 250 ? fuzz_u8(s->in) & 15 : 0;
    link_inject(s->l, 1, &g);
}

static void option_or_command(struct story *s) {
    struct tcp_cmd_option c = {.cmd = {TCP_CMD_OPTION, sizeof c}, .sock = fuzz_u8(s->in) % 8};
    c.option = fuzz_u8(s->in) % 24;
    c.value = (int32_t)fuzz_u32(s->in);
    if (fuzz_u8(s->in) & 1)
        c.sock |= TCP_SOCK_LISTENER;
    memcpy(c.name, "reno", 4);
    (void)link_command(s->l, 1, &c);
}

static struct link_sock *some_sock(struct story *s, uint32_t *ret_index) {
    *ret_index = fuzz_u8(s->in) % 8;
    struct link_sock *k = &s->l->host[1].socks[*ret_index];
    return k->used && !k->closed ? k : NULL;
}

static void program(struct story *s) {
    uint8_t what = fuzz_u8(s->in);
    uint32_t i;
    struct link_sock *k = some_sock(s, &i);
    if (what % 8 == 0 && s->socks < 16) {
        struct tcp_cmd_connect c = {.flow.local_port = 80, .fastopen = what & 8};
        (void)link_connect(s->l, 1, (uint16_t)(6000 + s->socks++ % PEERS), what, &c);
        return;
    }
    if (k == NULL)
        return;
    if (what % 8 == 1)
        link_close(s->l, 1, i, what & 8);
    else if (what % 8 == 2)
        link_shutdown(s->l, 1, i);
    else if (what % 8 == 3)
        k->no_read = !k->no_read;
    else
        k->tx_total += (uint64_t)what * what;
    link_pump(s->l, 1);
}

static void step(struct story *s) {
    switch (fuzz_u8(s->in) % 16) {
    case 0:
    case 1:
        link_step_time(s->l, s->l->now + (1ull << fuzz_u8(s->in) % 37));
        return;
    case 2:
    case 3:
    case 4:
        program(s);
        return;
    case 5:
        option_or_command(s);
        return;
    case 6:
        link_inject_icmp(s->l, 1, 80, (uint16_t)(6000 + fuzz_u8(s->in) % PEERS), s->rcv[0] + (uint32_t)near(s->in),
                         fuzz_u8(s->in) & 1 ? EMSGSIZE : ECONNREFUSED, fuzz_u16(s->in));
        return;
    case 7:
        if (fuzz_u8(s->in) & 1)
            (void)link_crash(s->l, 1);
        else
            link_upgrade(s->l, 1);
        return;
    default:
        hostile_segment(s);
        return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    struct tcp_config cfg = {
        .conn_max = 16, .half_open_max = 4, .time_wait_max = 4, .item_max = 256, .listener_max = 2};
    struct tcp_cmd_listen listen = {.backlog = 8, .fastopen = 2};
    struct story s = {.in = &in};
    uint8_t first = fuzz_u8(&in);
    cfg.segment_max = 256;
    cfg.ooo_packet_max = 32;
    cfg.flags = first & (TCP_CONFIG_ECN | TCP_CONFIG_COOKIES_ALWAYS);
    link_pool_size = 256;
    now = &s;
    s.l = link_create(1, &cfg, &cfg);
    s.l->filter = swallow;
    s.l->host[1].accept_as.tx_total = first & 64 ? 20000 : 0;
    for (uint32_t i = 0; i < PEERS; i++)
        s.snd[i] = 1000;
    (void)link_listen(s.l, 1, 80, &listen);
    for (uint32_t i = 0; i < 200 && in.left > 0 && s.l->host[1].accepts < 32; i++)
        step(&s);
    if (!link_pools_whole(s.l))
        __builtin_trap();
    link_destroy(s.l);
    return 0;
}
