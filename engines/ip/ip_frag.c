/* SPDX-License-Identifier: Apache-2.0
 *
 * Reassembly. Fragments are kept, in ascending order, until the datagram is whole; then it is copied once into a buffer
 * that holds all of it. Bounds: reassembly_max datagrams, 64 pieces each, IP_FRAG_HELD_MAX pieces in all, 30 s; the
 * oldest datagram gives way to a new one. Any overlap kills the datagram (RFC 5722); an exact repetition is ignored.
 *
 * Everything here is derived state: a restarted daemon has no half datagrams.
 */
#include "engines/ip/ip_cut.h"

#define LIFETIME     (30 * NS_PER_SEC)
#define PAYLOAD4_MAX (65535u - IP4_LEN)
#define PAYLOAD6_MAX 65535u

static struct ip_frag *frag_at(struct ip_state *st, uint32_t index) {
    return (struct ip_frag *)arena_at(st, st->frag_lines) + index;
}

uint32_t ip_frag_timer_of(const struct ip_state *st, uint32_t index) {
    return st->cfg.neigh_max + st->cfg.pmtu_max + index;
}

/* Each kept piece remembers where it belongs in fields that nobody else uses meanwhile. */
static uint32_t piece_start(const struct pkt *p) {
    return p->user;
}
static uint32_t piece_end(const struct pkt *p) {
    return p->user + pkt_bytes(p);
}

static void release(struct ip_state *st, uint32_t index) {
    struct ip_frag *f = frag_at(st, index);
    wheel_cancel(&st->wheel, ip_frag_timer_of(st, index));
    st->frag_held -= f->pieces;
    st->frag_live--;
    f->used = 0;
    f->pieces = 0;
}

/* Room for all pieces and for what the rest of the burst may need. */
static bool room_for(const struct pkt_vec *vec, uint32_t pieces) {
    return pkt_vec_room(vec) > pieces + PKT_BURST;
}

static bool kill(struct ip_state *st, struct engine_io *io, uint32_t index, enum drop_reason why) {
    struct ip_frag *f = frag_at(st, index);
    if (!room_for(io->drop, f->pieces))
        return false;
    for (uint32_t i = 0; i < f->pieces; i++)
        pkt_drop(io, f->piece[i], why);
    release(st, index);
    return true;
}

static bool key_equal(const struct ip_frag_key *a, const struct ip_frag_key *b) {
    return a->id == b->id && a->proto == b->proto && a->version == b->version && ipaddr_equal(&a->src, &b->src) &&
           ipaddr_equal(&a->dst, &b->dst);
}

static bool drop_oldest(struct ip_state *st, struct engine_io *io) {
    uint32_t oldest = ARENA_NIL;
    for (uint32_t i = 0; i < st->cfg.reassembly_max; i++) {
        const struct ip_frag *f = frag_at(st, i);
        if (f->used && (oldest == ARENA_NIL || f->seq < frag_at(st, oldest)->seq))
            oldest = i;
    }
    return oldest != ARENA_NIL && kill(st, io, oldest, DROP_IP_FRAG_LIMIT);
}

/* The datagram of `key`, made when it is new; ARENA_NIL when there is no room for one. */
static uint32_t find_or_make(struct ip_state *st, struct engine_io *io, const struct ip_frag_key *key) {
    uint32_t unused = ARENA_NIL;
    for (uint32_t i = 0; i < st->cfg.reassembly_max; i++) {
        const struct ip_frag *f = frag_at(st, i);
        if (f->used && key_equal(&f->key, key))
            return i;
        if (!f->used && unused == ARENA_NIL)
            unused = i;
    }
    if (unused == ARENA_NIL || st->frag_held >= IP_FRAG_HELD_MAX) {
        if (!drop_oldest(st, io))
            return ARENA_NIL;
        return find_or_make(st, io, key); /* now a place is free: at most one step deep for each datagram */
    }
    struct ip_frag *f = frag_at(st, unused);
    *f = (struct ip_frag){.key = *key, .used = 1, .seq = ++st->frag_seq};
    st->frag_live++;
    wheel_arm(&st->wheel, ip_frag_timer_of(st, unused), io->now + LIFETIME);
    return unused;
}

/* Where it goes among the pieces. -1: it repeats one exactly; -2: it overlaps. */
static int place_of(const struct ip_frag *f, const struct pkt *p) {
    uint32_t i = f->pieces; /* from the end: in-order arrival finds its place at once */
    while (i > 0 && piece_start(f->piece[i - 1]) > piece_start(p))
        i--;
    if (i > 0 && piece_end(f->piece[i - 1]) > piece_start(p)) {
        const struct pkt *same = f->piece[i - 1];
        bool repeats =
            piece_start(same) == piece_start(p) && same->len == p->len && memcmp(same->data, p->data, p->len) == 0;
        return repeats ? -1 : -2;
    }
    if (i < f->pieces && piece_end(p) > piece_start(f->piece[i]))
        return -2;
    return (int)i;
}

