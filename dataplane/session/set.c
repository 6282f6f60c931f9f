/* SPDX-License-Identifier: Apache-2.0
 *
 * From the client: submission rings, and the life of a ring set (polled, armed, retired). On the shard's worker. Every
 * byte read here was written by the client, who may change it at any time: an entry is copied once and the copy is
 * judged. A client that breaks a rule is detached on the spot and hurts nobody else.
 *
 * Cost of a small send: the entry's line comes over from the client's core, and the payload's; the packet's lines 0, 1
 * and 3, the socket's line and one of sess_tx are touched here.
 */
#include <sys/socket.h>

#include "dataplane/core/worker.h"
#include "dataplane/session/session_internal.h"

/* ---- one entry ---- */

static void send_drop(struct shard *sh, struct sess_set *set, const struct ush_sqe *e, uint32_t off,
                      enum drop_reason why) {
    sh->stats.drops[why]++;
    session_tx_return(sh, set, e->send.handle, e->send.len, off);
}

/* Local port and owner are the transport's to fill in. */
static inline void send_address(struct pkt *p, const struct ush_sqe *e, const struct sess_socket *sk) {
    p->flow.local = ipaddr_any();
    if (UNLIKELY(e->flags & USH_SEND_FROM))
        memcpy(p->flow.local.b, e->send.from, 16);
    if (LIKELY(e->flags & USH_SEND_TO)) {
        memcpy(p->flow.remote.b, e->send.addr, 16);
        p->flow.remote_port = e->send.port;
    } else {
        p->flow.remote = ipaddr_any();
        p->flow.remote_port = 0;
    }
    p->flow.proto = sk->proto;
    p->sock = sk->sock;
}

static inline void send_payload(struct pkt *p, const struct sess_set *set, const struct ush_sqe *e, bool lend) {
    const uint8_t *from = set->tx + e->send.off;
    if (!lend) {
        memcpy(p->data, from, e->send.len);
        p->len = e->send.len;
        return;
    }
    p->frag[0] = (struct pkt_frag){.base = from, .len = e->send.len, .token = p->token};
    p->frag_count = 1;
    p->frag_len = e->send.len;
}

/* SQE_TAKEN, or why the client must go. */
static inline uint32_t send_check(const struct sess_set *set, const struct ush_sqe *e) {
    if (UNLIKELY(e->flags & ~(USH_SEND_TO | USH_SEND_FROM | USH_SEND_MORE)))
        return DETACH_BAD_OP;
    if (UNLIKELY(e->send.len > SESS_TX_LEN_MAX))
        return DETACH_BAD_TX_LEN;
    if (UNLIKELY((uint64_t)e->send.off + e->send.len > set->tx_size))
        return DETACH_BAD_TX_RANGE;
    if (UNLIKELY((e->flags & USH_SEND_FROM) && e->send.from[0] == 0xff))
        return DETACH_BAD_ADDRESS; /* a multicast group sends nothing */
    return SQE_TAKEN;
}

