/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands from control: sockets are opened, changed, closed; options; group memberships. They run on the shard's
 * worker between two polls. Arguments come from programs by way of control: all of them are checked here again.
 */
#include <errno.h>

#include "engines/udp/udp.h"

typedef int command_fn(struct udp_state *st, const struct engine_cmd *cmd, struct engine_reply *reply);

/* What must hold for every socket record, made by a command, found after a crash, or loaded. 0 or -errno. */
int udp_socket_valid(const struct udp_socket *s) {
    const struct flow *f = &s->flow;
    if (f->proto != PROTO_UDP || f->local_port == 0 || SINK_KIND(s->sink) == SINK_NONE || s->spread > 1)
        return -EINVAL;
    if (f->pad[0] != 0 || f->pad[1] != 0 || f->pad[2] != 0)
        return -EINVAL;
    if (!(s->flags & UDP_SOCKET_CONNECTED))
        return f->remote_port == 0 && ipaddr_is_any(&f->remote) ? 0 : -EINVAL;
    if (f->remote_port == 0 || ipaddr_is_any(&f->remote) || ipaddr_is_any(&f->local))
        return -EINVAL;
    return ipaddr_is_v4(&f->local) == ipaddr_is_v4(&f->remote) ? 0 : -EAFNOSUPPORT;
}

static void fill(struct udp_socket *s, const struct udp_cmd_open *c) {
    s->flow = c->flow;
    s->flow.proto = PROTO_UDP;
    memset(s->flow.pad, 0, sizeof s->flow.pad);
    s->sink = c->sink;
    s->owner = c->owner;
    s->ifindex = c->ifindex;
    s->spread = c->spread;
    uint8_t flags = s->flags & (uint8_t) ~(UDP_SOCKET_V6ONLY | UDP_SOCKET_REUSEPORT | UDP_SOCKET_CONNECTED);
    flags |= c->v6only ? UDP_SOCKET_V6ONLY : 0;
    flags |= c->reuseport ? UDP_SOCKET_REUSEPORT : 0;
    flags |= !ipaddr_is_any(&c->flow.remote) || c->flow.remote_port != 0 ? UDP_SOCKET_CONNECTED : 0;
    s->flags = flags;
}

static int refuse(struct engine_reply *reply, int error, const char *text) {
    size_t n = strlen(text);
    memcpy(reply->text, text, n < sizeof reply->text ? n + 1 : sizeof reply->text);
    reply->text[sizeof reply->text - 1] = '\0';
    return error;
}

static int check_socket(struct udp_state *st, const struct udp_socket *s, uint32_t self, struct engine_reply *reply) {
    int error = udp_socket_valid(s);
    if (error != 0)
        return refuse(reply, error,
                      "a UDP socket needs a local port, a sink, and both or none of peer address and port");
    if (udp_table_conflict(st, s, self))
        return refuse(reply, -EADDRINUSE, "another UDP socket has this address and port; both must say reuseport");
    return 0;
}

static int cmd_open(struct udp_state *st, const struct engine_cmd *cmd, struct engine_reply *reply) {
    const struct udp_cmd_open *c = (const struct udp_cmd_open *)(const void *)cmd;
    struct arena_table *t = &st->a.table[UDP_TABLE_SOCKET];
    struct udp_socket fresh = {.flags = UDP_SOCKET_MCAST_LOOP, .mcast_ttl = 1};
    fill(&fresh, c);
    int error = check_socket(st, &fresh, ARENA_NIL, reply);
    if (error != 0)
        return error;
    uint32_t index;
    struct udp_socket *s = (struct udp_socket *)arena_take(st, t, &index);
    if (s == NULL)
        return refuse(reply, -ENOSPC, "the UDP socket table of this shard is full; raise its socket_max");
    memcpy((uint8_t *)s + sizeof s->r, (uint8_t *)&fresh + sizeof s->r, sizeof *s - sizeof s->r);
    arena_publish(t, s);
    udp_table_add(st, index);
    reply->value = index;
    return 0;
}

static int cmd_update(struct udp_state *st, const struct engine_cmd *cmd, struct engine_reply *reply) {
    const struct udp_cmd_open *c = (const struct udp_cmd_open *)(const void *)cmd;
    struct udp_socket *s = udp_socket_get(st, c->sock);
    if (s == NULL)
        return -EBADF;
    struct udp_socket changed = *s;
    fill(&changed, c);
    int error = check_socket(st, &changed, c->sock, reply);
    if (error != 0)
        return error;
    udp_table_remove(st, c->sock);
    changed.link = s->link;
    arena_change(&st->a, UDP_TABLE_SOCKET, c->sock, s, sizeof *s);
    *s = changed;
    arena_commit(&st->a);
    udp_table_add(st, c->sock);
    return 0;
}

static void member_release(struct udp_state *st, uint32_t index) {
    struct arena_table *t = &st->a.table[UDP_TABLE_MEMBER];
    struct udp_member *m = (struct udp_member *)arena_lookup(st, t, index);
    hash_index_remove(&st->member, &st->a, index);
    arena_release(t, m, index);
}

/* Memberships go first: a death in between leaves a socket without some of its groups, which its owner's own death or
 * close ends soon, and never a membership without a socket. */
void udp_socket_close(struct udp_state *st, uint32_t sock) {
    const struct arena_table *members = &st->a.table[UDP_TABLE_MEMBER];
    for (uint32_t i = 0; i < members->high_water && members->live > 0; i++) {
        const struct udp_member *m = (const struct udp_member *)arena_lookup(st, members, i);
        if (m != NULL && m->sock == sock)
            member_release(st, i);
    }
    struct udp_socket *s = udp_socket_get(st, sock);
    udp_table_remove(st, sock);
    arena_release(&st->a.table[UDP_TABLE_SOCKET], s, sock);
}

