/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands from control: addresses, routes and neighbours come, change and go; a flush round forgets what was not given
 * again. They run on the shard's worker between two polls.
 */
#include <errno.h>

#include "engines/ip/ip.h"
#include "engines/ip/ip_resolve.h"

typedef int command_fn(struct ip_state *st, struct engine_io *io, const struct engine_cmd *cmd,
                       struct engine_reply *reply);

static bool slot_ok(uint16_t port) {
    return port < PORT_SLOT_MAX || port >= PORT_SLOT_KERNEL;
}

/* Prefix lengths count from the v4-mapped form: an IPv4 prefix has at least its 96 fixed bits. */
static bool prefix_ok(const struct ipaddr *prefix, uint8_t len) {
    return len <= 128 && (!ipaddr_is_v4(prefix) || len >= 96);
}

/* What must hold for every record, given by a command, found after a crash, or loaded. 0 or -errno. */
int ip_record_valid(const struct ip_state *st, enum ip_table t, const void *record) {
    const struct ip_addr *a = (const struct ip_addr *)record;
    const struct ip_route *r = (const struct ip_route *)record;
    const struct ip_neigh *n = (const struct ip_neigh *)record;
    const struct ip_pmtu *m = (const struct ip_pmtu *)record;
    struct ipaddr masked;
    (void)st;
    switch (t) {
    case IP_TABLE_ADDR:
        return !slot_ok(a->port) || !prefix_ok(&a->addr, a->prefix_len) || ipaddr_is_any(&a->addr) ? -EINVAL : 0;
    case IP_TABLE_ROUTE:
        if (!slot_ok(r->port) || !prefix_ok(&r->prefix, r->prefix_len))
            return -EINVAL;
        masked = ip_prefix_mask(&r->prefix, r->prefix_len);
        return ipaddr_equal(&masked, &r->prefix) ? 0 : -EINVAL;
    case IP_TABLE_NEIGH:
        return n->port >= PORT_SLOT_MAX || n->state >= NEIGH_STATE_COUNT || n->state == NEIGH_NONE ? -EINVAL : 0;
    default:
        return m->mtu < IP4_MTU_MIN ? -EINVAL : 0;
    }
}

static int refuse(struct engine_reply *reply, int error, const char *text) {
    size_t n = strlen(text);
    n = n < sizeof reply->text - 1 ? n : sizeof reply->text - 1;
    memcpy(reply->text, text, n);
    reply->text[n] = '\0';
    return error;
}

static void record_release(struct ip_state *st, enum ip_table t, uint32_t index) {
    ip_index_remove(st, t, index);
    arena_release(&st->a.table[t], ip_get(st, t, index), index);
}

/* ---- addresses ---- */

static int cmd_addr(struct ip_state *st, struct engine_io *io, const struct engine_cmd *cmd,
                    struct engine_reply *reply) {
    const struct ip_cmd_addr *c = (const struct ip_cmd_addr *)(const void *)cmd;
    struct arena_table *t = &st->a.table[IP_TABLE_ADDR];
    struct ip_addr *old = (struct ip_addr *)(uintptr_t)ip_addr_find(st, &c->addr, c->port);
    (void)io;
    if (old != NULL && old->port != c->port)
        old = NULL; /* PORT_SLOT_LOCAL finds any interface's */
    if (c->remove) {
        if (old == NULL)
            return -EADDRNOTAVAIL;
        record_release(st, IP_TABLE_ADDR, (uint32_t)(old - (struct ip_addr *)arena_record(st, t, 0)));
        return 0;
    }
    struct ip_addr fresh = {.addr = c->addr, .mark = st->mark, .port = c->port, .prefix_len = c->prefix_len};
    fresh.flags = (uint8_t)((c->dedicated ? IP_ADDR_DEDICATED : 0) | (c->broadcast ? IP_ADDR_BROADCAST : 0));
    if (ip_record_valid(st, IP_TABLE_ADDR, &fresh) != 0)
        return refuse(reply, -EINVAL,
                      "not an interface address: check the slot and the prefix length (96 + n for IPv4)");
    uint32_t index;
    if (old != NULL) {
        index = (uint32_t)(old - (struct ip_addr *)arena_record(st, t, 0));
        fresh.r = old->r;
        fresh.link = old->link;
        arena_change(&st->a, IP_TABLE_ADDR, index, old, sizeof *old);
        *old = fresh;
        arena_commit(&st->a);
        ip_changed(st);
        return 0;
    }
    struct ip_addr *a = (struct ip_addr *)arena_take(st, t, &index);
    if (a == NULL)
        return refuse(reply, -ENOSPC, "the address table is full; raise addr_max");
    memcpy((uint8_t *)a + sizeof a->r, (uint8_t *)&fresh + sizeof a->r, sizeof *a - sizeof a->r);
    arena_publish(t, a);
    ip_index_add(st, IP_TABLE_ADDR, index);
    return 0;
}

