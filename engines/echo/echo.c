/* SPDX-License-Identifier: Apache-2.0
 *
 * The echo engine: answers every datagram with itself, and runs closed loops as a generator. Runs on the shard's
 * worker; keeps no packets. Truth is one record per loop; the slots of a loop (which request is out since when) are
 * derived: a recovered loop sends its whole window anew.
 *
 * A loop's slots form a ring in the order in which they are due, because all wait for the same time: a slot that is
 * sent goes to the end, so the first one gives the next deadline. A request's first eight bytes are its slot and its
 * number; an answer that repeats an old number is late and is dropped.
 */
#include <errno.h>

#include "engines/arena.h"
#include "engines/echo/echo_cmd.h"
#include "engines/statewire.h"
#include "engines/wire.h"

#define ECHO_LAYOUT 1u
#define LOOP_MAX    16u
#define WINDOW_MAX  1024u
#define REQUEST_MIN 8u
#define REQUEST_MAX 65507u
#define RETRY_NS    (100 * NS_PER_US) /* after the pool was empty */
#define FIRST_NS    1                 /* due at once, and told apart from a request that was lost */

struct echo_slot {
    ns_t due;
    uint32_t number; /* of the request that is out */
    uint32_t next, prev;
    uint32_t pad;
};

struct echo_loop {
    struct arena_record r;
    uint32_t sock;
    uint32_t window;
    uint32_t size;
    uint16_t peer_port;
    uint16_t pad;
    struct ipaddr peer;
    ns_t timeout_ns;
    uint64_t answered;
    uint64_t resent;
    /* derived */
    uint32_t oldest;
    uint32_t pad2;
};

struct echo_state {
    struct arena_header a;
    uint32_t slot_lines;
    uint32_t pad;
    ns_t retry_at; /* derived: no sending before */
};

enum echo_counter { COUNT_ECHOED, COUNT_ANSWERED, COUNT_SENT, COUNT_RESENT, COUNT_UNEXPECTED, COUNT_COUNT };

static const struct engine_counter counters[COUNT_COUNT] = {
    [COUNT_ECHOED] = {"echoed_packets", "datagrams sent back"},
    [COUNT_ANSWERED] = {"answered_packets", "answers to generated requests"},
    [COUNT_SENT] = {"sent_packets", "generated requests"},
    [COUNT_RESENT] = {"resent_packets", "requests sent anew after their timeout"},
    [COUNT_UNEXPECTED] = {"unexpected_packets", "late or damaged answers"},
};

static struct arena_table *loops(struct echo_state *st) {
    return &st->a.table[0];
}

static struct echo_slot *slots_of(struct echo_state *st, uint32_t loop) {
    return (struct echo_slot *)arena_at(st, st->slot_lines) + (size_t)loop * WINDOW_MAX;
}

static struct echo_loop *loop_of_sock(struct echo_state *st, uint32_t sock, uint32_t *ret_index) {
    const struct arena_table *t = loops(st);
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct echo_loop *l = (struct echo_loop *)arena_lookup(st, t, i);
        if (l != NULL && l->sock == sock) {
            *ret_index = i;
            return l;
        }
    }
    return NULL;
}

static void loop_start(struct echo_state *st, struct echo_loop *l, uint32_t index) {
    struct echo_slot *s = slots_of(st, index);
    for (uint32_t i = 0; i < l->window; i++)
        s[i] =
            (struct echo_slot){.due = FIRST_NS, .next = (i + 1) % l->window, .prev = (i + l->window - 1) % l->window};
    l->oldest = 0;
}

/* The slot's request leaves now: it becomes the last one due. */
static void slot_sent(struct echo_loop *l, struct echo_slot *slots, uint32_t slot, ns_t now) {
    slots[slot].due = now + l->timeout_ns;
    if (slot == l->oldest) {
        l->oldest = slots[slot].next; /* the ring turns by one */
        return;
    }
    slots[slots[slot].prev].next = slots[slot].next;
    slots[slots[slot].next].prev = slots[slot].prev;
    uint32_t last = slots[l->oldest].prev;
    slots[slot].prev = last;
    slots[slot].next = l->oldest;
    slots[last].next = slot;
    slots[l->oldest].prev = slot;
}

