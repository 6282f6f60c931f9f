/* SPDX-License-Identifier: Apache-2.0
 *
 * See nic_sockets.h.
 */
#include "control/nic_sockets.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "control/identity/owner.h"
#include "control/policy/policy.h"

#define ADDR_MAX  NIC_CELLS_OF_PORT
#define WORLD_MAX 4096u /* cells; ports beyond stay in software */
#define NIL       UINT32_MAX
#define TCP_SYN   0x02
#define TCP_ACK   0x10

struct entry {
    struct nic_socket socket;
    uint32_t next; /* of the same port, or free */
    bool used;
};

struct nic_sockets {
    const struct owner_table *owners;
    const struct policy *policy;
    uint32_t *asking, asking_count; /* rules that drop by owner */
    struct ipaddr addrs[ADDR_MAX];
    uint32_t addr_count;
    struct entry *entries;
    uint32_t size, free;
    uint32_t heads[2][65536]; /* datagrams, streams; index + 1, 0 = none */
    struct nb_world world;
    struct nb_cell *cells;
    struct nb_owner *cell_owners;
};

static uint32_t *head_of(struct nic_sockets *s, uint8_t proto, uint16_t port) {
    return &s->heads[proto == IPPROTO_TCP][port];
}

struct nic_sockets *nic_sockets_create(const struct owner_table *owners) {
    struct nic_sockets *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->owners = owners;
    s->free = NIL;
    return s;
}

void nic_sockets_destroy(struct nic_sockets *s) {
    if (s == NULL)
        return;
    free(s->asking);
    free(s->entries);
    free(s->cells);
    free(s->cell_owners);
    free(s);
}

int nic_sockets_policy(struct nic_sockets *s, const struct policy *policy) {
    const struct nb_policy *p = policy != NULL ? policy_rules(policy) : NULL;
    uint32_t *asking = calloc(p != NULL ? p->rule_count + 1u : 1, sizeof *asking), n = 0;
    if (asking == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; p != NULL && i < p->rule_count; i++)
        if (p->rules[i].match.owner != NB_NONE && p->rules[i].action.verdict == NB_DROP)
            asking[n++] = i;
    free(s->asking);
    s->asking = asking;
    s->asking_count = n;
    s->policy = policy;
    return 0;
}

void nic_sockets_address(struct nic_sockets *s, const struct ipaddr *addr, bool gone) {
    uint32_t i = 0;
    while (i < s->addr_count && !ipaddr_equal(&s->addrs[i], addr))
        i++;
    if (gone && i < s->addr_count)
        s->addrs[i] = s->addrs[--s->addr_count];
    else if (!gone && i == s->addr_count && i < ADDR_MAX)
        s->addrs[s->addr_count++] = *addr;
}

/* ---- sockets ---- */

static int entries_grow(struct nic_sockets *s) {
    uint32_t size = s->size == 0 ? 64 : s->size * 2;
    struct entry *v = realloc(s->entries, size * sizeof *v);
    if (v == NULL)
        return -ENOMEM;
    s->entries = v;
    for (uint32_t i = s->size; i < size; i++)
        v[i] = (struct entry){.next = i + 1 < size ? i + 1 : NIL};
    s->free = s->size;
    s->size = size;
    return 0;
}

int nic_sockets_add(struct nic_sockets *s, const struct nic_socket *socket) {
    uint32_t *head = head_of(s, socket->flow.proto, socket->flow.local_port);
    if (s->free == NIL && entries_grow(s) != 0)
        return -ENOMEM;
    uint32_t at = s->free;
    s->free = s->entries[at].next;
    s->entries[at] = (struct entry){.socket = *socket, .next = *head, .used = true};
    *head = at + 1;
    return 0;
}

static bool same_socket(const struct nic_socket *a, const struct nic_socket *b) {
    return a->owner == b->owner && a->ifindex == b->ifindex && a->v6only == b->v6only && a->listens == b->listens &&
           ipaddr_equal(&a->flow.local, &b->flow.local) && ipaddr_equal(&a->flow.remote, &b->flow.remote) &&
           a->flow.remote_port == b->flow.remote_port;
}

void nic_sockets_remove(struct nic_sockets *s, const struct nic_socket *socket) {
    uint32_t *link = head_of(s, socket->flow.proto, socket->flow.local_port);
    while (*link != 0 && !same_socket(&s->entries[*link - 1].socket, socket))
        link = &s->entries[*link - 1].next;
    if (*link == 0)
        return;
    uint32_t at = *link - 1;
    *link = s->entries[at].next;
    s->entries[at] = (struct entry){.next = s->free};
    s->free = at;
}

/* ---- cells ---- */

static bool asked_about(const struct nic_sockets *s, const struct nb_owner *owner) {
    const struct nb_policy *p = policy_rules(s->policy);
    for (uint32_t i = 0; i < s->asking_count; i++)
        if (nb_owner_matches(p, &p->owners[p->rules[s->asking[i]].match.owner], owner))
            return true;
    return false;
}