/* ---- routes ---- */

static uint32_t route_same(struct ip_state *st, const struct ip_route *r) {
    uint32_t i = hash_index_first(&st->route, &st->a, hash_addr(&st->key, &r->prefix, r->prefix_len));
    for (; i != ARENA_NIL; i = hash_index_next(&st->route, &st->a, i)) {
        const struct ip_route *o = (const struct ip_route *)arena_record(st, ip_table_of(st, IP_TABLE_ROUTE), i);
        if (o->prefix_len == r->prefix_len && o->metric == r->metric && o->port == r->port &&
            ipaddr_equal(&o->prefix, &r->prefix) && ipaddr_equal(&o->gateway, &r->gateway))
            return i;
    }
    return ARENA_NIL;
}

/* All zero IPv4 prefixes and gateways may come as 0.0.0.0 or as ::, the prefix length tells the family. */
static struct ip_route route_of(const struct ip_state *st, const struct ip_cmd_route *c) {
    struct ip_route r = {.gateway = c->gateway,
                         .source = c->source,
                         .metric = c->metric,
                         .mark = st->mark,
                         .port = c->port,
                         .mtu = c->mtu,
                         .prefix_len = c->prefix_len,
                         .unreachable = c->unreachable};
    r.prefix = c->prefix_len <= 128 ? ip_prefix_mask(&c->prefix, c->prefix_len) : c->prefix;
    if (ipaddr_is_any(&r.gateway))
        r.gateway = ipaddr_any();
    if (ipaddr_is_any(&r.source))
        r.source = ipaddr_any();
    return r;
}

static int cmd_route(struct ip_state *st, struct engine_io *io, const struct engine_cmd *cmd,
                     struct engine_reply *reply) {
    struct ip_route fresh = route_of(st, (const struct ip_cmd_route *)(const void *)cmd);
    struct arena_table *t = &st->a.table[IP_TABLE_ROUTE];
    (void)io;
    if (ip_record_valid(st, IP_TABLE_ROUTE, &fresh) != 0)
        return refuse(reply, -EINVAL, "not a route: check the slot and the prefix length (96 + n for IPv4)");
    uint32_t index = route_same(st, &fresh);
    if (((const struct ip_cmd_route *)(const void *)cmd)->remove) {
        if (index == ARENA_NIL)
            return -ESRCH;
        record_release(st, IP_TABLE_ROUTE, index);
        return 0;
    }
    if (index != ARENA_NIL) {
        struct ip_route *old = (struct ip_route *)arena_record(st, t, index);
        fresh.r = old->r;
        fresh.link = old->link;
        arena_change(&st->a, IP_TABLE_ROUTE, index, old, sizeof *old);
        *old = fresh;
        arena_commit(&st->a);
        ip_changed(st);
        return 0;
    }
    struct ip_route *r = (struct ip_route *)arena_take(st, t, &index);
    if (r == NULL)
        return refuse(reply, -ENOSPC, "the route table is full; raise route_max");
    memcpy((uint8_t *)r + sizeof r->r, (uint8_t *)&fresh + sizeof r->r, sizeof *r - sizeof r->r);
    arena_publish(t, r);
    ip_index_add(st, IP_TABLE_ROUTE, index);
    return 0;
}

/* ---- neighbours, flush, lookup ---- */