static void request_fill(const struct echo_loop *l, struct echo_slot *slots, uint32_t slot, struct pkt *p) {
    uint32_t number = ++slots[slot].number;
    memcpy(p->data, &slot, 4);
    memcpy(p->data + 4, &number, 4);
    p->sock = l->sock;
    p->flow = (struct flow){.remote = l->peer, .remote_port = l->peer_port, .proto = PROTO_UDP};
    p->gso_size = 0;
}

/* A datagram for a loop's socket: when it answers a request that is out, it becomes the slot's next request. */
static bool input_answer(struct echo_state *st, struct engine_io *io, struct echo_loop *l, uint32_t index,
                         struct pkt *p) {
    uint32_t slot, number;
    struct echo_slot *slots = slots_of(st, index);
    if (p->len < REQUEST_MIN || pkt_bytes(p) != l->size)
        return false;
    memcpy(&slot, p->data, 4);
    memcpy(&number, p->data + 4, 4);
    if (slot >= l->window || number == 0 || slots[slot].number != number)
        return false;
    l->answered++;
    ENGINE_COUNT(io, COUNT_ANSWERED);
    ENGINE_COUNT(io, COUNT_SENT);
    request_fill(l, slots, slot, p);
    slot_sent(l, slots, slot, io->now);
    return true;
}

static void input_echo(struct engine_io *io, struct pkt *p) {
    ENGINE_COUNT(io, COUNT_ECHOED);
    p->tos &= 0xfc; /* the congestion mark was for the way here */
    if ((p->flags & PKT_BROADCAST) || ipaddr_is_multicast(&p->flow.local))
        p->flow.local = ipaddr_any();
    (void)pkt_vec_push(io->down, p);
}

static void input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct echo_state *st = (struct echo_state *)state;
    CHECK(n <= PKT_BURST);
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        uint32_t index;
        struct echo_loop *l = loop_of_sock(st, p->sock, &index);
        if (l == NULL) {
            input_echo(io, p);
        } else if (input_answer(st, io, l, index, p)) {
            (void)pkt_vec_push(io->down, p);
        } else {
            ENGINE_COUNT(io, COUNT_UNEXPECTED);
            (void)pkt_vec_push(io->done, p);
        }
    }
}

/* An application that sends passes through unchanged. */
static void output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)state;
    for (uint32_t i = 0; i < n; i++)
        (void)pkt_vec_push(io->down, pkts[i]);
}

static struct pkt *request_alloc(struct engine_io *io, uint32_t size) {
    struct pkt_pool *pool = size + PKT_HEADROOM <= io->pool->buf_size ? io->pool : io->pool_large;
    if (pool == NULL || size + PKT_HEADROOM > pool->buf_size)
        return NULL;
    struct pkt *p = pkt_alloc(pool);
    if (p == NULL)
        return NULL;
    memset(p->data, 0, size);
    p->len = size;
    return p;
}

/* Sends what is due of one loop, at most `budget`. */
static uint32_t loop_run(struct echo_state *st, struct engine_io *io, uint32_t index, uint32_t budget) {
    struct echo_loop *l = (struct echo_loop *)arena_lookup(st, loops(st), index);
    if (l == NULL)
        return 0;
    struct echo_slot *slots = slots_of(st, index);
    uint32_t done = 0;
    while (done < budget && slots[l->oldest].due <= io->now && pkt_vec_room(io->down) > 0) {
        struct pkt *p = request_alloc(io, l->size);
        if (p == NULL) {
            st->retry_at = io->now + RETRY_NS;
            break;
        }
        uint32_t slot = l->oldest;
        if (slots[slot].due != FIRST_NS) {
            l->resent++;
            ENGINE_COUNT(io, COUNT_RESENT);
        }
        ENGINE_COUNT(io, COUNT_SENT);
        request_fill(l, slots, slot, p);
        slot_sent(l, slots, slot, io->now);
        (void)pkt_vec_push(io->down, p);
        done++;
    }
    return done;
}

static uint32_t run(void *state, struct engine_io *io, uint32_t budget) {
    struct echo_state *st = (struct echo_state *)state;
    uint32_t done = 0;
    if (io->now < st->retry_at)
        return 0;
    for (uint32_t i = 0; i < loops(st)->high_water && done < budget; i++)
        done += loop_run(st, io, i, budget - done);
    return done;
}