/* One owner has all of it; NULL: not. */
static const struct owner *owner_of(const struct nic_sockets *s, uint32_t head) {
    uint32_t owner = 0;
    for (uint32_t i = head; i != 0; i = s->entries[i - 1].next) {
        const struct nic_socket *k = &s->entries[i - 1].socket;
        if (k->owner == 0 || k->ifindex != 0 || (owner != 0 && k->owner != owner) ||
            (k->flow.proto == IPPROTO_TCP && !k->listens))
            return NULL;
        owner = k->owner;
    }
    return owner_get(s->owners, owner);
}

static bool bound_to(const struct nic_socket *k, const struct ipaddr *addr) {
    const struct ipaddr *local = &k->flow.local;
    if (!ipaddr_is_any(local))
        return ipaddr_equal(local, addr);
    if (ipaddr_is_v4(local))
        return ipaddr_is_v4(addr);
    return !k->v6only || !ipaddr_is_v4(addr);
}

static struct nb_cell cell_make(uint8_t proto, const struct ipaddr *addr, uint16_t port) {
    struct nb_cell c = {.states = NB_STATES_ALL};
    c.cube.value.parsed = c.cube.mask.parsed = NB_PARSED_IP | NB_PARSED_PORTS;
    c.cube.value.proto = proto;
    c.cube.mask.proto = 0xff;
    c.cube.value.dport[0] = (uint8_t)(port >> 8);
    c.cube.value.dport[1] = (uint8_t)port;
    memset(c.cube.mask.dport, 0xff, 2);
    if (addr != NULL) {
        memcpy(c.cube.value.dst, addr->b, 16);
        memset(c.cube.mask.dst, 0xff, 16);
    }
    if (proto == IPPROTO_TCP) {
        c.cube.value.tcp_flags = TCP_SYN;
        c.cube.mask.tcp_flags = TCP_SYN | TCP_ACK;
    }
    return c;
}

static bool takes_all(const struct nic_sockets *s, uint32_t head, const struct ipaddr *addr) {
    for (uint32_t i = head; i != 0; i = s->entries[i - 1].next) {
        const struct nic_socket *k = &s->entries[i - 1].socket;
        if (k->flow.remote_port == 0 && bound_to(k, addr))
            return true;
    }
    return false;
}

uint32_t nic_sockets_cells(const struct nic_sockets *s, uint8_t proto, uint16_t port,
                           struct nb_cell ret_cells[NIC_CELLS_OF_PORT], struct nb_owner *ret_owner) {
    uint32_t head = s->heads[proto == IPPROTO_TCP][port], n = 0;
    const struct owner *owner = head != 0 && s->asking_count > 0 ? owner_of(s, head) : NULL;
    if (owner == NULL)
        return 0;
    policy_owner(s->policy, owner, ret_owner);
    if (!asked_about(s, ret_owner))
        return 0;
    for (uint32_t i = 0; i < s->addr_count; i++) {
        if (!takes_all(s, head, &s->addrs[i]))
            continue;
        ret_cells[n] = cell_make(proto, &s->addrs[i], port);
        ret_cells[n].owner = ret_owner;
        ret_cells[n++].owner_known = true;
    }
    return n;
}

uint32_t nic_sockets_area(const struct nic_sockets *s, uint8_t proto, uint16_t port, struct nb_cell *ret_cell) {
    *ret_cell = cell_make(proto, NULL, port);
    return s->asking_count > 0;
}

static bool world_reserve(struct nic_sockets *s) {
    if (s->cells == NULL)
        s->cells = malloc((WORLD_MAX + NIC_CELLS_OF_PORT) * sizeof *s->cells);
    if (s->cell_owners == NULL)
        s->cell_owners = malloc(WORLD_MAX * sizeof *s->cell_owners);
    return s->cells != NULL && s->cell_owners != NULL;
}

/* Each port once: at the socket that its chain begins with. */
const struct nb_world *nic_sockets_world(struct nic_sockets *s) {
    uint32_t owners = 0;
    s->world = NB_WORLD_UNKNOWN;
    if (s->asking_count == 0 || !world_reserve(s))
        return &s->world;
    for (uint32_t i = 0; i < s->size && owners < WORLD_MAX && s->world.cell_count < WORLD_MAX; i++) {
        const struct flow *f = &s->entries[i].socket.flow;
        if (!s->entries[i].used || *head_of(s, f->proto, f->local_port) != i + 1)
            continue;
        uint32_t n =
            nic_sockets_cells(s, f->proto, f->local_port, s->cells + s->world.cell_count, &s->cell_owners[owners]);
        s->world.cell_count += n;
        owners += n != 0;
    }
    s->world.cells = s->cells;
    return &s->world;
}