static uint32_t take_send(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    if (e->send.handle >= set->socket_max) /* a datagram socket's handle has no generation */
        return USH_HANDLE_INDEX(e->send.handle) >= set->socket_max ? stream_take_send(sh, set, e) : DETACH_BAD_HANDLE;
    uint32_t why = send_check(set, e);
    if (UNLIKELY(why != SQE_TAKEN))
        return why;
    struct sess_socket *sk = &set->socket[e->send.handle];
    if (UNLIKELY(sk->state == SOCK_FREE || sk->set != set->index))
        return DETACH_BAD_HANDLE;
    bool lend = e->send.len > SESS_TX_COPY_MAX;
    if (UNLIKELY(lend && set->loans + (set->free_tail - set->free_head) >= SESS_LOAN_MAX))
        return SQE_WAIT; /* this client must read its completions first */
    uint32_t off = lend ? e->send.off : USH_NONE;
    set->loans += lend;
    sk->tx_flight += e->send.len;
    if (UNLIKELY(sk->state != SOCK_OPEN)) { /* sent, then closed: the close overtook it */
        send_drop(sh, set, e, off, DROP_SESSION_GONE);
        return SQE_TAKEN;
    }
    /* A client that keeps to its credit never gets here: it always may send one datagram more. */
    if (UNLIKELY(sk->tx_flight > sk->tx_limit + SESS_TX_LEN_MAX)) {
        send_drop(sh, set, e, off, DROP_QUEUE_FULL);
        return SQE_TAKEN;
    }
    struct pkt *p = pkt_alloc(&sh->small.pool);
    if (UNLIKELY(p == NULL)) {
        send_drop(sh, set, e, off, DROP_NO_BUFFER);
        return SQE_TAKEN;
    }
    uint32_t index = (uint32_t)(p - sh->small.pool.pkts); /* p->index is cold */
    sh->tx[index] = (struct sess_tx){set->slot, e->send.handle, e->send.len, off};
    p->token = index + 1;
    p->tos = e->tos;
    if (e->flags & USH_SEND_MORE)
        p->flags |= PKT_MORE;
    if (e->send.gso_size != 0 && e->send.gso_size < e->send.len) {
        p->flags |= PKT_GSO;
        p->gso_type = PKT_GSO_UDP;
        p->gso_size = e->send.gso_size;
    }
    send_address(p, e, sk);
    send_payload(p, set, e, lend);
    set->flight++;
    sk->tx_packets++;
    sh->stats.from_sessions++;
    (void)hop_push(sh, HOP_TRANSPORT_OUT, p); /* sq_poll() made room */
    return SQE_TAKEN;
}

static uint32_t take_release(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    const struct sess_socket *spread = NULL; /* its queue became shorter */
    if (UNLIKELY(e->count > ARRAY_LEN(e->release.cell)))
        return DETACH_BAD_RELEASE;
    for (uint32_t i = 0; i < e->count; i++) {
        uint32_t size = 0, len = 0;
        uint32_t handle = cells_give(&set->cells, e->release.cell[i], &size, &len);
        if (UNLIKELY(handle == USH_NONE))
            return DETACH_BAD_RELEASE;
        if (UNLIKELY(USH_HANDLE_INDEX(handle) >= set->socket_max)) {
            stream_credit(sh, set, handle, len);
            continue;
        }
        struct sess_socket *sk = &set->socket[handle];
        sk->rx_held -= size;
        if (LIKELY(!(sk->flags & SOCK_SPREAD)))
            continue;
        if (spread != NULL && spread != sk)
            session_load_tell(sh, spread);
        spread = sk;
    }
    if (UNLIKELY(spread != NULL))
        session_load_tell(sh, spread);
    if (UNLIKELY(set->pend_head != NULL)) /* what waits for a cell is looked at in this turn */
        session_set_dirty(sh, set);
    return SQE_TAKEN;
}

static uint32_t take_nop(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    (void)sh;
    (void)set;
    (void)e;
    return SQE_TAKEN;
}

