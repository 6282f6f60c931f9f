/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's truth as usher.state.v1.UdpRecord messages, for an upgrade to code of another layout. Loading treats the
 * bytes as hostile: a record that breaks an invariant is refused as a whole. Control thread, before the state runs.
 */
#include <errno.h>

#include "engines/statewire.h"
#include "engines/udp/udp.h"

#define RECORD_SOCKET 1
#define RECORD_MEMBER 2
#define FIELD_MAX     19

static size_t write_socket(const struct udp_socket *s, uint32_t index, uint8_t *buf, size_t size) {
    struct statewire_out o = {.buf = buf, .size = size};
    const uint64_t numbers[FIELD_MAX] = {
        [1] = index,          [4] = s->flow.local_port, [5] = s->flow.remote_port,
        [6] = s->sink,        [7] = s->owner,           [8] = s->ifindex,
        [9] = s->flags,       [10] = s->spread,         [11] = s->tos,
        [12] = s->ttl,        [13] = s->mcast_ttl,      [14] = s->load,
        [15] = s->rx_packets, [16] = s->rx_bytes,       [17] = s->tx_packets,
        [18] = s->tx_bytes,
    };
    for (uint32_t f = 1; f < FIELD_MAX; f++) {
        if (f == 2)
            statewire_put_bytes(&o, f, s->flow.local.b, sizeof s->flow.local.b);
        else if (f == 3)
            statewire_put_bytes(&o, f, s->flow.remote.b, sizeof s->flow.remote.b);
        else
            statewire_put(&o, f, numbers[f]);
    }
    return o.len;
}

static size_t write_member(const struct udp_member *m, uint8_t *buf, size_t size) {
    struct statewire_out o = {.buf = buf, .size = size};
    statewire_put(&o, 1, m->sock);
    statewire_put_bytes(&o, 2, m->group.b, sizeof m->group.b);
    statewire_put(&o, 3, m->ifindex);
    return o.len;
}

/* *cursor = table << 32 | next index. */
int64_t udp_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size) {
    const struct udp_state *st = (const struct udp_state *)state;
    uint32_t table = (uint32_t)(*cursor >> 32), index = (uint32_t)*cursor;
    for (; table <= UDP_TABLE_MEMBER; table++, index = 0) {
        const struct arena_table *t = &st->a.table[table];
        while (index < t->high_water && arena_lookup((void *)(uintptr_t)st, t, index) == NULL)
            index++;
        if (index >= t->high_water)
            continue;
        const void *record = arena_record((void *)(uintptr_t)st, t, index);
        uint8_t body[256];
        size_t n = table == UDP_TABLE_SOCKET ? write_socket((const struct udp_socket *)record, index, body, sizeof body)
                                             : write_member((const struct udp_member *)record, body, sizeof body);
        struct statewire_out o = {.buf = buf, .size = size};
        statewire_put_bytes(&o, table == UDP_TABLE_SOCKET ? RECORD_SOCKET : RECORD_MEMBER, body, n);
        if (o.full)
            return -ENOSPC;
        *cursor = (uint64_t)table << 32 | (index + 1);
        return (int64_t)o.len;
    }
    *cursor = (uint64_t)table << 32;
    return 0;
}

static int read_addr(const struct statewire_field *f, struct ipaddr *ret_addr) {
    if (f->type != STATEWIRE_BYTES || f->size != sizeof ret_addr->b)
        return -EBADMSG;
    memcpy(ret_addr->b, f->data, f->size);
    return 0;
}

/* Upper bounds of the numbers of a UdpSocket by field; 0 = not a number. */
static const uint64_t socket_max[FIELD_MAX] = {
    [1] = UINT32_MAX,  [4] = UINT16_MAX,  [5] = UINT16_MAX,  [6] = UINT64_MAX,  [7] = UINT32_MAX, [8] = UINT32_MAX,
    [9] = UINT8_MAX,   [10] = UINT8_MAX,  [11] = UINT8_MAX,  [12] = UINT8_MAX,  [13] = UINT8_MAX, [14] = UINT32_MAX,
    [15] = UINT64_MAX, [16] = UINT64_MAX, [17] = UINT64_MAX, [18] = UINT64_MAX,
};

