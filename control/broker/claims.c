/* SPDX-License-Identifier: Apache-2.0
 *
 * A chained hash of counted keys over nb_claims. A group is a key with port and protocol zero.
 */
#include "control/broker/claims.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engines/check.h"
#include "engines/wire.h"
#include "nicbackend/claims.h"

#define NIL       UINT32_MAX
#define RANGE_MAX 4u

struct claim_entry {
    struct ipaddr addr;
    uint16_t port, port_last; /* port_last 0: one port */
    uint8_t proto;
    uint32_t refs;
    uint32_t next; /* chain, or free list */
};

struct claim_table {
    struct nb_claims *nb;
    struct claim_entry *entries;
    uint32_t *buckets;
    uint32_t max, bucket_mask, count, free_head;
    struct claim_entry range[RANGE_MAX];
    uint32_t range_count;
};

int claim_table_create(struct nb_claims *nb, uint32_t max, struct claim_table **ret_table) {
    uint32_t buckets = 16;
    while (buckets < max)
        buckets *= 2;
    struct claim_table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    t->entries = calloc(max, sizeof *t->entries);
    t->buckets = malloc(buckets * sizeof *t->buckets);
    if (t->entries == NULL || t->buckets == NULL) {
        free(t->entries);
        free(t->buckets);
        free(t);
        return -ENOMEM;
    }
    memset(t->buckets, 0xff, buckets * sizeof *t->buckets);
    for (uint32_t i = 0; i < max; i++)
        t->entries[i].next = i + 1 < max ? i + 1 : NIL;
    t->nb = nb;
    t->max = max;
    t->bucket_mask = buckets - 1;
    *ret_table = t;
    return 0;
}

static uint32_t *bucket_of(const struct claim_table *t, const struct claim_entry *key) {
    uint64_t h = key->addr.d[0] ^ key->addr.d[1] * 0x9e3779b97f4a7c15ull;
    h = (h ^ ((uint64_t)key->port << 8 | key->proto)) * 0x94d049bb133111ebull;
    return &t->buckets[(h >> 32) & t->bucket_mask];
}

/* The link that points at the entry with this key, or at NIL when there is none. */
static uint32_t *link_find(const struct claim_table *t, const struct claim_entry *key) {
    uint32_t *link = bucket_of(t, key);
    while (*link != NIL) {
        struct claim_entry *e = &t->entries[*link];
        if (ipaddr_equal(&e->addr, &key->addr) && e->port == key->port && e->proto == key->proto)
            break;
        link = &e->next;
    }
    return link;
}

static struct nb_addr nb_addr_of(const struct ipaddr *a) {
    struct nb_addr n;
    memcpy(n.b, a->b, sizeof n.b);
    return n;
}

static int hook_set(struct claim_table *t, const struct claim_entry *e, bool add) {
    struct nb_addr addr = nb_addr_of(&e->addr);
    if (e->port == 0)
        return add ? nb_claims_addr_add(t->nb, &addr) : nb_claims_addr_del(t->nb, &addr);
    struct nb_claim claim = {.addr = addr, .port = e->port, .port_last = e->port_last, .proto = e->proto};
    int err = add ? nb_claims_add(t->nb, &claim) : nb_claims_del(t->nb, &claim);
    return add && err == -EEXIST ? 0 : err; /* a predecessor's: its owner is back */
}

static int entry_take(struct claim_table *t, struct claim_entry key) {
    uint32_t *link = link_find(t, &key);
    if (*link != NIL) {
        t->entries[*link].refs++;
        return 0;
    }
    uint32_t index = t->free_head;
    if (t->count == t->max)
        return -ENOSPC;
    int err = hook_set(t, &key, true);
    if (err != 0)
        return err;
    t->free_head = t->entries[index].next;
    key.refs = 1;
    key.next = NIL;
    t->entries[index] = key;
    *link = index; /* link_find() stopped at the end of the chain */
    t->count++;
    return 0;
}

static void entry_give(struct claim_table *t, struct claim_entry key) {
    uint32_t *link = link_find(t, &key);
    uint32_t index = *link;
    if (index == NIL || --t->entries[index].refs > 0)
        return;
    (void)hook_set(t, &key, false);
    *link = t->entries[index].next;
    t->entries[index].next = t->free_head;
    t->free_head = index;
    t->count--;
}

/* How the hooks write wildcards: see struct nb_claim. */
static struct claim_entry port_key(const struct flow *flow, bool v6only) {
    struct claim_entry e = {.addr = flow->local, .port = flow->local_port, .proto = flow->proto};
    if (v6only && ipaddr_is_any(&flow->local))
        e.addr = (struct ipaddr){.d = {UINT64_MAX, UINT64_MAX}};
    return e;
}

/* Whoever makes whole frames has no port. */
int claim_take(struct claim_table *t, const struct flow *flow, bool v6only) {
    return flow->proto == PROTO_FRAME ? 0 : entry_take(t, port_key(flow, v6only));
}