static ns_t next_deadline(const void *state) {
    struct echo_state *st = (struct echo_state *)(uintptr_t)state;
    ns_t first = NS_NEVER;
    for (uint32_t i = 0; i < loops(st)->high_water; i++) {
        const struct echo_loop *l = (const struct echo_loop *)arena_lookup(st, loops(st), i);
        if (l != NULL && slots_of(st, i)[l->oldest].due < first)
            first = slots_of(st, i)[l->oldest].due;
    }
    return first == NS_NEVER || first > st->retry_at ? first : st->retry_at;
}

static bool loop_valid(const struct echo_loop *l) {
    return l->window > 0 && l->window <= WINDOW_MAX && l->size >= REQUEST_MIN && l->size <= REQUEST_MAX &&
           l->peer_port != 0 && !ipaddr_is_any(&l->peer) && l->timeout_ns > 0 && l->timeout_ns < NS_NEVER / 2;
}

static int loop_set(struct echo_state *st, const struct echo_loop *wanted) {
    uint32_t index;
    struct echo_loop *l = loop_of_sock(st, wanted->sock, &index);
    if (l != NULL)
        arena_release(loops(st), l, index);
    if (wanted->window == 0)
        return l != NULL ? 0 : -ENOENT;
    if (!loop_valid(wanted))
        return -EINVAL;
    l = (struct echo_loop *)arena_take(st, loops(st), &index);
    if (l == NULL)
        return -ENOSPC;
    memcpy((uint8_t *)l + sizeof l->r, (const uint8_t *)wanted + sizeof l->r, sizeof *l - sizeof l->r);
    loop_start(st, l, index);
    arena_publish(loops(st), l);
    return 0;
}

static void cmd_stats(struct echo_state *st, struct engine_reply *ret_reply) {
    for (uint32_t i = 0; i < loops(st)->high_water; i++) {
        const struct echo_loop *l = (const struct echo_loop *)arena_lookup(st, loops(st), i);
        if (l != NULL) {
            ret_reply->value64 += l->answered;
            ret_reply->value += (uint32_t)l->resent;
        }
    }
}

static void command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    struct echo_state *st = (struct echo_state *)state;
    (void)io;
    memset(ret_reply, 0, sizeof *ret_reply);
    if (cmd->id == ECHO_CMD_STATS) {
        cmd_stats(st, ret_reply);
    } else if (cmd->id != ECHO_CMD_GENERATE) {
        ret_reply->error = -ENOTSUP;
    } else if (cmd->size < sizeof(struct echo_cmd_generate)) {
        ret_reply->error = -EINVAL;
    } else {
        const struct echo_cmd_generate *c = (const struct echo_cmd_generate *)(const void *)cmd;
        struct echo_loop wanted = {.sock = c->sock,
                                   .window = c->window,
                                   .size = c->size,
                                   .peer_port = c->peer_port,
                                   .peer = c->peer,
                                   .timeout_ns = c->timeout_ns};
        ret_reply->error = loop_set(st, &wanted);
    }
}

static bool plan(struct echo_state *st) {
    st->a.size = arena_round(sizeof *st);
    if (!arena_plan_table(&st->a, LOOP_MAX, sizeof(struct echo_loop)))
        return false;
    st->slot_lines = arena_plan_derived(&st->a, (size_t)LOOP_MAX * WINDOW_MAX * sizeof(struct echo_slot));
    return true;
}

static size_t state_size(const void *cfg, char *err, size_t err_size) {
    struct echo_state scratch = {0};
    (void)cfg;
    (void)err;
    (void)err_size;
    return plan(&scratch) ? scratch.a.size : 0;
}

static int init(void *state, size_t size, const void *cfg, uint64_t seed) {
    struct echo_state *st = (struct echo_state *)state;
    (void)cfg;
    if (size < sizeof *st || !plan(st) || st->a.size > size)
        return -EINVAL;
    st->a.seed = seed;
    st->a.layout_version = ECHO_LAYOUT;
    arena_barrier();
    st->a.magic = ARENA_MAGIC;
    return 0;
}

static int recover(void *state, size_t size, uint32_t *ret_lost) {
    struct echo_state *st = (struct echo_state *)state;
    struct echo_state planned = {0};
    /* The layout follows from the config alone: anything else means that the arena is not what it says. */
    if (size < sizeof *st || !plan(&planned) || !arena_same_plan(&st->a, &planned.a) ||
        arena_recover(&st->a, size, ECHO_LAYOUT) != 0)
        return -EUCLEAN;
    st->slot_lines = planned.slot_lines;
    st->retry_at = 0;
    *ret_lost = 0;
    for (uint32_t i = 0; i < loops(st)->high_water; i++) {
        struct echo_loop *l = (struct echo_loop *)arena_lookup(st, loops(st), i);
        if (l != NULL && loop_valid(l)) {
            loop_start(st, l, i);
        } else if (l != NULL) {
            arena_release(loops(st), l, i);
            ++*ret_lost;
        }
    }
    return 0;
}

