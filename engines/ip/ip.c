/* SPDX-License-Identifier: Apache-2.0
 *
 * The ip engine: its place in the contract of engines/engine.h, the life of its state, and its timers. The work is in
 * ip_input.c and ip_output.c.
 */
#include <errno.h>

#include "engines/ip/ip_cut.h"
#include "engines/ip/ip_save.h"

#define TABLE_LIMIT (1u << 22)

static const struct engine_counter counters[IP_COUNT_COUNT] = {
    [IP_COUNT_RX] = {"rx_packets", "packets that came up to ip"},
    [IP_COUNT_TX] = {"tx_packets", "packets that came down to ip"},
    [IP_COUNT_LOCAL] = {"local_packets", "packets turned round inside the host"},
    [IP_COUNT_DEST_MISS] = {"dest_miss_packets", "packets whose destination was not in the cache"},
    [IP_COUNT_REASSEMBLED] = {"reassembled_packets", "datagrams put together from fragments"},
    [IP_COUNT_FRAGMENTED] = {"fragment_packets", "fragments sent"},
    [IP_COUNT_GSO_SPLIT] = {"gso_split_packets", "datagrams cut from larger sends for want of port GSO"},
    [IP_COUNT_CSUM] = {"software_checksum_packets", "transport checksums computed for want of port checksums"},
    [IP_COUNT_NEIGH_WAIT] = {"neighbour_wait_packets", "packets that waited for their next hop"},
    [IP_COUNT_NEIGH_ASKED] = {"neighbour_events", "next hops asked of control, or given back"},
    [IP_COUNT_ICMP_IN] = {"icmp_error_in_packets", "ICMP errors about packets of ours"},
    [IP_COUNT_ICMP_OUT] = {"icmp_out_packets", "ICMP messages sent"},
    [IP_COUNT_BOUNCED] = {"bounced_packets", "packets given back to their senders: only the kernel reaches the peer"},
    [IP_COUNT_PMTU] = {"path_mtu_events", "path MTUs learnt"},
};

static void set_default(uint32_t *field, uint32_t value) {
    if (*field == 0)
        *field = value;
}

static struct ip_config config_or_default(const void *cfg) {
    struct ip_config c = {0};
    if (cfg != NULL)
        c = *(const struct ip_config *)cfg;
    set_default(&c.addr_max, 256);
    set_default(&c.route_max, 4096);
    set_default(&c.neigh_max, 1024);
    set_default(&c.pmtu_max, 1024);
    set_default(&c.reassembly_max, 64);
    set_default(&c.neigh_queue_max, 32);
    set_default(&c.icmp_per_second, 1000);
    return c;
}

static bool config_ok(const struct ip_config *c) {
    return c->addr_max <= TABLE_LIMIT && c->route_max <= TABLE_LIMIT && c->neigh_max <= TABLE_LIMIT &&
           c->pmtu_max <= TABLE_LIMIT && c->reassembly_max <= 1024 && c->neigh_queue_max <= NEIGH_QUEUE_LIMIT;
}

/* Lays the arena out in `st`, which may be a scratch copy. False when the config asks for too much. */
static bool plan(struct ip_state *st, const struct ip_config *c) {
    struct arena_header *a = &st->a;
    if (!config_ok(c))
        return false;
    st->cfg = *c;
    a->size = arena_round(sizeof *st);
    if (!arena_plan_table(a, c->addr_max, sizeof(struct ip_addr)) ||
        !arena_plan_table(a, c->route_max, sizeof(struct ip_route)) ||
        !arena_plan_table(a, c->neigh_max, sizeof(struct ip_neigh)) ||
        !arena_plan_table(a, c->pmtu_max, sizeof(struct ip_pmtu)))
        return false;
    hash_index_plan(&st->addr, a, IP_TABLE_ADDR, c->addr_max, offsetof(struct ip_addr, link));
    hash_index_plan(&st->route, a, IP_TABLE_ROUTE, c->route_max, offsetof(struct ip_route, link));
    hash_index_plan(&st->neigh, a, IP_TABLE_NEIGH, c->neigh_max, offsetof(struct ip_neigh, link));
    hash_index_plan(&st->pmtu, a, IP_TABLE_PMTU, c->pmtu_max, offsetof(struct ip_pmtu, link));
    st->dest_lines = arena_plan_derived(a, IP_DEST_LINES * sizeof(struct ip_dest));
    st->queue_lines = arena_plan_derived(a, (size_t)c->neigh_max * c->neigh_queue_max * sizeof(struct pkt *));
    st->frag_lines = arena_plan_derived(a, (size_t)c->reassembly_max * sizeof(struct ip_frag));
    size_t timers = (size_t)c->neigh_max + c->pmtu_max + c->reassembly_max;
    st->timer_lines = arena_plan_derived(a, timers * sizeof(struct wheel_node));
    return true;
}

