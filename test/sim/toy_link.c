/* SPDX-License-Identifier: Apache-2.0
 *
 * A link engine small enough to be right, in the place of `ip`: the simulator's own tests run it. Built with TOY_BUG it
 * has one planted fault, and the simulator must see it; so the tests test the tester. It understands ip's command ids
 * and keeps nothing of them but the host's addresses. Frame: Ethernet, then length, protocol, source, destination, sum.
 */
#include <errno.h>

#include "engines/arena.h"
#include "engines/ip/ip_cmd.h"
#include "engines/wire.h"

enum toy_bug {
    TOY_FINE,
    TOY_LEAK,         /* forgets a packet */
    TOY_TWICE,        /* hands a packet on twice */
    TOY_ALTER,        /* changes a byte after its checksum was verified */
    TOY_CLONE,        /* delivers a datagram a second time */
    TOY_MUTE,         /* drops without a reason */
    TOY_NO_UNDO,      /* changes a record in two stores without the undo slot */
    TOY_FORGETS,      /* does not save the second address */
    TOY_SPINS,        /* its deadline never moves */
    TOY_WRONG_SOCKET, /* gives every 50th datagram another source */
    TOY_BAD_SUM,      /* leaves the checksum to an interface that cannot */
};
#ifndef TOY_BUG
#define TOY_BUG TOY_FINE
#endif

#define TOY_LAYOUT   1u
#define TOY_HEADER   (ETH_LEN + 38u)
#define TOY_TYPE     0x88b5
#define TOY_ADDR_MAX 4u

struct toy_addr {
    struct arena_record r;
    struct ipaddr addr;
    uint64_t packets, shadow; /* always equal: a change that is torn shows */
};

struct toy_state {
    struct arena_header a;
    uint32_t nth; /* derived: paces the planted fault */
};

static size_t toy_state_size(const void *cfg, char *err, size_t err_size) {
    (void)cfg, (void)err, (void)err_size;
    return arena_round(sizeof(struct toy_state)) + TOY_ADDR_MAX * arena_round(sizeof(struct toy_addr));
}

static int toy_init(void *state, size_t size, const void *cfg, uint64_t seed) {
    struct toy_state *st = (struct toy_state *)state;
    (void)size, (void)cfg;
    st->a.size = arena_round(sizeof *st);
    (void)arena_plan_table(&st->a, TOY_ADDR_MAX, sizeof(struct toy_addr));
    st->a.seed = seed;
    st->a.layout_version = TOY_LAYOUT;
    st->a.magic = ARENA_MAGIC;
    return 0;
}

static struct toy_addr *toy_find(struct toy_state *st, const struct ipaddr *addr, uint32_t *ret_index) {
    for (uint32_t i = 0; i < st->a.table[0].high_water; i++) {
        struct toy_addr *t = (struct toy_addr *)arena_lookup(st, &st->a.table[0], i);
        if (t != NULL && ipaddr_equal(&t->addr, addr)) {
            *ret_index = i;
            return t;
        }
    }
    return NULL;
}

static int toy_check(const void *state) {
    struct toy_state *st = (struct toy_state *)(uintptr_t)state;
    for (uint32_t i = 0; i < st->a.table[0].high_water; i++) {
        const struct toy_addr *t = (const struct toy_addr *)arena_lookup(st, &st->a.table[0], i);
        if (t != NULL && t->packets != t->shadow)
            return 1;
    }
    return st->a.undo_open ? 2 : 0;
}

static int toy_recover(void *state, size_t size, uint32_t *ret_lost) {
    struct toy_state *st = (struct toy_state *)state;
    *ret_lost = 0;
    if (arena_recover(&st->a, size, TOY_LAYOUT) != 0)
        return -EUCLEAN;
    *ret_lost = toy_check(state) != 0;
    return 0;
}

static void toy_fini(void *state, struct engine_io *io) {
    (void)state, (void)io;
}

static void toy_count(struct toy_state *st, struct toy_addr *t, uint32_t index) {
    if (TOY_BUG != TOY_NO_UNDO)
        arena_change(&st->a, 0, index, t, sizeof *t);
    t->packets++;
    arena_barrier();
    t->shadow++;
    if (TOY_BUG != TOY_NO_UNDO)
        arena_commit(&st->a);
}

