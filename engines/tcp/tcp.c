/* SPDX-License-Identifier: Apache-2.0
 *
 * The tcp engine: its place in the contract of engines/engine.h, the layout of its arena, birth and recovery of the
 * state, the timer loop. The work is in the files that README.md names.
 */
#include <errno.h>

#include "engines/tcp/tcp_cc.h"
#include "engines/tcp/tcp_cmds.h"
#include "engines/tcp/tcp_input.h"
#include "engines/tcp/tcp_syn.h"
#include "engines/tcp/tcp_timer.h"

#define TABLE_LIMIT (1u << 24)
#define WHEEL_SHIFT 14u /* 16 us: fine enough for pacing, coarse enough to share slots */
#define HALF_SHIFT  20u
#define RUN_NOTICES 16u /* room a timer's notices need */

static const struct engine_counter counters[TCP_COUNT_COUNT] = {
#define TCP_COUNTER(name, text, help) [TCP_COUNT_##name] = {text, help},
#include "engines/tcp/tcp_counters.def"
#undef TCP_COUNTER
};

struct config_default {
    uint32_t offset;
    uint32_t value;
    uint32_t max;
};

#define DEFAULT(field, value, max)                                                                                     \
    { offsetof(struct tcp_config, field), value, max }

static const struct config_default defaults[] = {
    DEFAULT(conn_max, 131072, TABLE_LIMIT),      DEFAULT(listener_max, 1024, TABLE_LIMIT),
    DEFAULT(half_open_max, 16384, TABLE_LIMIT),  DEFAULT(time_wait_max, 65536, TABLE_LIMIT),
    DEFAULT(item_max, 524288, TABLE_LIMIT),      DEFAULT(segment_max, 262144, TABLE_LIMIT),
    DEFAULT(ooo_packet_max, 16384, TABLE_LIMIT), DEFAULT(rcvbuf, 131072, 1u << 30),
    DEFAULT(rcvbuf_max, 6u << 20, 1u << 30),     DEFAULT(rx_budget, 256u << 20, UINT32_MAX / 2),
    DEFAULT(sndbuf_max, 4u << 20, 1u << 30),     DEFAULT(time_wait_ms, 60000, 600000),
};

/* NULL for what is not allowed, with a sentence in err. */
static bool config_fill(const void *cfg, struct tcp_config *ret_cfg, const char **ret_text) {
    memset(ret_cfg, 0, sizeof *ret_cfg);
    if (cfg != NULL)
        *ret_cfg = *(const struct tcp_config *)cfg;
    for (uint32_t i = 0; i < ARRAY_LEN(defaults); i++) {
        uint32_t v;
        memcpy(&v, (uint8_t *)ret_cfg + defaults[i].offset, sizeof v);
        v = v != 0 ? v : defaults[i].value;
        memcpy((uint8_t *)ret_cfg + defaults[i].offset, &v, sizeof v);
        *ret_text = "a table size of tcp is too large: at most 16777216 records, buffers at most 1 GiB";
        if (v > defaults[i].max)
            return false;
    }
    if (ret_cfg->congestion[0] == '\0')
        memcpy(ret_cfg->congestion, "cubic", 6);
    *ret_text = "tcp congestion control is not known: use cubic, reno, dctcp or bbr";
    if (tcp_cc_find(ret_cfg->congestion) < 0)
        return false;
    *ret_text = "tcp port range is reversed: port_low must not be above port_high";
    return ret_cfg->port_low <= ret_cfg->port_high;
}

