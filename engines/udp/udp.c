/* SPDX-License-Identifier: Apache-2.0
 *
 * The udp engine: its place in the contract of engines/engine.h, and the life of its state. The work is in
 * udp_input.c, udp_output.c and udp_cmd.c. The engine keeps no packets and has no timers.
 */
#include <errno.h>

#include "engines/udp/udp.h"

#define SOCKET_DEFAULT 16384u
#define MEMBER_DEFAULT 1024u
#define TABLE_LIMIT    (1u << 24)

static const struct engine_counter counters[UDP_COUNT_COUNT] = {
    [UDP_COUNT_RX] = {"rx_packets", "packets that came up to udp"},
    [UDP_COUNT_TX] = {"tx_packets", "send requests that came down to udp"},
    [UDP_COUNT_CACHE_MISS] = {"flow_cache_miss_packets", "datagrams whose socket was not in the flow cache"},
    [UDP_COUNT_CLONES] = {"clone_packets", "copies made for further receivers of a group or broadcast"},
    [UDP_COUNT_CLONE_FAILED] = {"clone_failed_packets", "copies not made for want of a buffer"},
    [UDP_COUNT_ERRORS] = {"icmp_error_packets", "ICMP errors handed to a socket"},
    [UDP_COUNT_BOUNCED] = {"bounced_packets", "datagrams given back to their senders: only the kernel can carry them"},
    [UDP_COUNT_DIRECT] = {"direct_packets", "datagrams between sockets of this host that did not pass the link engine"},
};

static struct udp_config config_or_default(const void *cfg) {
    struct udp_config c = {0};
    if (cfg != NULL)
        c = *(const struct udp_config *)cfg;
    c.socket_max = c.socket_max != 0 ? c.socket_max : SOCKET_DEFAULT;
    c.member_max = c.member_max != 0 ? c.member_max : MEMBER_DEFAULT;
    return c;
}

/* Lays the arena out in `st`, which may be a scratch copy. False when the config asks for too much. */
static bool plan(struct udp_state *st, const struct udp_config *c) {
    if (c->socket_max > TABLE_LIMIT || c->member_max > TABLE_LIMIT)
        return false;
    st->cfg = *c;
    st->a.size = arena_round(sizeof *st);
    if (!arena_plan_table(&st->a, c->socket_max, sizeof(struct udp_socket)) ||
        !arena_plan_table(&st->a, c->member_max, sizeof(struct udp_member)))
        return false;
    size_t link = offsetof(struct udp_socket, link);
    hash_index_plan(&st->exact, &st->a, UDP_TABLE_SOCKET, c->socket_max, link);
    hash_index_plan(&st->bound, &st->a, UDP_TABLE_SOCKET, c->socket_max, link);
    hash_index_plan(&st->member, &st->a, UDP_TABLE_MEMBER, c->member_max, offsetof(struct udp_member, link));
    st->cache_lines = arena_plan_derived(&st->a, UDP_CACHE_LINES * sizeof(struct udp_cache_line));
    return true;
}

static size_t state_size(const void *cfg, char *err, size_t err_size) {
    struct udp_config c = config_or_default(cfg);
    struct udp_state scratch = {0};
    if (plan(&scratch, &c))
        return scratch.a.size;
    engine_say(err, err_size, "socket_max and member_max may be at most 16777216");
    return 0;
}

static int init(void *state, size_t size, const void *cfg, uint64_t seed) {
    struct udp_state *st = (struct udp_state *)state;
    struct udp_config c = config_or_default(cfg);
    if (size < sizeof *st || !plan(st, &c) || st->a.size > size)
        return -EINVAL;
    st->a.seed = seed;
    hash_key_init(&st->key, seed);
    st->generation = 1;
    st->a.layout_version = UDP_LAYOUT;
    arena_barrier();
    st->a.magic = ARENA_MAGIC;
    return 0;
}

