/* SPDX-License-Identifier: Apache-2.0
 *
 * Next hops. On shared interfaces the kernel knows them: what is missing is asked for by event and comes back by
 * IP_CMD_NEIGH. On dedicated interfaces we ask ourselves (ip_arp.c, ip_ndp.c). Both run through one state table.
 * Packets wait in a bounded queue per next hop; the queue is derived and is lost with the process.
 */
#include <errno.h>

#include "engines/ip/ip.h"
#include "engines/ip/ip_resolve.h"

#define ASK_EVERY     NS_PER_SEC
#define ASK_MAX       3
#define FAILED_FOR    (3 * NS_PER_SEC)  /* how long packets are refused at once */
#define SHARED_IDLE   (60 * NS_PER_SEC) /* a kernel neighbour is given back after one to two of these unused */
#define REACHABLE_FOR (30 * NS_PER_SEC) /* RFC 4861 section 10 */

struct step {
    struct ip_state *st;
    struct engine_io *io;
    struct ip_neigh *n;
    uint32_t index;
    const uint8_t *mac;
};

static void set_timer(struct ip_state *st, struct ip_neigh *n, uint32_t index, ns_t due) {
    n->due = due;
    wheel_arm(&st->wheel, index, due);
}

static struct pkt **queue_of(struct ip_state *st, uint32_t index) {
    return (struct pkt **)arena_at(st, st->queue_lines) + (size_t)index * st->cfg.neigh_queue_max;
}

/* ---- actions ---- */

static void tell(const struct step *s, enum engine_event_kind kind) {
    const struct engine_event ev = {.kind = (uint16_t)kind, .port = s->n->port, .addr = s->n->addr};
    engine_event(s->io, &ev);
    ENGINE_COUNT(s->io, IP_COUNT_NEIGH_ASKED);
}

static void act_none(const struct step *s) {
    (void)s;
}

static void act_ask(const struct step *s) {
    s->n->probes++;
    if (ip_port_dedicated(s->io, s->n->port)) {
        ip_resolve_ask(s->st, s->io, s->n);
    } else {
        s->n->asked = 1;
        tell(s, EVENT_NEIGH_WANTED);
    }
    set_timer(s->st, s->n, s->index, s->io->now + ASK_EVERY);
}

/* Waiting packets go through output again: by now their destination resolves. */
static void act_learn(const struct step *s) {
    struct ip_neigh *n = s->n;
    bool moved = memcmp(n->mac, s->mac, sizeof n->mac) != 0 || n->state != NEIGH_REACHABLE;
    memcpy(n->mac, s->mac, sizeof n->mac);
    n->probes = 0;
    ns_t check = ip_port_dedicated(s->io, n->port) ? REACHABLE_FOR : SHARED_IDLE;
    set_timer(s->st, s->n, s->index, s->io->now + check);
    if (moved)
        ip_changed(s->st);
}

static void act_fail(const struct step *s) {
    struct pkt **queue = queue_of(s->st, s->index);
    for (uint32_t i = 0; i < s->n->waiting; i++)
        ip_output_fail(s->io, queue[i], EHOSTUNREACH, 0, DROP_IP_NEIGH_FAILED);
    s->n->waiting = 0;
    s->n->probes = 0;
    set_timer(s->st, s->n, s->index, s->io->now + FAILED_FOR);
    ip_changed(s->st);
}

static void act_confirm(const struct step *s) {
    s->n->used = 0;
    set_timer(s->st, s->n, s->index, s->io->now + SHARED_IDLE);
    ip_changed(s->st); /* destinations resolve once more and set `used` again */
}

static void act_probe(const struct step *s) {
    s->n->used = 0;
    ip_changed(s->st);
    act_ask(s);
}

static void act_release(const struct step *s) {
    if (s->n->asked)
        tell(s, EVENT_NEIGH_UNUSED);
    wheel_cancel(&s->st->wheel, s->index);
    ip_index_remove(s->st, IP_TABLE_NEIGH, s->index);
    arena_release(&s->st->a.table[IP_TABLE_NEIGH], s->n, s->index);
}

/* ---- the table ---- */

typedef void action_fn(const struct step *s);

struct row {
    action_fn *act; /* NULL: the event means nothing in this state */
    uint8_t next;
};