static size_t state_size(const void *cfg, char *err, size_t err_size) {
    struct ip_config c = config_or_default(cfg);
    struct ip_state scratch = {0};
    if (plan(&scratch, &c))
        return scratch.a.size;
    engine_say(err, err_size, "tables may have at most 4194304 entries, reassembly_max 1024, neigh_queue_max 64");
    return 0;
}

/* Everything derived that is not a table's index, as if nothing ever waited. */
static void derive(struct ip_state *st) {
    hash_key_init(&st->key, st->a.seed);
    wheel_init(&st->wheel, arena_at(st, st->timer_lines), sizeof(struct wheel_node), IP_TICK_SHIFT);
    st->generation = 0;
    ip_changed(st);
    st->icmp_tokens = st->cfg.icmp_per_second;
    st->icmp_refilled = 0;
}

static int init(void *state, size_t size, const void *cfg, uint64_t seed) {
    struct ip_state *st = (struct ip_state *)state;
    struct ip_config c = config_or_default(cfg);
    if (size < sizeof *st || !plan(st, &c) || st->a.size > size)
        return -EINVAL;
    st->a.seed = seed;
    derive(st);
    st->a.layout_version = IP_LAYOUT;
    arena_barrier();
    st->a.magic = ARENA_MAGIC;
    return 0;
}

static uint32_t remove_bad(struct ip_state *st) {
    uint32_t lost = 0;
    for (uint32_t t = 0; t < IP_TABLE_COUNT; t++) {
        for (uint32_t i = 0; i < st->a.table[t].high_water; i++) {
            void *record = ip_get(st, (enum ip_table)t, i);
            if (record == NULL || ip_record_valid(st, (enum ip_table)t, record) == 0)
                continue;
            /* A neighbour that died between its making and its first question is no loss: it will be asked for. */
            lost += t != IP_TABLE_NEIGH || ((struct ip_neigh *)record)->state != NEIGH_NONE;
            arena_release(&st->a.table[t], record, i);
        }
    }
    return lost;
}

static void clear_lines(struct ip_state *st, uint32_t from, uint64_t to) {
    memset(arena_at(st, from), 0, to - (uint64_t)from * CACHE_LINE);
}

static int recover(void *state, size_t size, uint32_t *ret_lost) {
    struct ip_state *st = (struct ip_state *)state;
    struct ip_state planned = {0};
    /* The layout follows from the config alone: anything else means that the arena is not what it says. */
    if (size < sizeof *st || !plan(&planned, &st->cfg) || !arena_same_plan(&st->a, &planned.a) ||
        arena_recover(&st->a, size, IP_LAYOUT) != 0)
        return -EUCLEAN;
    st->addr = planned.addr;
    st->route = planned.route;
    st->neigh = planned.neigh;
    st->pmtu = planned.pmtu;
    st->dest_lines = planned.dest_lines;
    st->queue_lines = planned.queue_lines;
    st->frag_lines = planned.frag_lines;
    st->timer_lines = planned.timer_lines;
    clear_lines(st, st->dest_lines, st->a.size);
    st->frag_live = 0;
    st->frag_held = 0;
    st->wait_head = 0;
    st->wait_count = 0;
    st->wait_cut = 0;
    derive(st);
    *ret_lost = remove_bad(st);
    ip_tables_rebuild(st);
    for (uint32_t i = 0; i < st->a.table[IP_TABLE_NEIGH].high_water; i++)
        if (ip_get(st, IP_TABLE_NEIGH, i) != NULL)
            ip_neigh_recovered(st, i);
    for (uint32_t i = 0; i < st->a.table[IP_TABLE_PMTU].high_water; i++) {
        const struct ip_pmtu *m = (const struct ip_pmtu *)ip_get(st, IP_TABLE_PMTU, i);
        if (m != NULL)
            wheel_arm(&st->wheel, st->cfg.neigh_max + i, m->until);
    }
    return 0;
}