static void fini(void *state, struct engine_io *io) {
    (void)state;
    (void)io;
}

static int64_t save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size) {
    struct echo_state *st = (struct echo_state *)(uintptr_t)state;
    uint64_t i = *cursor;
    const struct echo_loop *l = NULL;
    while (i < loops(st)->high_water &&
           (l = (const struct echo_loop *)arena_lookup(st, loops(st), (uint32_t)i)) == NULL)
        i++;
    if (l == NULL)
        return 0;
    struct statewire_out o = {.buf = buf, .size = size};
    statewire_put(&o, 1, l->sock);
    statewire_put(&o, 2, l->window);
    statewire_put(&o, 3, l->size);
    statewire_put(&o, 4, l->peer_port);
    statewire_put_bytes(&o, 5, l->peer.b, sizeof l->peer.b);
    statewire_put(&o, 6, l->timeout_ns);
    statewire_put(&o, 7, l->answered);
    statewire_put(&o, 8, l->resent);
    if (o.full)
        return -ENOSPC;
    *cursor = i + 1;
    return (int64_t)o.len;
}

static int load(void *state, uint32_t from_version, const uint8_t *rec, size_t size) {
    struct statewire_in in = {rec, rec + size};
    struct statewire_field f;
    struct echo_loop l = {0};
    uint64_t v[9] = {0};
    int more;
    if (from_version > ECHO_LAYOUT)
        return -EPROTONOSUPPORT;
    while ((more = statewire_next(&in, &f)) > 0) {
        if (f.number == 5 && f.type == STATEWIRE_BYTES && f.size == sizeof l.peer.b)
            memcpy(l.peer.b, f.data, f.size);
        else if (f.number < ARRAY_LEN(v) && f.number != 5 && f.type == STATEWIRE_VARINT)
            v[f.number] = f.value;
        else
            return -EBADMSG;
    }
    if (more < 0 || v[1] > UINT32_MAX || v[2] > WINDOW_MAX || v[3] > REQUEST_MAX || v[4] > UINT16_MAX)
        return -EBADMSG;
    l.sock = (uint32_t)v[1];
    l.window = (uint32_t)v[2];
    l.size = (uint32_t)v[3];
    l.peer_port = (uint16_t)v[4];
    l.timeout_ns = v[6];
    l.answered = v[7];
    l.resent = v[8];
    return l.window == 0 ? -EBADMSG : loop_set((struct echo_state *)state, &l);
}

/* 1 open undo, 2 bad loop, 3 the ring of slots is broken. */
static int check(const void *state) {
    struct echo_state *st = (struct echo_state *)(uintptr_t)state;
    if (st->a.undo_open)
        return 1;
    for (uint32_t i = 0; i < loops(st)->high_water; i++) {
        const struct echo_loop *l = (const struct echo_loop *)arena_lookup(st, loops(st), i);
        if (l == NULL)
            continue;
        if (!loop_valid(l) || l->oldest >= l->window)
            return 2;
        const struct echo_slot *s = slots_of(st, i);
        uint32_t at = l->oldest;
        for (uint32_t k = 0; k < l->window; k++, at = s[at].next)
            if (s[at].next >= l->window || s[s[at].next].prev != at || (k > 0 && at == l->oldest))
                return 3;
    }
    return 0;
}

__attribute__((visibility("default"))) extern const struct engine_ops usher_engine;
const struct engine_ops usher_engine = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "echo",
    .stage = STAGE_APP,
    .caps = ENGINE_CAP_INPUT | ENGINE_CAP_OUTPUT,
    .layout_version = ECHO_LAYOUT,
    .counter_count = COUNT_COUNT,
    .counters = counters,
    .state_size = state_size,
    .init = init,
    .recover = recover,
    .fini = fini,
    .input = input,
    .output = output,
    .run = run,
    .next_deadline = next_deadline,
    .command = command,
    .save = save,
    .load = load,
    .check = check,
};