static int cmd_close(struct udp_state *st, const struct engine_cmd *cmd, struct engine_reply *reply) {
    const struct udp_cmd_close *c = (const struct udp_cmd_close *)(const void *)cmd;
    (void)reply;
    if (udp_socket_get(st, c->sock) == NULL)
        return -EBADF;
    udp_socket_close(st, c->sock);
    return 0;
}

static void set_flag(struct udp_socket *s, uint8_t flag, bool on) {
    s->flags = (uint8_t)(on ? s->flags | flag : s->flags & ~flag);
    udp_socket_derive(s);
}

static int cmd_option(struct udp_state *st, const struct engine_cmd *cmd, struct engine_reply *reply) {
    const struct udp_cmd_option *c = (const struct udp_cmd_option *)(const void *)cmd;
    struct udp_socket *s = udp_socket_get(st, c->sock);
    (void)reply;
    if (s == NULL)
        return -EBADF;
    bool byte = c->value >= 0 && c->value <= 255, flag = c->value == 0 || c->value == 1;
    switch (c->option) { /* each is one store, and what is derived from it: no undo slot needed */
    case UDP_OPT_TOS:
        return byte ? (s->tos = (uint8_t)c->value, 0) : -EINVAL;
    case UDP_OPT_TTL:
        return byte ? (s->ttl = (uint8_t)c->value, 0) : -EINVAL;
    case UDP_OPT_MULTICAST_TTL:
        return byte ? (s->mcast_ttl = (uint8_t)c->value, 0) : -EINVAL;
    case UDP_OPT_DONT_FRAGMENT:
        return flag ? (set_flag(s, UDP_SOCKET_DONT_FRAGMENT, c->value), 0) : -EINVAL;
    case UDP_OPT_MULTICAST_LOOP:
        return flag ? (set_flag(s, UDP_SOCKET_MCAST_LOOP, c->value), 0) : -EINVAL;
    case UDP_OPT_BROADCAST:
        return flag ? (set_flag(s, UDP_SOCKET_BROADCAST, c->value), 0) : -EINVAL;
    case UDP_OPT_LOAD:
        return c->value >= 0 && c->value <= UINT32_MAX ? (s->load = (uint32_t)c->value, 0) : -EINVAL;
    default:
        return -ENOPROTOOPT;
    }
}

static int cmd_group(struct udp_state *st, const struct engine_cmd *cmd, struct engine_reply *reply) {
    const struct udp_cmd_group *c = (const struct udp_cmd_group *)(const void *)cmd;
    struct arena_table *t = &st->a.table[UDP_TABLE_MEMBER];
    if (udp_socket_get(st, c->sock) == NULL)
        return -EBADF;
    if (!ipaddr_is_multicast(&c->group))
        return refuse(reply, -EINVAL, "not a multicast address");
    uint32_t index = udp_member_find(st, &c->group, c->sock, c->ifindex);
    if (c->leave) {
        if (index == ARENA_NIL)
            return -EADDRNOTAVAIL;
        member_release(st, index);
        return 0;
    }
    if (index != ARENA_NIL)
        return -EADDRINUSE;
    struct udp_member *m = (struct udp_member *)arena_take(st, t, &index);
    if (m == NULL)
        return refuse(reply, -ENOSPC, "the table of group memberships is full; raise member_max");
    m->group = c->group;
    m->sock = c->sock;
    m->ifindex = c->ifindex;
    arena_publish(t, m);
    hash_index_insert(&st->member, &st->a, index, hash_addr(&st->key, &m->group, 0));
    return 0;
}

static int cmd_info(struct udp_state *st, const struct engine_cmd *cmd, struct engine_reply *reply) {
    const struct udp_cmd_info *c = (const struct udp_cmd_info *)(const void *)cmd;
    const struct udp_socket *s = udp_socket_get(st, c->sock);
    (void)reply;
    if (s == NULL)
        return -EBADF;
    if (c->info == NULL)
        return -EINVAL;
    *c->info = (struct udp_info){.flow = s->flow,
                                 .sink = s->sink,
                                 .rx_packets = s->rx_packets,
                                 .tx_packets = s->tx_packets,
                                 .rx_bytes = s->rx_bytes,
                                 .tx_bytes = s->tx_bytes,
                                 .owner = s->owner};
    return 0;
}

void udp_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    static const struct {
        uint32_t size;
        uint32_t pad;
        command_fn *run;
    } commands[] = {
        [UDP_CMD_OPEN] = {sizeof(struct udp_cmd_open), 0, cmd_open},
        [UDP_CMD_UPDATE] = {sizeof(struct udp_cmd_open), 0, cmd_update},
        [UDP_CMD_CLOSE] = {sizeof(struct udp_cmd_close), 0, cmd_close},
        [UDP_CMD_OPTION] = {sizeof(struct udp_cmd_option), 0, cmd_option},
        [UDP_CMD_GROUP] = {sizeof(struct udp_cmd_group), 0, cmd_group},
        [UDP_CMD_INFO] = {sizeof(struct udp_cmd_info), 0, cmd_info},
    };
    (void)io;
    memset(ret_reply, 0, sizeof *ret_reply);
    if (cmd->id >= ARRAY_LEN(commands) || commands[cmd->id].run == NULL)
        ret_reply->error = -ENOTSUP;
    else if (cmd->size < commands[cmd->id].size)
        ret_reply->error = -EINVAL;
    else
        ret_reply->error = commands[cmd->id].run((struct udp_state *)state, cmd, ret_reply);
}