static void fini(void *state, struct engine_io *io) {
    struct ip_state *st = (struct ip_state *)state;
    ip_cut_drop_all(st, io);
    ip_neigh_drop_all(st, io);
    ip_frag_drop_all(st, io);
}

/* Room for what one timer can set free: a queue of packets, or the pieces of a datagram. */
static bool room_for_timer(const struct engine_io *io) {
    return pkt_vec_room(io->drop) > 2 * PKT_BURST && pkt_vec_room(io->done) > 2 * PKT_BURST &&
           pkt_vec_room(io->down) > 2 * PKT_BURST && pkt_vec_room(io->up) > PKT_BURST;
}

static void fire(struct ip_state *st, struct engine_io *io, uint32_t timer) {
    struct pkt *whole = NULL;
    if (timer < st->cfg.neigh_max)
        ip_neigh_timer(st, io, timer);
    else if (timer < st->cfg.neigh_max + st->cfg.pmtu_max)
        ip_pmtu_expire(st, timer - st->cfg.neigh_max);
    else
        ip_frag_timer(st, io, timer - st->cfg.neigh_max - st->cfg.pmtu_max, &whole);
    if (whole != NULL)
        ip_input_packet(st, io, whole);
}

static uint32_t run(void *state, struct engine_io *io, uint32_t budget) {
    struct ip_state *st = (struct ip_state *)state;
    uint32_t left = budget, done = ip_cut_run(st, io);
    while (left > 0 && room_for_timer(io)) {
        uint32_t timer = wheel_pop(&st->wheel, io->now, &left);
        if (timer == WHEEL_NIL)
            break;
        fire(st, io, timer);
    }
    return done + (budget - left);
}

static ns_t next_deadline(const void *state) {
    const struct ip_state *st = (const struct ip_state *)state;
    return st->wait_count > 0 ? 0 : wheel_next(&st->wheel);
}

static bool in_index(const struct ip_state *st, const struct hash_index *ix, uint32_t index) {
    uint32_t i = hash_index_first(ix, &st->a, hash_index_link(ix, &st->a, index)->hash);
    while (i != ARENA_NIL && i != index)
        i = hash_index_next(ix, &st->a, i);
    return i == index;
}

/* 1 open undo; 10 + table: bad record; 20 + table: not in its index; 30 + table: live count; 40 queue; 41 fragments. */
static int check(const void *state) {
    struct ip_state *st = (struct ip_state *)(uintptr_t)state;
    const struct hash_index *ix[IP_TABLE_COUNT] = {&st->addr, &st->route, &st->neigh, &st->pmtu};
    if (st->a.undo_open)
        return 1;
    for (uint32_t t = 0; t < IP_TABLE_COUNT; t++) {
        uint32_t live = 0;
        for (uint32_t i = 0; i < st->a.table[t].high_water; i++) {
            const void *record = ip_get(st, (enum ip_table)t, i);
            if (record == NULL)
                continue;
            live++;
            if (ip_record_valid(st, (enum ip_table)t, record) != 0)
                return 10 + (int)t;
            if (!in_index(st, ix[t], i))
                return 20 + (int)t;
            if (t == IP_TABLE_NEIGH && ((const struct ip_neigh *)record)->waiting > st->cfg.neigh_queue_max)
                return 40;
        }
        if (live != st->a.table[t].live)
            return 30 + (int)t;
    }
    return st->frag_held > IP_FRAG_HELD_MAX + PKT_BURST ? 41 : 0;
}

__attribute__((visibility("default"))) extern const struct engine_ops usher_engine;
const struct engine_ops usher_engine = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "ip",
    .stage = STAGE_LINK,
    .caps = ENGINE_CAP_INPUT | ENGINE_CAP_OUTPUT,
    .layout_version = IP_LAYOUT,
    .counter_count = IP_COUNT_COUNT,
    .counters = counters,
    .state_size = state_size,
    .init = init,
    .recover = recover,
    .fini = fini,
    .input = ip_input,
    .output = ip_output,
    .run = run,
    .next_deadline = next_deadline,
    .command = ip_command,
    .save = ip_save,
    .load = ip_load,
    .check = check,
};