static bool plan(struct tcp_engine *st, const struct tcp_config *c) {
    struct arena_header *a = &st->a;
    st->cfg = *c;
    a->size = arena_round(sizeof *st);
    if (!arena_plan_table(a, c->conn_max, sizeof(struct tcp_conn)) ||
        !arena_plan_table(a, c->item_max, sizeof(struct tcp_item)) ||
        !arena_plan_table(a, c->segment_max, sizeof(struct tcp_seg)) ||
        !arena_plan_table(a, c->half_open_max, sizeof(struct tcp_half)) ||
        !arena_plan_table(a, c->time_wait_max, sizeof(struct tcp_wait)) ||
        !arena_plan_table(a, c->listener_max, sizeof(struct tcp_listener)))
        return false;
    st->cold_lines = arena_plan_derived(a, (size_t)c->conn_max * sizeof(struct tcp_cold));
    st->wheel_lines = arena_plan_derived(a, sizeof(struct wheel));
    st->half_wheel_lines = arena_plan_derived(a, sizeof(struct wheel));
    st->fastopen_lines = arena_plan_derived(a, TCP_FASTOPEN_LINES * sizeof(struct tcp_fastopen_line));
    hash_index_plan(&st->conn_ix, a, TCP_TABLE_CONN, c->conn_max, offsetof(struct tcp_conn, link));
    hash_index_plan(&st->half_ix, a, TCP_TABLE_HALF, c->half_open_max, offsetof(struct tcp_half, link));
    hash_index_plan(&st->wait_ix, a, TCP_TABLE_WAIT, c->time_wait_max, offsetof(struct tcp_wait, link));
    hash_index_plan(&st->listener_ix, a, TCP_TABLE_LISTENER, c->listener_max, offsetof(struct tcp_listener, link));
    return true;
}

static size_t state_size(const void *cfg, char *err, size_t err_size) {
    struct tcp_config c;
    struct tcp_engine scratch;
    const char *text;
    memset(&scratch, 0, sizeof scratch);
    if (config_fill(cfg, &c, &text)) {
        if (plan(&scratch, &c))
            return scratch.a.size;
        text = "the tables of tcp are too large together";
    }
    engine_say(err, err_size, text);
    return 0;
}

static void wheels_init(struct tcp_engine *st) {
    struct tcp_half *halves = (struct tcp_half *)arena_record(st, &st->a.table[TCP_TABLE_HALF], 0);
    wheel_init(tcp_wheel(st), &tcp_cold_at(st, 0)->node, sizeof(struct tcp_cold), WHEEL_SHIFT);
    wheel_init(tcp_half_wheel(st), &halves->node, sizeof *halves, HALF_SHIFT);
}

void tcp_keys_derive(struct tcp_engine *st) {
    struct hash_key key;
    hash_key_init(&key, st->a.seed ^ 0x7463702d6b657973ull);
    hash_key_init(&st->key, st->a.seed);
    st->isn_key = (struct tcp_key){{key.k[0], key.k[1]}};
    st->cookie_key = (struct tcp_key){{key.k[2], key.k[3]}};
    const uint64_t *given = st->cfg.fastopen_key;
    st->fastopen_key =
        given[0] | given[1] ? (struct tcp_key){{given[0], given[1]}} : (struct tcp_key){{key.k[4], key.k[5]}};
    st->port_key = (struct tcp_key){{key.k[6], key.k[7]}};
}

static void derive(struct tcp_engine *st) {
    tcp_keys_derive(st);
    st->cc_default = (uint8_t)tcp_cc_find(st->cfg.congestion);
    st->rcv_wscale = 0;
    while (st->rcv_wscale < 14 && st->cfg.rcvbuf_max >> st->rcv_wscale > 65535)
        st->rcv_wscale++;
    st->wait_head = st->wait_tail = TCP_NIL;
    st->grave = TCP_NIL;
    st->quiet = false;
    st->ooo_packets = 0;
    st->rx_held = 0;
    st->thawed_at = 0;
}

static int init(void *state, size_t size, const void *cfg, uint64_t seed) {
    struct tcp_engine *st = (struct tcp_engine *)state;
    struct tcp_config c;
    const char *text;
    if (size < sizeof *st || !config_fill(cfg, &c, &text) || !plan(st, &c) || st->a.size > size)
        return -EINVAL;
    st->a.seed = seed;
    st->port_low = c.port_low;
    st->port_high = c.port_high;
    derive(st);
    wheels_init(st);
    st->a.layout_version = TCP_LAYOUT;
    arena_barrier();
    st->a.magic = ARENA_MAGIC;
    return 0;
}

