/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's truth as usher.state.v1.IpRecord messages, for an upgrade to code of another layout. One table of fields
 * says where each number of each record lies; writing and reading both walk it. Loading treats the bytes as hostile.
 * Control thread, before the state runs.
 */
#include <errno.h>

#include "engines/ip/ip_save.h"
#include "engines/statewire.h"

#define FIELD_MAX 12u

enum kind { NONE, ADDRESS, BYTES6, U8, U16, U32, U64 };

struct field {
    uint8_t kind; /* enum kind */
    uint8_t pad;
    uint16_t at; /* in the record */
};

#define F(kind, type, member)                                                                                          \
    { kind, 0, offsetof(struct type, member) }

/* [table][field number of the message] */
static const struct field fields[IP_TABLE_COUNT][FIELD_MAX] = {
    [IP_TABLE_ADDR] = {[1] = F(ADDRESS, ip_addr, addr),
                       [2] = F(U16, ip_addr, port),
                       [3] = F(U8, ip_addr, prefix_len),
                       [4] = F(U8, ip_addr, flags),
                       [5] = F(U32, ip_addr, mark)},
    [IP_TABLE_ROUTE] = {[1] = F(ADDRESS, ip_route, prefix),
                        [2] = F(ADDRESS, ip_route, gateway),
                        [3] = F(ADDRESS, ip_route, source),
                        [4] = F(U32, ip_route, metric),
                        [5] = F(U16, ip_route, port),
                        [6] = F(U16, ip_route, mtu),
                        [7] = F(U8, ip_route, prefix_len),
                        [8] = F(U8, ip_route, unreachable),
                        [9] = F(U32, ip_route, mark)},
    [IP_TABLE_NEIGH] = {[1] = F(ADDRESS, ip_neigh, addr),
                        [2] = F(U16, ip_neigh, port),
                        [3] = F(BYTES6, ip_neigh, mac),
                        [4] = F(U8, ip_neigh, state),
                        [5] = F(U8, ip_neigh, probes),
                        [6] = F(U8, ip_neigh, used),
                        [7] = F(U8, ip_neigh, asked),
                        [8] = F(U32, ip_neigh, mark),
                        [9] = F(U64, ip_neigh, due)},
    [IP_TABLE_PMTU] = {[1] = F(ADDRESS, ip_pmtu, addr), [2] = F(U32, ip_pmtu, mtu), [3] = F(U64, ip_pmtu, until)},
};

static const uint8_t kind_size[] = {
    [NONE] = 0, [ADDRESS] = 16, [BYTES6] = 6, [U8] = 1, [U16] = 2, [U32] = 4, [U64] = 8};

/* Numbers are little-endian in memory, as on every machine this runs on. */
STATIC_ASSERT(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "number_load and number_store copy the low bytes");

static uint64_t number_load(const void *at, size_t size) {
    uint64_t v = 0;
    memcpy(&v, at, size);
    return v;
}

static size_t write_record(enum ip_table t, const uint8_t *record, uint8_t *buf, size_t size) {
    struct statewire_out o = {.buf = buf, .size = size};
    for (uint32_t n = 1; n < FIELD_MAX; n++) {
        const struct field *f = &fields[t][n];
        if (f->kind == ADDRESS || f->kind == BYTES6)
            statewire_put_bytes(&o, n, record + f->at, kind_size[f->kind]);
        else if (f->kind != NONE)
            statewire_put(&o, n, number_load(record + f->at, kind_size[f->kind]));
    }
    return o.len;
}

static int read_record(enum ip_table t, struct statewire_in in, uint8_t *ret_record) {
    struct statewire_field f;
    int more;
    while ((more = statewire_next(&in, &f)) > 0) {
        if (f.number >= FIELD_MAX || fields[t][f.number].kind == NONE)
            continue; /* of a later version: not for us */
        const struct field *to = &fields[t][f.number];
        size_t size = kind_size[to->kind];
        bool bytes = to->kind == ADDRESS || to->kind == BYTES6;
        if (f.type != (bytes ? STATEWIRE_BYTES : STATEWIRE_VARINT))
            return -EBADMSG;
        if (bytes ? f.size != size : size < 8 && f.value >> (size * 8) != 0)
            return -EBADMSG;
        memcpy(ret_record + to->at, bytes ? f.data : (const uint8_t *)&f.value, size);
    }
    return more < 0 ? -EBADMSG : 0;
}