/* clang-format off */
#define ROW(state, ev, act, next) [NEIGH_##state][NEIGH_EV_##ev] = {act, NEIGH_##next}
static const struct row table[NEIGH_STATE_COUNT][NEIGH_EV_COUNT] = {
    /*  state       event       action       next       */
    ROW(NONE,       NEED,       act_ask,     INCOMPLETE),
    ROW(NONE,       KNOWN,      act_learn,   REACHABLE),
    ROW(INCOMPLETE, KNOWN,      act_learn,   REACHABLE),
    ROW(INCOMPLETE, RETRY,      act_ask,     INCOMPLETE),
    ROW(INCOMPLETE, LOST,       act_fail,    FAILED),
    ROW(INCOMPLETE, GIVE_UP,    act_fail,    FAILED),
    ROW(REACHABLE,  KNOWN,      act_learn,   REACHABLE),
    ROW(REACHABLE,  LOST,       act_release, NONE),
    ROW(REACHABLE,  IN_USE,     act_confirm, REACHABLE),
    ROW(REACHABLE,  IN_USE_OWN, act_probe,   PROBE),
    ROW(REACHABLE,  IDLE,       act_release, NONE),
    ROW(PROBE,      KNOWN,      act_learn,   REACHABLE),
    ROW(PROBE,      RETRY,      act_ask,     PROBE),
    ROW(PROBE,      LOST,       act_fail,    FAILED),
    ROW(PROBE,      GIVE_UP,    act_fail,    FAILED),
    ROW(FAILED,     KNOWN,      act_learn,   REACHABLE),
    ROW(FAILED,     LOST,       act_none,    FAILED),
    ROW(FAILED,     IDLE,       act_release, NONE),
};
#undef ROW
/* clang-format on */

/* Sends what waits, as far as there is room: a peer that floods us with answers must not overflow the vecs. The rest
 * goes when the timer comes, which is at once. */
static void flush_queue(struct ip_state *st, struct engine_io *io, uint32_t index) {
    struct ip_neigh *n = (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, index);
    struct pkt **queue = queue_of(st, index), *ready[NEIGH_QUEUE_LIMIT];
    uint32_t room = pkt_vec_room(io->down) < pkt_vec_room(io->drop) ? pkt_vec_room(io->down) : pkt_vec_room(io->drop);
    uint32_t count = room <= PKT_BURST ? 0 : room - PKT_BURST;
    count = count < n->waiting ? count : n->waiting;
    memcpy(ready, queue, count * sizeof *ready);
    memmove(queue, queue + count, (n->waiting - count) * sizeof *queue);
    n->waiting -= count; /* before they are sent: sending may bring them back */
    if (n->waiting > 0)
        set_timer(st, n, index, io->now);
    for (uint32_t i = 0; i < count; i++)
        ip_output_packet(st, io, ready[i]);
}

/* The only place that writes `state`. */
void ip_neigh_event(struct ip_state *st, struct engine_io *io, uint32_t index, enum ip_neigh_event ev,
                    const uint8_t *mac) {
    struct ip_neigh *n = (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, index);
    const struct row *row = &table[n->state][ev];
    if (row->act == NULL)
        return;
    struct step s = {.st = st, .io = io, .n = n, .index = index, .mac = mac};
    arena_change(&st->a, IP_TABLE_NEIGH, index, n, sizeof *n);
    row->act(&s);
    n->state = row->next;
    arena_commit(&st->a);
    if (row->next == NEIGH_REACHABLE && n->waiting > 0)
        flush_queue(st, io, index);
}

uint32_t ip_neigh_find(struct ip_state *st, const struct ipaddr *addr, uint16_t port) {
    uint32_t i = hash_index_first(&st->neigh, &st->a, hash_addr(&st->key, addr, port));
    for (; i != ARENA_NIL; i = hash_index_next(&st->neigh, &st->a, i)) {
        const struct ip_neigh *n = (const struct ip_neigh *)arena_record(st, ip_table_of(st, IP_TABLE_NEIGH), i);
        if (n->port == port && ipaddr_equal(&n->addr, addr))
            return i;
    }
    return ARENA_NIL;
}