/* Removes records that break an invariant; what is left is consistent. */
static uint32_t remove_bad(struct udp_state *st) {
    uint32_t lost = 0;
    struct arena_table *t = &st->a.table[UDP_TABLE_SOCKET];
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct udp_socket *s = udp_socket_get(st, i);
        if (s != NULL && udp_socket_valid(s) != 0) {
            arena_release(t, s, i);
            lost++;
        }
    }
    t = &st->a.table[UDP_TABLE_MEMBER];
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct udp_member *m = (struct udp_member *)arena_lookup(st, t, i);
        if (m != NULL && (udp_socket_get(st, m->sock) == NULL || !ipaddr_is_multicast(&m->group))) {
            arena_release(t, m, i);
            lost++;
        }
    }
    return lost;
}

static int recover(void *state, size_t size, uint32_t *ret_lost) {
    struct udp_state *st = (struct udp_state *)state;
    struct udp_state planned = {0};
    /* The layout follows from the config alone: anything else means that the arena is not what it says. */
    if (size < sizeof *st || !plan(&planned, &st->cfg) || !arena_same_plan(&st->a, &planned.a) ||
        arena_recover(&st->a, size, UDP_LAYOUT) != 0)
        return -EUCLEAN;
    st->exact = planned.exact;
    st->bound = planned.bound;
    st->member = planned.member;
    st->cache_lines = planned.cache_lines;
    hash_key_init(&st->key, st->a.seed);
    *ret_lost = remove_bad(st);
    memset(arena_at(st, st->cache_lines), 0, UDP_CACHE_LINES * sizeof(struct udp_cache_line));
    st->near_until = 0;
    memset(st->near, 0, sizeof st->near);
    udp_table_rebuild(st);
    return 0;
}

static void fini(void *state, struct engine_io *io) {
    (void)state;
    (void)io;
}

static uint32_t run(void *state, struct engine_io *io, uint32_t budget) {
    (void)state;
    (void)io;
    (void)budget;
    return 0;
}

static ns_t next_deadline(const void *state) {
    (void)state;
    return NS_NEVER;
}

static bool in_index(const struct udp_state *st, const struct hash_index *ix, uint32_t index) {
    uint32_t i = hash_index_first(ix, &st->a, hash_index_link(ix, &st->a, index)->hash);
    while (i != ARENA_NIL && i != index)
        i = hash_index_next(ix, &st->a, i);
    return i == index;
}

/* 1 open undo, 2 bad socket, 3 socket not in its index, 4 counts, 5 bad membership. */
static int check(const void *state) {
    struct udp_state *st = (struct udp_state *)(uintptr_t)state;
    uint32_t live = 0, exact = 0;
    if (st->a.undo_open)
        return 1;
    for (uint32_t i = 0; i < udp_sockets(st)->high_water; i++) {
        const struct udp_socket *s = udp_socket_get(st, i);
        if (s == NULL)
            continue;
        bool connected = s->flags & UDP_SOCKET_CONNECTED;
        if (udp_socket_valid(s) != 0)
            return 2;
        if (!in_index(st, connected ? &st->exact : &st->bound, i))
            return 3;
        live++;
        exact += connected;
    }
    if (live != udp_sockets(st)->live || exact != st->exact_count)
        return 4;
    const struct arena_table *t = &st->a.table[UDP_TABLE_MEMBER];
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct udp_member *m = (const struct udp_member *)arena_lookup(st, t, i);
        if (m != NULL && (udp_socket_get(st, m->sock) == NULL || !in_index(st, &st->member, i)))
            return 5;
    }
    return 0;
}

__attribute__((visibility("default"))) extern const struct engine_ops usher_engine;
const struct engine_ops usher_engine = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "udp",
    .stage = STAGE_TRANSPORT,
    .proto = PROTO_UDP,
    .caps = ENGINE_CAP_INPUT | ENGINE_CAP_OUTPUT,
    .layout_version = UDP_LAYOUT,
    .counter_count = UDP_COUNT_COUNT,
    .counters = counters,
    .state_size = state_size,
    .init = init,
    .recover = recover,
    .fini = fini,
    .input = udp_input,
    .output = udp_output,
    .run = run,
    .next_deadline = next_deadline,
    .command = udp_command,
    .save = udp_save,
    .load = udp_load,
    .check = check,
    .demux = udp_demux,
};