/* *cursor = table << 32 | next index. Message field = table + 1; the flush round comes last, alone. */
int64_t ip_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size) {
    struct ip_state *st = (struct ip_state *)(uintptr_t)state;
    uint32_t t = (uint32_t)(*cursor >> 32), index = (uint32_t)*cursor;
    struct statewire_out o = {.buf = buf, .size = size};
    for (; t < IP_TABLE_COUNT; t++, index = 0) {
        while (index < st->a.table[t].high_water && ip_get(st, (enum ip_table)t, index) == NULL)
            index++;
        if (index >= st->a.table[t].high_water)
            continue;
        uint8_t body[160];
        const uint8_t *record = (const uint8_t *)arena_record(st, &st->a.table[t], index);
        statewire_put_bytes(&o, t + 1, body, write_record((enum ip_table)t, record, body, sizeof body));
        *cursor = (uint64_t)t << 32 | (index + 1);
        return o.full ? -ENOSPC : (int64_t)o.len;
    }
    if (t > IP_TABLE_COUNT)
        return 0;
    statewire_put(&o, IP_TABLE_COUNT + 1, st->mark + 1ull); /* shifted by one: a zero would not be written */
    *cursor = (uint64_t)(IP_TABLE_COUNT + 1) << 32;
    return o.full ? -ENOSPC : (int64_t)o.len;
}

/* Whether the state has a record of this key already. */
static bool known(struct ip_state *st, enum ip_table t, const void *record) {
    const struct ip_addr *a = (const struct ip_addr *)record;
    const struct ip_neigh *n = (const struct ip_neigh *)record;
    if (t == IP_TABLE_ADDR) {
        const struct ip_addr *old = ip_addr_find(st, &a->addr, a->port);
        return old != NULL && old->port == a->port;
    }
    return t == IP_TABLE_NEIGH && ip_neigh_find(st, &n->addr, n->port) != ARENA_NIL;
}

static int load_record(struct ip_state *st, enum ip_table t, struct statewire_in in) {
    union {
        struct ip_addr addr;
        struct ip_route route;
        struct ip_neigh neigh;
        struct ip_pmtu pmtu;
        uint8_t raw[sizeof(struct ip_route)];
    } fresh;
    memset(&fresh, 0, sizeof fresh);
    int error = read_record(t, in, fresh.raw);
    if (error == 0)
        error = ip_record_valid(st, t, &fresh);
    if (error != 0)
        return error;
    if (known(st, t, &fresh))
        return -EEXIST;
    uint32_t index;
    struct arena_table *table = &st->a.table[t];
    uint8_t *record = (uint8_t *)arena_take(st, table, &index);
    if (record == NULL)
        return -ENOSPC;
    memcpy(record + sizeof(struct arena_record), fresh.raw + sizeof(struct arena_record),
           table->record_size - sizeof(struct arena_record));
    arena_publish(table, record);
    ip_index_add(st, t, index);
    if (t == IP_TABLE_NEIGH)
        ip_neigh_recovered(st, index);
    if (t == IP_TABLE_PMTU)
        wheel_arm(&st->wheel, st->cfg.neigh_max + index, fresh.pmtu.until);
    return 0;
}

int ip_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size) {
    struct ip_state *st = (struct ip_state *)state;
    struct statewire_in in = {rec, rec + size};
    struct statewire_field f;
    if (from_version > IP_LAYOUT)
        return -EPROTONOSUPPORT;
    if (statewire_next(&in, &f) != 1 || in.at != in.end)
        return -EBADMSG;
    if (f.number == IP_TABLE_COUNT + 1 && f.type == STATEWIRE_VARINT && f.value - 1 <= UINT32_MAX) {
        st->mark = (uint32_t)(f.value - 1);
        return 0;
    }
    if (f.number > IP_TABLE_COUNT || f.type != STATEWIRE_BYTES)
        return -EBADMSG;
    return load_record(st, (enum ip_table)(f.number - 1), (struct statewire_in){f.data, f.data + f.size});
}