static int read_socket(struct statewire_in in, struct udp_socket *ret_socket, uint32_t *ret_index) {
    uint64_t v[FIELD_MAX] = {0};
    struct statewire_field f;
    int more;
    while ((more = statewire_next(&in, &f)) > 0) {
        if (f.number == 2 || f.number == 3) {
            if (read_addr(&f, f.number == 2 ? &ret_socket->flow.local : &ret_socket->flow.remote) != 0)
                return -EBADMSG;
        } else if (f.number < FIELD_MAX) {
            if (f.type != STATEWIRE_VARINT || f.value > socket_max[f.number])
                return -EBADMSG;
            v[f.number] = f.value;
        }
    }
    if (more < 0)
        return -EBADMSG;
    *ret_index = (uint32_t)v[1];
    ret_socket->flow.local_port = (uint16_t)v[4];
    ret_socket->flow.remote_port = (uint16_t)v[5];
    ret_socket->flow.proto = PROTO_UDP;
    ret_socket->sink = v[6];
    ret_socket->owner = (uint32_t)v[7];
    ret_socket->ifindex = (uint32_t)v[8];
    ret_socket->flags = (uint8_t)v[9];
    ret_socket->spread = (uint8_t)v[10];
    ret_socket->tos = (uint8_t)v[11];
    ret_socket->ttl = (uint8_t)v[12];
    ret_socket->mcast_ttl = (uint8_t)v[13];
    ret_socket->load = (uint32_t)v[14];
    ret_socket->rx_packets = v[15];
    ret_socket->rx_bytes = v[16];
    ret_socket->tx_packets = v[17];
    ret_socket->tx_bytes = v[18];
    return udp_socket_valid(ret_socket);
}

static int load_socket(struct udp_state *st, struct statewire_in in) {
    struct udp_socket fresh = {0};
    uint32_t index;
    int error = read_socket(in, &fresh, &index);
    if (error != 0)
        return error;
    if (udp_table_conflict(st, &fresh, ARENA_NIL))
        return -EADDRINUSE;
    struct arena_table *t = &st->a.table[UDP_TABLE_SOCKET];
    struct udp_socket *s = (struct udp_socket *)arena_take_at(st, t, index);
    if (s == NULL)
        return index >= t->capacity ? -ENOSPC : -EEXIST;
    memcpy((uint8_t *)s + sizeof s->r, (uint8_t *)&fresh + sizeof s->r, sizeof *s - sizeof s->r);
    arena_publish(t, s);
    udp_table_add(st, index);
    return 0;
}

static int load_member(struct udp_state *st, struct statewire_in in) {
    struct udp_cmd_group c = {.cmd = {UDP_CMD_GROUP, sizeof c}};
    struct statewire_field f;
    int more;
    while ((more = statewire_next(&in, &f)) > 0) {
        if (f.number == 2 && read_addr(&f, &c.group) != 0)
            return -EBADMSG;
        if ((f.number == 1 || f.number == 3) && (f.type != STATEWIRE_VARINT || f.value > UINT32_MAX))
            return -EBADMSG;
        if (f.number == 1)
            c.sock = (uint32_t)f.value;
        if (f.number == 3)
            c.ifindex = (uint32_t)f.value;
    }
    if (more < 0)
        return -EBADMSG;
    struct engine_reply reply;
    udp_command(st, NULL, &c.cmd, &reply);
    return reply.error;
}

int udp_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size) {
    struct udp_state *st = (struct udp_state *)state;
    struct statewire_in in = {rec, rec + size};
    struct statewire_field f;
    if (from_version > UDP_LAYOUT)
        return -EPROTONOSUPPORT;
    if (statewire_next(&in, &f) != 1 || f.type != STATEWIRE_BYTES || in.at != in.end)
        return -EBADMSG;
    struct statewire_in body = {f.data, f.data + f.size};
    switch (f.number) {
    case RECORD_SOCKET:
        return load_socket(st, body);
    case RECORD_MEMBER:
        return load_member(st, body);
    default:
        return -EBADMSG;
    }
}