static int recover(void *state, size_t size, uint32_t *ret_lost) {
    struct tcp_engine *st = (struct tcp_engine *)state;
    struct tcp_engine planned;
    memset(&planned, 0, sizeof planned);
    if (size < sizeof *st || arena_recover(&st->a, size, TCP_LAYOUT) != 0)
        return -EUCLEAN;
    /* The layout follows from the config alone: anything else means that the arena is not what it says. */
    if (!plan(&planned, &st->cfg) || planned.a.size != st->a.size || planned.a.table_count != st->a.table_count ||
        tcp_cc_find(st->cfg.congestion) < 0)
        return -EUCLEAN;
    st->cold_lines = planned.cold_lines;
    st->wheel_lines = planned.wheel_lines;
    st->half_wheel_lines = planned.half_wheel_lines;
    st->fastopen_lines = planned.fastopen_lines;
    st->conn_ix = planned.conn_ix;
    st->half_ix = planned.half_ix;
    st->wait_ix = planned.wait_ix;
    st->listener_ix = planned.listener_ix;
    derive(st);
    for (uint32_t i = 0; i < st->a.table[TCP_TABLE_CONN].high_water; i++)
        tcp_cold_at(st, i)->node = (struct wheel_node){0};
    wheels_init(st);
    *ret_lost = tcp_recover_records(st);
    return 0;
}

/* As many as there is room for; the host's pools die with the shard. */
static void fini(void *state, struct engine_io *io) {
    struct tcp_engine *st = (struct tcp_engine *)state;
    struct tcp_ctx x;
    tcp_ctx_init(&x, st, io);
    const struct arena_table *t = &st->a.table[TCP_TABLE_CONN];
    for (uint32_t i = 0; i < t->high_water; i++)
        if (arena_lookup(st, t, i) != NULL)
            tcp_conn_destroy(&x, i);
    while (st->grave != TCP_NIL && pkt_vec_room(io->drop) > 0) {
        struct pkt *p = tcp_kept(&x, st->grave);
        st->grave = p->next;
        pkt_drop(io, p, DROP_SESSION_GONE);
    }
}

static bool room_to_run(const struct engine_io *io) {
    return io->notice_count + RUN_NOTICES <= NOTICE_VEC_MAX && pkt_vec_room(io->down) > PKT_BURST;
}

static uint32_t run(void *state, struct engine_io *io, uint32_t budget) {
    struct tcp_engine *st = (struct tcp_engine *)state;
    struct tcp_ctx x;
    tcp_ctx_init(&x, st, io);
    uint32_t left = budget, work = tcp_bury_run(&x), index;
    while (room_to_run(io) && (index = wheel_pop(tcp_wheel(st), io->now, &left)) != WHEEL_NIL) {
        struct tcp_conn *c = tcp_begin(&x, index);
        tcp_timer_fire(&x, c);
        tcp_end(&x);
        work++;
    }
    work += tcp_half_run(&x, &left);
    return work + tcp_wait_run(&x, budget);
}

static ns_t next_deadline(const void *state) {
    const struct tcp_engine *st = (const struct tcp_engine *)state;
    ns_t at = wheel_next(tcp_wheel(st)), half = wheel_next(tcp_half_wheel(st));
    if (half < at)
        at = half;
    if (st->grave != TCP_NIL)
        return 0;
    if (st->wait_head == TCP_NIL)
        return at;
    const struct tcp_wait *w =
        (const struct tcp_wait *)arena_record((void *)(uintptr_t)st, &st->a.table[TCP_TABLE_WAIT], st->wait_head);
    int32_t left = (int32_t)(w->until - tcp_coarse(st->now));
    ns_t end = left <= 0 ? st->now : ((st->now >> TCP_COARSE_SHIFT) + (uint32_t)left) << TCP_COARSE_SHIFT;
    return end < at ? end : at;
}

__attribute__((visibility("default"))) extern const struct engine_ops usher_engine;
const struct engine_ops usher_engine = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "tcp",
    .stage = STAGE_TRANSPORT,
    .proto = PROTO_TCP,
    .caps = ENGINE_CAP_INPUT | ENGINE_CAP_OUTPUT,
    .layout_version = TCP_LAYOUT,
    .counter_count = TCP_COUNT_COUNT,
    .counters = counters,
    .state_size = state_size,
    .init = init,
    .recover = recover,
    .fini = fini,
    .input = tcp_input,
    .output = tcp_send,
    .run = run,
    .next_deadline = next_deadline,
    .command = tcp_command,
    .save = tcp_save,
    .load = tcp_load,
    .check = tcp_check,
    .credit = tcp_credit,
    .demux = tcp_demux,
};