/* The table is full: a next hop that is neither waited for nor in use gives way. Looks at no more than a few. */
static bool make_room(struct ip_state *st, struct engine_io *io) {
    for (uint32_t tries = 0; tries < 16; tries++) {
        uint32_t i = (uint32_t)(engine_random(io) % st->cfg.neigh_max);
        struct ip_neigh *n = (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, i);
        if (n == NULL || n->waiting > 0 || n->state == NEIGH_INCOMPLETE || n->state == NEIGH_PROBE)
            continue;
        ip_neigh_event(st, io, i, NEIGH_EV_IDLE, NULL);
        return true;
    }
    return false;
}

static uint32_t make(struct ip_state *st, struct engine_io *io, const struct ipaddr *addr, uint16_t port) {
    struct arena_table *t = &st->a.table[IP_TABLE_NEIGH];
    uint32_t index;
    if (t->live == t->capacity && !make_room(st, io))
        return ARENA_NIL;
    struct ip_neigh *n = (struct ip_neigh *)arena_take(st, t, &index);
    if (n == NULL)
        return ARENA_NIL;
    memset((uint8_t *)n + sizeof n->r, 0, sizeof *n - sizeof n->r);
    n->addr = *addr;
    n->port = port;
    n->mark = st->mark;
    arena_publish(t, n);
    ip_index_add(st, IP_TABLE_NEIGH, index);
    return index;
}

uint32_t ip_neigh_need(struct ip_state *st, struct engine_io *io, const struct ipaddr *addr, uint16_t port) {
    uint32_t i = ip_neigh_find(st, addr, port);
    if (i == ARENA_NIL)
        i = make(st, io, addr, port);
    if (i != ARENA_NIL)
        ip_neigh_event(st, io, i, NEIGH_EV_NEED, NULL);
    return i;
}

/* Somebody told us where `addr` is; a record is made only when `create`. */
void ip_neigh_learn(struct ip_state *st, struct engine_io *io, const struct ipaddr *addr, uint16_t port,
                    const uint8_t *mac, bool create) {
    uint32_t i = ip_neigh_find(st, addr, port);
    if (i == ARENA_NIL && create)
        i = make(st, io, addr, port);
    if (i == ARENA_NIL)
        return;
    ((struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, i))->mark = st->mark;
    ip_neigh_event(st, io, i, NEIGH_EV_KNOWN, mac);
}

void ip_neigh_wait(struct ip_state *st, struct engine_io *io, uint32_t index, struct pkt *p) {
    struct ip_neigh *n = (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, index);
    if (n == NULL || n->waiting == st->cfg.neigh_queue_max) {
        pkt_drop(io, p, DROP_IP_NEIGH_PENDING);
        return;
    }
    ENGINE_COUNT(io, IP_COUNT_NEIGH_WAIT);
    queue_of(st, index)[n->waiting++] = p;
}

void ip_neigh_timer(struct ip_state *st, struct engine_io *io, uint32_t index) {
    const struct ip_neigh *n = (const struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, index);
    if (n == NULL)
        return;
    if (n->state == NEIGH_REACHABLE && n->waiting > 0) {
        set_timer(st, (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, index), index, io->now + SHARED_IDLE);
        flush_queue(st, io, index);
        return;
    }
    enum ip_neigh_event ev = NEIGH_EV_IDLE;
    if (n->state == NEIGH_INCOMPLETE || n->state == NEIGH_PROBE)
        ev = n->probes < ASK_MAX ? NEIGH_EV_RETRY : NEIGH_EV_GIVE_UP;
    else if (n->state == NEIGH_REACHABLE && n->used)
        ev = ip_port_dedicated(io, n->port) ? NEIGH_EV_IN_USE_OWN : NEIGH_EV_IN_USE;
    ip_neigh_event(st, io, index, ev, NULL);
}

/* After a death: nothing waits; timers come when they would have. */
void ip_neigh_recovered(struct ip_state *st, uint32_t index) {
    struct ip_neigh *n = (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, index);
    n->waiting = 0;
    wheel_arm(&st->wheel, index, n->due);
}

void ip_neigh_drop_all(struct ip_state *st, struct engine_io *io) {
    const struct arena_table *t = ip_table_of(st, IP_TABLE_NEIGH);
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct ip_neigh *n = (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, i);
        while (n != NULL && n->waiting > 0 && pkt_vec_room(io->drop) > 0)
            pkt_drop(io, queue_of(st, i)[--n->waiting], DROP_IP_NEIGH_PENDING);
    }
}