static bool toy_due(struct toy_state *st) {
    return ++st->nth % 50 == 0;
}

static bool toy_parse(struct pkt *p) {
    const uint8_t *h = p->data + ETH_LEN;
    if (p->len < TOY_HEADER || be16_load(p->data + 12) != TOY_TYPE || csum_fold(csum_add(0, h, 38)) != 0xffff ||
        be16_load(h) > p->len - TOY_HEADER)
        return false;
    p->flow.proto = h[2];
    memcpy(p->flow.remote.b, h + 4, 16);
    memcpy(p->flow.local.b, h + 20, 16);
    pkt_pull(p, TOY_HEADER);
    p->len = be16_load(h);
    p->l4_off = (uint16_t)(p->data - p->buf);
    return true;
}

static void toy_clone(struct engine_io *io, const struct pkt *p) {
    struct pkt *c = pkt_alloc(io->pool);
    if (c == NULL)
        return;
    memcpy(c->data, p->data, p->len);
    c->len = p->len;
    c->flow = p->flow;
    c->flags = p->flags;
    c->l4_off = (uint16_t)(c->data - c->buf);
    (void)pkt_vec_push(io->up, c);
}

/* Breaks what TOY_BUG says. True when the packet is gone. */
static bool toy_break(struct toy_state *st, struct engine_io *io, struct pkt *p) {
    if (TOY_BUG == TOY_FINE || !toy_due(st))
        return false;
    if (TOY_BUG == TOY_MUTE)
        pkt_drop(io, p, DROP_NONE);
    if (TOY_BUG == TOY_TWICE)
        (void)pkt_vec_push(io->up, p);
    if (TOY_BUG == TOY_CLONE)
        toy_clone(io, p);
    if (TOY_BUG == TOY_WRONG_SOCKET)
        p->flow.remote.b[15] ^= 1;
    if (TOY_BUG == TOY_ALTER && p->len > UDP_LEN)
        p->data[p->len - 1] ^= 1;
    if (TOY_BUG == TOY_ALTER || TOY_BUG == TOY_WRONG_SOCKET)
        p->flags |= PKT_CSUM_OK;
    return TOY_BUG == TOY_MUTE || TOY_BUG == TOY_LEAK;
}

static void toy_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct toy_state *st = (struct toy_state *)state;
    uint32_t index = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (!(p->flags & PKT_LOCAL) && !toy_parse(p)) {
            pkt_drop(io, p, DROP_IP_TRUNCATED);
            continue;
        }
        struct toy_addr *t = toy_find(st, &p->flow.local, &index);
        if (t == NULL) {
            pkt_drop(io, p, DROP_IP_NOT_LOCAL);
            continue;
        }
        toy_count(st, t, index);
        p->ip_version = ipaddr_is_v4(&p->flow.local) ? 4 : 6;
        if (!toy_break(st, io, p))
            (void)pkt_vec_push(io->up, p);
    }
}

static void toy_choose_source(struct toy_state *st, struct flow *f) {
    for (uint32_t i = 0; i < st->a.table[0].high_water && ipaddr_is_any(&f->local); i++) {
        const struct toy_addr *t = (const struct toy_addr *)arena_lookup(st, &st->a.table[0], i);
        if (t != NULL && ipaddr_is_v4(&t->addr) == ipaddr_is_v4(&f->remote))
            f->local = t->addr;
    }
}

static void toy_push(struct engine_io *io, struct pkt *p) {
    uint32_t len = pkt_bytes(p);
    uint16_t sum = (uint16_t)~csum_fold(csum_pkt(csum_pseudo(&p->flow, len), p, p->buf + p->csum_start));
    if (sum == 0)
        sum = 0xffff;
    memcpy(p->buf + p->csum_start + p->csum_offset, &sum, sizeof sum);
    if (TOY_BUG != TOY_BAD_SUM)
        p->flags &= (uint16_t)~PKT_CSUM_PARTIAL;
    uint8_t *e = pkt_push(p, TOY_HEADER), *h = e + ETH_LEN;
    memcpy(e + 6, io->ports[0].mac, 6);
    memcpy(e, io->ports[0].mac, 5);
    e[5] = p->flow.remote.b[15];
    be16_store(e + 12, TOY_TYPE);
    be16_store(h, (uint16_t)len);
    h[2] = p->flow.proto;
    h[3] = 0;
    memcpy(h + 4, p->flow.local.b, 16);
    memcpy(h + 20, p->flow.remote.b, 16);
    memset(h + 36, 0, 2);
    sum = (uint16_t)~csum_fold(csum_add(0, h, 38));
    memcpy(h + 36, &sum, sizeof sum);
    p->port = 0;
    (void)pkt_vec_push(io->down, p);
}