void claim_give(struct claim_table *t, const struct flow *flow, bool v6only) {
    if (flow->proto != PROTO_FRAME)
        entry_give(t, port_key(flow, v6only));
}

static struct nb_flow nb_flow_of(const struct flow *flow) {
    return (struct nb_flow){.local = nb_addr_of(&flow->local),
                            .remote = nb_addr_of(&flow->remote),
                            .local_port = flow->local_port,
                            .remote_port = flow->remote_port};
}

int claim_keep(struct claim_table *t, const struct flow *flow) {
    const struct nb_flow kept = nb_flow_of(flow);
    return nb_claims_keep(t->nb, &kept);
}

int claim_hold(struct claim_table *t, const struct flow *flow) {
    const struct nb_flow held = nb_flow_of(flow);
    return nb_claims_hold(t->nb, &held);
}

void claim_let_go(struct claim_table *t, const struct flow *flow) {
    const struct nb_flow held = nb_flow_of(flow);
    (void)nb_claims_let_go(t->nb, &held);
}

bool claim_is_last(const struct claim_table *t, const struct flow *flow, bool v6only) {
    const struct claim_entry key = port_key(flow, v6only);
    uint32_t index = *link_find(t, &key);
    return index != NIL && t->entries[index].refs == 1;
}

int claim_settle(struct claim_table *t, uint16_t port) {
    return nb_claims_settle(t->nb, port);
}

/* Ranges are few and looked through: they have no place in the hash, whose keys are single ports. */
int claim_range_take(struct claim_table *t, uint8_t proto, uint16_t low, uint16_t high) {
    const struct claim_entry e = {.port = low, .port_last = high, .proto = proto};
    if (t->range_count == RANGE_MAX)
        return -ENOSPC;
    int err = hook_set(t, &e, true);
    if (err == 0)
        t->range[t->range_count++] = e;
    return err;
}

static bool range_covers(const struct claim_table *t, uint8_t proto, uint16_t port) {
    for (uint32_t i = 0; i < t->range_count; i++) {
        const struct claim_entry *e = &t->range[i];
        if (e->proto == proto && port >= e->port && port <= e->port_last)
            return true;
    }
    return false;
}

bool claim_covers(const struct claim_table *t, uint8_t proto, const struct ipaddr *addr, uint16_t port) {
    static const uint8_t zero[4];
    bool v4 = ipaddr_is_v4(addr);
    struct flow exact = {.local = *addr, .local_port = port, .proto = proto}, any = exact, version = exact;
    any.local = ipaddr_any();
    version.local = v4 ? ipaddr_from_v4(zero) : ipaddr_any();
    struct claim_entry keys[] = {port_key(&exact, false), port_key(&any, false), port_key(&version, !v4)};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (*link_find(t, &keys[i]) != NIL)
            return true;
    }
    return range_covers(t, proto, port);
}

int claim_group_take(struct claim_table *t, const struct ipaddr *group) {
    return entry_take(t, (struct claim_entry){.addr = *group});
}

void claim_group_give(struct claim_table *t, const struct ipaddr *group) {
    entry_give(t, (struct claim_entry){.addr = *group});
}

static bool is_taken(const struct claim_table *t, const struct nb_claim *c) {
    struct claim_entry key = {.port = c->port, .port_last = c->port_last, .proto = c->proto};
    memcpy(key.addr.b, c->addr.b, sizeof key.addr.b);
    for (uint32_t i = 0; i < t->range_count && c->port_last != 0; i++) {
        if (t->range[i].port == c->port && t->range[i].port_last == c->port_last && t->range[i].proto == c->proto)
            return true;
    }
    return c->port_last == 0 && *link_find(t, &key) != NIL;
}

uint32_t claim_sweep(struct claim_table *t) {
    size_t n = nb_claims_list(t->nb, NULL, 0), dropped = 0;
    struct nb_claim *all = calloc(n + 1, sizeof *all);
    if (all == NULL)
        return 0;
    size_t have = nb_claims_list(t->nb, all, n);
    for (size_t i = 0; i < have && i < n; i++) {
        if (!is_taken(t, &all[i]))
            dropped += nb_claims_del(t->nb, &all[i]) == 0;
    }
    free(all);
    return (uint32_t)dropped;
}

uint32_t claim_table_count(const struct claim_table *t) {
    return t->count;
}

void claim_table_destroy(struct claim_table *t) {
    if (t == NULL)
        return;
    for (uint32_t b = 0; b <= t->bucket_mask; b++) {
        for (uint32_t i = t->buckets[b]; i != NIL; i = t->entries[i].next)
            (void)hook_set(t, &t->entries[i], false);
    }
    for (uint32_t i = 0; i < t->range_count; i++)
        (void)hook_set(t, &t->range[i], false);
    free(t->entries);
    free(t->buckets);
    free(t);
}