/* The whole datagram behind a plain header made from the first fragment's: options and extension headers in front of
 * the fragment header have done their work. NULL when no buffer is free or large enough. */
static struct pkt *assemble(struct engine_io *io, const struct ip_frag *f) {
    const struct pkt *first = f->piece[0];
    uint32_t head = f->key.version == 4 ? IP4_LEN : IP6_LEN;
    struct pkt *w = ip_pkt_alloc(io, head + f->total);
    if (w == NULL)
        return NULL;
    w->tos = first->tos;
    for (uint32_t i = 0; i < f->pieces; i++) {
        memcpy(w->data + head + piece_start(f->piece[i]), f->piece[i]->data, f->piece[i]->len);
        if ((f->piece[i]->tos & 3) == 3)
            w->tos |= 3; /* one mark marks all (RFC 3168 section 5.3) */
    }
    w->len = f->total;
    w->data += head;
    w->flow = (struct flow){.local = f->key.src, .remote = f->key.dst, .proto = first->flow.proto};
    w->ttl = first->ttl;
    if (f->key.version == 4)
        ip_push4(w, 0, 0);
    else
        ip_push6(w, first->flow.proto);
    w->port = first->port;
    w->known = first->known;
    w->rx_ns = first->rx_ns;
    w->vlan = first->vlan;
    w->flags = (uint16_t)((first->flags & (PKT_LOCAL | PKT_BROADCAST | PKT_VLAN)) | PKT_FRAGMENT);
    return w;
}

/* It is complete: hands the pieces back and gives the whole, or waits a moment for room. */
static struct pkt *complete(struct ip_state *st, struct engine_io *io, uint32_t index) {
    struct ip_frag *f = frag_at(st, index);
    if (!room_for(io->done, f->pieces) || !room_for(io->drop, f->pieces)) {
        wheel_arm(&st->wheel, ip_frag_timer_of(st, index), io->now);
        return NULL;
    }
    struct pkt *whole = assemble(io, f);
    if (whole == NULL) {
        (void)kill(st, io, index, DROP_NO_BUFFER);
        return NULL;
    }
    for (uint32_t i = 0; i < f->pieces; i++)
        (void)pkt_vec_push(io->done, f->piece[i]);
    release(st, index);
    ENGINE_COUNT(io, IP_COUNT_REASSEMBLED);
    return whole;
}

static bool malformed(const struct pkt *p, const struct ip_frag_key *key, uint32_t offset, bool more) {
    if (p->frag_len != 0 || p->len == 0 || (more && p->len % 8 != 0))
        return true;
    return offset + p->len > (key->version == 4 ? PAYLOAD4_MAX : PAYLOAD6_MAX);
}

enum drop_reason ip_frag_input(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_frag_key *key,
                               uint32_t offset, bool more, struct pkt **ret_whole) {
    if (malformed(p, key, offset, more))
        return DROP_IP_FRAG_MALFORMED;
    uint32_t index = find_or_make(st, io, key);
    if (index == ARENA_NIL)
        return DROP_IP_FRAG_LIMIT;
    struct ip_frag *f = frag_at(st, index);
    p->user = offset;
    uint32_t end = offset + p->len;
    int place = place_of(f, p);
    if (place == -1) {
        (void)pkt_vec_push(io->done, p);
        return IP_TAKEN;
    }
    bool beyond = f->total != 0 && (end > f->total || (!more && end != f->total));
    bool short_end = !more && f->pieces > 0 && piece_end(f->piece[f->pieces - 1]) > end;
    if (place < 0 || beyond || short_end || f->pieces == IP_FRAG_PIECES) {
        (void)kill(st, io, index, DROP_IP_FRAG_MALFORMED);
        return DROP_IP_FRAG_MALFORMED;
    }
    memmove(&f->piece[place + 1], &f->piece[place], (f->pieces - (uint32_t)place) * sizeof f->piece[0]);
    f->piece[place] = p;
    f->pieces++;
    st->frag_held++;
    f->have += p->len;
    if (!more)
        f->total = end;
    if (f->total != 0 && f->have == f->total)
        *ret_whole = complete(st, io, index);
    return IP_TAKEN;
}

void ip_frag_timer(struct ip_state *st, struct engine_io *io, uint32_t index, struct pkt **ret_whole) {
    const struct ip_frag *f = frag_at(st, index);
    if (!f->used)
        return;
    if (f->total != 0 && f->have == f->total)
        *ret_whole = complete(st, io, index);
    else if (!kill(st, io, index, DROP_IP_FRAG_TIMEOUT))
        wheel_arm(&st->wheel, ip_frag_timer_of(st, index), io->now);
}

void ip_frag_drop_all(struct ip_state *st, struct engine_io *io) {
    for (uint32_t i = 0; i < st->cfg.reassembly_max; i++) {
        struct ip_frag *f = frag_at(st, i);
        if (!f->used || pkt_vec_room(io->drop) < f->pieces)
            continue;
        for (uint32_t k = 0; k < f->pieces; k++)
            pkt_drop(io, f->piece[k], DROP_IP_FRAG_TIMEOUT);
        release(st, i);
    }
}