static int cmd_neigh(struct ip_state *st, struct engine_io *io, const struct engine_cmd *cmd,
                     struct engine_reply *reply) {
    const struct ip_cmd_neigh *c = (const struct ip_cmd_neigh *)(const void *)cmd;
    if (c->port >= PORT_SLOT_MAX || c->state > 2)
        return refuse(reply, -EINVAL, "a neighbour needs an interface slot and a state of 0, 1 or 2");
    if (c->state == 1) {
        ip_neigh_learn(st, io, &c->addr, c->port, c->mac, true);
        return ip_neigh_find(st, &c->addr, c->port) == ARENA_NIL ? -ENOSPC : 0;
    }
    uint32_t i = ip_neigh_find(st, &c->addr, c->port);
    if (i == ARENA_NIL)
        return 0;
    /* An old entry that goes while a new answer is awaited says nothing about the answer. */
    const struct ip_neigh *n = (const struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, i);
    if (c->state == 0 || n->state != NEIGH_INCOMPLETE)
        ip_neigh_event(st, io, i, NEIGH_EV_LOST, NULL);
    return 0;
}

/* Neighbours that are still being asked for, or have failed, are ours to keep: the kernel's list does not name them. */
static bool swept(const struct ip_state *st, enum ip_table t, const void *record) {
    const struct ip_neigh *n = (const struct ip_neigh *)record;
    switch (t) {
    case IP_TABLE_ADDR:
        return ((const struct ip_addr *)record)->mark != st->mark;
    case IP_TABLE_ROUTE:
        return ((const struct ip_route *)record)->mark != st->mark;
    default:
        return n->mark != st->mark && n->state == NEIGH_REACHABLE;
    }
}

static int cmd_flush(struct ip_state *st, struct engine_io *io, const struct engine_cmd *cmd,
                     struct engine_reply *reply) {
    (void)reply;
    if (((const struct ip_cmd_flush *)(const void *)cmd)->begin) {
        st->mark++;
        return 0;
    }
    for (uint32_t t = IP_TABLE_ADDR; t <= IP_TABLE_NEIGH; t++) {
        for (uint32_t i = 0; i < st->a.table[t].high_water; i++) {
            const void *record = ip_get(st, (enum ip_table)t, i);
            if (record == NULL || !swept(st, (enum ip_table)t, record))
                continue;
            if (t == IP_TABLE_NEIGH)
                ip_neigh_event(st, io, i, NEIGH_EV_LOST, NULL);
            else
                record_release(st, (enum ip_table)t, i);
        }
    }
    return 0;
}

static int cmd_lookup(struct ip_state *st, struct engine_io *io, const struct engine_cmd *cmd,
                      struct engine_reply *reply) {
    const struct ip_cmd_lookup *c = (const struct ip_cmd_lookup *)(const void *)cmd;
    (void)reply;
    if (c->result == NULL)
        return -EINVAL;
    ip_route_explain(st, io, &c->dst, c->result);
    return 0;
}

void ip_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    static const struct {
        uint32_t size;
        uint32_t pad;
        command_fn *run;
    } commands[] = {
        [IP_CMD_ADDR] = {sizeof(struct ip_cmd_addr), 0, cmd_addr},
        [IP_CMD_ROUTE] = {sizeof(struct ip_cmd_route), 0, cmd_route},
        [IP_CMD_NEIGH] = {sizeof(struct ip_cmd_neigh), 0, cmd_neigh},
        [IP_CMD_FLUSH] = {sizeof(struct ip_cmd_flush), 0, cmd_flush},
        [IP_CMD_LOOKUP] = {sizeof(struct ip_cmd_lookup), 0, cmd_lookup},
    };
    memset(ret_reply, 0, sizeof *ret_reply);
    if (cmd->id >= ARRAY_LEN(commands) || commands[cmd->id].run == NULL)
        ret_reply->error = -ENOTSUP;
    else if (cmd->size < commands[cmd->id].size)
        ret_reply->error = -EINVAL;
    else
        ret_reply->error = commands[cmd->id].run((struct ip_state *)state, io, cmd, ret_reply);
}