typedef uint32_t take_fn(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
static take_fn *const take[] = {
    [USH_OP_NOP] = take_nop,
    [USH_OP_SEND] = take_send,
    [USH_OP_RELEASE] = take_release,
    [USH_OP_CONNECT] = stream_take_connect,
    [USH_OP_SHUTDOWN] = stream_take_shutdown,
    [USH_OP_CLOSE] = stream_take_close,
    [USH_OP_OPTION] = stream_take_option,
    [USH_OP_INFO] = stream_take_info,
    [USH_OP_RETURN] = stream_take_return,
    [USH_OP_RESUME] = stream_take_resume,
    [USH_OP_PARK] = stream_take_park,
};

/* ---- one ring ---- */

/* What an empty place may hold: what it held a lap ago, or nothing yet. */
static bool seq_sane(uint32_t seq, uint32_t head) {
    return seq == 0 || seq == head + 1 - SESS_SQ_ENTRIES;
}

static void sq_guess(const struct sess_set *set, struct sess_sq *sq, uint32_t off) {
    uint32_t next = off + (off - sq->off);
    sq->off = off;
    sq->guess = next < set->tx_size ? next : off;
}

#define SQ_AHEAD 3u /* entries: two or three misses behind one another take as long */

/* Entries behind this one name sockets that, of many, are in no cache. A look and no judgement: what is asked for is
 * inside the table, whatever the client has written. Lines that the client has yet to write are left to it. */
static inline void sq_look_ahead(const struct sess_set *set, const struct sess_sq *sq) {
    const struct ush_sqe *next = &sq->ring[(sq->head + 1) % SESS_SQ_ENTRIES];
    if (__atomic_load_n(&next->seq, __ATOMIC_RELAXED) != sq->head + 2)
        return;
    const struct ush_sqe *later = &sq->ring[(sq->head + SQ_AHEAD) % SESS_SQ_ENTRIES];
    uint32_t index = USH_HANDLE_INDEX(__atomic_load_n(&later->send.handle, __ATOMIC_RELAXED));
    if (index < set->socket_end)
        __builtin_prefetch(&set->socket[index], 1);
    __builtin_prefetch(&sq->ring[(sq->head + 2 * SQ_AHEAD) % SESS_SQ_ENTRIES]);
}

/* At most a burst. */
static uint32_t sq_poll(struct shard *sh, struct sess_set *set, uint32_t q) {
    struct sess_sq *sq = &set->sq[q];
    uint32_t n = 0;
    while (n < PKT_BURST) {
        struct ush_sqe *shared = &sq->ring[sq->head % SESS_SQ_ENTRIES];
        uint32_t seq = __atomic_load_n(&shared->seq, __ATOMIC_ACQUIRE); /* pairs with the client's store of seq */
        if (LIKELY(seq != sq->head + 1)) {
            if (UNLIKELY(!seq_sane(seq, sq->head)))
                session_detach(sh, set, DETACH_BAD_SEQUENCE);
            if (n == 0) /* the next payload comes over while its entry does: a tenth of a round trip */
                __builtin_prefetch(set->tx + sq->guess);
            break;
        }
        struct ush_sqe e = *shared;
        __asm__ __volatile__("" : "+m"(e)); /* from here on only the copy is read: the compiler may not go back */
        sq_look_ahead(set, sq);
        uint32_t why = e.op < ARRAY_LEN(take) ? take[e.op](sh, set, &e) : DETACH_BAD_OP;
        if (UNLIKELY(why == SQE_WAIT))
            break;
        if (UNLIKELY(why != SQE_TAKEN)) {
            session_detach(sh, set, (enum detach_reason)why);
            break;
        }
        sq->head++;
        n++;
        if (e.op == USH_OP_SEND) {
            sq_guess(set, sq, e.send.off);
            sq->streamed += e.send.handle >= set->socket_max;
        }
    }
    if (n > 0 && LIKELY(!set->dead)) /* the client may use those entries and copied buffers again */
        __atomic_store_n(&set->shm->sq[q].sq_head, sq->head, __ATOMIC_RELEASE);
    return n;
}

static inline uint64_t packets_out(const struct shard *sh) {
    return sh->stats.local_packets + sh->stats.tx_packets;
}

/* What a ring may ask of a turn is a burst of packets. Bulk of a stream is far more bytes than a turn sends and the
 * transport only notes it: were its entries counted like others, a small message would wait for turn after turn behind
 * what is not sent yet anyway. Taking one costs about 50 ns. */
static uint32_t sq_drain(struct shard *sh, struct sess_set *set, uint32_t q) {
    uint32_t n = 0, got, streamed = set->sq[q].streamed;
    uint64_t before = packets_out(sh);
    for (;;) {
        if (UNLIKELY(pkt_vec_room(&sh->hop[HOP_TRANSPORT_OUT]) < PKT_BURST))
            hops_run(sh);
        got = sq_poll(sh, set, q);
        n += got;
        if (LIKELY(got < PKT_BURST) || set->dead || n >= SESS_SQ_TURN)
            return n;
        hops_run(sh);
        if (n - (set->sq[q].streamed - streamed) >= PKT_BURST || packets_out(sh) - before >= PKT_BURST)
            return n;
    }
}

static uint32_t set_poll(struct shard *sh, struct sess_set *set) {
    uint32_t n = 0;
    for (uint32_t q = 0; q < set->sq_count && LIKELY(!set->dead); q++)
        n += sq_drain(sh, set, q);
    if (n > 0)
        set->active_ns = sh->now;
    if (sh->credit_count > 0)
        stream_credit_flush(sh);
    return n;
}

uint32_t session_poll(struct shard *sh) {
    uint32_t n = 0;
    /* A set that is detached meanwhile leaves the list, but keeps its `next` until the turn is over. */
    for (struct sess_set *set = sh->active; set != NULL; set = set->next)
        n += set_poll(sh, set);
    if (n > 0)
        hops_run(sh);
    return n;
}

void session_set_drain(struct shard *sh, struct sess_set *set) {
    if (set->dead)
        return;
    for (uint32_t lap = 0; lap < SESS_SQ_ENTRIES / PKT_BURST && set_poll(sh, set) > 0; lap++)
        hops_run(sh);
}

static bool set_has_work(const struct sess_set *set) {
    for (uint32_t q = 0; q < set->sq_count; q++) {
        const struct sess_sq *sq = &set->sq[q];
        if (__atomic_load_n(&sq->ring[sq->head % SESS_SQ_ENTRIES].seq, __ATOMIC_ACQUIRE) == sq->head + 1)
            return true;
    }
    return false;
}

/* ---- active, armed ---- */

static void kick_flag(struct sess_set *set, uint32_t value) {
    __atomic_store_n(&set->shm->need_kick, value, __ATOMIC_RELAXED);
}

void session_set_activate(struct shard *sh, struct sess_set *set) {
    if (set->list == SET_ACTIVE || set->dead)
        return;
    set->list = SET_ACTIVE;
    set->active_ns = sh->now;
    set->next = sh->active;
    sh->active = set;
    kick_flag(set, 0);
}

static void active_unlink(struct shard *sh, struct sess_set *set) {
    for (struct sess_set **link = &sh->active; *link != NULL; link = &(*link)->next) {
        if (*link == set) {
            *link = set->next;
            return;
        }
    }
}

void session_sweep(struct shard *sh) {
    struct sess_set *idle = NULL;
    for (struct sess_set **link = &sh->active; *link != NULL;) {
        struct sess_set *set = *link;
        if (UNLIKELY(session_guard_hit(set->session->guard))) {
            session_detach(sh, set, DETACH_MEMORY_LOST); /* takes it off the list */
            continue;
        }
        if (sh->now - set->active_ns < SESS_IDLE_NS || !set->polled) {
            link = &set->next;
            continue;
        }
        *link = set->next;
        set->next = idle;
        idle = set;
        set->list = SET_ARMED;
        kick_flag(set, 1);
    }
    if (idle == NULL)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the client's between its entry and reading need_kick */
    while (idle != NULL) {
        struct sess_set *set = idle;
        idle = set->next;
        if (set_has_work(set))
            session_set_activate(sh, set);
    }
}

void session_arm_all(struct shard *sh) {
    for (struct sess_set *set = sh->active; set != NULL; set = set->next) {
        set->list = SET_ARMED;
        kick_flag(set, 1);
    }
    sh->arming = sh->active;
    sh->active = NULL;
}

bool session_recheck(struct shard *sh) {
    bool work = false;
    for (struct sess_set *set = sh->arming, *next; set != NULL; set = next) {
        next = set->next;
        if (set->polled && !set_has_work(set))
            continue;
        session_set_activate(sh, set);
        work = true;
    }
    sh->arming = NULL;
    return work;
}

void session_kicked(struct shard *sh, uint32_t slot) {
    struct sess_set *set = slot < sh->session_max ? sh->set[slot] : NULL;
    if (set == NULL || set->dead)
        return;
    if (set->list != SET_ACTIVE) {
        session_set_activate(sh, set);
        return;
    }
    if (sh->now - set->kick_since > NS_PER_SEC) {
        set->kick_since = sh->now;
        set->kicks = 0;
    }
    if (++set->kicks > SESS_KICK_MAX)
        session_detach(sh, set, DETACH_LIMIT);
}

void session_cpu_set(struct shard *sh, int cpu) {
    for (uint32_t i = 0; i < sh->session_max; i++) {
        if (sh->set[i] != NULL && !sh->set[i]->dead)
            __atomic_store_n(&sh->set[i]->shm->worker_cpu, cpu, __ATOMIC_RELAXED);
    }
}

/* ---- waking the client ---- */

/* One byte for each ticket: a client that sleeps and never reads its socket costs one call per nap of its own. The
 * socket may be full or gone; then it is readable anyway, or nobody waits. */
static void wake(struct shard *sh, struct sess_set *set) {
    uint32_t ticket = __atomic_load_n(&set->shm->wait_ticket, __ATOMIC_RELAXED);
    if (__atomic_load_n(&set->shm->yields, __ATOMIC_RELAXED) != 0)
        sh->told |= TOLD_YIELDER;
    if (LIKELY((ticket & 1) == 0) || ticket == set->woken_ticket)
        return;
    sh->told |= TOLD_SLEEPER;
    set->woken_ticket = ticket;
    (void)send(set->wake_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void stuck_add(struct shard *sh, struct sess_set *set) {
    if (set->stuck)
        return;
    set->stuck = true;
    set->stuck_next = sh->stuck;
    sh->stuck = set;
    sh->stuck_ns = STUCK_FIRST_NS;
    sh->stuck_at = sh->now + sh->stuck_ns;
}

void session_flush(struct shard *sh) {
    struct sess_set *set = sh->dirty;
    sh->dirty = NULL;
    for (struct sess_set *next; set != NULL; set = next) {
        next = set->dirty_next;
        if (session_has_untold(set))
            session_untold(sh, set);
        set->dirty = false;
        if (UNLIKELY(set->dead))
            continue;
        if (UNLIKELY(session_has_untold(set)))
            stuck_add(sh, set);
        /* Without a fence: finds those that sleep already. Who falls asleep right now is found by session_confirm(),
         * a turn later, when the answer is on its way and the fence costs nobody's latency. */
        wake(sh, set);
        if (!set->unsure) {
            set->unsure = true;
            set->unsure_next = sh->unsure;
            sh->unsure = set;
        }
        session_set_activate(sh, set); /* who gets something is about to answer */
    }
}

void session_confirm(struct shard *sh) {
    struct sess_set *set = sh->unsure;
    if (LIKELY(set == NULL))
        return;
    sh->unsure = NULL;
    /* Pairs with the client's fence between its ticket and its last look at the ring. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (; set != NULL; set = set->unsure_next) {
        set->unsure = false;
        if (!set->dead)
            wake(sh, set);
    }
}

/* A client that does not read its completions does not tell when it does: look now and then, ever more rarely. */
bool session_unstick(struct shard *sh) {
    struct sess_set *set = sh->stuck;
    if (LIKELY(set == NULL) || sh->now < sh->stuck_at)
        return false;
    sh->stuck = NULL;
    ns_t pause = sh->stuck_ns * 2 < STUCK_LAST_NS ? sh->stuck_ns * 2 : STUCK_LAST_NS;
    for (struct sess_set *next; set != NULL; set = next) {
        next = set->stuck_next;
        set->stuck = false;
        if (!set->dead) {
            session_untold(sh, set);
            if (session_has_untold(set))
                stuck_add(sh, set);
        }
    }
    sh->stuck_ns = pause;
    sh->stuck_at = sh->now + pause;
    return sh->dirty != NULL;
}

/* ---- coming and going ---- */

void session_set_watch(struct shard *sh, struct sess_set *set, bool on) {
    if (!on && set->polled)
        worker_unwatch(sh, WATCH_SET, set->slot);
    set->polled = on && !set->dead && worker_watch(sh, WATCH_SET, set->slot, set->kick_fd);
}

void session_set_add(struct shard *sh, struct sess_set *set) {
    sh->set[set->slot] = set;
    sh->regions[set->slot] = (struct engine_region){.base = set->tx, .size = set->tx_size};
    stream_room_tell(sh, set);
    sh->set_count++;
    sh->stats.sessions = sh->set_count;
    session_set_watch(sh, set, true);
    session_set_activate(sh, set);
}

static void set_silence(struct shard *sh, struct sess_set *set) {
    set->dead = true;
    session_set_watch(sh, set, false); /* its kicks wake nobody any more */
    if (set->list == SET_ACTIVE)
        active_unlink(sh, set);
    set->list = SET_NOWHERE;
}

void session_detach(struct shard *sh, struct sess_set *set, enum detach_reason why) {
    if (set->dead)
        return;
    set_silence(sh, set);
    struct session *s = set->session;
    uint32_t attached = DETACH_COUNT;
    /* A session that several shards serve is reported once. */
    if (__atomic_compare_exchange_n(&s->detach_why, &attached, why, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        bool pushed = ring_push(&sh->detached, s); /* room for every session of the shard */
        CHECK(pushed);
    }
    shard_tell_control(sh);
}

void session_set_retire(struct shard *sh, struct sess_set *set) {
    set_silence(sh, set);
    stream_pending_drop(sh, set);
    set->retired = true;
    if (set->streams > 0) { /* closed by the client, not yet through: their bytes lie in its region */
        set->linger_until = sh->now + SESS_LINGER_NS;
        set->linger_next = sh->linger;
        sh->linger = set;
        sh->deadline = 0;
    }
    session_set_settle(sh, set);
}

void session_set_settle(struct shard *sh, struct sess_set *set) {
    if (UNLIKELY(set->retired && set->flight == 0 && set->streams == 0))
        session_set_release(sh, set);
}

/* Lists that still name the set are emptied before control may free it: it leaves them here. */
static void list_forget(struct sess_set **head, struct sess_set *set, size_t link) {
    while (*head != NULL && *head != set)
        head = (struct sess_set **)((char *)*head + link);
    if (*head == set)
        *head = *(struct sess_set **)((char *)set + link);
}

void session_set_release(struct shard *sh, struct sess_set *set) {
    list_forget(&sh->dirty, set, offsetof(struct sess_set, dirty_next));
    list_forget(&sh->unsure, set, offsetof(struct sess_set, unsure_next));
    list_forget(&sh->stuck, set, offsetof(struct sess_set, stuck_next));
    list_forget(&sh->arming, set, offsetof(struct sess_set, next));
    list_forget(&sh->linger, set, offsetof(struct sess_set, linger_next));
    set->retired = false; /* once */
    sh->set[set->slot] = NULL;
    sh->regions[set->slot] = (struct engine_region){.base = NULL};
    sh->set_count--;
    sh->stats.sessions = sh->set_count;
    /* Last touch: control frees the session when it sees zero. */
    struct shard *shard = sh;
    __atomic_sub_fetch(&set->session->set_alive, 1, __ATOMIC_RELEASE);
    shard_tell_control(shard);
}