static void toy_output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct toy_state *st = (struct toy_state *)state;
    uint32_t index = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if ((p->flags & PKT_GSO) || pkt_bytes(p) + TOY_HEADER > io->ports[0].mtu) {
            pkt_drop(io, p, DROP_IP_TOO_BIG);
            continue;
        }
        toy_choose_source(st, &p->flow);
        if (toy_find(st, &p->flow.remote, &index) == NULL) {
            toy_push(io, p);
            continue;
        }
        struct flow back = {.local = p->flow.remote, .remote = p->flow.local, .proto = p->flow.proto};
        p->flow = back;
        p->flags |= PKT_LOCAL;
        (void)pkt_vec_push(io->down, p);
    }
}

static uint32_t toy_run(void *state, struct engine_io *io, uint32_t budget) {
    (void)state, (void)io, (void)budget;
    return 0;
}

static ns_t toy_next_deadline(const void *state) {
    const struct toy_state *st = (const struct toy_state *)state;
    return TOY_BUG == TOY_SPINS && st->a.table[0].live > 0 ? 1 : NS_NEVER;
}

static void toy_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *reply) {
    struct toy_state *st = (struct toy_state *)state;
    const struct ip_cmd_addr *c = (const struct ip_cmd_addr *)cmd;
    uint32_t index;
    (void)io;
    reply->error = 0;
    if (cmd->id != IP_CMD_ADDR || toy_find(st, &c->addr, &index) != NULL)
        return;
    struct toy_addr *t = (struct toy_addr *)arena_take(st, &st->a.table[0], &index);
    if (t == NULL) {
        reply->error = -ENOSPC;
        return;
    }
    t->addr = c->addr;
    t->packets = t->shadow = 0;
    arena_publish(&st->a.table[0], t);
}

static int64_t toy_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size) {
    struct toy_state *st = (struct toy_state *)(uintptr_t)state;
    uint32_t max = TOY_BUG == TOY_FORGETS ? 1 : st->a.table[0].high_water;
    while (*cursor < max) {
        const struct toy_addr *t = (const struct toy_addr *)arena_lookup(st, &st->a.table[0], (uint32_t)(*cursor)++);
        if (t == NULL)
            continue;
        if (size < sizeof *t)
            return -ENOSPC;
        memcpy(buf, &t->addr, sizeof t->addr);
        memcpy(buf + sizeof t->addr, &t->packets, sizeof t->packets);
        return sizeof t->addr + sizeof t->packets;
    }
    return 0;
}

static int toy_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size) {
    struct toy_state *st = (struct toy_state *)state;
    uint32_t index;
    if (from_version != TOY_LAYOUT || size != sizeof(struct ipaddr) + sizeof(uint64_t))
        return -EBADMSG;
    struct toy_addr *t = (struct toy_addr *)arena_take(st, &st->a.table[0], &index);
    if (t == NULL)
        return -ENOSPC;
    memcpy(&t->addr, rec, sizeof t->addr);
    memcpy(&t->packets, rec + sizeof t->addr, sizeof t->packets);
    t->shadow = t->packets;
    arena_publish(&st->a.table[0], t);
    return 0;
}

__attribute__((visibility("default"))) extern const struct engine_ops usher_engine;
const struct engine_ops usher_engine = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "toy",
    .stage = STAGE_LINK,
    .caps = ENGINE_CAP_INPUT | ENGINE_CAP_OUTPUT,
    .layout_version = TOY_LAYOUT,
    .state_size = toy_state_size,
    .init = toy_init,
    .recover = toy_recover,
    .fini = toy_fini,
    .input = toy_input,
    .output = toy_output,
    .run = toy_run,
    .next_deadline = toy_next_deadline,
    .command = toy_command,
    .save = toy_save,
    .load = toy_load,
    .check = toy_check,
};
